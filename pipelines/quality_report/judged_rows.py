"""Rows of a run or of files for `kindling quality`: the state of each row, and the reasons why it is not accepted.

A row of a run has its state already. With the rules of a job, accepted rows and rows of files are judged by these.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.corpora.rows import CorpusRows, corpus_rows, damaged, is_run
from pipelines.inputs.formats import READ_ERRORS
from pipelines.jobfile import load_job
from pipelines.quality_control.quality_rules import QualityRules
from pipelines.quality_control.scored_checks import scored_checks
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.outcomes import CUT_OFF, CUT_OFF_TEXT, EMPTY_TEXT, error_group
from schemas.quality import ALL_RULES, Quality
from schemas.rows import ACCEPTED, ERROR, REJECTED, STATES, Prompt, RowError, rule_of

EMOTION = "emotion"
# Columns by which the rows of a run are grouped, unless --by names others.
_RUN_BREAKDOWNS = ("prompt_id", EMOTION, "source")
_RUN_COLUMNS = ("state", "reason", "finish_reason", EMOTION, "variant", "inputs", "source", "row_index", "sample")
_EMOTION_COLUMNS = (EMOTION, "emotions")


@dataclass(frozen=True)
class Columns:
    """Columns of files; a run has its own.

    Attributes:
        text: column with the texts.
        emotion: column with the emotion asked for; None: `emotion` or `emotions`, where there is one.
        inputs: columns that the texts were made from.
        by: columns by which rows are grouped, of runs too; None: _RUN_BREAKDOWNS for a run, none for files.
    """

    text: str = "text"
    emotion: str | None = None
    inputs: Sequence[str] = ()
    by: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One row.

    Attributes:
        text: the text; that of a rejected row is the whole response.
        state: accepted, rejected or error.
        reasons: rules that refuse the row, or the error that it failed with.
        emotion: emotion asked for, or "".
        variant: name of its variant; "" for rows of files.
        groups: value of each column by which rows are grouped.
        identity: text that names the row in its corpus, equal for the same input row of several runs.
        values: text and named columns of a row of a file; empty for a run.
    """

    text: str
    state: str
    reasons: tuple[str, ...]
    emotion: str
    variant: str
    groups: tuple[str, ...]
    identity: str
    values: dict[str, str]


