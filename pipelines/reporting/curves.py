"""Curves of runs: losses of trainings, throughput of augmentations over time, and why rows were not accepted."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpora.rows import damaged
from pipelines.reporting.charts import Chart, Curve, LineChart, Mark, RowChart
from pipelines.reporting.folders import ReportRun
from pipelines.run_folder import open_run
from pipelines.run_status.augment import RunStatus
from pipelines.run_status.history import spans_of_rows, working_time
from schemas.errors import StoreError
from schemas.rows import STATES
from services.storage.filesystem import is_local
from services.storage.shard_index import read_index
from services.storage.store import ShardStore
from services.storage.time_spans import find_pauses

_COLUMNS = ["output_tokens", "started_at", "duration_seconds"]
# More rows than these are not read one by one: their shards stand for them.
_MAX_ROWS = 500_000
_BINS = 48
_UNITS = (("seconds", 1), ("minutes", 60), ("hours", 3600))
_MAX_OF_UNIT = 200
_MAX_REASONS = 14


def loss_chart(runs: Sequence[ReportRun]) -> list[Chart]:
    """Draws the losses of all trainings, the stages of each one after the other; none without a training."""
    series: dict[str, Curve] = {}
    for run in runs:
        if run.kind == "train":
            series |= _losses(run)
    if not series:
        return []
    note = "Mean negative log-likelihood of a token, in nats; of held-out rows, and faint of the rows trained on."
    return [LineChart("Losses of the trainings", series, "optimizer step", "loss", note)]


def _losses(run: ReportRun) -> Iterator[tuple[str, Curve]]:
    held_out: list[tuple[float, float]] = []
    trained: list[tuple[float, float]] = []
    first = 0
    stages = run.record.get("stages") or []
    for number, stage in enumerate(run.job.get("stages") or ()):
        done = stages[number] if number < len(stages) else {}
        logged = _logged(run, f"{number}-{stage.get('kind')}")
        losses = {int(step): loss for step, loss in (done.get("dev_losses") or {}).items()} or logged["eval/loss"]
        if (before := done.get("dev_loss_before")) is not None:
            losses = {0: before, **losses}
        held_out += [(first + step, loss) for step, loss in sorted(losses.items())]
        trained += [(first + step, loss) for step, loss in sorted(logged["train/loss"].items())]
        first += done.get("steps") or max([0, *losses, *logged["train/loss"]])
    if held_out:
        yield f"{run.name}, held out", Curve(run.name, held_out)
    if trained:
        yield f"{run.name}, trained on", Curve(run.name, trained, is_faint=bool(held_out))


def _logged(run: ReportRun, stage: str) -> dict[str, dict[int, float]]:
    """Reads the curves of a stage from its TensorBoard events, which a copy of a run may lack."""
    values: dict[str, dict[int, float]] = {"train/loss": {}, "eval/loss": {}}
    if not is_local(run.store.fs):
        return values
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for path in sorted(Path(run.store.path(f"tensorboard/{stage}")).glob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag in values and value.tensor.float_val:
                    values[value.tag][event.step] = value.tensor.float_val[0]
    return values


def throughput_chart(runs: Sequence[ReportRun]) -> list[Chart]:
    """Draws the output tokens of augmentations in each second, over the time in which they worked."""
    there = {run.name: points for run in runs if run.kind == "augment" and (points := _throughput(run))}
    if not there:
        return []
    longest = max(points[-1][0] for points in there.values())
    unit, seconds = next(each for each in _UNITS if longest < _MAX_OF_UNIT * each[1] or each is _UNITS[-1])
    series = {
        name: Curve(name, [(second / seconds, rate) for second, rate in points]) for name, points in there.items()
    }
    note = "All tokens that engines wrote, of rejected rows too. Pauses between starts are left out of the time."
    return [LineChart("Throughput of the augmentations", series, f"working time, {unit}", "output tokens/s", note)]


def _throughput(run: ReportRun) -> list[tuple[float, float]]:
    starts, ends, tokens = _spans(run)
    generated = ends > starts
    starts, ends, tokens = starts[generated], ends[generated], tokens[generated]
    if not len(starts):
        return []
    pauses = find_pauses(starts, ends)
    begin = starts.min()
    starts, ends = (working_time(times - begin, pauses - begin) for times in (starts, ends))
    edges = np.linspace(0, ends.max(), _BINS + 1)
    rates = np.zeros(_BINS)
    # A row's tokens are spread evenly over its time.
    for at in range(_BINS):
        overlap = np.clip(np.minimum(ends, edges[at + 1]) - np.maximum(starts, edges[at]), 0, None)
        rates[at] = (tokens * overlap / (ends - starts)).sum() / (edges[at + 1] - edges[at])
    middles = (edges[:-1] + edges[1:]) / 2
    return list(zip(middles.tolist(), rates.tolist(), strict=True))


def _spans(run: ReportRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Begin, end and output tokens of each row, or of each shard of a large run."""
    store = run.store
    index = read_index(store, open_run(store)).table()
    if index.num_rows and sum(pc.sum(index[state]).as_py() for state in STATES) > _MAX_ROWS:
        times = [index[name].cast(pa.int64()).to_numpy() / 1000 for name in ("started_at", "finished_at")]
        return times[0], times[1], index["output_tokens"].to_numpy()
    parts = [(store.file_of(part, state)) for state in STATES for part in store.live_parts(state)]
    tables = [_read(store, path) for path in parts if path]
    if not tables:
        return np.empty(0), np.empty(0), np.empty(0)
    rows = pa.concat_tables(tables)
    starts, ends = spans_of_rows(rows)
    return starts, ends, rows["output_tokens"].to_numpy()


def _read(store: ShardStore, path: str) -> pa.Table:
    try:
        return store.read_table(path, _COLUMNS)
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise damaged(store.path(path), error) from None


def reject_chart(runs: Sequence[ReportRun]) -> list[Chart]:
    """Draws the rows that were not accepted, by rule or error, as shares of all rows of each run."""
    shares: dict[str, dict[str, float]] = {}
    for run in runs:
        if isinstance(run.status, RunStatus) and (rows := sum(run.status.rows.values())):
            counts = {**run.status.rejects, **{f"error: {name}": n for name, n in run.status.errors.items()}}
            shares[run.name] = {reason: 100 * count / rows for reason, count in counts.items()}
    total: dict[str, float] = {}
    for each in shares.values():
        for reason, share in each.items():
            total[reason] = total.get(reason, 0) + share
    reasons = sorted(total, key=lambda reason: (-total[reason], reason))[:_MAX_REASONS]
    if not reasons:
        return []
    series = {name: [Mark(each[reason]) if reason in each else None for reason in reasons]
              for name, each in shares.items()}  # fmt: skip
    more = f" {len(total) - len(reasons)} rarer reasons are left out." if len(total) > len(reasons) else ""
    note = f"A rejected row counts under the first rule that refused it.{more}"
    return [RowChart("Why rows were not accepted", reasons, series, "share of rows, %", "bars", (), note)]
