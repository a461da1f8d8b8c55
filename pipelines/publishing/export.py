"""`kindling export`: writes the accepted rows of a run as a dataset, ready for load_dataset, trainers and the Hub."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import fsspec
import pyarrow as pa

from pipelines.publishing.card_header import CardFacts, DataFiles
from pipelines.publishing.chat_formats import CHAT_FORMATS, ChatFormat
from pipelines.publishing.columns import Columns
from pipelines.publishing.data_files import FILE_TYPES, csv_schema, features_of, write_tables
from pipelines.publishing.dataset_card import dataset_card
from pipelines.publishing.removed_rows import RemovedRows, read_removed_rows
from pipelines.publishing.reviewed_rows import REVIEWED_COLUMNS, PeoplesVerdicts, left_out_lines, read_verdicts
from pipelines.publishing.splits import Split, splits_of
from pipelines.result import Result
from pipelines.run_folder import open_run, read_part, write_errors
from schemas.errors import JobError, RunError
from schemas.outcomes import Outcomes
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, IDENTITY
from schemas.run import RunRecord
from services.storage.digest import ContentDigest
from services.storage.filesystem import atomic_folder, new_file, resolve, write_atomic
from services.storage.shard_index import read_index
from services.storage.store import ShardStore, shard_path

# About 100 MB of stories in a file: few files for the Hub, and each fits in memory.
_ROWS_PER_FILE = 65_536
# Endings of data files that people may ask for, and that no export writes.
_OTHER_ENDINGS = {".json", ".ndjson", ".tsv", ".txt", ".arrow", ".feather", ".gz", ".zst", ".zip", ".xlsx", ".pq"}


@dataclass(frozen=True)
class Exported(Result):
    """Result of `export`.

    Attributes:
        to: the folder, or the file.
        files: data files, relative to the folder; the name of the one file.
        rows: number of rows in all files.
        complete: True where the run had finished all its rows.
        columns: names of the columns.
        splits: number of rows by split.
        left_out: with `reviewed`, number of rows that are not in the export, by cause.
        removed: number of rows that are left out since `kindling dedup` removed them, by rule.
    """

    to: str
    files: list[str]
    rows: int
    complete: bool
    columns: list[str]
    splits: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)


def export(
    url: str,
    to: str,
    file_format: str | None = None,
    columns: Sequence[str] | None = None,
    flatten: bool = False,
    test: float = 0.0,
    seed: int = 0,
    license: str | None = None,
    language: str | None = None,
    reviewed: bool = False,
    dedup: bool = True,
) -> Exported:
    """Copies the committed accepted rows of a run, in input order: into a folder with a dataset card, or into one file.

    Args:
        url: the run folder.
        to: a new file that ends with .parquet, .jsonl or .csv; or a new or empty folder. A local path or a URL.
        file_format: type of the files of a folder, by default parquet; or a format for trainers: messages, alpaca or
            prompt-completion.
        columns: columns in their order; `inputs.NAME` is one of the input row. By default all columns of the rows, and
            of a format for trainers its own.
        flatten: give the columns of the input row in place of the column `inputs`, which has them as JSON.
        test: share of the input rows that go to a split `test`, each with all its variants and samples.
        seed: seed that chooses them.
        license: license for the card, as the Hub names it: `cc-by-4.0`.
        language: languages for the card, as two letters: `en`, or `en,de`.
        reviewed: keep only the rows that people accepted in a review; rows that nobody judged are left out.
        dedup: leave out the rows that `kindling dedup` removed, where it was called.

    Raises:
        JobError: an option is wrong, or contradicts another one.
        RunError: the folder `url` holds no run, or none with accepted rows, or with `reviewed` none that people
            accepted; it has changed since `kindling dedup`; a shard is damaged; prompts cannot be made again; or `to`
            exists already or cannot be written.
    """
    file_type, is_file = _file_type(to, file_format, test)
    facts = CardFacts(license, language)
    run = open_run(store := ShardStore(url))
    fs, root = resolve(to, "--to")
    if fs.exists(root) and (is_file or not fs.isdir(root) or fs.ls(root)):
        if is_file:
            raise RunError("--to", to, "it exists already", "name a new file")
        raise RunError("--to", to, "it exists already, and is not an empty folder", "name a new or empty folder")
    removed = read_removed_rows(store, run) if dedup else RemovedRows()
    outcomes, reviews = _outcomes(store, run, removed), read_verdicts(store)
    rows = _Rows(store, removed, PeoplesVerdicts(store) if reviewed else None)
    left_out = rows.people.left_out(_Rows(store, removed).batches(REVIEWED_COLUMNS)) if rows.people else {}
    chat = ChatFormat(file_format, run) if file_format in CHAT_FORMATS else None
    chosen = Columns(columns, flatten, file_format if chat else None, run.schema, rows.batches(["inputs"]))
    splits = splits_of(rows.batches(["source", "row_index"]), test, seed)
    tables = partial(_tables, rows, chosen, chat)
    with write_errors(to, "--to"):
        if is_file:
            with new_file(fs, root) as file:
                counts = {"train": write_tables(file, file_type, chosen.schema, tables(splits[0]))}
            files = [os.path.basename(root)]
        else:
            schema = csv_schema(chosen.schema) if file_type == "csv" else chosen.schema
            # A folder that is there may be a mount, which no other folder can replace.
            with nullcontext(root) if fs.exists(root) else atomic_folder(fs, root) as folder:
                of_splits = {split.name: tables(split) for split in splits}
                files, counts, data_files = _write_files(fs, folder, file_type, schema, of_splits)
                rules, note = removed.by_rule if removed.digest else None, _note(counts, seed, left_out)
                card = dataset_card(run, outcomes, data_files, schema, facts, note, rules, reviews)
                write_atomic(fs, f"{folder}/README.md", card.encode())
    complete = outcomes.counts.total() == run.outputs
    written = (to, files, sum(counts.values()), complete, chosen.schema.names, counts)
    return Exported(*written, left_out, dict(removed.by_rule))


def _outcomes(store: ShardStore, run: RunRecord, removed: RemovedRows) -> Outcomes:
    """Returns the outcomes of a run.

    Raises:
        RunError: no row is accepted, or `kindling dedup` removed all accepted ones.
    """
    outcomes = read_index(store, run).totals().outcomes
    if outcomes.counts[ACCEPTED] <= len(removed.identities):
        state = "`kindling dedup` removed all its rows" if removed.identities else "it has no accepted row yet"
        cause = f"{state}, and load_dataset reads no dataset without rows"
        remedy = "`kindling status` shows the progress of the run, and why rows were refused"
        raise RunError("RUN", store.url, cause, remedy)
    return outcomes


def _write_files(
    fs: fsspec.AbstractFileSystem,
    folder: str,
    file_type: str,
    schema: pa.Schema,
    splits: dict[str, Iterator[pa.Table]],
) -> tuple[list[str], dict[str, int], DataFiles]:
    """Writes the data files of a folder; returns their names, the number of rows by split, and what a card says."""
    digest, files, counts = ContentDigest(), [], dict.fromkeys(splits, 0)
    for split, tables in splits.items():
        for number, table in enumerate(_in_files(tables)):
            buffer = io.BytesIO()
            counts[split] += write_tables(buffer, file_type, schema, [table])
            name, data = f"data/{split}-{number:05d}.{file_type}", buffer.getvalue()
            write_atomic(fs, f"{folder}/{name}", data)
            digest.add(name, hashlib.sha256(data).hexdigest())
            files.append(name)
    patterns = {split: f"data/{split}-*.{file_type}" for split in splits}
    return files, counts, DataFiles(patterns, str(digest), sum(counts.values()), features_of(schema))


def _file_type(to: str, file_format: str | None, test: float) -> tuple[str, bool]:
    """Returns the type of the data files, and whether `to` is one file.

    Raises:
        JobError: the ending of `to` is of no type, or contradicts another option.
    """
    if file_format is not None and file_format not in (*FILE_TYPES, *CHAT_FORMATS):
        names = ", ".join((*FILE_TYPES, *CHAT_FORMATS))
        raise JobError("--format", file_format, "there is no such format", f"the formats are {names}")
    asked = file_format if file_format in FILE_TYPES else None
    ending = os.path.splitext(to)[1]
    endings = ", ".join(f".{name}" for name in FILE_TYPES)
    if ending in _OTHER_ENDINGS:
        raise JobError("--to", to, f"no {ending} is written", f"let it end with one of {endings}, or name a folder")
    if ending.removeprefix(".") not in FILE_TYPES:
        return asked or "parquet", False
    file_type = ending[1:]
    if asked not in (None, file_type):
        raise JobError(
            "--format", asked, f"--to ends with {ending}", f"leave --format out, or let it end with .{asked}"
        )
    if test:
        raise JobError("--test", test, "two splits do not go into one file", "name a folder with --to")
    if file_type == "csv" and file_format == "messages":
        raise JobError("--format", file_format, "a CSV file has no lists", "let --to end with .jsonl or .parquet")
    return file_type, True


@dataclass(frozen=True)
class _Rows:
    """Committed accepted rows of a run, in input order, without those that `kindling dedup` removed.

    Attributes:
        store: the run folder.
        removed: the removed rows.
        people: verdicts of people, of which the accepted rows are kept; None for all rows.
    """

    store: ShardStore
    removed: RemovedRows
    people: PeoplesVerdicts | None = None

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields the rows with some columns, to which those are added by which rows are looked up."""
        columns = list(dict.fromkeys([*columns, *(REVIEWED_COLUMNS if self.people else IDENTITY)]))
        for part in self.store.live_parts(ACCEPTED):
            for batch in read_part(self.store, shard_path(FOLDER_OF_STATE[ACCEPTED], part), columns).to_batches():
                rows = self.removed.without(batch)
                yield self.people.accepted(rows) if self.people else rows


