"""Records of a run: run.json at its root, and a manifest in the footer of each shard's data file."""

from collections.abc import Iterator
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from schemas.record import Record
from schemas.row_programs import logged_schema, row_schema
from schemas.sweep import DEFAULT_VARIANT

MANIFEST_KEY = b"kindling.manifest"
REPLICA_SECONDS = "kindling_replica_seconds_total"
"""name in `RunRecord.last_metrics` of the seconds of all replicas, which the cost of a run comes from"""


class InputSource(Record):
    """Input file or dataset split, as it was when the run was planned."""

    source: str
    """path, URL or dataset id, which is the column `source` of its rows"""
    rows: int
    """number of rows that the run takes from it"""
    content: str
    """hash, etag or dataset fingerprint of its content"""


class RunVariant(Record):
    """Variant: one combination of a sweep."""

    name: str
    """name of the variant, which is the column `variant` of its rows: `prompt=p1,temperature=0.3`"""
    values: dict[str, Any]
    """values that replace those of the job: `{"prompt": "p1", "temperature": 0.3}`"""


class Retry(Record):
    """Retry of the rejected or failed rows of a run (`--retry`)."""

    number: int = Field(gt=0)
    """number of the retry, from 1; its files end with `.r1.parquet`"""
    state: str
    """state of the rows that it generates again: rejected or error"""
    rows: int
    """number of input rows that the run had; rows that were added later are not retried"""
    fingerprint: str
    """fingerprint of the job that generates them"""
    changes: list[str] = Field([])
    """keys in which this job differs from the one before: `sampling.max_tokens: 64 -> 256`"""


