"""What a run says of itself: run.json at its root, and a manifest in the footer of each data shard."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from schemas.sweep import DEFAULT_VARIANT

MANIFEST_KEY = b"kindling.manifest"


class Record(BaseModel):
    """Base of what is written to disk: unknown keys are refused, so that a reader never misreads a newer format."""

    model_config = ConfigDict(extra="forbid")


class InputSource(Record):
    """One input file or dataset split as it was when the run was planned."""

    source: str
    """path, URL or dataset id; the `source` of its rows"""
    rows: int
    """rows it holds (with `limit`: rows of it that the run takes)"""
    content: str
    """what identifies its content: a hash, an etag, or a dataset's fingerprint"""


class RunVariant(Record):
    """One combination of a sweep."""

    name: str
    """the `variant` of its rows: prompt=p1,temperature=0.3"""
    values: dict[str, Any]
    """what it sets over the job: {"prompt": "p1", "temperature": 0.3}"""


class RunRecord(Record):
    """run.json: the job as resolved, what identifies it, and what it runs on."""

    format: int = 1
    name: str
    created_at: str
    """ISO 8601, UTC"""
    job: dict[str, Any]
    """the job as resolved, defaults included"""
    fingerprint: str
    """sha256 over `identity`"""
    earlier_fingerprints: list[str] = []
    """those that the run had before it was extended; shards committed then carry them"""
    identity: dict[str, Any]
    """every key that can change text or layout, flat; a resume with another identity is refused with the difference"""
    inputs: list[InputSource]
    segments: Annotated[list[int], Field(min_length=1)]
    """input rows at each start that added some: [200], and after `--extend` by 50 rows [200, 250]. Shards never cross
    a segment's end, so that what is committed stays as it is"""
    samples: int = Field(gt=0)
    variants: list[RunVariant] = []
    """those of the job's sweep, in their order; none without one"""
    rows_per_shard: int = Field(gt=0)
    model_revision: str = ""
    """commit or content hash of the model, once an engine has loaded it"""
    engine: dict[str, Any] = {}
    """what the engine resolved: sizes, device, cores"""
    replicas: list[dict[str, Any]] = []
    """of the last start: number, node, cores and process ids of each replica that came up"""
    metrics: str = ""
    """address of the metrics endpoint of the last start; empty where it is off"""
    start_id: str = ""
    """of the last start, drawn anew for each: the endpoint at `metrics` is this run's if it tells the same"""
    ended_at: str = ""
    """ISO 8601, UTC: when the last start ended that generated rows and was not killed"""
    last_metrics: dict[str, float] = {}
    """what its Prometheus series told then, named as one asks for them: {'kindling_rows_total{state="error"}': 2}"""
    versions: dict[str, str] = {}

    @property
    def rows(self) -> int:
        """Input rows of the whole run."""
        return self.segments[-1]

    @property
    def variant_names(self) -> list[str]:
        """The `variant` of the outputs of each row."""
        return [variant.name for variant in self.variants] or [DEFAULT_VARIANT]

    @property
    def outputs_per_row(self) -> int:
        """Outputs of each input row: its samples, by every variant."""
        return self.samples * len(self.variant_names)

    @property
    def outputs(self) -> int:
        """Outputs of the whole run, each of which is a row of a shard."""
        return self.rows * self.outputs_per_row

    @property
    def shards(self) -> int:
        """Shards of the whole run."""
        starts = [0, *self.segments[:-1]]
        return sum(-(-(end - start) // self.rows_per_shard) for start, end in zip(starts, self.segments, strict=True))

    def shard_ranges(self) -> Iterator[tuple[int, int, int]]:
        """Each shard's number, first and past-the-last input row, counted over all sources in their order."""
        shard = start = 0
        for segment_end in self.segments:
            while start < segment_end:
                end = min(start + self.rows_per_shard, segment_end)
                yield shard, start, end
                shard, start = shard + 1, end


class Manifest(Record):
    """What a committed shard holds; lies in the footer of its data file."""

    format: int = 1
    fingerprint: str
    """of the run; another one marks a foreign shard"""
    shard: int
    start: int
    """first input row, counted over all sources"""
    end: int
    """past the last input row"""
    samples: int
    variants: int = 1
    """in a sweep, the number of its combinations"""
    counts: dict[str, int]
    """rows by state; they add up to (end - start) * samples * variants"""
    siblings: dict[Annotated[str, Field(pattern=r"^(rejected|errors)/part-\d{5,}\.parquet$")], str]
    """sha256 of each sibling file by its path below the run; a shard without rejects or errors has none"""
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    """of all rows, whatever their state"""
    accepted_output_tokens: int
    started_at: str
    """ISO 8601, UTC: when the shard's first row was handed to an engine"""
    finished_at: str
    """when its last row was finished"""
    pauses: list[tuple[str, str]] = Field([], exclude_if=lambda pauses: not pauses)
    """from when to when in between none of its rows was with an engine: the job was stopped, and went on a day later"""
    versions: dict[str, str]