def _tables(rows: _Rows, columns: Columns, chat: ChatFormat | None, split: Split) -> Iterator[pa.Table]:
    """Yields the exported rows of a split."""
    for batch in rows.batches(columns.read):
        of_split = split.of(batch)
        if of_split.num_rows:
            yield columns.table(of_split, chat)


def _in_files(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yields the same rows, in tables of the size of a file."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= _ROWS_PER_FILE:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, _ROWS_PER_FILE)
            waiting, rows = [whole.slice(_ROWS_PER_FILE)], rows - _ROWS_PER_FILE
    if rows:
        yield pa.concat_tables(waiting)


def load_command(exported: Exported) -> str:
    """Returns the Python call that loads an export with the library `datasets`."""
    split = "" if len(exported.splits) > 1 else ', split="train"'
    ending = os.path.splitext(exported.to)[1].removeprefix(".")
    if ending not in FILE_TYPES:
        return f'datasets.load_dataset("{exported.to}"{split})'
    builder = "json" if ending == "jsonl" else ending
    return f'datasets.load_dataset("{builder}", data_files="{exported.to}"{split})'


def _note(counts: dict[str, int], seed: int, left_out: dict[str, int]) -> str:
    """Returns sentences for the card on rows that were left out, and on the splits."""
    notes = []
    if left_out:
        causes = ", ".join(left_out_lines(left_out))
        notes.append(f"People judged rows of this run. Only rows that they accepted are here; left out are {causes}.")
    if len(counts) > 1:
        rows = " and ".join(f"{rows} rows in `{name}`" for name, rows in counts.items())
        notes.append(
            f"{rows}, drawn with the seed {seed}: all rows that were made from one input row are in the same split."
        )
    return "\n\n".join(notes)
