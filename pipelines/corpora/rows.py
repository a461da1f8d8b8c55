"""Opens the corpora of `stats` and `quality` and the runs of `compare` by name, and reads the rows of a corpus."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.inputs.cells import first_label
from pipelines.inputs.files import input_files
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.parquet_format import ParquetSource
from pipelines.inputs.sources import Skip, Source, rows_with_names
from pipelines.run_folder import kind_of, open_run
from schemas.errors import JobError, RunError
from schemas.job import Input
from schemas.rows import ACCEPTED
from schemas.run import RunRecord
from schemas.text import shorten
from services.storage.filesystem import resolve
from services.storage.shard_index import read_index
from services.storage.store import ShardStore

# Columns by which `stats` groups the rows of a run, unless --by names others.
RUN_BREAKDOWNS = ("prompt_id", "variant", "emotion", "source")
_RUN_TEXT = "text"
_EMOTION_COLUMNS = ("emotion", "emotions")


@dataclass
class CorpusRows:
    """The rows of a run or of files: the text of each row, and the values by which it is grouped.

    Attributes:
        name: name of the corpus, as it was given.
        by: columns by which rows are grouped.
        complete: whether a run has all its shards; None for files.
        text_column: column with the text.
        sources: the files.
        cut_off: number of a run's rows whose text was cut off; None for files.
        option_of: options that name columns of `by`, for those that another one than --by names.
        without_text: number of rows read so far whose text is null or not a string.
        unreadable: number of rows read so far that cannot be parsed (broken JSON), or whose text has NUL characters.
    """

    name: str
    by: list[str]
    complete: bool | None
    text_column: str
    sources: list[Source]
    cut_off: int | None = None
    option_of: Mapping[str, str] = field(default_factory=dict)
    without_text: int = field(default=0, init=False)
    unreadable: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """Yields (text, value of each column of `by`) of the rows that have text.

        Raises:
            RunError: a file is damaged or lacks a column.
        """
        for values in self._values():
            text = values.get(self.text_column)
            if isinstance(text, str) and "\0" in text:
                self.unreadable += 1
            elif isinstance(text, str):
                yield _encodable(text), *(_value(values, name) for name in self.by)
            else:
                self.without_text += 1

    def _values(self) -> Iterator[dict[str, Any]]:
        for source in self.sources:
            try:
                columns = self._columns_in(source)
                for row in rows_with_names(source, columns, Skip(), source.label_names(columns)):
                    if row.values is None:
                        self.unreadable += 1
                    else:
                        yield row.values
            except READ_ERRORS as error:
                raise damaged(source.name, error) from None

    def _columns_in(self, source: Source) -> list[str]:
        existing = source.columns()
        columns = []
        named = [("--text-column", self.text_column), *((self.option_of.get(name, "--by"), name) for name in self.by)]
        for option, name in named:
            column = name if name in existing else name.partition(".")[0]
            if existing and column not in existing and not source.has_late_column(column):
                cause = f"{source.name} has no such column; it has {shorten(', '.join(existing))}"
                raise RunError(option, name, cause, "name one of these")
            columns.append(column)
        return list(dict.fromkeys(columns))


def is_run(name: str) -> bool:
    """Returns whether a name leads to a run of `augment`; the data files of a `label` run are a table like any other.

    Raises:
        RunError: the name is no path or URL, or its folder cannot be read.
    """
    fs, root = resolve(name, "RUN")
    return bool(fs.exists(f"{root}/run.json")) and kind_of(ShardStore(name)) != "label"


def corpus_rows(
    name: str, text_column: str, by: Sequence[str] | None, states: Sequence[str] = (ACCEPTED,)
) -> CorpusRows:
    """Opens the rows in the committed shards of a run, or the rows of files.

    Args:
        name: a run folder; or a file, folder or glob of Parquet, JSONL, CSV or text; a local path or a URL.
        text_column: column with the text, in files.
        by: columns by which rows are grouped; None: RUN_BREAKDOWNS for a run, no column for files.
        states: states of the rows of a run.

    Raises:
        RunError: the name leads to no run and no file, or the run has no committed shard yet.
    """
    if not is_run(name):
        fs, root = resolve(name, "RUN")
        files = f"{name.rstrip('/')}/data" if fs.exists(f"{root}/run.json") else name
        return CorpusRows(name, list(dict.fromkeys(by or ())), None, text_column, _files(files))
    store, run, committed = open_committed(name)
    files_of_states = (store.file_of(part, state) for state in states for part in store.live_parts(state))
    paths = [store.path(file) for file in files_of_states if file]
    sources: list[Source] = [ParquetSource(path, store.fs, path) for path in paths]
    columns = list(RUN_BREAKDOWNS if by is None else dict.fromkeys(by))
    cut_off = read_index(store, run).totals().outcomes.cut_off
    return CorpusRows(name, columns, len(committed) == run.shards, _RUN_TEXT, sources, cut_off)


def open_committed(name: str) -> tuple[ShardStore, RunRecord, set[int]]:
    """Opens a run folder, and returns it with its run.json and the numbers of its committed shards.

    Raises:
        RunError: the folder holds no run, or no shard of it is committed.
    """
    store = ShardStore(name)
    run = open_run(store)
    committed = store.committed_shards()
    if not committed:
        remedy = "wait for the first shard: `kindling status` shows the progress"
        raise RunError("RUN", name, "no shard of this run is committed yet", remedy)
    return store, run, committed


def damaged(path: str, error: Exception) -> RunError:
    """Makes the error for a file that cannot be read."""
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    remedy = "`kindling verify` lists all damage of a run; repair any other file, or leave it out"
    return RunError(path, None, f"cannot be read: {shorten(first_line)}", remedy)


def short_names(names: Sequence[str]) -> list[str]:
    """Returns the last part of each path; or the paths themselves, where two last parts are the same."""
    last = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    return last if len(set(last)) == len(last) else list(names)


def _files(name: str) -> list[Source]:
    fs, root = resolve(name, "RUN")
    if runs := fs.glob(f"{root}/*/run.json"):
        named = " ".join(f"{name.rstrip('/')}/{path.split('/')[-2]}" for path in sorted(runs))
        raise RunError("RUN", name, "it is a folder of runs", f"name the runs: {shorten(named)}")
    # Not validated: the schema refuses a secret in a URL, because jobs are stored; nothing is stored here.
    section = Input.model_construct(path=name)
    try:
        return list(input_files(section))
    except JobError as error:
        remedy = "name a run folder, or files with an ending of Parquet, JSONL, CSV or text"
        remedy = remedy if error.cause == "no such file" else error.remedy
        raise RunError("RUN", error.value, f"it is no run, and no corpus: {error.cause}", remedy) from None


def _value(values: Mapping[str, Any], name: str) -> str:
    """Returns the value of a column, or of a key in a struct or JSON object, as text.

    A list counts as its first element, since recipes ask for the first emotion of a list. Emotions are read as recipes
    read them.
    """
    value = values.get(name)
    if name not in values:
        column, _, key = name.partition(".")
        value = _object(values.get(column)).get(key)
    if name.rpartition(".")[2] in _EMOTION_COLUMNS and (emotion := first_label({name: value}, name)):
        return emotion
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        value = next(iter(value), None)
    return "" if value is None else _encodable(str(value))


def _object(value: Any) -> Mapping[str, Any]:
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _encodable(text: str) -> str:
    # JSON can contain half of a surrogate pair, which no data frame can hold.
    return text if text.isascii() else text.encode(errors="replace").decode()
