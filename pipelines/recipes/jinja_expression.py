"""One Jinja expression over the values of a row, true or false: `verdict.score < 4`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jinja2 import TemplateSyntaxError, meta

from pipelines.recipes.jinja_sandbox import Sandbox
from schemas.errors import JobError
from schemas.rows import RowError
from schemas.text import shorten


class Expression:
    """A condition that a job names. It reads its variables and nothing else, and does bounded work, as prompts do.

    Args:
        text: the expression, without braces.
        key: key of the job file that holds it.

    Attributes:
        variables: names of the variables that it uses, sorted.

    Raises:
        JobError: the text is not one Jinja expression.
    """

    def __init__(self, text: str, key: str) -> None:
        self._text, self._key = text, key
        self._render: Callable[[dict[str, Any]], str] | None = None
        try:
            sandbox = Sandbox()
            sandbox.compile_expression(text)  # refuses a text that ends the expression and goes on
            self.variables = sorted(meta.find_undeclared_variables(sandbox.parse(self._template)))
        except TemplateSyntaxError as error:
            remedy = "write a condition without braces, such as `verdict == 'good'`"
            raise JobError(key, text, f"not a Jinja expression: {shorten(error.message or '')}", remedy) from None
        except Exception as error:  # nested too deeply for Jinja or Python
            cause = f"it cannot be compiled: {type(error).__name__}"
            raise JobError(key, text, cause, "make the expression simpler") from None

    def __getstate__(self) -> dict[str, Any]:
        # A compiled template cannot be pickled; each replica compiles its own.
        return {**self.__dict__, "_render": None}

    @property
    def _template(self) -> str:
        return f"{{% if ({self._text}) %}}true{{% endif %}}"

    def is_true(self, values: Mapping[str, Any]) -> bool:
        """Returns whether the expression is true of a row's values.

        Raises:
            RowError: the expression failed on these values, or did too much work.
        """
        if self._render is None:
            sandbox = Sandbox()
            self._render = partial(sandbox.run, sandbox.from_string(self._template))
        try:
            return bool(self._render(dict(values)))
        except Exception as error:  # an expression can raise anything
            raise RowError(f"{self._key} failed on this row: {shorten(str(error))}") from None
