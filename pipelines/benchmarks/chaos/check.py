"""Checks a complete run without Kindling's own readers: its job and input say what must be there, Arrow reads the rest.

Invariant checked: every input row is in the run exactly once for each sample, in the folder of its state, with the seed
and the text that its job gives it; and no other row and no other file is there.

Nothing here is shared with `kindling verify`, the store, the log or the writer, so a fault of theirs cannot hide
itself. Each row's text is computed again from the recipe, `schemas.rows.row_seed` and
`services.engines.fake_engine.fake_text`.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.recipes import make_recipe
from schemas.augment import AugmentJob
from schemas.job_parsing import parse_job
from schemas.rows import RowError, RowRejection, row_seed
from services.engines.fake_engine import fake_text
from services.replicas.row_records import Recipe

Identity = tuple[str, int, int]
"""source of an output, index of the input row in it, sample"""

FOLDERS = ("data", "rejected", "errors")
_TRIES = "tries"
COLUMNS = ["source", "row_index", "sample", "text", "state", "reason", "seed"]
_STATE_OF_FOLDER = {"data": "accepted", "rejected": "rejected", "errors": "error"}
UNREADABLE = (OSError, pa.ArrowException, ValueError, LookupError, TypeError)
_TEXT_CHARACTERS = 80


@dataclass(frozen=True)
class ExpectedRun:
    """Content that a complete run must have.

    Attributes:
        shards: outputs of each shard, by its number.
        seeds: seed of each output.
        states: state of each output: accepted, rejected or error.
        texts: text of each accepted output; None where only the engine knows it.
        tries: number of tries of each output before its last one.
        requests: output of each request to an engine, by the request's seed.
    """

    shards: list[list[Identity]]
    seeds: dict[Identity, int]
    states: dict[Identity, str]
    texts: dict[Identity, str | None]
    tries: dict[Identity, int]
    requests: dict[int, Identity]


@dataclass(frozen=True)
class _Outcome:
    """Final state of one output.

    Attributes:
        text: text of an accepted output; None where only the engine knows it.
        seed: seed of the generation that its text comes from.
        requests: seeds of all its requests, in their order.
        tries: number of its tries before the last one.
    """

    state: str
    seed: int
    text: str | None = None
    requests: tuple[int, ...] = ()
    tries: int = 0


@dataclass
class Findings:
    """Faults of a run by kind, one line for each.

    Attributes:
        lost: outputs that are nowhere.
        doubled: outputs that are there more than once.
        torn: files that cannot be read, and shards with a sibling that is missing or not the committed one.
        wrong: outputs whose text, seed or state is not the expected one.
        blamed: good outputs that were not accepted.
        unexpected: rows and files that do not belong to the run.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    blamed: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def expected_run(job: Mapping[str, Any]) -> ExpectedRun:
    """Computes the content that a job over one JSON Lines file must give."""
    parsed = parse_job(dict(job), AugmentJob)
    recipe = make_recipe(parsed)
    source = str(job["input"]["path"])
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    identities = [(source, index, sample) for index in range(len(rows)) for sample in range(parsed.samples)]
    outcomes = {identity: _outcome(parsed, recipe, rows[identity[1]], identity) for identity in identities}
    step = parsed.output.rows_per_shard * parsed.samples
    return ExpectedRun(
        shards=[identities[start : start + step] for start in range(0, len(identities), step)],
        seeds={identity: outcome.seed for identity, outcome in outcomes.items()},
        states={identity: outcome.state for identity, outcome in outcomes.items()},
        texts={identity: outcome.text for identity, outcome in outcomes.items() if outcome.state == "accepted"},
        tries={identity: outcome.tries for identity, outcome in outcomes.items()},
        requests={
            seed: identity
            for identity, outcome in outcomes.items()
            if outcome.state != "error"
            for seed in outcome.requests
        },
    )


