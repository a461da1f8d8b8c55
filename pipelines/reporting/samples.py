"""Texts to look at: responses of base and students to the same prompts, and rows of augmentations; and what was said of
the responses by people or by a judge."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eval.intervals import Rate, rate_of
from pipelines.evaluation.sentiment_results import SENTIMENT, ModelSentiment
from pipelines.publishing.reviewed_rows import read_verdicts
from pipelines.reporting.answers import Reading
from pipelines.reporting.evaluations import Evaluations, Setting
from pipelines.reporting.folders import ReportRun
from pipelines.run_status.augment import RunStatus
from schemas.evaluate import result_path
from schemas.rows import ACCEPTED, REJECTED
from schemas.text import printable
from services.storage.store import ShardStore

_MAX_CHARACTERS = 700
_MAX_HEADING = 400
_COLUMNS = ["prompt", "emotion", "response", "fault", "label"]


@dataclass(frozen=True)
class SampleText:
    """A text: who wrote it, and what is known of it, such as the emotion that a classifier finds."""

    by: str
    text: str
    note: str


@dataclass(frozen=True)
class Sample:
    """Texts to one prompt or input row.

    Attributes:
        source: the evaluation or run.
        emotion: emotion of the prompt, or asked for; "" where none is known.
        heading: the prompt, or the columns of the input row.
        texts: the texts, that of the base first.
    """

    source: str
    emotion: str
    heading: str
    texts: list[SampleText]


def read_samples(evaluations: Evaluations, runs: Sequence[ReportRun], prompts: int, rows: int) -> list[Sample]:
    """Reads samples, spread evenly over all prompts and rows.

    Args:
        prompts: largest number of prompts of the first evaluation.
        rows: largest number of rows of all augmentations together.

    Raises:
        RunError: a file of a run is damaged.
    """
    samples = list(_responses(evaluations.sentiment[0], prompts)) if evaluations.sentiment and prompts else []
    there = [run for run in runs if isinstance(run.status, RunStatus) and run.status.rows[ACCEPTED]]
    for run in there if rows else ():
        samples += _rows(run, max(rows // len(there), 1))
    return samples


def _responses(setting: Setting[ModelSentiment], count: int) -> Iterator[Sample]:
    tables = {
        name: setting.runs[name].store.read_table(result_path(SENTIMENT, name, "parquet"), _COLUMNS).to_pylist()
        for name in sorted(setting.models, key=lambda name: name in setting.bases)
    }
    first = next(iter(tables.values()))
    same = {name: rows for name, rows in tables.items() if len(rows) == len(first)}
    for at in _spread(len(first), count):
        texts = [_response(name, rows[at]) for name, rows in same.items()]
        evaluation = next(iter(setting.runs.values())).name
        yield Sample(evaluation, first[at]["emotion"] or "", _cut(first[at]["prompt"] or "", _MAX_HEADING), texts)


def _response(name: str, row: dict[str, Any]) -> SampleText:
    if row["response"] is None:
        return SampleText(name, "", f"no response: {_cut(row['fault'] or '', 120)}")
    return SampleText(name, _cut(row["response"], _MAX_CHARACTERS), row["label"] or "blank")


def _rows(run: ReportRun, count: int) -> Iterator[Sample]:
    assert isinstance(run.status, RunStatus)
    wanted = set(_spread(run.status.rows[ACCEPTED], count))
    at = 0
    for batch in run.store.read_rows(ACCEPTED, ["text", "emotion", "inputs", "prompt_id", "variant"]):
        for number in sorted(wanted & set(range(at, at + batch.num_rows))):
            row = batch.slice(number - at, 1).to_pylist()[0]
            text = SampleText(run.name, _cut(row["text"], _MAX_CHARACTERS), row["prompt_id"])
            heading = _inputs(row["inputs"], row["emotion"])
            yield Sample(run.name, row["emotion"], _cut(heading, _MAX_HEADING), [text])
        at += batch.num_rows


def _inputs(text: str, emotion: str) -> str:
    """Returns the columns that a prompt was made from, one below the other, but for the emotion asked for."""
    values = json.loads(text)
    return "\n".join(str(value) for value in values.values() if value and value != emotion)


def _spread(total: int, count: int) -> list[int]:
    count = min(total, count)
    return [number * total // count for number in range(count)]


def _cut(text: str, characters: int) -> str:
    return printable(text if len(text) <= characters else f"{text[:characters]}...")


def read_readings(evaluations: Evaluations, runs: Sequence[ReportRun]) -> dict[str, list[Reading]]:
    """Reads the shares of responses that still answer their prompt, by the model's name.

    People say so in a review of the run of responses (`kindling review EVALUATION/responses/sentiment/MODEL`), and a
    judge in an augmentation whose input is the file of responses.

    Raises:
        RunError: a file of verdicts is damaged.
    """
    readings: dict[str, list[Reading]] = {}
    for setting in evaluations.sentiment:
        for name, run in setting.runs.items():
            store = ShardStore(f"{run.store.url}/responses/{SENTIMENT}/{name}")
            for verdicts in read_verdicts(store):
                if (figure := verdicts.accepted.get("all")) is not None:
                    share = Rate(figure.value, figure.low, figure.high, figure.n)
                    readings.setdefault(name, []).append(Reading(f"people ({figure.n} read)", share))
            readings.setdefault(name, []).extend(_judged(name, runs))
    return readings


def _judged(name: str, runs: Sequence[ReportRun]) -> Iterator[Reading]:
    places = (f"results/{SENTIMENT}/{name}.parquet", f"responses/{SENTIMENT}/{name}")
    for run in runs:
        generations = (run.job.get("generations") or []) if run.kind == "augment" else []
        path = str((run.job.get("input") or {}).get("path")).rstrip("/").removesuffix("/data")
        is_judge = any(isinstance(each, dict) and each.get("kind") == "judge" for each in generations)
        if is_judge and path.endswith(places) and isinstance(run.status, RunStatus):
            rows = run.status.rows
            if judged := rows[ACCEPTED] + rows[REJECTED]:
                yield Reading(f"the judge of {run.name}", rate_of(rows[ACCEPTED], judged))
