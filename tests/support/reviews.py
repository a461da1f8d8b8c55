"""A run whose rows people review, and files that reviewers send back."""

import json
from pathlib import Path

from schemas.augment import AugmentJob
from schemas.job_parsing import parse_job
from schemas.rows import ACCEPTED, REJECTED
from services.storage.store import ShardStore
from tests.support.runs import make_run

RULES = ("copied", "emotion_word")
MODEL = "mistral-in-disguise"


def reviewed_run(folder, accepted, rejected, blank=0, changes=None):
    """A run of the recipe babylm_story in one shard.

    Args:
        accepted: number of accepted rows.
        rejected: number of rejected rows by rule.
        blank: number of rejected rows without a text.
        changes: function of a row's number to changes of the row.
    """
    rules = [rule for rule, number in rejected.items() for _ in range(number)]
    rows = [{"state": ACCEPTED, "reason": ""}] * accepted
    rows += [{"state": REJECTED, "reason": rule} for rule in rules]
    rows += [{"state": REJECTED, "reason": "near_duplicate of row 7 of in.jsonl", "text": " "}] * blank
    rows = [
        {
            "text": f"Text number {i}.", "emotion": ("joy", "fear")[i % 2], "model": MODEL,
            "inputs": json.dumps({"context": f"Context {i}.", "emotion": ["joy"], "kept_score": 0.987654}),
            **row, **(changes(i) if changes else {}),
        }
        for i, row in enumerate(rows)
    ]  # fmt: skip
    store = ShardStore(make_run(Path(folder), rows, per_shard=len(rows)))
    job = {
        "name": "r", "input": {"path": "in.jsonl", "keep": "all"}, "recipe": "babylm_story", "prompt": "p3",
        "model": {"id": MODEL}, "output": {"path": str(folder)},
    }  # fmt: skip
    record = store.read_run()
    record.job = parse_job(job, AugmentJob).model_dump(mode="json")
    record.job["input"]["storage_options"] = []  # a record has the names alone
    store.write_run(record)
    return store.url


def key_of(page):
    return json.loads(Path(page.key).read_text())


def returned(page, path, judge, reviewer=0, **changes):
    """A file of answers.

    Args:
        judge: function of a row of the key, with its state and rule, to "accepted", "rejected", (rejected, reason) or
            None.
    """
    key = key_of(page)
    answers = []
    for row in key["rows"]:
        verdict = judge({**key["groups"][row["group"]], **row})
        verdict, reason = verdict if isinstance(verdict, tuple) else (verdict, "")
        answers.append({"row": row["row"], "verdict": verdict, "reason": reason, "note": ""})
    file = {"format": 1, "review": page.review, "respondent": f"{reviewer:032x}",
            "saved_at": "2026-01-01T00:00:00.000Z", "answers": answers, **changes}  # fmt: skip
    Path(path).write_text(json.dumps(file))
    return str(path)
