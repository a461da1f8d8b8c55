"""The paper's tables in its layout: our figures with their intervals, and its own beside them (paper.json).

Invariant: what was not run has no figure: its table is left out, and a line says what it needs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import ValidationError

from eval.intervals import Rate
from pipelines.corpora.stats import Composition, Words, stats
from pipelines.evaluation.blimp_results import TITLES, ModelBlimp, pairs_title
from pipelines.evaluation.sentiment_results import ModelSentiment
from pipelines.pages.tables import Figure, Table, percent
from pipelines.reporting.evaluations import Evaluations, Setting
from pipelines.reporting.folders import ReportRun, read_json
from schemas.composition import CompositionRecord
from schemas.errors import RunError
from schemas.evaluate import result_path
from schemas.text import shorten

# A part of a corpus that has no name of its own.
_WHOLE = ""
_LINES = {
    "unique_words": "Unique words",
    "average_words": "Average length",
    "stories": "Texts",
    "words": "Total words",
}
_TALLY = result_path("preference", "tally")
PaperTables = tuple[list[Table], list[str]]
"""the tables, and a line for each table of the paper that cannot be made"""


@cache
def paper() -> dict[str, Any]:
    """Returns the paper's values, with their source."""
    values: dict[str, Any] = json.loads((files("pipelines.reporting") / "paper.json").read_text(encoding="utf-8"))
    return values


def paper_tables(runs: Sequence[ReportRun], evaluations: Evaluations, words: Words) -> PaperTables:
    """Makes the paper's tables 2, 3, 4, 5, 6, 14, 15 and 17, as far as there are data.

    Raises:
        RunError: a file of a run is damaged.
    """
    tables: list[Table] = []
    not_run: list[str] = []
    corpora = [*_compositions(runs, words)]
    for name, needs, made in (
        ("Table 2", "an augment run with the recipe babylm_story", _corpus_table(corpora, "babylm_story", words)),
        ("Table 3", "an augment run with the recipe alpaca_rewrite", _corpus_table(corpora, "alpaca_rewrite", words)),
        ("Other corpora", "", _corpus_table(corpora, None, words)),
        ("Table 4", "an evaluation preference whose answers were returned", _preferences(runs)),
        ("Table 5", "an evaluation sentiment", _sentiment(evaluations, "Table 5", False)),
        ("Tables 6 and 15", "an evaluation blimp of paradigms of BLiMP", _blimp(evaluations)),
        ("Other pairs", "", _other_pairs(evaluations)),
        ("Table 14", "a corpus of kindling compose", _composed(runs)),
        ("Table 17", "an evaluation sentiment with prompts by emotion", _sentiment(evaluations, "Table 17", True)),
    ):
        if made:
            tables += made
        elif needs:
            not_run.append(f"{name}: not run. It needs {needs}.")
    return tables, not_run


# Tables 2 and 3


def _compositions(runs: Sequence[ReportRun], words: Words) -> Iterator[tuple[str, str, Composition]]:
    """Yields (recipe, name, counts) of each augment run, and of each variant of a run that has several."""
    for run in runs:
        if run.kind != "augment" or not run.store.committed_shards():
            continue
        (corpus,) = stats(run.store.url, by=["variant"], words=words).corpora
        variants = corpus.by["variant"]
        parts = variants if len(variants) > 1 else {_WHOLE: corpus.whole}
        sampling = run.job.get("sampling") or {}
        for variant, part in parts.items():
            named = variant or f"{run.job.get('prompt') or ''} temperature={sampling.get('temperature')}".strip()
            yield str(run.job.get("recipe")), f"{run.name} {shorten(named, 60)}", part


