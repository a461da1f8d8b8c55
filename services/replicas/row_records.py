"""The record of a finished row: one row of ROW_SCHEMA with its lineage; and the interface of the recipe behind it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from schemas.outcomes import CUT_OFF, CUT_OFF_TEXT, EMPTY_TEXT, REPETITION, REPETITION_TEXT
from schemas.row_programs import REASONING, logged_schema, with_program_columns
from schemas.rows import ACCEPTED, ERROR, REJECTED, Prompt, RowError, RowRejection, WorkRow, row_seed
from schemas.sweep import DEFAULT_VARIANT
from services.engines.engine import Generation, ShouldStop
from services.replicas.row_program import RowProgram


class Recipe(Protocol):
    """Makes a prompt from an input row, and the text to keep from the model's response; pickled to every replica.

    The recipes in `pipelines.recipes` implement it.

    Attributes:
        prompt_id: recipe and prompt, as `babylm_story/p3`.
        prompt_hash: hash of the prompt's template and examples.
        fields: names of the values that `render` needs.
        optional_fields: those of them for which an input may have no column.
        rejects_near_duplicates: reject a row that is nearly the same as an earlier one; see `comparison_texts`.
    """

    prompt_id: str
    prompt_hash: str
    fields: Sequence[str]
    optional_fields: tuple[str, ...] = ()
    rejects_near_duplicates: bool = False

    def render(self, values: dict[str, Any], seed: int) -> Prompt:
        """Makes the row's prompt.

        Args:
            values: the recipe's fields.
            seed: the row's own seed; every random choice for its prompt is drawn with it.

        Raises:
            RowError: the row has no prompt (a cell is null or no text, say).
            RowRejection: a rule of the recipe rejects the row.
        """
        ...

    def prefix(self, values: dict[str, Any]) -> str:
        """Returns a key that rows have in common whose prompts begin with the same text (the emotion, say, whose
        examples come first). Returns "" where nothing is known, and never raises.
        """
        ...

    def comparison_texts(self, values: dict[str, Any]) -> tuple[str, str]:
        """Returns two texts; a row is a near-duplicate where both are nearly the same as another row's.

        The first text is "" for a row that is not compared. Never raises.
        """
        return "", ""

    def finish(self, text: str, cut_off: bool = False) -> tuple[str, str]:
        """Returns the part of a response to keep, and what was removed around it (`Answer: [...]`; "" for nothing).

        Args:
            text: the response.
            cut_off: it was stopped by `max_tokens` or the model's own limit, before its end.

        Raises:
            RowRejection: a rule of the recipe rejects the text.
        """
        return text, ""


class TextCheck(Protocol):
    """Checks the texts of a run, whatever its recipe; pickled to every replica.

    The rules in `pipelines.quality_control` implement it.
    """

    def __call__(self, text: str, prompt: Prompt) -> str:
        """Returns the name of the rule that rejects a text which answers a prompt; "" where none does.

        Raises:
            RowError: a check fails on the text.
        """
        ...


class PrefixCheck(Protocol):
    """Ends requests whose text will be rejected; pickled to every replica.

    `pipelines.quality_control.early_stop` implements it.
    """

    def __call__(self, response: str, tokens_left: int, prompt: Prompt, recipe: Recipe) -> str:
        """Returns the name of the rule that will reject a response with this beginning; "" where none surely does."""
        ...


@dataclass(frozen=True)
class VariantSettings:
    """Settings that all rows of one variant of a run have in common.

    Attributes:
        recipe: makes prompts and texts.
        sampling: keys of `schemas.job.Sampling`.
        run_seed: seed of the job.
        model: model id or path, as in the job file.
        model_revision: commit or content hash of the model; known once an engine is up.
        variant: name of the variant.
        reject_truncated: reject texts that were cut off.
        check: checks the text that the recipe keeps; None for no check.
        prefix_check: ends requests whose text will be rejected; None for none.
        program: runs rows that take several generations or tries; None where each row is one generation.
        has_reasoning: keep the model's thoughts, in the column `reasoning`.
    """

    recipe: Recipe
    sampling: dict[str, Any]
    run_seed: int
    model: str
    model_revision: str = ""
    variant: str = DEFAULT_VARIANT
    reject_truncated: bool = False
    check: TextCheck | None = None
    prefix_check: PrefixCheck | None = None
    program: RowProgram | None = None
    has_reasoning: bool = False

    def should_stop(self, prompt: Prompt) -> ShouldStop | None:
        """Returns the function that ends a request early; None where the job has none."""
        check, recipe = self.prefix_check, self.recipe
        return None if check is None else lambda text, tokens_left: check(text, tokens_left, prompt, recipe)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the records of its rows."""
        return logged_schema(self.program is not None, self.has_reasoning)

    @property
    def samplings(self) -> Sequence[dict[str, Any]]:
        """Sampling of each request that its rows may send."""
        return self.program.samplings(self) if self.program else [self.sampling]

    def seed_of(self, row: WorkRow, generation: int = 0, try_number: int = 1) -> int:
        """Returns the sampling seed of one of a row's generations, in one of its tries."""
        return row_seed(
            self.run_seed, row.source, row.row_index, row.sample, attempt=row.retry, generation=generation,
            try_number=try_number,
        )  # fmt: skip


