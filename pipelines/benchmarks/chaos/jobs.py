"""The jobs of the chaos runs: good rows beside rows that fail, are rejected, or kill their engine."""

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

# Of the cluster: enough for the replicas of a dead driver beside those of the next.
CPUS = 8

_POISON = "hemlock"
# Shards of 16 outputs, about two of them a second: much of a driver's life is near a commit.
FAKE: dict[str, Any] = {
    "recipe": "alpaca_rewrite",
    "model": {"id": "fake"},
    "samples": 2,
    "sampling": {"max_tokens": 32},
    "engine": {"max_num_seqs": 8, "step_seconds": 0.02, "poison": _POISON},
    "cluster": {"replicas": 2, "cpus_per_replica": 1},
}
REAL: dict[str, Any] = {
    "recipe": "babylm_story",
    "model": {"id": "embedded"},
    "samples": 3,
    "sampling": {"temperature": 0.9, "max_tokens": 24},
    "engine": {"max_model_len": 1024, "max_num_seqs": 8},
    "cluster": {"replicas": 1, "cpus_per_replica": min(os.cpu_count() or 1, CPUS)},
}
_ROWS_PER_SHARD = 8
_ROWS_PER_POISON, _ROWS_PER_NULL, _ROWS_PER_BLANK = 200, 37, 11


def fake_job(folder: Path, address: str, rows: int, programs: bool = False) -> dict[str, Any]:
    """Writes made-up instructions, and returns a job over them on two fake engines.

    The engines keep a journal beside the run, in `journal`.

    Args:
        programs: each row is a rewrite, a judge on it, and where one of the two rejects it another try.
    """
    sections = {**FAKE, "engine": {**FAKE["engine"], "journal": str(folder / "journal")}}
    if programs:
        rubric = folder / "rubric.jinja"
        rubric.write_text("Is it a good answer to {{ instruction }}? Write yes or no.")
        judge = {"name": "judge", "kind": "judge", "follows": "rewrite", "threshold": 0.3, "prompt": str(rubric)}
        sections |= {
            "generations": [{"name": "rewrite"}, judge],
            "quality": {"max_words": 28, "max_tries": 3},
        }
    return _job(folder, address, [_row(number) for number in range(rows)], sections)


def real_job(folder: Path, address: str) -> dict[str, Any]:
    """Writes the demo's sentences, one of them null, and returns a job over them on the embedded model."""
    corpus = (files("pipelines") / "data" / "demo_corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{"context": row["context"], "emotion": row["emotions"]} for row in map(json.loads, corpus)]
    rows[len(rows) // 2]["context"] = None
    return _job(folder, address, rows, REAL)


def _row(number: int) -> dict[str, Any]:
    """Returns a good row, or one without an instruction (error), without an output (rejected), or with the poison."""
    cargo = _POISON if number % _ROWS_PER_POISON == _ROWS_PER_POISON // 2 else "apples"
    is_null, is_blank = (number % rows == rows - 1 for rows in (_ROWS_PER_NULL, _ROWS_PER_BLANK))
    return {
        "instruction": None if is_null else f"What does boat number {number} carry?",
        "input": "",
        "output": "" if is_blank else f"Boat number {number} drifts down the river with a load of {cargo}.",
    }


def _job(folder: Path, address: str, rows: list[dict[str, Any]], sections: dict[str, Any]) -> dict[str, Any]:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return {
        "name": "chaos",
        "input": {"path": str(source)},
        "output": {"path": str(folder / "run"), "rows_per_shard": _ROWS_PER_SHARD},
        "metrics": {"port": None},
        **sections,
        "cluster": {**sections["cluster"], "address": address},
    }