def _corpus_table(corpora: Sequence[tuple[str, str, Composition]], recipe: str | None, words: Words) -> list[Table]:
    known = {"babylm_story": ("stories", "Table 2"), "alpaca_rewrite": ("rewrites", "Table 3")}
    ours = {name: part for its, name, part in corpora if (its == recipe if recipe else its not in known)}
    if not ours:
        return []
    key, number = known.get(recipe or "", ("", "Other corpora"))
    theirs: Mapping[str, Any] = paper().get(key, {})
    rows = [
        [title, *(_count(getattr(part, line)) for part in ours.values()),
         *(_count(part[line]) for part in theirs.values())]
        for line, title in _LINES.items()
    ]  # fmt: skip
    header = ["Statistics", *ours, *(f"paper: {name}" for name in theirs)]
    title = f"{number}: corpora by prompt and sampling" if theirs else f"{number} of augment runs"
    other = "Words are what stands between blanks; the paper's are nltk's tokens without its stop words: --words nltk."
    note = "Words are nltk's tokens without its stop words, as the paper's." if words == "nltk" else other
    return [Table(title, header, rows, note if theirs or words == "nltk" else "")]


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


# Table 14


def _composed(runs: Sequence[ReportRun]) -> list[Table]:
    corpora = {run.name: _composition(run) for run in runs if run.kind == "compose"}
    if not corpora:
        return []
    theirs = paper()["corpus"]
    lines: dict[str, Callable[[CompositionRecord], str]] = {
        "Parts": lambda record: "; ".join(
            f"{shorten(name, 40)} {part.words:,} words" for name, part in record.parts.items()
        ),
        "Total word count": lambda record: _count(record.words),
        "Average word count of a document": lambda record: _count(record.words / max(record.documents, 1)),
    }
    values = [theirs["parts"], _count(theirs["words"]), _count(theirs["average_words"])]
    rows = [
        [title, *(text_of(record) for record in corpora.values()), value]
        for (title, text_of), value in zip(lines.items(), values, strict=True)
    ]
    return [Table("Table 14: composition of the corpora", ["Statistic", *corpora, "paper: 10M summary"], rows)]


def _composition(run: ReportRun) -> CompositionRecord:
    try:
        return CompositionRecord.model_validate(run.record)
    except ValidationError as error:
        cause = f"damaged: {error.errors()[0]['msg']}"
        raise RunError(run.record_path, None, cause, "compose the corpus again, or leave it out") from None


# Table 4


def _preferences(runs: Sequence[ReportRun]) -> list[Table]:
    tables = []
    for run in runs:
        path = run.store.path(_TALLY)
        if run.kind != "evaluate" or not run.store.fs.exists(path):
            continue
        tally = read_json(path, run.store, "a count of preferences")
        try:
            tables.append(_preference_table(run.name, tally))
        except (KeyError, TypeError, AttributeError) as error:
            cause = f"damaged: it is no count of preferences ({error})"
            raise RunError(path, None, cause, "move it away, and run the same job again") from None
    return tables


def _preference_table(run: str, tally: dict[str, Any]) -> Table:
    theirs = "; ".join(f"{name} {value}%" for name, value in paper()["preference"].items())
    rows: list[Sequence[str | Figure]] = [
        [name, percent(Rate(**chosen["share"])), str(chosen["count"])]
        for name, chosen in [*tally["models"].items(), ("No difference", tally["ties"])]
    ]
    note = f"{tally['respondents']} respondents, {tally['prompts']} prompts. Intervals: {tally['intervals']}. "
    title = f"Table 4: preferences of the respondents ({run})"
    return Table(title, ["Model", "Preference (%)", "chosen"], rows, f"{note}The paper: {theirs}.")


# Tables 5 and 17


def _sentiment(evaluations: Evaluations, number: str, by_emotion: bool) -> list[Table]:
    tables = []
    for setting in evaluations.sentiment:
        if table := _sentiment_table(setting, number, by_emotion, evaluations.label(setting)):
            tables.append(table)
    return tables


