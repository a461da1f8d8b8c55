"""Throughput and time left of an `augment` run, from its files: also of a run whose job has ended."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.augmentation.eta import HISTORY_SECONDS, Eta, Pace, Rates, left_to_generate
from schemas.errors import RunError
from schemas.row_programs import TRIES_FOLDER
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, STATES
from services.storage.store import ShardStore, shard_path
from services.storage.time_spans import find_pauses

_COLUMNS = ["state", "output_tokens", "started_at", "duration_seconds"]
# Bound on the rows that one status reads; in a fast run they cover less than the history.
_MAX_ROWS = 20_000


@dataclass(frozen=True)
class History:
    """Rates over the last minutes of work, and the time left.

    Attributes:
        last_row_at: time at which the last row was finished, in seconds of the Unix clock; None before the first.
    """

    last_row_at: float | None
    rates: Rates
    eta: Eta | None


def read_history(store: ShardStore, shards: pa.Table, logs: list[pa.Table], left: int) -> History:
    """Reads the history up to the last row, without pauses between starts.

    Args:
        shards: entries of the shard index.
        logs: rows in the logs of open shards.
        left: number of rows that are not finished.
    """
    recent, since = _recent(shards)
    tables = [*(log.select(_COLUMNS) for log in logs), *(table for shard in recent for table in _read(store, shard))]
    rows = pa.concat_tables(tables) if tables else None
    if rows is None or not rows.num_rows:
        return History(None, Rates(), None)
    starts, ends = spans_of_rows(rows)
    pauses = find_pauses(starts, ends)
    is_generated = rows["duration_seconds"].to_numpy() > 0
    pace = Pace()
    pace.begin(float(working_time(max(since, float(starts.min())), pauses)))
    _add(pace, rows, working_time(ends, pauses))
    last = float(ends.max())
    now = float(working_time(last, pauses))
    generated = int(is_generated.sum())
    to_generate = left_to_generate(left, 0, generated, len(is_generated) - generated)
    return History(last, pace.rates(now), pace.eta(now, to_generate))


def spans_of_rows(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of each row's time with its engine, in seconds of the Unix clock; two arrays of shape (rows,)."""
    starts = rows["started_at"].cast(pa.int64()).to_numpy() / 1e6
    return starts, starts + rows["duration_seconds"].to_numpy()


def _recent(shards: pa.Table) -> tuple[list[dict[str, Any]], float]:
    """Shards that were finished last; and the time since which every finished row is in one of them or in a log."""
    latest = shards.select(["shard", "finished_at", *STATES]).sort_by([("finished_at", "descending")])
    ended = latest["finished_at"].cast(pa.int64()).to_numpy() / 1000
    rows = np.cumsum(sum(latest[state].to_numpy() for state in STATES))
    left_out = np.flatnonzero((rows > _MAX_ROWS) | (ended < ended[:1] - HISTORY_SECONDS))
    first = max(left_out[0].item(), 1) if len(left_out) else len(ended)  # at least one, however large it is
    return latest.slice(0, first).to_pylist(), float(ended[first]) if first < len(ended) else 0.0


def _read(store: ShardStore, entry: dict[str, Any]) -> list[pa.Table]:
    try:
        shard = entry["shard"]
        paths = [shard_path(FOLDER_OF_STATE[ACCEPTED], shard)] if entry[ACCEPTED] else []
        if any(entry[state] for state in STATES if state != ACCEPTED):
            siblings = store.read_manifest(shard).siblings
            paths += [path for path in siblings if not path.startswith(f"{TRIES_FOLDER}/")]
        return [store.read_table(path, _COLUMNS) for path in paths]
    except (OSError, RunError, pa.ArrowException):  # lost or damaged: `verify` reports it
        return []


def working_time(times: np.ndarray | float, pauses: np.ndarray) -> np.ndarray:
    """Times on a clock that stands still during pauses; begin and end of each pause, of shape (pauses, 2)."""
    return np.asarray(times) - sum(np.clip(times - begin, 0, end - begin) for begin, end in pauses)


def _add(pace: Pace, rows: pa.Table, ends: np.ndarray) -> None:
    order = np.argsort(ends)
    tokens, durations = (rows[name].to_numpy()[order] for name in ("output_tokens", "duration_seconds"))
    accepted = pc.equal(rows["state"], ACCEPTED).to_numpy()[order]
    ends = ends[order]
    firsts = np.flatnonzero(
        np.diff(np.floor(ends), prepend=-np.inf)
    )  # the first row of each second: rows that end within one second are added up
    is_generated = (durations > 0).astype(np.int64)
    sums = (np.add.reduceat(each, firsts) for each in (is_generated, tokens, tokens * accepted))
    for moment in zip(ends[firsts], *sums, np.maximum.reduceat(durations, firsts), strict=True):
        pace.add(*(each.item() for each in moment))
