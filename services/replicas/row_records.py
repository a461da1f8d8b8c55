"""What a finished row says of itself: one row of ROW_SCHEMA, with its whole lineage."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from schemas.rows import ACCEPTED, ERROR, REJECTED, Prompt, RowRejection, WorkRow, row_seed
from schemas.sweep import DEFAULT_VARIANT
from services.engines.engine import Generation


class Recipe(Protocol):
    """Makes a prompt of a row, and a text of what the model wrote; pickled to every replica.

    The recipes in `pipelines.recipes` derive from this.
    """

    prompt_id: str
    prompt_hash: str
    fields: Sequence[str]
    """names of the values that `render` needs"""
    optional: tuple[str, ...] = ()
    """fields that an input may have no column for"""
    compares: bool = False
    """whether a row is rejected that is almost what an earlier one is; see `compared`"""

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """The row's prompt.

        Args:
            values: the recipe's fields.
            seed: the row's own; whatever is drawn for its prompt is drawn by it.

        Raises:
            RowError: this row has no prompt: a null or non-text cell, say.
            RowRejection: a rule of the recipe refuses it.
        """
        ...

    def prefix(self, values: dict[str, Any]) -> str:
        """What tells rows apart whose prompts begin differently (the emotion, where its examples come first); never
        raises, and "" says that nothing is known."""
        ...

    def compared(self, values: dict[str, Any]) -> tuple[str, str]:
        """Two texts that both have to be like another row's for it to be a near-duplicate; the first is "" for a row
        that is not compared. Never raises."""
        return "", ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """What to keep of the model's text, and what was cut off round it, as `Answer: [...]`; "" for nothing.

        Args:
            text: what the model wrote.
            cut_off: it was stopped before its end, by `max_tokens` or the model's own limit.

        Raises:
            RowRejection: a rule of the recipe refuses the text.
        """
        return text, ""


@dataclass(frozen=True)
class VariantSettings:
    """Settings that all rows of one variant of a run have in common."""

    recipe: Recipe
    sampling: dict[str, Any]
    run_seed: int
    model: str
    model_revision: str = ""
    variant: str = DEFAULT_VARIANT

    def seed_of(self, row: WorkRow) -> int:
        """The row's own seed."""
        return row_seed(self.run_seed, row.source, row.row_index, row.sample)


def finished_record(
    row: WorkRow, settings: VariantSettings, seed: int, prompt: Prompt, generation: Generation
) -> dict[str, Any]:
    """One row of ROW_SCHEMA from what the engine wrote; a text that the recipe refuses is kept as it stands."""
    state = ACCEPTED
    try:
        text, reason = settings.recipe.finish(generation.text, cut_off=generation.finish_reason == "length")
    except RowRejection as rejection:
        text, state, reason = generation.text, REJECTED, str(rejection)
    return {
        **_lineage(row, settings, seed),
        # A recipe may have decoded what the model wrote, half a surrogate pair as well.
        "text": _encodable(text),
        "state": state,
        "reason": _encodable(reason),
        "emotion": prompt.emotion,
        "emotions": prompt.emotions,
        "inputs": _json(prompt.inputs),
        "finish_reason": generation.finish_reason,
        "prompt_tokens": generation.prompt_tokens,
        "cached_prompt_tokens": generation.cached_prompt_tokens,
        "output_tokens": generation.output_tokens,
        "attempts": row.attempt + 1,
        "started_at": generation.started_at,
        "duration_seconds": generation.duration_seconds,
    }


def failed_record(
    row: WorkRow, settings: VariantSettings, seed: int, reason: str, state: str = ERROR
) -> dict[str, Any]:
    """One row of ROW_SCHEMA for a row that could not be generated, or (REJECTED) was not to be."""
    return {
        **_lineage(row, settings, seed),
        "text": "",
        "state": state,
        "reason": _encodable(reason),
        "emotion": "",
        "emotions": [],
        "inputs": _json(row.values or {}),
        "finish_reason": state,
        "prompt_tokens": 0,
        "cached_prompt_tokens": 0,
        "output_tokens": 0,
        "attempts": row.attempt,
        "started_at": datetime.now(UTC),
        "duration_seconds": 0.0,
    }


def _lineage(row: WorkRow, settings: VariantSettings, seed: int) -> dict[str, Any]:
    return {
        "source": row.source,
        "row_index": row.row_index,
        "sample": row.sample,
        "variant": settings.variant,
        "prompt_id": settings.recipe.prompt_id,
        "prompt_hash": settings.recipe.prompt_hash,
        "model": settings.model,
        "model_revision": settings.model_revision,
        "seed": seed,
    }


def _json(values: dict[str, Any]) -> str:
    try:
        text = json.dumps(values, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinity, and most readers refuse a document that holds one.
        text = json.dumps(_finite(values), ensure_ascii=False, default=str)
    return _encodable(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _encodable(text: str) -> str:
    # JSON can smuggle in half of a surrogate pair, which Arrow cannot store.
    return text.encode(errors="replace").decode()