def _sentiment_table(setting: Setting[ModelSentiment], number: str, by_emotion: bool, label: str) -> Table | None:
    groups, models = list(setting.groups), setting.models
    theirs: dict[str, Any] = paper()["sentiment_by_emotion" if by_emotion else "sentiment_by_group"]
    rates = {
        name: model.rates.by_emotion if by_emotion else {**model.rates.by_group, "all": model.rates.overall}
        for name, model in models.items()
    }
    parts = list(dict.fromkeys(part for each in rates.values() for part in each))
    if not parts:
        return None
    rows: list[Sequence[str | Figure]] = []
    for part in parts:
        known = [each[part] for each in rates.values() if part in each]
        sizes = "/".join(dict.fromkeys(str(next(iter(each.values())).n) for each in known))
        ours = [percent(each[part][group]) if part in each else "-" for each in rates.values() for group in groups]
        paper_values = [_percentage(model.get(part, {}).get(group)) for model in theirs.values() for group in groups]
        rows.append([part.capitalize(), sizes, *ours, *paper_values])
    columns = [f"{name}: {group} (%)" for name in models for group in groups]
    columns += [f"paper, {name}: {group} (%)" for name in theirs for group in groups]
    what = "sentiment by emotion of the prompt" if by_emotion else "sentiment of the responses"
    title = f"{number}: {what}{f' ({label})' if label else ''}"
    note = "n: responses. Intervals: 95%, Wilson. The paper's classifier is another one: compare changes, not levels."
    return Table(title, ["Prompt", "n", *columns], rows, note)


def _percentage(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


# Tables 6 and 15


def _blimp(evaluations: Evaluations) -> list[Table]:
    return [
        _blimp_table(setting, evaluations.label(setting)) for setting in evaluations.blimp if _has_phenomena(setting)
    ]


def _other_pairs(evaluations: Evaluations) -> list[Table]:
    """Accuracy on pairs that are none of BLiMP's, by paradigm."""
    tables = []
    for setting in evaluations.blimp:
        rates = [model.rates for model in setting.models.values()]
        if not _has_phenomena(setting):
            rows: list[Sequence[str | Figure]] = [
                [name, str(rate.n), *(_accuracy(model.by_paradigm[name]) for model in rates)]
                for name, rate in rates[0].by_paradigm.items()
            ]
            halves = [f"{model.ties_as_half:.4f}" for model in rates]
            rows.append(["All pairs, ties as one half", str(rates[0].overall.n), *halves])
            title = f"{pairs_title(rates[0].by_paradigm)}: accuracy by paradigm"
            tables.append(Table(title, ["Paradigm", "n", *setting.models], rows, "n: pairs. Intervals: 95%, Wilson."))
    return tables


def _has_phenomena(setting: Setting[ModelBlimp]) -> bool:
    return any(model.rates.by_phenomenon for model in setting.models.values())


def _blimp_table(setting: Setting[ModelBlimp], label: str) -> Table:
    rates, theirs = [model.rates for model in setting.models.values()], paper()["blimp"]
    rows: list[Sequence[str | Figure]] = []
    for phenomenon, title in TITLES.items():
        ours = [model.by_phenomenon.get(phenomenon) for model in rates]
        n = next((str(rate.n) for rate in ours if rate), "0")
        cells = [_accuracy(rate) if rate else "not run" for rate in ours]
        rows.append([title, n, *cells, *(f"{model[phenomenon]:.4f}" for model in theirs.values())])
    means = [_mean([rate.rate for rate in model.by_phenomenon.values()]) for model in rates]
    rows.append(["Mean of these", "", *means, *(_mean(list(model.values())) for model in theirs.values())])
    rows.append(["All pairs", str(rates[0].overall.n), *(_accuracy(model.overall) for model in rates),
                 *("-" for _ in theirs)])  # fmt: skip
    halves = [f"{model.ties_as_half:.4f}" for model in rates]
    rows.append(["All pairs, ties as one half", str(rates[0].overall.n), *halves, *("-" for _ in theirs)])
    title = f"Tables 6 and 15: BLiMP accuracy by phenomenon{f' ({label})' if label else ''}"
    note = "n: pairs. Intervals: 95%, Wilson. The paper's Table 6 has the last four of its columns."
    return Table(title, ["Phenomenon", "n", *setting.models, *(f"paper: {name}" for name in theirs)], rows, note)


def _mean(rates: Sequence[float]) -> str:
    return f"{sum(rates) / len(rates):.4f}" if rates else "-"


def _accuracy(rate: Rate) -> Figure:
    return Figure(f"{rate.rate:.4f}", f"{rate.low:.4f} to {rate.high:.4f}")