class RunRecord(Record):
    """Record of a run, run.json: the job as resolved, its identity, and the machines of its last start."""

    format: int = 1
    """version of this record's layout"""
    name: str
    """name of the run"""
    created_at: str
    """time of the first start: ISO 8601, UTC"""
    job: dict[str, Any]
    """job as resolved, defaults included"""
    fingerprint: str
    """sha256 over `identity`"""
    earlier_fingerprints: list[str] = Field([])
    """fingerprints that the run had before each `--extend` and each `--retry`; shards of that time carry them"""
    identity: dict[str, Any]
    """all keys that can change text or layout, flat; a resume with another identity is refused, with the difference"""
    inputs: list[InputSource]
    """input files or dataset splits, in their order"""
    segments: Annotated[list[int], Field(min_length=1)]
    """number of input rows at the end of each segment: [200], and after an `--extend` by 50 rows [200, 250]. No shard
    crosses the end of a segment, so that committed shards stay as they are"""
    read_rows: int | None = Field(None, exclude_if=lambda rows: rows is None)
    """number of input rows up to the shard by which `target_accepted` was reached; later rows are not part of the run.
    None where there is no target, or it is not reached yet"""
    retries: list[Retry] = Field([], exclude_if=lambda retries: not retries)
    """retries, in their order"""
    samples: int = Field(gt=0)
    """number of outputs for each input row and variant"""
    variants: list[RunVariant] = Field([])
    """variants of the job's sweep, in their order; empty without a sweep"""
    rows_per_shard: int = Field(gt=0)
    """number of input rows in one shard"""
    has_programs: bool = Field(False, exclude_if=lambda has_programs: not has_programs)
    """whether its rows may take several generations or tries, and so have the columns of PROGRAM_SCHEMA"""
    has_reasoning: bool = Field(False, exclude_if=lambda has_reasoning: not has_reasoning)
    """whether its model's thoughts are kept, in the column `reasoning`"""
    rubrics: dict[str, str] = Field({}, exclude_if=lambda rubrics: not rubrics)
    """text of each judge's prompt, by the name of its generation"""
    model_revision: str = ""
    """commit or content hash of the model; empty until an engine has loaded it"""
    engine: dict[str, Any] = Field({})
    """settings that the engine chose: sizes, device, cores"""
    replicas: list[dict[str, Any]] = Field([])
    """replicas of the last start that served: number, node, cores and process ids of each"""
    metrics: str = ""
    """address of the last start's metrics endpoint, as `host:port`; empty where it is off"""
    start_id: str = ""
    """id of the last start, random and new for each. An endpoint at the address `metrics` is this run's only if it
    shows the same id"""
    ended_at: str = ""
    """end of the last start that generated rows and was not killed: ISO 8601, UTC"""
    last_metrics: dict[str, float] = Field({})
    """values of the Prometheus series at that end, by the names that a query uses:
    `{'kindling_rows_total{state="error"}': 2}`. While a start runs, its replica-seconds are renewed each minute"""
    versions: dict[str, str] = Field({})
    """versions of Kindling and of the libraries of the last start"""

    @property
    def schema(self) -> pa.Schema:
        """Columns of its shards."""
        return row_schema(self.has_programs, self.has_reasoning)

    @property
    def logged_schema(self) -> pa.Schema:
        """Columns of its rows until their shard is committed."""
        return logged_schema(self.has_programs, self.has_reasoning)

    @property
    def replica_seconds(self) -> float:
        """Seconds of all replicas, in all starts."""
        return self.last_metrics.get(REPLICA_SECONDS, 0.0)

    @property
    def fingerprints(self) -> list[str]:
        """Fingerprints that shards of this run may carry: its own, and those that it had before."""
        return [self.fingerprint, *self.earlier_fingerprints]

    @property
    def rows(self) -> int:
        """Number of input rows of the whole run."""
        return self.segments[-1] if self.read_rows is None else self.read_rows

    @property
    def rows_not_read(self) -> int:
        """Number of input rows behind the target, once it is reached."""
        return self.segments[-1] - self.rows

    @property
    def variant_names(self) -> list[str]:
        """Names of the variants, one for each output of a row and sample."""
        return [variant.name for variant in self.variants] or [DEFAULT_VARIANT]

    @property
    def outputs_per_row(self) -> int:
        """Number of outputs of each input row: samples times variants."""
        return self.samples * len(self.variant_names)

    @property
    def outputs(self) -> int:
        """Number of outputs of the whole run, each of which is a row of a shard."""
        return self.rows * self.outputs_per_row

    @property
    def shards(self) -> int:
        """Number of shards of the whole run."""
        ends = [min(end, self.rows) for end in self.segments]
        starts = [0, *ends[:-1]]
        return sum(-(-(end - start) // self.rows_per_shard) for start, end in zip(starts, ends, strict=True))

    def shard_ranges(self) -> Iterator[tuple[int, int, int]]:
        """Yields (shard, first input row, input row after the last) of each shard, counted over all sources."""
        shard = start = 0
        for segment_end in self.segments:
            while start < min(segment_end, self.rows):
                end = min(start + self.rows_per_shard, segment_end)
                yield shard, start, end
                shard, start = shard + 1, end


class Manifest(Record):
    """Summary of a committed shard, in the footer of its data file."""

    format: int = 1
    """version of this record's layout"""
    fingerprint: str
    """fingerprint of the run; a shard with another one belongs to another run"""
    shard: int
    """number of the shard, from 0"""
    retry: int = Field(0, exclude_if=lambda retry: not retry)
    """number of the retry; 0 for the shard itself"""
    retried: str = Field("", exclude_if=lambda state: not state)
    """state of the rows that the retry generated again, all of this shard that had it"""
    start: int
    """number of the first input row, counted over all sources"""
    end: int
    """number of the input row after the last one"""
    samples: int
    """number of outputs for each input row and variant"""
    variants: int = 1
    """number of variants"""
    counts: dict[str, int]
    """number of rows by state; of a shard itself they add up to (end - start) * samples * variants"""
    cut_off: int | None = Field(None, exclude_if=lambda rows: rows is None)
    """number of accepted rows whose text was cut off; None in shards of versions before, as the next two"""
    rejects: dict[str, int] | None = Field(None, exclude_if=lambda reasons: reasons is None)
    """number of rejected rows by rule"""
    errors: dict[str, int] | None = Field(None, exclude_if=lambda reasons: reasons is None)
    """number of failed rows by reason, with N in place of numbers; rare reasons are counted together"""
    siblings: dict[
        Annotated[str, Field(pattern=r"^(rejected|errors|tries)/part-\d{5,}(\.r\d+)?(\.[0-9a-f]{8})?\.parquet$")], str
    ]
    """sha256 of the files of rejected rows, failed rows and earlier tries, by their paths below the run. On object
    stores each driver's files have names of their own: errors/part-00003.5d1e0c7a.parquet"""
    tries: dict[str, int] = Field({}, exclude_if=lambda tries: not tries)
    """number of tries that were not the last one of their row, by the rule that rejected them"""
    prompt_tokens: int
    """number of prompt tokens of all rows, and of their tries"""
    cached_prompt_tokens: int
    """number of prompt tokens of all rows that the prefix cache held"""
    output_tokens: int
    """number of output tokens of all rows, whatever their state"""
    accepted_output_tokens: int
    """number of output tokens of accepted rows"""
    started_at: str
    """time at which the shard's first row was sent to an engine: ISO 8601, UTC"""
    finished_at: str
    """time at which the shard's last row was finished: ISO 8601, UTC"""
    pauses: list[tuple[str, str]] = Field([], exclude_if=lambda pauses: not pauses)
    """spans (from, to) between those times in which no row of the shard was with an engine, since the job was
    stopped"""
    versions: dict[str, str]
    """versions of Kindling and of the libraries that wrote the shard"""

    def sibling(self, folder: str) -> str | None:
        """Path of the file of this shard in `rejected`, `errors` or `tries`; None where it has none."""
        return next((path for path in self.siblings if path.startswith(f"{folder}/")), None)
