"""The program of a row: its generations, their checks, and further tries until a try is accepted.

Invariant: which try is accepted depends on the row, the job and its seed alone. Each try that was not the last is kept
with the rule that rejected it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.quality_control.scored_checks import ScoredCheck, scorer_of
from pipelines.recipes.generations import FIRST, SECOND, Generations, Step
from schemas.outcomes import CUT_OFF, EMPTY_TEXT, REPETITION, REPETITION_TEXT
from schemas.row_programs import EARLIER_TRIES, PROGRAM_SCHEMA, REASONING, TOKEN_COLUMNS, with_program_columns
from schemas.rows import ACCEPTED, ERROR, REJECTED, Prompt, RowError, RowRejection, WorkRow
from schemas.text import shorten
from services.engines.engine import Generation
from services.replicas.row_program import Generate
from services.replicas.row_records import VariantSettings, failed_record, finished_record

# The job's own prompt, and each of `quality.retry_prompts`, make so many tries before the next one.
_TRIES_PER_PROMPT = 2


@dataclass(frozen=True)
class QualityProgram:
    """Runs the generations of a row, and tries it again where a check rejects it; see `RowProgram`.

    Args:
        max_tries: largest number of tries of a row.
        scored_checks: checks of the text that is kept, by models beside the engine.
    """

    max_tries: int
    scored_checks: tuple[ScoredCheck, ...] = ()

    def samplings(self, settings: VariantSettings) -> Sequence[dict[str, Any]]:
        """Returns the sampling of each generation; see `RowProgram.samplings`."""
        return [_sampling(settings, step) for step in _recipe(settings).programs[0]]

    async def run(self, row: WorkRow, settings: VariantSettings, generate: Generate) -> dict[str, Any]:
        """Runs one row; see `RowProgram.run`."""
        programs = _recipe(settings).programs
        earlier: list[dict[str, Any]] = []
        for number in range(1, self.max_tries + 1):
            steps = programs[min((number - 1) // _TRIES_PER_PROMPT, len(programs) - 1)]
            try:
                record, may_try_again = await _Try(row, settings, steps, number, self.scored_checks).run(generate)
            except (RowError, RowRejection) as error:
                if not earlier:
                    raise
                # The prompt of a later try fails on this row.
                record = failed_record(row, settings, settings.seed_of(row), str(error)) | {"try": number}
                break
            if record["state"] == ACCEPTED or not may_try_again or number == self.max_tries:
                break
            earlier.append(record)
        return _with_earlier_tries(record, earlier)


class _Try:
    """One run of all generations of a row.

    The text that is kept is checked as soon as it is written, so that no judge is asked about a text that is rejected.
    """

    def __init__(
        self, row: WorkRow, settings: VariantSettings, steps: Sequence[Step], number: int,
        scored_checks: Sequence[ScoredCheck],
    ) -> None:  # fmt: skip
        self._row, self._settings, self._steps, self._number = row, settings, steps, number
        self._scored_checks, self._is_checked = scored_checks, False
        self._values: dict[str, Any] = dict(row.values or {})
        self._done: dict[str, tuple[Step, Prompt, Generation]] = {}
        self._log: list[dict[str, Any]] = []
        self._scores: dict[str, float] = {}

    async def run(self, generate: Generate) -> tuple[dict[str, Any], bool]:
        """Returns the record of this try, and whether another try can have another outcome."""
        for number, step in enumerate(self._steps):
            try:
                if step.when is not None and not step.when.is_true(self._values):
                    self._values[step.name] = None
                    continue
                seed = self._settings.seed_of(self._row, number, self._number)
                prompt, generation = await self._generate(step, generate, seed)
            except (RowError, RowRejection) as error:
                if not self._done:
                    raise
                return self._ended(ERROR, f"{step.name}: {error}"), False
            self._done[step.name] = (step, prompt, generation)
            try:
                self._values[step.name] = self._take_value(step, generation)
                is_rejected = step.is_judge and self._values[step.name] < step.threshold
                if is_rejected or (step.reject_when is not None and step.reject_when.is_true(self._values)):
                    return self._ended(REJECTED, step.name), True
            except RowRejection as rejection:
                return self._ended(REJECTED, str(rejection)), True
            except RowError as error:
                return self._ended(ERROR, f"{step.name}: {error}"), True
            is_last = number + 1 == len(self._steps)
            if step.name == _recipe(self._settings).keep[0] and not is_last:
                record, may_try_again = await self._checked()
                if record["state"] != ACCEPTED:
                    return record, may_try_again
        return (self._ended(), True) if self._is_checked else await self._checked()

    async def _checked(self) -> tuple[dict[str, Any], bool]:
        """Returns what `run` does, for the text that is kept, after all checks of the job."""
        record = self._ended()
        self._is_checked = True
        if record["state"] != ACCEPTED:
            return record, True
        inputs = json.loads(record["inputs"])
        for check in self._scored_checks:
            if (item := check.item(record["text"], record["emotion"], inputs)) is None:
                continue
            try:
                score = await scorer_of(check).score(item)
            except RowError as error:
                return self._ended(ERROR, str(error)), False
            self._scores[check.name] = round(score, 6)
            if score < check.min_score:
                return self._ended(REJECTED, check.name), True
        return self._ended(), True

    async def _generate(self, step: Step, generate: Generate, seed: int) -> tuple[Prompt, Generation]:
        """Sends the request of a generation; a judge that compares sends two, and the answers are joined into one."""
        sampling = _sampling(self._settings, step)
        if not step.compare:
            prompt = self._prompt(step, self._values)
            # The rules are for the text that is kept; of the others it is not known yet whether they are.
            is_kept = step.name == _recipe(self._settings).keep[0]
            settings = replace(self._settings, recipe=step.recipe)
            should_stop = settings.should_stop(prompt) if is_kept else None
            return prompt, await generate(prompt.messages, sampling, seed, should_stop)
        one, two = (self._values[name] for name in step.compare)
        prompt = self._prompt(step, self._values | {FIRST: one, SECOND: two})
        first = await generate(prompt.messages, sampling, seed)
        swapped = self._prompt(step, self._values | {FIRST: two, SECOND: one})
        second = await generate(swapped.messages, sampling, seed)
        share = (first.probabilities[0] + second.probabilities[1]) / 2
        return prompt, replace(
            first,
            **{column: getattr(first, column) + getattr(second, column) for column in TOKEN_COLUMNS},
            duration_seconds=first.duration_seconds + second.duration_seconds,
            probabilities=(share, 1 - share),
        )

    def _prompt(self, step: Step, values: dict[str, Any]) -> Prompt:
        # Every try draws the same emotion or genre, so that only its texts differ.
        prompt = step.recipe.render(values, self._settings.seed_of(self._row))
        if step.follows:
            if step.follows not in self._done:
                raise RowError(f"the generation {step.follows}, which it follows, was left out")
            _, earlier, generation = self._done[step.follows]
            answer = {"role": "assistant", "content": generation.text}
            prompt = replace(prompt, messages=[*earlier.messages, answer, *prompt.messages])
        return prompt

    def _take_value(self, step: Step, generation: Generation) -> Any:
        """Returns the value that later generations see, and keeps the generation for the record.

        Raises:
            RowRejection: the recipe rejects the text, it is blank, or it ended in a loop.
            RowError: the text does not have the form that `parse` names.
        """
        entry = {
            "name": step.name,
            "text": generation.text,
            "prompt_hash": step.recipe.prompt_hash,
            "finish_reason": generation.finish_reason,
            **{column: getattr(generation, column) for column in TOKEN_COLUMNS},
            "seconds": round(generation.duration_seconds, 4),
        }
        if generation.reasoning:
            entry["reasoning"] = generation.reasoning
        self._log.append(entry)
        if generation.rejected_by:
            raise RowRejection(generation.rejected_by)
        if step.is_judge:
            entry["value"] = self._scores[step.name] = round(generation.probabilities[0], 6)
            return entry["value"]
        if generation.finish_reason == REPETITION:
            raise RowRejection(REPETITION_TEXT)
        if step.parse == "text":
            text, _ = step.recipe.finish(generation.text, generation.finish_reason == CUT_OFF)
            if not text.strip():
                raise RowRejection(EMPTY_TEXT)
            return text
        entry["value"] = _parsed(step, generation.text)
        return entry["value"]

    def _ended(self, state: str = ACCEPTED, reason: str = "") -> dict[str, Any]:
        """Makes the record of this try.

        Args:
            state: state to end in; ACCEPTED lets the checks of the job decide.
            reason: why the try is rejected or failed.
        """
        kept = next((name for name in _recipe(self._settings).keep if name in self._done), None)
        _, first_prompt, _ = next(iter(self._done.values()))
        step, prompt, generation = self._done[kept] if kept else next(iter(self._done.values()))
        names = {each.name for each in self._steps}
        prompt = replace(prompt, inputs={key: value for key, value in prompt.inputs.items() if key not in names})
        if not prompt.emotion:  # the emotion that the row asks for, whatever generation its text comes from
            prompt = replace(prompt, emotion=first_prompt.emotion, emotions=first_prompt.emotions)
        number = self._steps.index(step)
        check = None if self._is_checked or state != ACCEPTED else self._settings.check
        settings = replace(self._settings, recipe=step.recipe, check=check)
        seed = settings.seed_of(self._row, number, self._number)
        record = finished_record(self._row, settings, seed, prompt, generation)
        if state != ACCEPTED:
            record |= {"text": generation.text, "state": state, "reason": reason}
        others = [other for name, (_, _, other) in self._done.items() if name != step.name]
        record |= {f"other_{column}": sum(getattr(other, column) for other in others) for column in TOKEN_COLUMNS}
        if len(self._steps) > 1:
            record["generations"] = json.dumps(self._log, ensure_ascii=False).encode(errors="replace").decode()
        if self._scores:
            record["scores"] = json.dumps(self._scores)
        starts = [each.started_at for _, _, each in self._done.values()]
        record["started_at"] = min(starts)
        record["duration_seconds"] = max(
            (each.started_at - record["started_at"]).total_seconds() + each.duration_seconds
            for _, _, each in self._done.values()
        )
        return with_program_columns(record | {"try": self._number})


def _recipe(settings: VariantSettings) -> Generations:
    assert isinstance(settings.recipe, Generations)
    return settings.recipe


def _sampling(settings: VariantSettings, step: Step) -> dict[str, Any]:
    return {**settings.sampling, **step.sampling}


def _parsed(step: Step, text: str) -> Any:
    if step.parse == "choice":
        if (choice := text.strip()) in step.choices:
            return choice
        raise RowError(f"the model wrote {shorten(text)!r}, which is none of {', '.join(step.choices)}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowError(f"the model wrote no JSON: {shorten(text)!r}") from None


def _with_earlier_tries(record: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the record of a row's last try with the others, their tokens and their time."""
    if not earlier:
        return record
    tokens = {
        f"other_{column}": record[f"other_{column}"] + sum(each[column] + each[f"other_{column}"] for each in earlier)
        for column in TOKEN_COLUMNS
    }
    started_at = earlier[0]["started_at"]
    waited = (record["started_at"] - started_at).total_seconds()
    columns = [*PROGRAM_SCHEMA.names, REASONING.name]
    return record | tokens | {
        "started_at": started_at,
        "duration_seconds": waited + record["duration_seconds"],
        EARLIER_TRIES: [{name: each[name] for name in columns} for each in earlier],
    }  # fmt: skip
