"""Jinja prompts: loaded, sandboxed, hashed."""

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from schemas.errors import JobError
from schemas.rows import RowError

_SHIPPED = Path(__file__).parent / "prompts"


class JinjaPrompt:
    """A prompt template. It can read its variables and nothing else: no files, no attributes of Python objects.

    Args:
        prompt: name of a shipped prompt, or path of a Jinja file.
        context: what belongs to the prompt beside its template (its examples); it goes into the hash.

    Raises:
        JobError: there is no such prompt, or it is no valid Jinja.
    """

    def __init__(self, prompt: str, context: str = "") -> None:
        shipped, own = _SHIPPED / f"{prompt}.jinja", Path(prompt).expanduser()
        path = shipped if shipped.is_file() and "/" not in prompt else own
        try:
            self._text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            names = ", ".join(sorted(p.stem for p in _SHIPPED.glob("*.jinja")))
            cause = f"cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
            raise JobError("prompt", prompt, cause, f"name a Jinja file, or a shipped prompt: {names}") from None
        self.name = path.stem
        self.hash = hashlib.sha256(f"{self._text}\0{context}".encode()).hexdigest()[:16]
        try:
            tree = _environment().parse(self._text)
            self.variables = sorted(meta.find_undeclared_variables(tree))
        except TemplateSyntaxError as error:
            cause = f"not valid Jinja at line {error.lineno}: {error.message}"
            raise JobError("prompt", prompt, cause, "correct the template") from None
        named = (node.name for node in tree.find_all(nodes.Name))
        self.first_variable = next((name for name in named if name in self.variables), "")
        self._template = None

    def __getstate__(self) -> dict[str, Any]:
        # A compiled template cannot be pickled; each replica compiles its own.
        return {**self.__dict__, "_template": None}

    def render(self, **variables: Any) -> str:
        """The prompt's text, without blank space around it.

        Raises:
            RowError: the template failed on these values.
        """
        self._template = self._template or _environment().from_string(self._text)
        try:
            text = self._template.render(**variables).strip()
        except UndefinedError as error:
            raise RowError(f"the template {self.name} uses what this row lacks: {error.message}") from None
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, OverflowError) as error:
            raise RowError(f"the template {self.name} failed on this row: {error}") from None
        if not text:
            raise RowError(f"the template {self.name} gave an empty prompt")
        return text


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False, trim_blocks=True)
