"""Run folders written directly, without a job."""

import json
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import pyarrow as pa

from schemas.rows import ACCEPTED, ERROR, REJECTED, ROW_SCHEMA, row_seed, to_batch
from schemas.run import InputSource, Manifest, RunRecord, RunVariant
from services.storage.store import ShardStore


def record(index, state=ACCEPTED):
    return {
        "text": f"story {index} \u2764" * 3,
        "state": state,
        "reason": "" if state == ACCEPTED else "because",
        "emotion": "joy",
        "emotions": ["joy", "love"],
        "inputs": json.dumps({"context": f"c{index}"}),
        "source": "in.jsonl",
        "row_index": index,
        "sample": 0,
        "variant": "default",
        "prompt_id": "babylm_story/p3",
        "prompt_hash": "0" * 16,
        "model": "fake",
        "model_revision": "r",
        "seed": row_seed(0, "in.jsonl", index, 0),
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "cached_prompt_tokens": 4,
        "output_tokens": 7,
        "attempts": 1,
        "started_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "duration_seconds": 0.5,
    }


def batch(*indices, state=ACCEPTED):
    return to_batch([record(i, state) for i in indices])


def table(*batches):
    return pa.Table.from_batches(batches, schema=ROW_SCHEMA)


def manifest(shard=0, end=4, **counts):
    return Manifest(
        fingerprint="f" * 64,
        shard=shard,
        start=0,
        end=end,
        samples=1,
        counts={ACCEPTED: 0, REJECTED: 0, ERROR: 0, **counts},
        siblings={},
        prompt_tokens=40,
        cached_prompt_tokens=16,
        output_tokens=28,
        accepted_output_tokens=14,
        started_at="2026-01-02T03:04:05+00:00",
        finished_at="2026-01-02T03:04:06+00:00",
        versions={"python": "3"},
    )


RUN_FINGERPRINT = "f" * 64


def write_run(folder, texts, rows_per_shard=4, missing=0, variants=(), inputs=None):
    """A run whose rows have these texts (by every variant) and inputs; its last shards may be missing."""
    names = list(variants) or ["default"]
    run = RunRecord(
        name="r", created_at="2026-01-01T00:00:00+00:00", job={}, fingerprint=RUN_FINGERPRINT, identity={}, inputs=[],
        segments=[len(texts)], samples=1, rows_per_shard=rows_per_shard,
        variants=[RunVariant(name=name, values={}) for name in variants],
    )  # fmt: skip
    store = ShardStore(str(folder))
    store.write_run(run)
    for shard, start, end in list(run.shard_ranges())[: run.shards - missing]:
        rows = [
            {
                **record(index),
                "text": f"{texts[index]} {name}".removesuffix(" default"),
                "variant": name,
                **({"inputs": json.dumps(inputs[index])} if inputs else {}),
            }
            for index in range(start, end)
            for name in names
        ]
        manifest = Manifest(
            fingerprint=RUN_FINGERPRINT, shard=shard, start=start, end=end, samples=1,
            counts={ACCEPTED: len(rows), REJECTED: 0, ERROR: 0}, siblings={}, prompt_tokens=0, cached_prompt_tokens=0,
            output_tokens=0, accepted_output_tokens=0, started_at="2026-01-01T00:00:00+00:00",
            finished_at="2026-01-01T00:00:01+00:00", versions={},
        )  # fmt: skip
        store.commit(manifest, pa.Table.from_batches([to_batch(rows)]))
    return str(folder)


ROWS = 4  # of each shard


OURS, EARLIER, FOREIGN = "f" * 64, "e" * 64, "0" * 64


def run_of(shards, **changes):
    facts = {
        "name": "r", "created_at": "", "job": {}, "fingerprint": OURS, "identity": {},
        "inputs": [InputSource(source="in.jsonl", rows=shards * ROWS, content="c")], "segments": [shards * ROWS],
        "samples": 1, "rows_per_shard": ROWS,
    }  # fmt: skip
    return RunRecord(**{**facts, **changes})


def make_run(folder, rows, sources=(("in.jsonl", "content"),), per_shard=4, committed=None, **identity):
    """A run whose rows are given by number: changes to `record`, or a list of them for variants and samples.

    Args:
        sources: name and content of each; rows are shared out evenly.
        committed: numbers of the shards that are; by default all.
    """
    each = len(rows) // len(sources)
    run = RunRecord(
        name=folder.name, created_at="", job={}, fingerprint="f" * 64, identity=identity, segments=[len(rows)],
        inputs=[InputSource(source=name, rows=each, content=content) for name, content in sources],
        samples=1, rows_per_shard=per_shard,
    )  # fmt: skip
    store = ShardStore(str(folder))
    store.write_run(run)
    for shard, start, end in run.shard_ranges():
        if committed is not None and shard not in committed:
            continue
        records = [
            {**record(i), "source": sources[i // each][0], "row_index": i % each, **changes}
            for i in range(start, end)
            for changes in (rows[i] if isinstance(rows[i], list) else [rows[i]])
        ]
        counts = {ACCEPTED: 0, REJECTED: 0, ERROR: 0, **Counter(each["state"] for each in records)}
        facts = {"start": start, "end": end}
        store.commit(manifest(shard, **counts).model_copy(update=facts), pa.Table.from_batches([to_batch(records)]))
    return str(folder)


UNCONTESTED = SimpleNamespace(check=lambda: None)  # a lease that no other driver wants
