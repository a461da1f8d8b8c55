"""`kindling dedup`: takes near-duplicates, texts of test sets and common openings out of the accepted rows of a run.

Invariant: what is removed depends on the committed rows and the options alone. Rows are read in input order, and of
near-duplicates the first stays. The rows themselves are not touched.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipelines.deduplication.openings import Identity, Openings
from pipelines.inputs.near_duplicates import RULES, NearDuplicates
from pipelines.quality_control.reference_files import Paths, read_reference_sets, reference_contents
from pipelines.quality_control.reference_sets import ReferenceSets
from pipelines.result import Result
from pipelines.run_folder import open_run, read_part, versions, write_errors
from schemas.dedup import COMMON_OPENING, DEDUP_KEY, DEDUP_PATH, DEDUP_SCHEMA, NEAR_DUPLICATE, DedupRecord
from schemas.errors import JobError, RunError
from schemas.quality import rule_of_set
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, IDENTITY
from services.storage.filesystem import write_atomic
from services.storage.shard_index import read_index
from services.storage.store import ShardStore, parquet_bytes, shard_path

_log = logging.getLogger("kindling")
_MAX_SHOWN_OPENINGS = 10
_OPTION = "--reference"


@dataclass(frozen=True)
class Deduplicated(Result):
    """Result of `dedup`.

    Attributes:
        run: the run folder.
        rows: number of accepted rows that were read.
        removed: number of removed rows by rule.
        compared: number of rows that later rows were compared with; it has a limit.
        is_limited: True where the limit was reached: later near-duplicates of later rows are not found.
        openings: the commonest openings of the rows that are left by the other rules, with the number of rows.
        distinct_openings: number of different openings.
        searched: number of reference texts that were searched for, by set.
        too_short: number of reference texts with too few words to be searched for, by set.
        complete: True where the run had finished all its rows.
        to: the file; "" where none was written.
    """

    run: str
    rows: int
    removed: dict[str, int]
    compared: int
    is_limited: bool
    openings: dict[str, int]
    distinct_openings: int
    searched: dict[str, int]
    too_short: dict[str, int]
    complete: bool
    to: str

    @property
    def left(self) -> int:
        """Number of rows that are left."""
        return self.rows - sum(self.removed.values())


def dedup(
    url: str,
    references: Mapping[str, Paths] | None = None,
    opening_words: int = 4,
    max_opening: float | None = None,
    dry_run: bool = False,
) -> Deduplicated:
    """Finds rows that a corpus should not have, and writes dedup.parquet into the run folder, in place of an older one.

    `export`, `compose` and `train` leave these rows out. Rows are compared within their variant.

    Args:
        url: the run folder.
        references: files of texts that no row may contain, by the name of their set.
        opening_words: number of words that make an opening.
        max_opening: largest share of the rows with the same opening; further ones are removed. None removes none.
        dry_run: write nothing.

    Raises:
        JobError: a reference file cannot be read, or too few openings are different for `max_opening`.
        RunError: the folder holds no run, or none with accepted rows; a shard is damaged; or it cannot be written.
    """
    store = ShardStore(url)
    run = open_run(store)
    index = read_index(store, run)
    outcomes = index.totals().outcomes
    if not outcomes.counts[ACCEPTED]:
        raise RunError("RUN", url, "it has no accepted row yet", "`kindling status` shows the progress of the run")
    sets = references or {}
    _log.info("comparing %d texts with each other", outcomes.counts[ACCEPTED])
    search = _Search(read_reference_sets(sets, _OPTION), Openings(opening_words))
    for text, row in _texts(store):
        search.add(text, row)
    openings = search.openings.counts()
    if max_opening is not None:
        search.thin_out(max_opening)
    # Rules that removed nothing are told too: what was looked for is known.
    rules = [NEAR_DUPLICATE, *map(rule_of_set, sets), *([COMMON_OPENING] if max_opening is not None else [])]
    removed = Counter(dict.fromkeys(rules, 0))
    removed.update(rule for rule, _ in search.removed.values())
    if not dry_run:
        settings = {
            "references": reference_contents(sets, _OPTION), "opening_words": opening_words,
            "max_opening": max_opening, "near_duplicates": RULES,
        }  # fmt: skip
        record = DedupRecord(
            content=index.digest(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            rows=search.rows,
            removed=dict(removed.most_common()),
            settings=settings,
            versions=versions(),
        )
        with write_errors(url, "RUN"):
            write_atomic(store.fs, store.path(DEDUP_PATH), _encoded(search.removed, record))
    return Deduplicated(
        run=url,
        rows=search.rows,
        removed=dict(removed.most_common()),
        compared=search.compared,
        is_limited=search.is_limited,
        openings=dict(openings.most_common(_MAX_SHOWN_OPENINGS)),
        distinct_openings=len(openings),
        searched=dict(search.references.searched) if search.references else {},
        too_short=dict(search.references.too_short) if search.references else {},
        complete=outcomes.counts.total() == run.outputs,
        to="" if dry_run else store.path(DEDUP_PATH),
    )


class _Search:
    """The rows so far.

    Attributes:
        rows: number of rows.
        removed: rule and detail of each removed row.
        references, openings: the arguments.
    """

    def __init__(self, references: ReferenceSets | None, openings: Openings) -> None:
        self.references, self.openings = references, openings
        self.rows = 0
        self.removed: dict[Identity, tuple[str, str]] = {}
        self._texts: dict[str, NearDuplicates] = defaultdict(NearDuplicates)
        self._row_of_number: list[Identity] = []

    def add(self, text: str, row: Identity) -> None:
        """Adds the next row in input order. A row that is removed is compared with no later one."""
        self.rows += 1
        if self.references is not None and (match := self.references.find(text)):
            self.removed[row] = (rule_of_set(match[0]), match[1])
            return
        self._row_of_number.append(row)
        first = self._texts[row[-1]].find_or_add(text, len(self._row_of_number) - 1)
        if first is not None:
            source, row_index, sample, _ = self._row_of_number[first]
            self.removed[row] = (NEAR_DUPLICATE, f"row {row_index} of {source}, sample {sample}")
            return
        self.openings.add(text, row)

    def thin_out(self, share: float) -> None:
        """Removes rows whose opening more than a share of the rows has.

        Raises:
            JobError: too few openings are different for that.
        """
        try:
            above = self.openings.above(share)
        except ValueError as error:
            raise JobError("--max-opening", share, str(error), "name a larger share") from None
        self.removed |= {row: (COMMON_OPENING, opening) for row, opening in above.items()}

    @property
    def compared(self) -> int:
        """Number of texts that later ones were compared with."""
        return sum(len(texts) for texts in self._texts.values())

    @property
    def is_limited(self) -> bool:
        """True where later texts of some variant were not compared with each other."""
        return any(texts.is_full for texts in self._texts.values())


def _texts(store: ShardStore) -> Iterator[tuple[str, Identity]]:
    """Yields the text and the identity of each accepted row, in input order."""
    for part in store.live_parts(ACCEPTED):
        table = read_part(store, shard_path(FOLDER_OF_STATE[ACCEPTED], part), ["text", *IDENTITY])
        for text, *identity in zip(*(table[name].to_pylist() for name in ("text", *IDENTITY)), strict=True):
            yield text, tuple(identity)


def _encoded(removed: Mapping[Identity, tuple[str, str]], record: DedupRecord) -> bytes:
    rows: list[dict[str, Any]] = [
        {**dict(zip(IDENTITY, row, strict=True)), "rule": rule, "detail": detail}
        for row, (rule, detail) in removed.items()
    ]
    schema = DEDUP_SCHEMA.with_metadata({DEDUP_KEY: record.model_dump_json()})
    return parquet_bytes(pa.Table.from_pylist(rows, schema), schema)
