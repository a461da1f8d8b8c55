"""`kindling compare`: finds the outputs of the same input rows in several runs, variants and samples."""

import json
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpora.rows import damaged, open_committed, short_names
from pipelines.result import Result, flat
from schemas.errors import RunError
from schemas.outcomes import Outcomes
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, STATES
from schemas.run import InputSource
from schemas.text import shorten
from services.storage.parts import shard_of
from services.storage.shard_index import read_index

# States of a row that no shard holds: its shard is not committed yet, or is committed and lacks the row.
NOT_DONE, LOST = "not done", "lost"
# Number of rows that are drawn, to find some among them that all runs have finished.
_MAX_DRAWN = 1000
# Number of these whose shards are read, to find some that all runs have accepted.
_MAX_LOOKED_AT = 100
# Keys of a run's identity that name files and hashes, not settings.
_NOT_SETTINGS = ("inputs.", "input.path", "prompt_hash")
_COLUMNS = [
    "text", "state", "reason", "emotion", "inputs", "source", "row_index", "sample", "variant", "finish_reason",
    "output_tokens", "duration_seconds",
]  # fmt: skip


SourceKey = tuple[str, int]
"""content hash of an input source, and the number of sources with the same content before it"""


@dataclass(frozen=True)
class Output:
    """The output of one input row in one run, for one variant and sample; or the state of a row without outputs.

    Attributes:
        run: short name of the run.
        state: accepted, rejected or error; NOT_DONE or LOST.
        reason: the reason why it is not accepted, or the text that was cut off; may be empty.
        variant: name of the variant.
        sample: number of the sample.
        text: the text.
        inputs: values in the prompt that differ between the outputs of the row.
        finish_reason: `stop`, `length` and the like, as the engine reports it.
        output_tokens: number of generated tokens.
        duration_seconds: seconds that the generation took; None where nothing was generated.
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
        number: number of the row, counted over the sources that all runs have.
        source: name of the source in the first run.
        row_index: index of the row in the source.
        inputs: values in the prompts of all its outputs.
        outputs: the outputs.
    """

    number: int
    source: str
    row_index: int
    inputs: dict[str, Any]
    outputs: list[Output]


@dataclass(frozen=True)
class Comparison(Result):
    """The same rows of one or more runs.

    Attributes:
        runs: short names of the runs.
        differences: values of each job key that differs between the runs, in the order of the runs.
        left_out: names of sources that not all runs have.
        rows: the rows.
        accepted: number of accepted rows of each run, so far; None where one of its shards is damaged.
        cut_off: number of these whose text was cut off; None likewise.
    """

    runs: list[str]
    differences: dict[str, list[Any]]
    left_out: list[str]
    rows: list[ComparedRow]
    accepted: list[int | None] = field(default_factory=list)
    cut_off: list[int | None] = field(default_factory=list)

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each output of each input row."""
        return [
            {"number": row.number, "source": row.source, "row_index": row.row_index, **flat(asdict(output))}
            for row in self.rows
            for output in row.outputs
        ]


def compare(runs: str | Sequence[str], rows: Sequence[int] | None = None, count: int = 4, seed: int = 0) -> Comparison:
    """Finds the outputs of the same input rows in each run. Two sources are the same where their content is.

    Args:
        runs: run folders.
        rows: numbers of input rows that all runs have, counted from 0 over their common sources in the order of the
            first run; by default rows are drawn, if possible among those that all runs have accepted.
        count: number of rows to draw.
        seed: seed of the draw.

    Raises:
        RunError: a folder holds no run, or none of its shards is committed; a shard is damaged; the runs have no input
            in common; or a row number is too high.
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
        drawn = random.Random(seed).sample(range(ends[-1]), min(ends[-1], _MAX_DRAWN))
        drawn.sort(key=lambda number: not all(run.done(*place(number)) for run in opened))
        looked_at = drawn[: max(_MAX_LOOKED_AT, count)]
        accepted = (number for number in looked_at if all(run.has_accepted(*place(number)) for run in opened))
        rows = sorted(list(dict.fromkeys([*islice(accepted, count), *drawn]))[:count])
    for number in rows:
        if not 0 <= number < ends[-1]:
            raise RunError("--rows", number, f"the runs have rows 0 to {ends[-1] - 1} in common", "name some of these")
    compared = [_compared(opened, number, *place(number)) for number in rows]
    shared = {key for key, _ in sources}
    left_out = [source.source for run in opened for key, (_, source) in run.sources.items() if key not in shared]
    outcomes = [run.outcomes() for run in opened]
    return Comparison(
        [run.name for run in opened],
        _differences(opened),
        list(dict.fromkeys(left_out)),
        compared,
        accepted=[each.counts[ACCEPTED] if each else None for each in outcomes],
        cut_off=[each.cut_off if each else None for each in outcomes],
    )