def finished_record(
    row: WorkRow, settings: VariantSettings, seed: int, prompt: Prompt, generation: Generation
) -> dict[str, Any]:
    """Makes one row of ROW_SCHEMA from a response, with the column `reasoning` too.

    Where a rule of the recipe, or one for all recipes, rejects the response, the row is rejected and keeps the whole
    response; where a check fails on it, the row is an error and keeps it too.

    Args:
        row: the row that was generated.
        settings: settings of its variant.
        seed: its sampling seed.
        prompt: its prompt.
        generation: the engine's response.
    """
    state, cut_off = ACCEPTED, generation.finish_reason == CUT_OFF
    try:
        if generation.rejected_by:
            raise RowRejection(generation.rejected_by)
        if generation.finish_reason == REPETITION:
            raise RowRejection(REPETITION_TEXT)
        if cut_off and settings.reject_truncated:
            raise RowRejection(CUT_OFF_TEXT)
        text, reason = settings.recipe.finish(generation.text, cut_off)
        if not text.strip():
            raise RowRejection(EMPTY_TEXT)
        if settings.check is not None and (rule := settings.check(text, prompt)):
            raise RowRejection(rule)
    except RowRejection as rejection:
        text, state, reason = generation.text, REJECTED, str(rejection)
    except RowError as error:  # a check that fails on this text
        text, state, reason = generation.text, ERROR, str(error)
    return {
        **_lineage(row, settings, seed),
        # A recipe may decode JSON, in which a model may have written half of a surrogate pair.
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
        REASONING.name: _encodable(generation.reasoning),
    }


def failed_record(
    row: WorkRow, settings: VariantSettings, seed: int, reason: str, state: str = ERROR
) -> dict[str, Any]:
    """Makes the record of a row without a response, with the columns of `settings.schema`.

    Args:
        row: the row.
        settings: settings of its variant.
        seed: its sampling seed.
        reason: what went wrong, or the rule that rejected it.
        state: ERROR where it could not be generated, REJECTED where a rule rejected it before.
    """
    record = {
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
        REASONING.name: "",
    }
    return with_program_columns(record) if settings.program else record


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
        # JSON has neither NaN nor infinity, and most readers refuse a document with one of them.
        text = json.dumps(_finite(values), ensure_ascii=False, default=str)
    return _encodable(text)


def _finite(value: Any) -> Any:
    """Returns the value with NaN and infinity replaced by their names."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _encodable(text: str) -> str:
    # JSON input can contain half of a surrogate pair, which Arrow cannot store.
    return text.encode(errors="replace").decode()
