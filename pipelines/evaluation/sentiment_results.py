"""Results of the evaluation `sentiment`: responses with their labels, the figures of a model, and the tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from eval.intervals import Rate
from eval.sentiment import (
    BLANK,
    OVERALL,
    SentimentRates,
    compare_sentiment,
    group_of_emotion,
    sentiment_rates,
    top_labels,
)
from eval.variety import Variety, measure_variety
from pipelines.evaluation.examples import Example, choose_examples
from pipelines.evaluation.record import write_result
from pipelines.evaluation.reports import ComparingReport, Comparison
from pipelines.evaluation.responses import Response
from pipelines.evaluation.result_rows import reading_rows, write_rows
from pipelines.pages.tables import Figure, Table, p_value, percent, points
from schemas.errors import EngineError
from schemas.text import shorten
from services.storage.store import ShardStore

SENTIMENT = "sentiment"

_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("emotion", pa.string()),  # of the prompt; null where it is not known
        ("response", pa.string()),  # null where there is none, for the reason `fault`
        ("fault", pa.string()),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
        ("label", pa.string()),  # of the response: its best one; blank for one without a word
        ("score", pa.float32()),  # of that label, calibrated: 0.5 at its threshold
        ("sentiment", pa.string()),  # the group of that label
    ]
)


_MAX_OPENING_CHARACTERS = 40
Row = tuple[str, list[dict[str, Rate]]]
"""label of a table row, and the rates of each model"""


@dataclass(frozen=True)
class ModelSentiment:
    """Figures of the responses of one model.

    Attributes:
        labels: label of the response to each prompt, in the order of the prompts; None where there is no response.
        emotions: emotion of each prompt; None where the emotions are not known.
        cut_off: number of responses that reached `max_tokens`; None where it is not known.
        examples: a few prompts with their responses.
    """

    name: str
    rates: SentimentRates
    variety: Variety
    labels: list[str | None]
    emotions: list[str] | None
    cut_off: int | None
    examples: list[Example]

    @property
    def failed(self) -> int:
        """Number of prompts without a response."""
        return self.labels.count(None)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        counts = {"failed": self.failed, "cut_off": self.cut_off, "responses": asdict(self.variety)}
        return {**asdict(self.rates), **counts}


def write_sentiment(
    store: ShardStore,
    name: str,
    responses: Sequence[Response],
    scores: np.ndarray,
    groups: Mapping[str, Sequence[str]],
    identity: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> None:
    """Writes the responses of a model with their labels, and then its figures, which say that the result is done.

    Args:
        scores: calibrated scores of the responses, shape (responses, 28).
        identity: everything that the figures depend on, flat.
        engine: settings and versions of the engine that wrote the responses; empty where they are not known.

    Raises:
        EngineError: the model responded to no prompt of some emotion.
    """
    labels = top_labels(scores, [response.text or "" for response in responses])
    group = {**group_of_emotion(groups), BLANK: BLANK}
    rows = [
        {
            "prompt": response.prompt or None,
            "emotion": response.emotion or None,
            "response": response.text,
            "fault": response.fault or None,
            "finish_reason": response.finish_reason or None,
            "seed": response.seed,
            "label": None if response.text is None else label,
            "score": float(best) if label else None,
            "sentiment": None if response.text is None else group[label],
        }
        for response, label, best in zip(responses, labels, scores.max(1), strict=True)
    ]
    write_rows(store, SENTIMENT, name, rows, _SCHEMA)
    figures = _figures(name, rows, groups)
    write_result(store, SENTIMENT, name, identity, engine=dict(engine), figures=figures.as_json())


def read_sentiment(store: ShardStore, name: str, groups: Mapping[str, Sequence[str]]) -> ModelSentiment:
    """Reads the figures that `write_sentiment` wrote.

    Raises:
        RunError: the file of responses cannot be read.
    """
    with reading_rows(store, SENTIMENT, name) as path:
        rows = store.read_table(path).to_pylist()
    return _figures(name, rows, groups)


def _figures(name: str, rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> ModelSentiment:
    answered = [row for row in rows if row["response"] is not None]
    asked = {row["emotion"] for row in rows} - {None}
    if missing := [row for row in rows if row["emotion"] in asked - {row["emotion"] for row in answered}]:
        emotions = ", ".join(dict.fromkeys(row["emotion"] for row in missing))
        cause = f"none of its prompts of {emotions} was answered: {missing[0]['fault']}"
        raise EngineError("models", name, cause, "shorten those prompts, or raise engine.max_model_len")
    known = [row["finish_reason"] == "length" for row in answered if row["finish_reason"]]
    answered_emotions = [row["emotion"] for row in answered] if asked else None
    return ModelSentiment(
        name=name,
        rates=sentiment_rates([row["label"] for row in answered], answered_emotions, groups),
        variety=measure_variety([row["response"] for row in answered]),
        labels=[row["label"] for row in rows],
        emotions=[row["emotion"] for row in rows] if asked else None,
        cut_off=sum(known) if known else None,
        examples=choose_examples([row["prompt"] for row in rows], [row["response"] for row in rows]),
    )


def compare_models(
    measured: Sequence[ModelSentiment], groups: Mapping[str, Sequence[str]], seed: int
) -> Iterator[Comparison]:
    """Compares each other model with the first, on the prompts that both responded to."""
    for second in measured[1:]:
        first = measured[0]
        both = [i for i, pair in enumerate(zip(first.labels, second.labels, strict=True)) if None not in pair]
        labels, other_labels = ([model.labels[i] or BLANK for i in both] for model in (first, second))
        emotions = [first.emotions[i] for i in both] if first.emotions else None
        if both:
            by = compare_sentiment(labels, other_labels, emotions, groups, seed)
            yield Comparison(first.name, second.name, by)


@dataclass(frozen=True)
class SentimentReport(ComparingReport):
    """Outcome of the evaluation `sentiment`; `groups` in the order of the tables."""

    groups: list[str]
    models: list[ModelSentiment]
    comparisons: list[Comparison]

    def tables(self) -> list[Table]:
        """Rates overall, the comparisons, rates by emotion, length and variety of the responses."""
        return sentiment_tables(self)

    def examples(self) -> dict[str, list[Example]]:
        """A few prompts with each model's response."""
        return {model.name: model.examples for model in self.models}


