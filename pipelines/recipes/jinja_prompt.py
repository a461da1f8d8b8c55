"""Jinja prompts: loaded, sandboxed, hashed."""

import hashlib
import os
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateSyntaxError, UndefinedError, meta, nodes

from pipelines.recipes.jinja_sandbox import Sandbox
from schemas.errors import JobError
from schemas.rows import RowError
from schemas.text import shorten

_SHIPPED = Path(__file__).parent / "prompts"
# Several times what any model takes as a prompt.
_MOST_BYTES = 256 << 10
# Of its text, statements and expressions: Jinja takes the square of their number to compile them.
_MOST_NODES = 5_000
_OTHER_FILES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class JinjaPrompt:
    """A prompt template. It can read its variables and nothing else, and its work is bounded: see sandbox.py.

    Args:
        prompt: name of a shipped prompt, or path of a Jinja file.
        context: what belongs to the prompt beside its template (its examples); it goes into the hash.

    Raises:
        JobError: there is no such prompt, or it is no valid Jinja, or asks for other files.
    """

    def __init__(self, prompt: str, context: str = "") -> None:
        shipped, own = _SHIPPED / f"{prompt}.jinja", Path(os.path.expanduser(prompt))
        path = shipped if shipped.is_file() and "/" not in prompt else own
        self.name = path.stem
        self._text = _read(path, prompt)
        self.hash = hashlib.sha256(f"{self._text}\0{context}".encode()).hexdigest()[:16]
        try:
            tree = Sandbox().parse(self._text)
            if sum(1 for _ in islice(tree.find_all(nodes.Node), _MOST_NODES + 1)) > _MOST_NODES:
                raise ValueError(f"it has more than {_MOST_NODES:,} tags and expressions")
            self.variables = sorted(meta.find_undeclared_variables(tree))
            named = (node.name for node in tree.find_all(nodes.Name))
            self.first_variable = next((name for name in named if name in self.variables), "")
            other = tree.find(_OTHER_FILES)
            self._template: Template | None = None if other else Sandbox().from_string(self._text)
        except TemplateSyntaxError as error:
            cause = f"not valid Jinja at line {error.lineno}: {shorten(error.message or '')}"
            raise JobError("prompt", prompt, cause, "correct the template; see docs/job-file.md") from None
        except Exception as error:  # too much, nested too deeply for Jinja or Python, or a number too long for them
            cause = f"it cannot be compiled: {type(error).__name__}: {shorten(str(error))}"
            raise JobError("prompt", prompt, cause, "make the template simpler") from None
        if other:
            cause = f"at line {other.lineno} it asks for another file, and a prompt is one file"
            raise JobError("prompt", prompt, cause, "copy what it includes, imports or extends into it")

    def __getstate__(self) -> dict[str, Any]:
        # A compiled template cannot be pickled; each replica compiles its own.
        return {**self.__dict__, "_template": None}

    def render(self, variables: dict[str, Any]) -> str:
        """The prompt's text, without blank space around it.

        Raises:
            RowError: the template failed on these values, or did too much.
        """
        self._template = self._template or Sandbox().from_string(self._text)
        try:
            text = self._template.environment.run(self._template, variables).strip()
        except UndefinedError as error:
            raise RowError(f"the template {self.name} uses what this row lacks: {shorten(str(error))}") from None
        except Exception as error:  # it can raise all that an expression can
            raise RowError(f"the template {self.name} failed on this row: {shorten(str(error))}") from None
        if not text:
            raise RowError(f"the template {self.name} gave an empty prompt")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowError(f"the template {self.name} gave a prompt that is not valid Unicode") from None
        return text


def _read(path: Path, prompt: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise JobError("prompt", prompt, f"it is larger than {_MOST_BYTES >> 10} KiB", "name a shorter Jinja file")
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(p.stem for p in _SHIPPED.glob("*.jinja")))
        cause = f"cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
        raise JobError("prompt", prompt, cause, f"name a Jinja file, or a shipped prompt: {names}") from None