def _outcome(job: AugmentJob, recipe: Recipe, row: dict[str, Any], identity: Identity) -> _Outcome:
    """Computes the final state of one output."""
    values = {name: row.get(job.input.columns.get(name, name)) for name in recipe.fields}
    seed = row_seed(job.seed, *identity)
    try:
        messages = recipe.render(values, seed).messages
        if job.model.id != "fake":
            return _Outcome("accepted", seed, requests=(seed,))
        poison = job.engine.get("poison")
        if poison and any(poison in message["content"] for message in messages):
            return _Outcome("error", seed)
    except RowError:
        return _Outcome("error", seed)
    except RowRejection:
        return _Outcome("rejected", seed)
    requests: list[int] = []
    for number in range(1, job.quality.max_tries + 1):
        seed = row_seed(job.seed, *identity, try_number=number)
        text = recipe.finish(fake_text(messages, seed, job.sampling.max_tokens)[0])[0]
        requests.append(seed)
        is_good = not job.quality.max_words or len(text.split()) <= job.quality.max_words
        if job.generations:  # a rewrite and a judge, whose probability the fake engine draws by the seed
            judge_seed = row_seed(job.seed, *identity, generation=1, try_number=number)
            requests.append(judge_seed)
            is_good &= random.Random(judge_seed).random() >= (job.generations[1].threshold or 0)
        if is_good:
            break
    state = "accepted" if is_good else "rejected"
    return _Outcome(state, seed, text, tuple(requests), number - 1)


def read_rows(raw: bytes) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Reads the rows of one Parquet file, and the siblings (path and sha256) that its footer lists.

    Raises:
        UNREADABLE: the bytes are not a complete file of rows.
    """
    file = pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True)
    rows = file.read(COLUMNS).to_pylist()
    manifest = (file.metadata.metadata or {}).get(b"kindling.manifest")
    return rows, json.loads(manifest)["siblings"] if manifest else {}


def identify(row: Mapping[str, Any]) -> Identity:
    """Returns which output a row of a shard is."""
    return row["source"], row["row_index"], row["sample"]


def sibling_faults(run: Path, siblings: Mapping[str, str]) -> Iterator[str]:
    """Yields a line for each file that a shard's footer lists and that is missing or has another content."""
    for name, digest in siblings.items():
        path = run / name
        if not path.is_file():
            yield f"{name}: missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{name}: not the content that was committed"


def check_run(run: Path, expected: ExpectedRun) -> Findings:
    """Returns all faults of a run that is complete by its own account."""
    findings = Findings()
    times: Counter[Identity] = Counter()
    listed: set[str] = set()
    tries: Counter[Identity] = Counter()
    # data/ comes first: its footers list the files that the other folders may hold.
    for path in sorted(file for folder in (*FOLDERS, _TRIES) for file in (run / folder).glob("*.parquet")):
        name = f"{path.parent.name}/{path.name}"
        if path.parent.name != "data" and name not in listed:
            findings.unexpected.append(f"{name}: no shard lists it")
        try:
            rows, siblings = read_rows(path.read_bytes())
        except UNREADABLE as error:
            findings.torn.append(f"{name}: {error}")
            continue
        findings.torn.extend(sibling_faults(run, siblings))
        listed.update(siblings)
        if path.parent.name == _TRIES:
            tries.update(map(identify, rows))
            continue
        for row in rows:
            times[identify(row)] += 1
            _check_row(findings, expected, row, path.parent.name)
    for identity in expected.seeds:
        if times[identity] != 1:
            (findings.doubled if times[identity] else findings.lost).append(f"{identity}: {times[identity]} times")
    for identity in expected.tries:
        if tries[identity] != expected.tries[identity]:
            findings.wrong.append(f"{identity}: {tries[identity]} earlier tries in place of {expected.tries[identity]}")
    # A complete run has no log of an open shard and no half-written file.
    for path in sorted({*run.glob("log/*"), *run.rglob("*.tmp")}):
        findings.unexpected.append(f"{path.relative_to(run)}: left behind")
    return findings


def _check_row(findings: Findings, expected: ExpectedRun, row: dict[str, Any], folder: str) -> None:
    """Adds the first fault of a row, if it has one."""
    identity = identify(row)
    if identity not in expected.seeds:
        findings.unexpected.append(f"{identity}: no row of this job")
        return
    state, text = expected.states[identity], expected.texts.get(identity)
    if row["state"] != _STATE_OF_FOLDER[folder]:
        findings.wrong.append(f"{identity}: {row['state']} in {folder}/")
    elif row["seed"] != expected.seeds[identity]:
        findings.wrong.append(f"{identity}: seed {row['seed']}")
    elif row["state"] != state:
        if state == "accepted":
            findings.blamed.append(f"{identity}: {row['state']}: {row['reason']}")
        else:
            findings.wrong.append(f"{identity}: {row['state']} in place of {state}")
    elif text is not None and row["text"] != text:
        findings.wrong.append(f"{identity}: {row['text'][:_TEXT_CHARACTERS]!r} in place of {text[:_TEXT_CHARACTERS]!r}")
