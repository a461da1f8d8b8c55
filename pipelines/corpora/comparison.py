"""`kindling compare`: the same input rows across runs, and across the variants and samples of each."""

import json
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpora.rows import damaged, open_committed, short_names
from schemas.errors import RunError
from schemas.rows import ACCEPTED, FOLDER_OF_STATE
from schemas.run import InputSource
from schemas.text import shorten
from services.storage.store import shard_path

# The states of a row that no shard holds: it is not committed yet, or it is and lacks the row.
NOT_DONE, LOST = "not done", "lost"
# So many rows are drawn to find some that all runs have done.
_DRAWN = 1000
# Keys of a run's identity that name files and hashes, not settings.
_NOT_SETTINGS = ("inputs.", "input.path", "prompt_hash")
_COLUMNS = [
    "text", "state", "reason", "emotion", "inputs", "source", "row_index", "sample", "variant", "finish_reason",
    "output_tokens", "duration_seconds",
]  # fmt: skip


# Of an input source: its content, and how many sources of the same content come before it.
SourceKey = tuple[str, int]


@dataclass(frozen=True)
class Output:
    """What became of one input row in one run: of one variant and sample there, or of the whole row.

    Attributes:
        run: short name of the run.
        state: accepted, rejected or error; NOT_DONE or LOST.
        reason: why it is not accepted, or what was cut off round its text; may be empty.
        inputs: what it was made from, as far as the other outputs of the row were made from something else.
        duration_seconds: None where nothing was generated.
    """

    run: str
    state: str
    reason: str
    variant: str = ""
    sample: int = 0
    text: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    output_tokens: int = 0
    duration_seconds: float | None = None


@dataclass(frozen=True)
class ComparedRow:
    """One input row with its outputs, in the order of the runs.

    Attributes:
        number: the row's, counted over the sources that all runs have.
        source: as the first run names it.
        inputs: what all its outputs were made from.
    """

    number: int
    source: str
    row_index: int
    inputs: dict[str, Any]
    outputs: list[Output]


@dataclass(frozen=True)
class Comparison:
    """The same rows of one or more runs.

    Attributes:
        runs: their short names.
        differences: of each job key that differs between them, its values in the order of the runs.
        left_out: sources, as runs name them, that not all runs have.
    """

    runs: list[str]
    differences: dict[str, list[Any]]
    left_out: list[str]
    rows: list[ComparedRow]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def compare(runs: str | Sequence[str], rows: Sequence[int] | None = None, count: int = 4, seed: int = 0) -> Comparison:
    """Finds the outputs of the same input rows in each run. Inputs are the same where their content is.

    Args:
        runs: run folders.
        rows: numbers of input rows that all runs have, counted from 0 over their common sources in the first run's
            order; by default `count` of them are drawn by `seed`, of those that all runs have done if there are any.

    Raises:
        RunError: a folder holds no run, or none of its shards is committed; a shard is damaged; the runs have no input
            in common; or they have no such row.
    """
    urls = [runs] if isinstance(runs, str) else runs
    opened = [_Run(url, name) for url, name in zip(urls, short_names(urls), strict=True)]
    sources = _common_sources(opened)
    ends = list(accumulate(rows for _, rows in sources))

    def place(number: int) -> tuple[SourceKey, int]:
        at = bisect_right(ends, number)
        key, rows = sources[at]
        return key, number - ends[at] + rows

    if rows is None:
        drawn = random.Random(seed).sample(range(ends[-1]), min(ends[-1], _DRAWN))
        rows = sorted(sorted(drawn, key=lambda number: not all(run.done(*place(number)) for run in opened))[:count])
    for number in rows:
        if not 0 <= number < ends[-1]:
            raise RunError("--rows", number, f"the runs have rows 0 to {ends[-1] - 1} in common", "name some of these")
    compared = [_compared(opened, number, *place(number)) for number in rows]
    shared = {key for key, _ in sources}
    left_out = [source.source for run in opened for key, (_, source) in run.sources.items() if key not in shared]
    return Comparison([run.name for run in opened], _differences(opened), list(dict.fromkeys(left_out)), compared)


