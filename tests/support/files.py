"""Where the repository and the shared data are; input and job files."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


SHARED_DATA = ROOT.parent / "shared" / "data"


def write_jsonl(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_job(path, job):
    Path(path).write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
    return str(path)
