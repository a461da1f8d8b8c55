"""`kindling quality`: what of runs and files was accepted and why not, the emotions expressed, and variety."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from eval.intervals import Rate, rate_of
from eval.sentiment import PAPER_GROUPS, group_of_emotion, top_labels
from eval.variety import Variety, measure_variety, self_bleu
from pipelines.corpora.rows import short_names
from pipelines.pages.emotions import NO_EMOTION
from pipelines.quality_control.quality_rules import QualityRules
from pipelines.quality_report.accepted_rows import AcceptedRows
from pipelines.quality_report.judged_rows import Columns, JudgedRow, JudgedRows, rules_named
from pipelines.result import Result
from schemas.emotions import EMOTIONS
from schemas.job import Classifier
from schemas.outcomes import OTHER_REASONS, add_reasons, by_frequency
from schemas.rows import ACCEPTED, STATES

if TYPE_CHECKING:
    from services.models.classifier import EmotionClassifier

OTHER_VALUES = "other values"
# Different values of a column that are counted by themselves.
_MAX_VALUES = 1000

StateCounts = dict[str, int]


@dataclass(frozen=True)
class Expression:
    """Emotions that the texts of a sample express, by a classifier: each text's best-scored label.

    Attributes:
        matrix: number of texts by emotion asked for, and by emotion expressed ("" for a text without a word).
        same: share of the texts with an emotion asked for that express it; None where no text has one.
        same_group: share of these whose emotion is in the same group: positive, neutral or negative.
    """

    matrix: dict[str, dict[str, int]]
    same: Rate | None
    same_group: Rate | None


@dataclass(frozen=True)
class CorpusQuality:
    """Figures of one variant of a run, or of files.

    Attributes:
        corpus: name of the run or the files, as it was given.
        label: short name for tables; with the variant, where the run has several.
        variant: name of the variant; "" for files.
        complete: whether a run has all its shards; None for files.
        is_judged: whether its rows were accepted or refused: by their run, or by rules. Rows of files that nobody
            judged count as accepted.
        unused_rules: rules that were not applied: they need a model, or a column of files that is not named.
        without_text, unreadable: rows of all variants that are left out: without a text; that cannot be read.
        rows: number of rows by state.
        reasons: number of rows by the rule that refused them, or the error that they failed with. A row that several
            rules of `--rules` refuse counts for each.
        by: number of rows by state, by column and value; the largest group first.
        sample: number of accepted texts that expression and variety are measured on.
        expression: emotions expressed; None where there is no text, or no classifier was asked.
        variety: length and variety of the texts; None where there is no text.
        self_bleu: mean BLEU-4 of each text against the others; None for fewer than two texts.
    """

    corpus: str
    label: str
    variant: str
    complete: bool | None
    is_judged: bool
    unused_rules: list[str]
    without_text: int
    unreadable: int
    rows: StateCounts
    reasons: dict[str, int]
    by: dict[str, dict[str, StateCounts]]
    sample: int
    expression: Expression | None
    variety: Variety | None
    self_bleu: float | None

    @property
    def acceptance(self) -> float | None:
        """Share of the rows that are accepted; None where there are none, or nobody judged them."""
        return accepted_share(self.rows) if self.is_judged else None


@dataclass(frozen=True)
class QualityReport(Result):
    """Figures of runs and files, side by side.

    Attributes:
        corpora: figures of each variant of each run, and of files, in the order in which they were named.
        rules: rules that rows were judged by: `all`, or a job file; None where those of the runs alone count.
        classifier: id and revision of the classifier; "" where none was asked.
        max_sample: largest number of texts of each sample.
        seed: seed of the samples.
    """

    corpora: list[CorpusQuality]
    rules: str | None
    classifier: str
    max_sample: int
    seed: int

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each run or variant, and for each of its parts: `by` and `value` say which."""
        rows = []
        for each in self.corpora:
            parts = [("", "", each.rows)]
            parts += [(by, value, counts) for by, values in each.by.items() for value, counts in values.items()]
            for by, value, counts in parts:
                acceptance = accepted_share(counts) if each.is_judged else None
                figures = {**counts, "acceptance": acceptance}
                rows.append({"corpus": each.corpus, "variant": each.variant, "by": by, "value": value, **figures})
        return rows