class _Run:
    """A run with what is committed of it.

    Attributes:
        sources: the number of the first row of each source, and the source. The key is its content, which two files
            of a run may have in common: then they are told apart by their order.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self._store, self.record, self._committed = open_committed(url)
        ranges = list(self.record.shard_ranges())
        self._shards, self._starts = [shard for shard, _, _ in ranges], [start for _, start, _ in ranges]
        self.sources: dict[SourceKey, tuple[int, InputSource]] = {}
        times: Counter[str] = Counter()
        first = 0
        for source in self.record.inputs:
            self.sources[source.content, times[source.content]] = (first, source)
            times[source.content] += 1
            first += source.rows

    def done(self, key: SourceKey, index: int) -> bool:
        """Whether a row of a source has its terminal states."""
        return self._shard(key, index) in self._committed

    def rows(self, key: SourceKey, index: int) -> list[dict[str, Any]]:
        """What became of a row that is done: one row of _COLUMNS for each of its variants and samples.

        Raises:
            RunError: the shard is damaged.
        """
        shard = self._shard(key, index)
        name = self.sources[key][1].source
        found: list[dict[str, Any]] = []
        for path in (shard_path(FOLDER_OF_STATE[ACCEPTED], shard), *self._store.read_manifest(shard).siblings):
            try:
                table = self._store.read_table(path, _COLUMNS)
            except (OSError, pa.ArrowException) as error:
                raise damaged(self._store.path(path), error) from None
            is_it = pc.and_(pc.equal(table["source"], name), pc.equal(table["row_index"], index))
            found += table.filter(is_it).to_pylist()
        return sorted(found, key=lambda row: (row["variant"], row["sample"]))

    def _shard(self, key: SourceKey, index: int) -> int:
        return self._shards[bisect_right(self._starts, self.sources[key][0] + index) - 1]


def _common_sources(runs: list[_Run]) -> list[tuple[SourceKey, int]]:
    """The sources that all runs have, and how many rows of each they all take."""
    keys = [key for key in runs[0].sources if all(key in run.sources for run in runs)]
    if not keys:
        made_from = {run.url: ", ".join(source.source for source in run.record.inputs) for run in runs}
        listed = "".join(f"\n    {shorten(url)}: {shorten(sources)}" for url, sources in made_from.items())
        cause = f"the runs have no input in common: no file of the same content{listed}"
        raise RunError("RUN", None, cause, "name runs that were made from the same files")
    return [(key, min(run.sources[key][1].rows for run in runs)) for key in keys]


def _compared(runs: list[_Run], number: int, key: SourceKey, index: int) -> ComparedRow:
    outputs = [output for run in runs for output in _outputs(run, key, index)]
    given = [output.inputs for output in outputs if output.inputs]
    common = {
        name: value for name, value in (given or [{}])[0].items() if all(each.get(name) == value for each in given)
    }
    own = [
        replace(output, inputs={name: value for name, value in output.inputs.items() if name not in common})
        for output in outputs
    ]
    return ComparedRow(number, runs[0].sources[key][1].source, index, common, own)


def _outputs(run: _Run, key: SourceKey, index: int) -> list[Output]:
    if not run.done(key, index):
        return [Output(run.name, NOT_DONE, "its shard is not committed yet")]
    outputs = [
        Output(
            run.name, row["state"], row["reason"], row["variant"], row["sample"], row["text"], _inputs(row),
            row["finish_reason"], row["output_tokens"], row["duration_seconds"] if row["output_tokens"] else None,
        )
        for row in run.rows(key, index)
    ]  # fmt: skip
    return outputs or [Output(run.name, LOST, "its shard is committed without it: `kindling verify` lists all damage")]


def _inputs(row: dict[str, Any]) -> dict[str, Any]:
    """What the row's prompt was made from; where its emotion was drawn, that too."""
    inputs = json.loads(row["inputs"])
    return {**inputs, **({"emotion": row["emotion"]} if row["emotion"] and "emotion" not in inputs else {})}


def _differences(runs: list[_Run]) -> dict[str, list[Any]]:
    keys = sorted({key for run in runs for key in run.record.identity if not key.startswith(_NOT_SETTINGS)})
    values = {key: [run.record.identity.get(key) for run in runs] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}
