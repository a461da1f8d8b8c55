"""Texts that were read one by one: whether each was rejected with right, and what is missed.

verdicts.jsonl was made so: the embedded model wrote 642 rows (193 answers to emotional tasks, 329 rewrites of Alpaca
rows by prompt v2 at the paper's repetition penalty, 120 stories by p3; temperature 0.9, 70 to 90 tokens), 2,000 long
stories by p3, and 936 texts for requests that provoke a rule (temperature 0.2 for long texts that may loop, else 0.7
to 0.9): questions that it should decline, rewrites of 40 texts with numbers and names, texts in other languages, songs
and lists, crime and war. Of those that each rule of `kindling quality --rules all` rejects, up to 50 were drawn with
a fixed seed, from the 642 rows first, and read by one reader (the project's own reading, which stands for no outside
annotators), who knew the rule and the row's prompt. `right` is their verdict: the fault that the rule is named after
is there, and matters; `why` says in a few words what was seen. A name is a person, place, product or organisation; a
number is none that only counts a list; a harmless use of a listed word is not unsuitable; gibberish of English words
is in no other language; whoever speaks as an AI model counts as a refusal. `cut_off` was not read: the engine reports
it. A row of `names_lost` and one of `unsuitable` were left out for their words, and rows that a later version of a rule
no longer rejects were removed.

accepted.jsonl are 30 texts that were drawn from all those that no rule rejects; `missed` is the fault that was seen.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from eval.intervals import rate_of
from pipelines.quality_control.quality_rules import QualityRules
from schemas.quality import ALL_RULES
from schemas.rows import Prompt
from tests.support.files import ROOT


def read_rows(name):
    return [json.loads(line) for line in Path(__file__).with_name(name).read_text("utf-8").splitlines()]


VERDICTS, ACCEPTED = read_rows("verdicts.jsonl"), read_rows("accepted.jsonl")
# Rules that rejected fewer than 50 of all texts.
FEWER = {"meta_talk": 48, "refusal": 37}


def reasons_of(row):
    prompt = Prompt([{"role": "user", "content": row["prompt"]}], row["inputs"], row["emotion"])
    return list(QualityRules.of(ALL_RULES).reasons(row["text"], prompt))


def test_rules_still_reject_what_was_read():
    changed = [(row["rule"], row["run"], row["row"]) for row in VERDICTS if row["rule"] not in reasons_of(row)]
    assert changed == [], "raise the rule's number in RULE_VERSIONS, and read its rows again"


def test_rules_still_accept_what_was_read():
    changed = [(reasons, row["run"], row["row"]) for row in ACCEPTED if (reasons := reasons_of(row))]
    assert changed == [], "raise the rule's number in RULE_VERSIONS, and read its rows again"


@pytest.mark.parametrize("rule", sorted({row["rule"] for row in VERDICTS}))
def test_the_page_has_the_precision_of_each_rule(rule):
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    right = [row["right"] for row in VERDICTS if row["rule"] == rule]
    rate = rate_of(sum(right), len(right))
    line = f"| `{rule}` | {len(right)} | {sum(right)} | {rate.rate:.0%} ({rate.low:.0%} to {rate.high:.0%}) |"
    assert line in page, line
    assert len(right) >= FEWER.get(rule, 50)


def test_the_page_has_the_faults_that_no_rule_saw():
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    missed = Counter(row["missed"] for row in ACCEPTED if row["missed"])
    assert f"Of {len(ACCEPTED)} texts that no rule rejects" in page
    for fault, rows in missed.items():
        assert f"`{fault}` {rows}" in page, fault