def quality(
    corpora: str | Sequence[str],
    rules: str | None = None,
    text_column: str = "text",
    emotion_column: str | None = None,
    input_columns: Sequence[str] = (),
    by: Sequence[str] | None = None,
    classifier: str = "embedded",
    sample: int = 500,
    seed: int = 0,
    accepted: str | None = None,
) -> QualityReport:
    """Reports what of each run was accepted and why the rest was not, the emotions expressed, and how texts vary.

    Args:
        corpora: run folders, or Parquet, JSONL, CSV and text files, folders or globs.
        rules: rules by which accepted rows and rows of files are judged: `all`, or a job file with a section `quality`.
        text_column: column with the texts, in files.
        emotion_column: column with the emotion asked for, in files; by default `emotion` or `emotions`.
        input_columns: columns that the texts were made from, in files, for the rules that compare them.
        by: columns by which rows are grouped; by default prompt, emotion and source of a run, and emotion of files.
        classifier: id of the classifier of emotions, as `classifier.id` of a job.
        sample: largest number of accepted texts of each run that expression and variety are measured on; 0 for none.
        seed: seed of the samples; the same input rows are drawn from each run.
        accepted: a new JSONL file for the rows of a file that the rules accept, with the columns that are named here.

    Raises:
        RunError: a name leads to no run and no file, a file is damaged or lacks a column, or a run has no committed
            shard yet.
        JobError: the job file of `rules` cannot be read, or has no rules; or `accepted` is given without rules, or for
            a run or several corpora.
        EngineError: the classifier cannot be loaded.
    """
    names = [corpora] if isinstance(corpora, str) else list(corpora)
    applied = rules_named(rules)
    kept = None if accepted is None else AcceptedRows(accepted, names, applied)
    columns = Columns(text_column, emotion_column, input_columns, by)
    model = _load_classifier(classifier) if sample else None  # first: a wrong name is said at once
    counted = [_count(name, columns, applied, sample, seed, kept) for name in names]
    if kept is not None:
        kept.write()
    reports = []
    for short, (rows, variants) in zip(short_names(names), counted, strict=True):
        for variant, counts in variants.items():
            label = f"{short} {variant}" if len(variants) > 1 else short
            reports.append(_report(rows, label, variant, counts, model))
    return QualityReport(reports, rules, f"{model.name} ({model.revision})" if model else "", sample, seed)


def accepted_share(counts: StateCounts) -> float | None:
    """Returns the share of rows that are accepted; None where there are no rows."""
    rows = sum(counts.values())
    return counts[ACCEPTED] / rows if rows else None