def sentiment_tables(report: SentimentReport) -> list[Table]:
    """Tables of the report, the longest last; no table where no model was evaluated."""
    if not report.models:
        return []
    rates = [model.rates for model in report.models]
    overall: list[Row] = [(OVERALL, [model.overall for model in rates])]
    groups: list[Row] = [(group, [model.by_group[group] for model in rates]) for group in rates[0].by_group]
    emotions: list[Row] = [(emotion, [model.by_emotion[emotion] for model in rates]) for emotion in rates[0].by_emotion]
    return [
        _rates(report, "Sentiment of the responses (as Table 5)", [*groups, *overall], 1),
        *(_comparison(comparison, report.groups) for comparison in report.comparisons),
        _variety(report.models),
        *([_rates(report, "Sentiment by emotion (as Table 17)", [*groups, *emotions], 2)] if emotions else []),
    ]


def _rates(report: SentimentReport, title: str, rows: Sequence[Row], decimals: int) -> Table:
    header = [f"{model.name}: {group.capitalize()} (%)" for model in report.models for group in report.groups]
    cells: list[Sequence[str | Figure]] = []
    for name, rates in rows:
        sizes = dict.fromkeys(str(next(iter(by_group.values())).n) for by_group in rates)
        figures = [percent(by_group[group], decimals) for by_group in rates for group in report.groups]
        cells.append([name.capitalize(), "/".join(sizes), *figures])
    return Table(title, ["Instruction emotion", "n", *header], cells, "n: responses. Intervals: 95%, Wilson.")


def _comparison(comparison: Comparison, groups: Sequence[str]) -> Table:
    header = [cell for group in groups for cell in (f"{group.capitalize()} (points)", "p")]
    rows: list[Sequence[str | Figure]] = []
    for part, differences in comparison.by.items():
        figures = [cell for group in groups for cell in (points(differences[group]), p_value(differences[group].p))]
        rows.append([part.capitalize(), str(differences[groups[0]].n), *figures])
    return Table(
        f"{comparison.second} less {comparison.first}, on the same prompts",
        ["Instruction emotion", "n", *header], rows,
        "Percentage points. n: prompts that both answered. Intervals: 95%, paired bootstrap. p: McNemar's exact test.",
    )  # fmt: skip


def _variety(models: Sequence[ModelSentiment]) -> Table:
    lines: dict[str, Callable[[ModelSentiment], str]] = {
        "responses": lambda model: str(model.variety.texts),
        "prompts without one": lambda model: str(model.failed),
        "blank": lambda model: str(model.variety.blank),
        "cut off at max_tokens": lambda model: "-" if model.cut_off is None else str(model.cut_off),
        "words a response": lambda model: f"{model.variety.words:.1f}",
        **{f"distinct-{n}": partial(_distinct, n) for n in models[0].variety.distinct},
        "different openings": lambda model: _share(model.variety.distinct_openings),
        "commonest opening": lambda model: shorten(model.variety.commonest_opening, _MAX_OPENING_CHARACTERS) or "-",
        "its share": lambda model: _share(model.variety.commonest_opening_share),
        "said more than once": lambda model: _share(model.variety.duplicates),
        "repetition in a response": lambda model: _share(model.variety.repetition),
    }
    rows = [[name, *(text_of(model) for model in models)] for name, text_of in lines.items()]
    note = "docs/evaluate.md says what each percentage is a share of. A blank response has no sentiment."
    return Table("The responses themselves", ["", *(model.name for model in models)], rows, note)


def _distinct(n: int, model: ModelSentiment) -> str:
    return _share(model.variety.distinct[n])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
