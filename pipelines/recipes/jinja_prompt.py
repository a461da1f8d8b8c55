"""Prompts as Jinja templates: loaded, hashed, and rendered in the sandbox."""

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError, UndefinedError, meta, nodes

from pipelines.inputs.other_content import describe_content
from pipelines.recipes.jinja_blanks import BLANK, is_blank, required_variables
from pipelines.recipes.jinja_sandbox import Sandbox
from schemas.errors import JobError
from schemas.rows import RowError
from schemas.text import shorten

_SHIPPED = Path(__file__).parent / "prompts"
# Several times the longest prompt that a model takes.
_MAX_BYTES = 256 << 10
# Pieces of text, statements and expressions: Jinja takes the square of their number to compile them.
_MAX_NODES = 5_000
# A line that begins a turn, in a file whose first line is one.
_TURN = re.compile(r"^(system|user|assistant):[ \t]*$", re.MULTILINE)
# An expression of nothing but several words: the name of a column that has blanks.
_SEVERAL_WORDS = re.compile(r"\{\{\s*(\w+(?:[ \t]+\w+)+)\s*\}\}")
_NODES_OF_OTHER_FILES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


class JinjaPrompt:
    """A prompt template. It reads its variables and nothing else, and does bounded work: see `jinja_sandbox.py`.

    The text is one user message; or, where the first line of the file is `system:`, `user:` or `assistant:`, each such
    line begins a message of that role.

    Args:
        prompt: name of a shipped prompt, or path of a Jinja file.
        data: all that the prompt may show besides its row (examples, say); it goes into the hash.

    Attributes:
        name: name of the template: its file's name without the ending.
        text: text of the template.
        hash: hash of template and data, 16 hexadecimal digits.
        variables: names of the variables that the template uses, sorted.
        optional: those of them that may be blank, because the template tests or defaults them wherever it uses them.
        first_variable: the variable that the template uses first; "" for a template without variables.

    Raises:
        JobError: the file is missing or too large, is not valid Jinja, or asks for other files.
    """

    def __init__(self, prompt: str, data: str = "") -> None:
        shipped, own = _SHIPPED / f"{prompt}.jinja", Path(os.path.expanduser(prompt))
        path = shipped if shipped.is_file() and "/" not in prompt else own
        self.name = path.stem
        self.text = _read(path, prompt)
        # No value of a row contains these characters, so no row can begin a turn.
        self._mark = secrets.token_hex(16) if _TURN.match(self.text.lstrip()) else ""
        # Version 0.2.0 sent the lines of turns as text: its run is not resumed with other prompts.
        turns = "\0turns" if self._mark else ""
        self.hash = hashlib.sha256(f"{self.text}\0{data}{turns}".encode()).hexdigest()[:16]
        self._render: Callable[[dict[str, Any]], str] | None = None
        try:
            tree = Sandbox().parse(self.text)
            if sum(1 for _ in islice(tree.find_all(nodes.Node), _MAX_NODES + 1)) > _MAX_NODES:
                raise ValueError(f"it has more than {_MAX_NODES:,} tags and expressions")
            self.variables = sorted(meta.find_undeclared_variables(tree))
            required = required_variables(tree)
            self.optional = tuple(name for name in self.variables if name not in required)
            names = (node.name for node in tree.find_all(nodes.Name))
            self.first_variable = next((name for name in names if name in self.variables), "")
            other_file = next(tree.find_all(_NODES_OF_OTHER_FILES), None)
            if other_file is None:
                self._render = self._compiled()
        except TemplateSyntaxError as error:
            cause = f"not valid Jinja at line {error.lineno}: {shorten(error.message or '')}"
            remedy = "correct the template; see docs/job-file.md"
            if words := _SEVERAL_WORDS.search(self.text.splitlines()[error.lineno - 1]):
                name = "_".join(words[1].split())
                remedy = f"a column with such a name gets one without blanks: input.columns: {{{name}: {words[1]}}}"
            raise JobError("prompt", prompt, cause, remedy) from None
        except Exception as error:  # too many nodes, nested too deeply for Jinja or Python, or too long a number
            cause = f"it cannot be compiled: {type(error).__name__}: {shorten(str(error))}"
            raise JobError("prompt", prompt, cause, "make the template simpler") from None
        if other_file is not None:
            cause = f"at line {other_file.lineno} it asks for another file, and a prompt is one file"
            raise JobError("prompt", prompt, cause, "copy what it includes, imports or extends into it")
        if self._mark and _TURN.findall(self.text)[-1] != "user":
            remedy = "end the file with a message of `user:`"
            raise JobError("prompt", prompt, "its last message is not the user's: there is nothing to answer", remedy)

    def __getstate__(self) -> dict[str, Any]:
        # A compiled template cannot be pickled; each replica compiles its own.
        return {**self.__dict__, "_render": None}

    def messages(self, variables: dict[str, Any]) -> list[dict[str, str]]:
        """Renders the prompt's messages, without blank space around each text; a blank system message is left out.

        Raises:
            RowError: the template failed on these values, did too much work, or gave a text that cannot be sent.
        """
        text = self._text_of(variables)
        if not self._mark:
            return [{"role": "user", "content": text}]
        _, *parts = text.split(self._mark)
        turns = [{"role": role, "content": part.strip()} for role, part in zip(parts[::2], parts[1::2], strict=True)]
        turns = [turn for turn in turns if turn["content"] or turn["role"] != "system"]
        if blank := next((turn["role"] for turn in turns if not turn["content"]), ""):
            raise RowError(f"the template {self.name} gave an empty {blank} message")
        if not turns or turns[-1]["role"] != "user":
            raise RowError(f"the template {self.name} gave no user message at its end")
        return turns

    def _compiled(self) -> Callable[[dict[str, Any]], str]:
        text = _TURN.sub(rf"{self._mark}\g<1>{self._mark}", self.text) if self._mark else self.text
        # A sandbox counts the work of one render at a time, so each template has its own.
        sandbox = Sandbox()
        return partial(sandbox.run, sandbox.from_string(text))

    def _text_of(self, variables: dict[str, Any]) -> str:
        self._render = self._render or self._compiled()
        blanks = {name: BLANK for name in self.optional if is_blank(variables.get(name))}
        try:
            text = self._render({**variables, **blanks}).strip()
        except UndefinedError as error:
            raise RowError(f"the template {self.name} uses a value that the row lacks: {shorten(str(error))}") from None
        except Exception as error:  # an expression can raise anything
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
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise JobError("prompt", prompt, f"it is larger than {_MAX_BYTES >> 10} KiB", "name a shorter Jinja file")
        if other := describe_content(data, "template"):
            raise JobError("prompt", prompt, *other)
        if b"\0" in data:  # UTF-16 without a mark is valid UTF-8, with a NUL beside each letter
            raise JobError("prompt", prompt, "it has NUL characters: not UTF-8 text", "write it again as UTF-8")
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise JobError("prompt", prompt, "cannot be read: not UTF-8 text", "write it again as UTF-8") from None
    except OSError as error:
        names = ", ".join(sorted(path.stem for path in _SHIPPED.glob("*.jinja")))
        cause = f"cannot be read: {error.strerror}"
        raise JobError("prompt", prompt, cause, f"name a Jinja file, or a shipped prompt: {names}") from None