class JudgedRows:
    """The rows of a run or of files; iterating reads them once.

    Args:
        name: a run folder; or a file, folder or glob of Parquet, JSONL, CSV or text.
        columns: columns of files, and those by which rows are grouped.
        rules: rules that judge the rows; None for no rules.

    Attributes:
        by: columns by which rows are grouped.
        complete: whether a run has all its shards; None for files.
        is_judged: whether rows have been accepted or refused: by their run, or by rules.
        unused_rules: rules that are not applied: they need a model, or something that these rows lack.
        without_text, unreadable: numbers of rows read so far that are left out, as `CorpusRows` counts them.

    Raises:
        RunError: the name leads to no run and no file, or the run has no committed shard yet.
    """

    def __init__(self, name: str, columns: Columns, rules: QualityRules | None) -> None:
        self.name, self._rules = name, rules
        self._is_run = is_run(name)
        if self._is_run:
            self.by = list(_RUN_BREAKDOWNS if columns.by is None else columns.by)
            self._emotion = EMOTION
            self._inputs: tuple[str, ...] = ()
            self._rows = corpus_rows(name, "text", [*_RUN_COLUMNS, *self.by], STATES)
        else:
            self._rows = corpus_rows(name, columns.text, [])
            self._emotion = columns.emotion or _emotion_column(self._rows)
            self._inputs = tuple(columns.inputs)
            emotions = [self._emotion] if self._emotion else []
            self.by = list(dict.fromkeys([*emotions, *(columns.by or ())]))
            options = dict.fromkeys(self._inputs, "--input-column") | dict.fromkeys(emotions, "--emotion-column")
            self._rows = replace(self._rows, by=list(dict.fromkeys([*self.by, *self._inputs])), option_of=options)
        self.complete = self._rows.complete
        self.is_judged = self._is_run or rules is not None
        self.unused_rules = [] if rules is None else list(self._rules_not_applied(rules.quality))

    @property
    def without_text(self) -> int:
        """Number of rows read so far whose text is null or not a string."""
        return self._rows.without_text

    @property
    def unreadable(self) -> int:
        """Number of rows read so far that cannot be parsed."""
        return self._rows.unreadable

    def __iter__(self) -> Iterator[JudgedRow]:
        """Yields the rows.

        Raises:
            RunError: a file is damaged or lacks a column.
        """
        judged = self._row_of_run if self._is_run else self._row_of_file
        for number, (text, *values) in enumerate(self._rows):
            own = dict(zip(self._rows.by, values, strict=True))
            yield judged(number, text, own, tuple(own[column] for column in self.by))

    def _row_of_run(self, number: int, text: str, own: dict[str, str], groups: tuple[str, ...]) -> JudgedRow:
        state = own["state"]
        if state == REJECTED:
            reasons: tuple[str, ...] = (rule_of(own["reason"]),)
        elif state == ERROR:
            reasons = (error_group(own["reason"]),)
        else:
            cut_off = own["finish_reason"] == CUT_OFF
            state, reasons = self._judge(text, cut_off, own[EMOTION], json.loads(own["inputs"] or "{}"))
        identity = "\0".join(own[column] for column in ("source", "row_index", "sample"))
        return JudgedRow(text, state, reasons, own[EMOTION], own["variant"], groups, identity, {})

    def _row_of_file(self, number: int, text: str, own: dict[str, str], groups: tuple[str, ...]) -> JudgedRow:
        emotion = own.get(self._emotion, "").strip().lower()
        emotion = emotion if emotion in EMOTIONS else ""
        state, reasons = self._judge(text, False, emotion, {column: own[column] for column in self._inputs})
        values = {self._rows.text_column: text, **own}
        return JudgedRow(text, state, reasons, emotion, "", groups, str(number), values)

    def _judge(self, text: str, cut_off: bool, emotion: str, inputs: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """Returns the state of a row by the rules, and the names of all rules that refuse it."""
        if self._rules is None:
            return ACCEPTED, ()
        if not text.strip():
            return REJECTED, (EMPTY_TEXT,)
        # The prompts of a run are not stored, and files have none: the inputs are what a text may be a copy of.
        shown = "\n".join(value for value in inputs.values() if isinstance(value, str))
        prompt = Prompt([{"role": "user", "content": shown}], inputs, emotion)
        reasons = [CUT_OFF_TEXT] if cut_off and self._rules.quality.reject_truncated else []
        try:
            reasons += self._rules.reasons(text, prompt)
        except RowError as error:
            return ERROR, (error_group(str(error)),)
        return (REJECTED if reasons else ACCEPTED), tuple(reasons)

    def _rules_not_applied(self, quality: Quality) -> Iterator[str]:
        """Yields rules that need a model, and for files rules that need something which these rows lack."""
        yield from (check.name for check in scored_checks(quality))
        if self._is_run:
            return
        has_source = bool(set(quality.source or self._inputs) & set(self._inputs))
        without = {
            CUT_OFF_TEXT: quality.reject_truncated,
            "emotion_word": quality.reject_emotion_word and not self._emotion,
            "copied": quality.max_copied is not None and not self._inputs,
            "numbers_lost": quality.keep_numbers and not has_source,
            "names_lost": quality.keep_names and not has_source,
        }
        yield from (rule for rule, is_without in without.items() if is_without)


def rules_named(name: str | None) -> QualityRules | None:
    """Returns the rules that the option `--rules` names: `all`, or the section `quality` of a job file.

    Raises:
        JobError: the job file cannot be read, does not fit the schema, or has no rules in its section `quality`; or a
            file that the section names cannot be used.
    """
    if name is None:
        return None
    quality = ALL_RULES if name == "all" else load_job(name).quality
    if (rules := QualityRules.of(quality)) is None:
        raise JobError(
            "--rules", name, "its section `quality` has no rule on texts alone", "name another job file, or `all`"
        )
    return rules


def _emotion_column(rows: CorpusRows) -> str:
    """Returns the column of emotions that the first file has; "" where it has none."""
    source = rows.sources[0]
    try:
        return next((name for name in _EMOTION_COLUMNS if name in source.columns()), "")
    except READ_ERRORS as error:
        raise damaged(source.name, error) from None
