"""File names, errors and other values stay plain text in a card, whatever characters they have."""

import re
from collections import Counter
from datetime import UTC, datetime

import pytest
import yaml

from pipelines.labelling.card import contexts_card
from pipelines.labelling.contexts import LabelCounts
from pipelines.labelling.record import LabelRecord
from pipelines.pages.markdown import code, escaped, yaml_block
from pipelines.publishing.card_header import DataFiles
from pipelines.publishing.dataset_card import dataset_card
from schemas.outcomes import Outcomes
from schemas.run import InputSource
from tests.support.runs import run_of

FILES = DataFiles({"train": "data/*.parquet"}, "digest", 3)
NAMES = ["a`b.txt", "``.txt", "a\n# Heading\n\n<script>alert(1)</script>.txt", "a|b.txt", "```\n---\nx: y", "a\u202eb"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_leaves_neither_its_line_nor_its_code(name):
    for line in (code(name), code(name, in_table=True)):
        fence, inside = re.fullmatch(r"(`+)(.*)\1", line, re.S).groups()
        assert "\n" not in line and "\u202e" not in line
        assert fence not in re.split(r"[^`]+", inside) and not inside.startswith("`") and not inside.endswith("`")
    assert not re.search(r"(?<!\\)\|", code(name, in_table=True))
    assert "\n" not in escaped(name) and "<script" not in escaped(name)


@pytest.mark.parametrize("name", NAMES)
def test_cards_show_hostile_names_as_text(name):
    run = run_of(1)
    run.inputs = [InputSource(source=name, rows=4, content="sha256:1")]
    run.job = {"model": {"id": name, "revision": None}, "recipe": "template", "prompt": name, "sampling": {}, "seed": 0}
    assert_harmless(dataset_card(run, Outcomes(errors=Counter({name: 2})), FILES))
    job = {"classifier": {"id": name}, "threshold": 0.5}
    label = LabelRecord(name="l", created_at="", job=job, fingerprint="f", identity={}, ranges=[], versions={})
    totals = LabelCounts()
    totals.sentences_of_source[name] = totals.kept_of_source[name] = 1
    assert_harmless(contexts_card(label, totals))


def assert_harmless(card):
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["configs"][0]["config_name"] == "default"
    assert len(re.findall(r"^# ", body, re.M)) == 1 and not re.search(r"^(<|---|```)", body, re.M)


def test_a_block_of_yaml_is_ended_by_no_value():
    job = {"path": "a\n```\n# Heading", "at": str(datetime.now(UTC))}
    fence, text = re.fullmatch(r"(`+)yaml\n(.*)\n\1", yaml_block(job), re.S).groups()
    assert yaml.safe_load(text) == job and fence not in text
