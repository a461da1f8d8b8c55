"""Checks a run as a stranger would: its job and input say what must be there, and Arrow alone reads what is.

Nothing here is shared with `kindling verify`, the store, the log or the writer. Each row's text is worked out anew from
what specifies it: the recipe, `schemas.rows.row_seed` and `services.engines.fake_engine.fake_text`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.recipes import make_recipe
from schemas.augment import AugmentJob
from schemas.job import parse_job
from schemas.rows import RowError, RowRejection, row_seed
from services.engines.fake_engine import fake_text
from services.replicas.row_records import Recipe

Identity = tuple[str, int, int]
"""source, row index in it, sample"""

FOLDERS = ("data", "rejected", "errors")
COLUMNS = ["source", "row_index", "sample", "text", "state", "reason", "seed"]
_STATE_OF_FOLDER = {"data": "accepted", "rejected": "rejected", "errors": "error"}
UNREADABLE = (OSError, pa.ArrowException, ValueError, LookupError, TypeError)


@dataclass(frozen=True)
class Specification:
    """What a run must come to.

    Attributes:
        shards: the rows of each shard, by its number.
        seeds: of each row.
        states: of each row: accepted, rejected or error.
        texts: of each accepted row; None where only the engine knows.
    """

    shards: list[list[Identity]]
    seeds: dict[Identity, int]
    states: dict[Identity, str]
    texts: dict[Identity, str | None]


@dataclass
class Findings:
    """What is wrong with a run, each thing in one line.

    Attributes:
        lost: rows that are nowhere.
        doubled: rows that are there more than once.
        torn: files that cannot be read whole, and shards with a sibling that is missing or not the one committed.
        wrong: rows whose text, seed or state is not what it must be.
        blamed: good rows that were not accepted.
        unexpected: rows and files that do not belong there.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    blamed: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def specification(job: Mapping[str, Any]) -> Specification:
    """What a job over one JSON Lines file must come to."""
    parsed = parse_job(dict(job), AugmentJob)
    recipe = make_recipe(parsed)
    source = parsed.input.path
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    identities = [(source, index, sample) for index in range(len(rows)) for sample in range(parsed.samples)]
    seeds = {identity: row_seed(parsed.seed, *identity) for identity in identities}
    outcomes = {each: _outcome(parsed, recipe, rows[each[1]], seed) for each, seed in seeds.items()}
    step = parsed.output.rows_per_shard * parsed.samples
    return Specification(
        shards=[identities[i : i + step] for i in range(0, len(identities), step)],
        seeds=seeds,
        states={identity: state for identity, (state, _) in outcomes.items()},
        texts={identity: text for identity, (state, text) in outcomes.items() if state == "accepted"},
    )


def _outcome(job: AugmentJob, recipe: Recipe, row: dict[str, Any], seed: int) -> tuple[str, str | None]:
    values = {name: row.get(job.input.columns.get(name, name)) for name in recipe.fields}
    try:
        messages = recipe.render(values, seed).messages
        if job.model.id != "fake":
            return "accepted", None
        poison = job.engine.get("poison")
        if poison and any(poison in message["content"] for message in messages):
            return "error", None
        return "accepted", recipe.finish(fake_text(messages, seed, job.sampling.max_tokens)[0])[0]
    except RowError:
        return "error", None
    except RowRejection:
        return "rejected", None


def read_rows(raw: bytes) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of one Parquet file, and the siblings (path and sha256) that its footer lists.

    Raises:
        UNREADABLE: it is not a whole file of rows.
    """
    file = pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True)
    rows = file.read(COLUMNS).to_pylist()
    manifest = (file.metadata.metadata or {}).get(b"kindling.manifest")
    return rows, json.loads(manifest)["siblings"] if manifest else {}


def identity_of(row: Mapping[str, Any]) -> Identity:
    """Which row of the input, and which sample of it."""
    return row["source"], row["row_index"], row["sample"]


def sibling_faults(run: Path, siblings: Mapping[str, str]) -> Iterator[str]:
    """What is the matter with the files that a shard's footer lists."""
    for name, digest in siblings.items():
        path = run / name
        if not path.is_file():
            yield f"{name}: missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{name}: not the content that was committed"


def check_run(run: Path, specification: Specification) -> Findings:
    """Everything that is wrong with a run that says it is complete."""
    found = Findings()
    times: Counter[Identity] = Counter()
    listed: set[str] = set()
    # data/ comes first: its footers tell which files the others may hold.
    for path in sorted(file for folder in FOLDERS for file in (run / folder).glob("*.parquet")):
        name = f"{path.parent.name}/{path.name}"
        if path.parent.name != "data" and name not in listed:
            found.unexpected.append(f"{name}: no shard lists it")
        try:
            rows, siblings = read_rows(path.read_bytes())
        except UNREADABLE as error:
            found.torn.append(f"{name}: {error}")
            continue
        found.torn.extend(sibling_faults(run, siblings))
        listed.update(siblings)
        for row in rows:
            times[identity_of(row)] += 1
            _judge(found, specification, row, path.parent.name)
    for identity in specification.seeds:
        if times[identity] != 1:
            (found.doubled if times[identity] else found.lost).append(f"{identity}: {times[identity]} times")
    # A complete run has nothing under way: no log of an open shard, no half-written file.
    for path in sorted({*run.glob("log/*"), *run.rglob("*.tmp")}):
        found.unexpected.append(f"{path.relative_to(run)}: left behind")
    return found


def _judge(found: Findings, specification: Specification, row: dict[str, Any], folder: str) -> None:
    identity = identity_of(row)
    if identity not in specification.seeds:
        found.unexpected.append(f"{identity}: no row of this job")
        return
    state, text = specification.states[identity], specification.texts.get(identity)
    if row["state"] != _STATE_OF_FOLDER[folder]:
        found.wrong.append(f"{identity}: {row['state']} in {folder}/")
    elif row["seed"] != specification.seeds[identity]:
        found.wrong.append(f"{identity}: seed {row['seed']}")
    elif state == "accepted" != row["state"]:
        found.blamed.append(f"{identity}: {row['state']}: {row['reason']}")
    elif row["state"] != state:
        found.wrong.append(f"{identity}: {row['state']} in place of {state}")
    elif text is not None and row["text"] != text:
        found.wrong.append(f"{identity}: {row['text'][:80]!r} in place of {text[:80]!r}")