class _Run:
    """A run and its committed shards.

    Attributes:
        sources: (number of its first row, source) of each input source. Files with the same content have the same hash,
            so their order is part of the key.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self._store, self.record, self._committed = open_committed(url)
        ranges = list(self.record.shard_ranges())
        self._shards, self._starts = [shard for shard, _, _ in ranges], [start for _, start, _ in ranges]
        self.sources: dict[SourceKey, tuple[int, InputSource]] = {}
        self._accepted = lru_cache(maxsize=_MAX_LOOKED_AT)(self._accepted_rows)
        times: Counter[str] = Counter()
        first = 0
        for source in self.record.inputs:
            self.sources[source.content, times[source.content]] = (first, source)
            times[source.content] += 1
            first += source.rows

    def done(self, key: SourceKey, index: int) -> bool:
        """Returns whether the shard of a row is committed."""
        return self._shard(key, index) in self._committed

    def has_accepted(self, key: SourceKey, index: int) -> bool:
        """Returns whether the row has an accepted output; False where its shard is damaged, or not committed."""
        return self.done(key, index) and (self.sources[key][1].source, index) in self._accepted(self._shard(key, index))

    def _accepted_rows(self, shard: int) -> set[tuple[str, int]]:
        """Returns (source, row index) of the rows of a shard with an accepted output."""
        paths = [path for path in self._files(shard) if path.startswith(f"{FOLDER_OF_STATE[ACCEPTED]}/")]
        try:
            tables = [self._store.read_table(path, ["source", "row_index"]) for path in paths]
        except (OSError, pa.ArrowException):
            return set()
        return {(row["source"], row["row_index"]) for table in tables for row in table.to_pylist()}

    def rows(self, key: SourceKey, index: int) -> list[dict[str, Any]]:
        """Reads the outputs of a finished row: a dict of _COLUMNS for each variant and sample.

        Raises:
            RunError: the shard is damaged.
        """
        shard = self._shard(key, index)
        name = self.sources[key][1].source
        outputs: list[dict[str, Any]] = []
        for path in self._files(shard):
            try:
                table = self._store.read_table(path, _COLUMNS)
            except (OSError, pa.ArrowException) as error:
                raise damaged(self._store.path(path), error) from None
            is_it = pc.and_(pc.equal(table["source"], name), pc.equal(table["row_index"], index))
            outputs += table.filter(is_it).to_pylist()
        return sorted(outputs, key=lambda row: (row["variant"], row["sample"]))

    def _files(self, shard: int) -> Iterator[str]:
        """Yields the files with the rows of a shard in their newest states."""
        parts = [part for part in self._store.committed_parts() if shard_of(part) == shard]
        for state in STATES:
            for part in self._store.live_parts(state, parts):
                if path := self._store.file_of(part, state):
                    yield path

    def outcomes(self) -> Outcomes | None:
        """Returns the outcomes of all rows so far; None where a shard is damaged, which may be one of other rows."""
        try:
            return read_index(self._store, self.record).totals().outcomes
        except RunError:
            return None

    def _shard(self, key: SourceKey, index: int) -> int:
        return self._shards[bisect_right(self._starts, self.sources[key][0] + index) - 1]


def _common_sources(runs: list[_Run]) -> list[tuple[SourceKey, int]]:
    """Returns the sources that all runs have, each with the number of rows that all runs take from it."""
    keys = [key for key in runs[0].sources if all(key in run.sources for run in runs)]
    if not keys:
        made_from = {run.url: ", ".join(source.source for source in run.record.inputs) for run in runs}
        listed = "".join(f"\n    {shorten(url)}: {shorten(sources)}" for url, sources in made_from.items())
        cause = f"the runs have no input in common: no file of the same content{listed}"
        raise RunError("RUN", None, cause, "name runs that were made from the same files")
    return [(key, min(run.sources[key][1].rows for run in runs)) for key in keys]


def _compared(runs: list[_Run], number: int, key: SourceKey, index: int) -> ComparedRow:
    outputs = [output for run in runs for output in _outputs(run, key, index)]
    all_inputs = [output.inputs for output in outputs if output.inputs]
    common = {
        name: value
        for name, value in (all_inputs or [{}])[0].items()
        if all(inputs.get(name) == value for inputs in all_inputs)
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
    """Returns the values that the prompt was made from, and the emotion where the recipe drew one."""
    inputs = json.loads(row["inputs"])
    return {**inputs, **({"emotion": row["emotion"]} if row["emotion"] and "emotion" not in inputs else {})}


def _differences(runs: list[_Run]) -> dict[str, list[Any]]:
    keys = sorted({key for run in runs for key in run.record.identity if not key.startswith(_NOT_SETTINGS)})
    values = {key: [run.record.identity.get(key) for run in runs] for key in keys}
    return {key: of_runs for key, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}
