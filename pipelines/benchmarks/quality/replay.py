"""Replays early stops over recorded texts, which were written to their end: an early stop is right if the whole text is
rejected too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.quality_control.early_stop import EarlyStop
from pipelines.quality_control.quality_rules import QualityRules
from schemas.quality import Quality
from schemas.rows import Prompt, RowRejection
from services.engines.engine import STREAM_TOKENS
from services.replicas.row_records import Recipe


@dataclass(frozen=True)
class Recording:
    """A response that was written to its end.

    Attributes:
        response: the whole response.
        prompt: the prompt that it answers.
        recipe: recipe that keeps its text.
        max_tokens: largest number of tokens that it could have.
    """

    response: str
    prompt: Prompt
    recipe: Recipe
    max_tokens: int


@dataclass
class Replay:
    """Counts over recorded responses.

    Attributes:
        responses: number of responses.
        accepted: number of those that all rules accept.
        stopped: number of those that are ended early.
        false_stops: number of those that are ended early and that all rules accept.
        tokens: number of tokens of all responses.
        saved_tokens: number of those that would not have been written.
    """

    responses: int = 0
    accepted: int = 0
    stopped: int = 0
    false_stops: int = 0
    tokens: int = 0
    saved_tokens: int = 0

    @property
    def false_stop_bound(self) -> float:
        """Upper 95% bound of the share of responses that are ended wrongly, where none was (exact binomial)."""
        return 1 - 0.05 ** (1 / self.responses) if self.responses and not self.false_stops else 1.0


def replay(recordings: Sequence[Recording], quality: Quality, tokenizer: Any) -> Replay:
    """Ends each response where `quality.stop_early` would.

    Args:
        recordings: the responses.
        quality: rules that reject texts.
        tokenizer: a Hugging Face tokenizer, which says where the tokens of a response end.
    """
    rules, stop, counts = QualityRules(quality), EarlyStop(quality), Replay()
    for each in recordings:
        ids = tokenizer.encode(each.response, add_special_tokens=False)
        counts.responses += 1
        counts.tokens += len(ids)
        is_accepted = _is_accepted(each, rules)
        counts.accepted += is_accepted
        for length in range(STREAM_TOKENS, len(ids), STREAM_TOKENS):
            beginning = tokenizer.decode(ids[:length])
            if stop(beginning, max(each.max_tokens - length, 0), each.prompt, each.recipe):
                counts.stopped += 1
                counts.false_stops += is_accepted
                counts.saved_tokens += len(ids) - length
                break
    return counts


def _is_accepted(recording: Recording, rules: QualityRules) -> bool:
    try:
        text, _ = recording.recipe.finish(recording.response)
    except RowRejection:
        return False
    return bool(text.strip()) and not rules(text, recording.prompt)
