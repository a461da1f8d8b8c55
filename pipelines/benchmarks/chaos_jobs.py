"""The jobs of the chaos runs: good rows, rows that cannot be rendered, and on the fake engine rows that kill it."""

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from schemas.emotions import EMOTIONS

# Of the cluster: room for the replicas of a dead driver beside those of the next.
CPUS = 8

# Shards of 16 outputs, about two of them a second: much of a driver's life is near a commit.
FAKE = {
    "model": {"id": "fake"},
    "samples": 2,
    "sampling": {"max_tokens": 32},
    "engine": {"max_num_seqs": 8, "step_seconds": 0.02, "poison": "hemlock"},
    "cluster": {"replicas": 2, "cpus_per_replica": 1},
}
REAL = {
    "model": {"id": "embedded"},
    "samples": 3,
    "sampling": {"temperature": 0.9, "max_tokens": 24},
    "engine": {"max_model_len": 1024, "max_num_seqs": 8},
    "cluster": {"replicas": 1, "cpus_per_replica": min(os.cpu_count() or 1, CPUS)},
}
_ROWS_PER_SHARD = 8
_ROWS_PER_POISON, _ROWS_PER_NULL = 200, 37


def fake_job(folder: Path, address: str, rows: int) -> dict[str, Any]:
    """Made-up sentences on two fake engines that keep a journal beside the run, in `journal`."""
    emotions = sorted(EMOTIONS)
    lines = [{"context": _sentence(number), "emotion": emotions[number * 13 % len(emotions)]} for number in range(rows)]
    engine = {**FAKE["engine"], "journal": str(folder / "journal")}
    return _job(folder, address, lines, {**FAKE, "engine": engine})


def real_job(folder: Path, address: str) -> dict[str, Any]:
    """The demo's sentences, one of them null, on the embedded model."""
    corpus = (files("pipelines") / "data" / "demo_corpus.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [{"context": row["context"], "emotion": row["emotions"]} for row in map(json.loads, corpus)]
    lines[len(lines) // 2]["context"] = None
    return _job(folder, address, lines, REAL)


def _sentence(number: int) -> str | None:
    if number % _ROWS_PER_NULL == _ROWS_PER_NULL - 1:
        return None
    cargo = FAKE["engine"]["poison"] if number % _ROWS_PER_POISON == _ROWS_PER_POISON // 2 else "apples"
    return f"Boat number {number} drifts down a quiet river with a load of {cargo}."


def _job(folder: Path, address: str, rows: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return {
        "name": "chaos",
        "input": {"path": str(source)},
        "recipe": "babylm_story",
        "output": {"path": str(folder / "run"), "rows_per_shard": _ROWS_PER_SHARD},
        "metrics": {"port": None},
        **more,
        "cluster": {**more["cluster"], "address": address},
    }
