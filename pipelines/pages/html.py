"""HTML pages that need no other file.

Invariant: values are shown as plain text (the template engine escapes each one), and the browser neither runs nor loads
anything: the content security policy of base.html.jinja allows styles alone. A page that needs more says so in its
block `policy`: the report allows its one script by its hash, and pictures that stand in the page.
"""

from importlib.resources import files
from typing import Any

import jinja2

# Templates that any page may extend or import.
_SHARED = ("base.html.jinja", "plots.html.jinja")


def render_html(package: str, template: str, **values: Any) -> str:
    """Renders a page.

    Args:
        package: package that holds the template, such as `pipelines.corpora`.
        template: file name of a template that extends base.html.jinja, with the blocks `style` and `body`.
        values: values for the template, among them `name`, the title of the page.
    """
    places = dict.fromkeys(_SHARED, "pipelines.pages") | {template: package}
    sources = {name: (files(place) / name).read_text(encoding="utf-8") for name, place in places.items()}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(**values) + "\n"
