"""Writes the paper's seed rewrites (JSON, lists by emotion) as rows: python seed_rows.py SEEDS.json ROWS.jsonl"""

import json
import sys
from pathlib import Path

seeds = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
rows = [
    {"instruction": each["instruction"], "input": each["input"], "text": each["new_output"], "emotion": emotion}
    for emotion, listed in seeds.items()
    for each in listed
]
Path(sys.argv[2]).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