def grouped(matrix: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Joins the emotions of a confusion matrix into positive, neutral and negative; NO_EMOTION stays."""
    group_of = {**group_of_emotion(PAPER_GROUPS), NO_EMOTION: NO_EMOTION}
    groups: dict[str, Counter[str]] = {group: Counter() for group in (*PAPER_GROUPS, NO_EMOTION)}
    for asked, expressed in matrix.items():
        for emotion, texts in expressed.items():
            groups[group_of[asked]][group_of[emotion]] += texts
    return {group: dict(counts) for group, counts in groups.items() if counts}


class _Counts:
    """Counts of one variant of a run, and its sample: the rows whose digests are the smallest.

    Args:
        columns: number of columns by which rows are grouped.
        sample: size of the sample.
        seed: seed of the digests.
    """

    def __init__(self, columns: int, sample: int, seed: int) -> None:
        self.states: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.by: list[dict[str, Counter[str]]] = [{} for _ in range(columns)]
        self._sample, self._seed = sample, seed
        self._drawn: list[tuple[int, str, str]] = []  # a heap of (negative digest, text, emotion)

    def add(self, row: JudgedRow) -> None:
        self.states[row.state] += 1
        add_reasons(self.reasons, dict.fromkeys(row.reasons, 1))
        for values, value in zip(self.by, row.groups, strict=True):
            known = value if value in values or len(values) < _MAX_VALUES else OTHER_VALUES
            values.setdefault(known, Counter())[row.state] += 1
        if row.state == ACCEPTED and self._sample:
            digest = blake2b(f"{self._seed}\0{row.identity}".encode(), digest_size=8).digest()
            drawn = (-int.from_bytes(digest, "big"), row.text, row.emotion)
            if len(self._drawn) < self._sample:
                heapq.heappush(self._drawn, drawn)
            else:
                heapq.heappushpop(self._drawn, drawn)

    def texts(self) -> list[tuple[str, str]]:
        """Returns (text, emotion asked for) of the sample, in a fixed order."""
        return [(text, emotion) for _, text, emotion in sorted(self._drawn, reverse=True)]


def _count(
    name: str, columns: Columns, rules: QualityRules | None, sample: int, seed: int, kept: AcceptedRows | None
) -> tuple[JudgedRows, dict[str, _Counts]]:
    """Reads the rows of a corpus, and counts them by variant."""
    rows = JudgedRows(name, columns, rules)
    variants: dict[str, _Counts] = {}
    for row in rows:
        counts = variants.get(row.variant)
        if counts is None:
            counts = variants[row.variant] = _Counts(len(rows.by), sample, seed)
        counts.add(row)
        if kept is not None:
            kept.add(row)
    return rows, dict(sorted(variants.items())) or {"": _Counts(len(rows.by), sample, seed)}


def _load_classifier(name: str) -> "EmotionClassifier":
    import torch

    from services.models.classifier import load_classifier  # it imports transformers, which takes seconds

    return load_classifier(Classifier(id=name), "cuda" if torch.cuda.is_available() else "cpu")


def _report(
    rows: JudgedRows, label: str, variant: str, counts: _Counts, model: "EmotionClassifier | None"
) -> CorpusQuality:
    drawn = counts.texts()
    texts, asked = [text for text, _ in drawn], [emotion for _, emotion in drawn]
    by = {
        column: {
            value: _in_order(states)
            for value, states in sorted(values.items(), key=lambda part: (-part[1].total(), part[0]))
        }
        for column, values in zip(rows.by, counts.by, strict=True)
    }
    reasons = by_frequency(counts.reasons)
    if OTHER_REASONS in reasons:
        reasons[OTHER_REASONS] = reasons.pop(OTHER_REASONS)
    return CorpusQuality(
        corpus=rows.name,
        label=label,
        variant=variant,
        complete=rows.complete,
        is_judged=rows.is_judged,
        unused_rules=rows.unused_rules,
        without_text=rows.without_text,
        unreadable=rows.unreadable,
        rows=_in_order(counts.states),
        reasons=reasons,
        by=by,
        sample=len(texts),
        expression=_expression(texts, asked, model) if model and texts else None,
        variety=measure_variety(texts) if texts else None,
        self_bleu=self_bleu(texts),
    )


def _in_order(states: Counter[str]) -> StateCounts:
    return {state: states[state] for state in STATES}


def _expression(texts: list[str], asked: list[str], model: "EmotionClassifier") -> Expression:
    from services.models.document_scores import calibrated_scores

    expressed = top_labels(calibrated_scores(model, texts), texts)
    counts: dict[str, Counter[str]] = {}
    for emotion, label in zip(asked, expressed, strict=True):
        counts.setdefault(emotion, Counter())[label] += 1
    order = [*EMOTIONS, NO_EMOTION]
    matrix = {
        emotion: {label: counts[emotion][label] for label in order if counts[emotion][label]}
        for emotion in order
        if emotion in counts
    }
    known = [(emotion, label) for emotion, label in zip(asked, expressed, strict=True) if emotion]
    if not known:
        return Expression(matrix, None, None)
    group_of = {**group_of_emotion(PAPER_GROUPS), NO_EMOTION: NO_EMOTION}
    same = sum(emotion == label for emotion, label in known)
    same_group = sum(group_of[emotion] == group_of[label] for emotion, label in known)
    return Expression(matrix, rate_of(same, len(known)), rate_of(same_group, len(known)))
