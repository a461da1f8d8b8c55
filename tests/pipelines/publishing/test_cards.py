"""File names, errors and other values stay plain text in a card, whatever characters they have."""

import json
import re
from collections import Counter
from datetime import UTC, datetime

import pytest
import yaml

from pipelines.labelling.card import contexts_card
from pipelines.labelling.contexts import LabelCounts
from pipelines.labelling.record import LabelRecord
from pipelines.pages.markdown import code, escaped, yaml_block
from pipelines.publishing.card_filters import RULE_NAME
from pipelines.publishing.card_header import DataFiles, hub_model, model_name, size_category
from pipelines.publishing.dataset_card import dataset_card
from pipelines.publishing.model_card import blimp_line, language_model_card
from schemas.outcomes import Outcomes
from schemas.quality import Quality
from schemas.review import ReviewVerdicts
from schemas.run import InputSource
from tests.support.files import ROOT
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


def test_a_card_has_the_filters_with_counts_and_known_limits():
    run = run_of(1)
    quality = {"max_words": 300, "reject_refusals": True, "reference_sets": {"blimp": "blimp/"}, "max_tries": 3}
    run.job = {
        "model": {"id": "m", "revision": None}, "recipe": "template", "prompt": None, "sampling": {}, "seed": 0,
        "quality": quality,
    }  # fmt: skip
    outcomes = Outcomes(
        Counter(accepted=2, rejected=1), cut_off=1, rejects=Counter(too_many_words=1, not_json=0),
        tries=Counter(too_many_words=4),
    )  # fmt: skip
    card = dataset_card(run, outcomes, FILES)
    lines = card[card.index("## Filters") : card.index("Made from")].splitlines()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:5]] for line in lines if "|" in line
    }
    assert rows["`too_many_words`"] == ["1", "4", "`max_words: 300`"]
    assert rows["`refusal`"] == ["0", "", "`reject_refusals: True`"]
    assert rows["`contains_blimp`"][0] == "0" and rows[""] == ["", "", "`max_tries: 3`"]
    assert "- 1 of 4 planned rows were not generated when this card was written." in lines
    assert "- Texts that end in the middle, cut off by `max_tokens` or its limit: 1." in lines
    assert "- Texts that are nearly the same were not looked for (`kindling dedup`)." in lines
    assert "Sentences of test sets" not in card
    after = dataset_card(run, outcomes, FILES, removed={"near_duplicate": 0})
    assert "| `near_duplicate` | 0 |  | `kindling dedup` |" in after and "nearly the same were not" not in after
    assert "| of these, removed by `kindling dedup` | 0 |" in after


def test_a_card_has_the_rubrics_of_judges_and_the_agreement_of_people():
    run = run_of(1)
    run.job = {
        "model": {"id": "m", "revision": None}, "recipe": "template", "prompt": None, "sampling": {}, "seed": 0,
        "generations": [
            {"name": "answer"}, {"name": "other", "prompt": "other.jinja"},
            {"name": "fits", "kind": "judge", "prompt": "fits.jinja", "threshold": 0.6, "choices": ["<b>", "no|"]},
            {"name": "better", "kind": "judge", "prompt": "better.jinja", "compare": ["answer", "other"]},
        ],
    }  # fmt: skip
    run.rubrics = {"fits": "Is it good?\n```\n# Heading\n---", "better": "A or B?"}
    figure = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
    pair = {"first": "a", "second": "b", "rows": 40, "agreement": figure, "kappa": figure | {"value": 0.7, "low": 0.5}}
    review = ReviewVerdicts.model_validate(
        {
            "review": "0" * 64, "reviewers": {"a": "2026", "b": "2026"}, "rows": [], "pairs": [pair],
            "accepted": {"all": figure, "accepted": figure, "rejected": None},
        }
    )  # fmt: skip
    outcomes = Outcomes(Counter(accepted=3, rejected=1), rejects=Counter(fits=1), tries=Counter(fits=2))
    card = dataset_card(run, outcomes, FILES, reviews=[review])
    assert (
        "`fits` is the probability of `<b>`, against `no|`. A value below 0.6 rejects the row. It rejected 1 row"
        in card
    )
    assert "````\nIs it good?\n```\n# Heading\n---\n````" in card and "```\nA or B?\n```" in card
    assert "It compares `answer` with `other`, in both orders" in card and "The judge and the writer are one" in card
    assert (
        "- 0 rows judged by 2 reviewers. They accept 90.0% (80.0 to 95.0) of those that the rules accepted. "
        "Reviewers 1 and 2 agree on 90.0% (80.0 to 95.0) of 40 rows; Cohen's kappa 0.70 (0.50 to 0.95)."
    ) in card
    assert "No person judged the texts (`kindling review`)." in dataset_card(run, outcomes, FILES)


