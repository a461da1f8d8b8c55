"""Rows that rules rejected, read one by one: whether each was rejected with right.

verdicts.jsonl was made so: the embedded model wrote 642 rows (193 answers to emotional tasks, 329 rewrites of Alpaca
rows by prompt v2 at the paper's repetition penalty, 120 stories by p3; temperature 0.9, 70 to 90 tokens). Of those
that each rule of `kindling quality --rules all` rejects, up to 50 were drawn with a fixed seed and read by one reader
(the project's own reading, which stands for no outside annotators), who knew the rule and the row's prompt. `right`
is their verdict: the fault that the rule is named after is there, and matters. A name is a person, place, product or
organisation; a number is none that only counts a list; a harmless use of a listed word is not unsuitable; gibberish
of English words is in no other language. `cut_off` was not read: the engine reports it. One row of `names_lost` was
left out for its words, and rows that a later version of a rule no longer rejects were removed.
"""

import json
from collections import Counter
from pathlib import Path

from eval.intervals import rate_of
from pipelines.quality_control.quality_rules import QualityRules
from schemas.quality import ALL_RULES
from schemas.rows import Prompt
from tests.support.files import ROOT

ROWS = [json.loads(line) for line in Path(__file__).with_name("verdicts.jsonl").read_text("utf-8").splitlines()]


def test_rules_still_reject_what_was_read():
    rules = QualityRules.of(ALL_RULES)
    changed = []
    for row in ROWS:
        prompt = Prompt([{"role": "user", "content": row["prompt"]}], row["inputs"], row["emotion"])
        if row["rule"] not in rules.reasons(row["text"], prompt):
            changed.append((row["rule"], row["run"], row["row"]))
    assert changed == [], "raise the rule's number in RULE_VERSIONS, and read its rows again"


def test_the_page_has_the_precision_of_each_rule():
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    read, right = Counter(row["rule"] for row in ROWS), Counter(row["rule"] for row in ROWS if row["right"])
    for rule, rows in read.items():
        rate = rate_of(right[rule], rows)
        line = f"| `{rule}` | {rows} | {right[rule]} | {rate.rate:.0%} ({rate.low:.0%} to {rate.high:.0%}) |"
        assert line in page, line
