"""Reasoning models: they write thoughts between two marks, and then their answer.

Invariant: no text with an opened and unclosed thought is taken for an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# A chat template may open or close the thoughts at the end of the prompt: `<think>`, `</think>` and blank lines.
_TAIL_TOKENS = 16


class Parser(Protocol):
    """A reasoning parser of vLLM, as far as it is used here."""

    reasoning_start_str: str | None
    reasoning_end_str: str | None

    def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
        """Returns the thoughts and the answer of a whole response; None for a part that is not there."""
        ...


@dataclass(frozen=True)
class ReasoningSplitter:
    """Separates the thoughts of responses from their answers.

    Attributes:
        parser: parser of the model's format, which names the mark behind the thoughts.
        request: request that the parser looks at.
        decode: turns token ids into text, special tokens included.
    """

    parser: Parser
    request: Any
    decode: Callable[[Sequence[int]], str]

    @property
    def skips_special_tokens(self) -> bool:
        """False where the marks are special tokens, which a response must hold."""
        return bool(self.request.skip_special_tokens)

    def split(self, text: str, prompt: Sequence[int]) -> tuple[str, str | None]:
        """Returns the thoughts and the answer of a response, or of its beginning; None while the thoughts go on.

        Args:
            text: the response.
            prompt: token ids of its prompt.
        """
        start, end = self.parser.reasoning_start_str or "", self.parser.reasoning_end_str
        assert end is not None
        tail = self.decode(prompt[-_TAIL_TOKENS:]).rstrip()
        if tail.endswith(end):
            return "", text
        written = text.strip()
        begins = written and start.startswith(written[: len(start)])
        if end not in text and start and (begins or tail.endswith(start)):
            # Some parsers take unfinished thoughts, or a part of the mark before them, for an answer.
            return written.removeprefix(start).strip(), None
        thoughts, answer = self.parser.extract_reasoning(text, self.request)
        if answer is None and end in text:
            answer = ""
        return (thoughts or "").strip(), None if answer is None else answer.lstrip()