@pytest.mark.parametrize(("names", "kind"), [(["wh_island"], "BLiMP paradigms"), (["wh_island", "ours"], "paradigms")])
def test_a_card_says_blimp_of_blimps_pairs_alone(names, kind):
    blimp = {"pairs": 50, "paradigms": dict.fromkeys(names), "accuracy": {"0": 0.9, "5": 0.8}, "most_lost": {"5": 0.2}}
    line = f"accuracy on 50 minimal pairs of {len(names)} {kind} 0.900 -> 0.800, at most 0.200 lost (95%)"
    assert blimp_line(5, blimp) == line


def test_every_rule_of_the_job_has_its_name_on_the_card():
    settings = {"source", "max_tries", "retry_prompts", "reference_sets", "stop_early", "allow_code", "check"}
    named = {key for key, field in Quality.model_fields.items() if RULE_NAME.search(field.description)}
    assert Quality.model_fields.keys() - named <= settings


def assert_harmless(card):
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["configs"][0]["config_name"] == "default"
    assert len(re.findall(r"^# ", body, re.M)) == 1 and not re.search(r"^(<|---|```)", body, re.M)


def test_a_block_of_yaml_is_ended_by_no_value():
    job = {"path": "a\n```\n# Heading", "at": str(datetime.now(UTC))}
    fence, text = re.fullmatch(r"(`+)yaml\n(.*)\n\1", yaml_block(job), re.S).groups()
    assert yaml.safe_load(text) == job and fence not in text


@pytest.mark.parametrize(
    ("model", "revision", "name", "shown"),
    [
        ("embedded", "sha256:1", "HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("mistralai/M-7B", "a" * 40, "mistralai/M-7B", "mistralai/M-7B"),
        ("models/mine", "sha256:1", None, "mine"),
        ("/home/me/models/mine/", None, None, "mine"),
        (f"/c/hub/models--org--M-7B/snapshots/{'b' * 40}", "sha256:1", "org/M-7B", "org/M-7B"),
    ],
)
def test_a_model_has_its_name_on_the_hub(model, revision, name, shown):
    assert hub_model(model, revision) == name and model_name(model, revision) == shown


def test_the_header_of_a_model_card_has_what_the_hub_wants():
    record = json.loads((ROOT / "tests/pipelines/old_runs/train/train.json").read_text())
    assert "datasets" not in header_of(language_model_card(record))
    job = record["job"]
    job["language"], job["model"] = "en,de", {**job["model"], "id": "org/base"}
    record["identity"]["revision"] = "c" * 40
    job["stages"][0]["parts"]["hub"] = {"input": {"dataset": "org/data"}, "run": None}
    job["stages"][0]["lora"] = {"rank": 8, "merge": False}
    header = header_of(language_model_card(record))
    assert (header["base_model"], header["datasets"], header["language"]) == ("org/base", ["org/data"], ["en", "de"])
    assert header["library_name"] == "peft" and 'from_pretrained("org/base")' in language_model_card(record)


def header_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_sizes_are_the_classes_of_the_hub():
    assert [size_category(rows) for rows in (0, 999, 1000, 10**6, 10**10)] == [
        "n<1K", "n<1K", "1K<n<10K", "1M<n<10M", "10B<n<100B",
    ]  # fmt: skip
