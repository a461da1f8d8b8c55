"""Agreement of classifiers with the two readings of 200 texts, and its kappa."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.agreement import agreement
from pipelines.benchmarks.classifier.agreement import DEFAULT, best_way, measure_agreement
from schemas.emotions import EMOTIONS
from tests.support.files import ROOT

ROWS = [
    json.loads(line)
    for line in (ROOT / "pipelines/benchmarks/classifier/readings.jsonl").read_text(encoding="utf-8").splitlines()
]
LABELS = st.sampled_from(["positive", "neutral", "negative"])


@given(st.lists(st.tuples(LABELS, LABELS), min_size=2, max_size=30))
def test_kappa_is_what_scikit_learn_says(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    one, two = zip(*pairs, strict=True)
    measured = agreement(one, [two], seed=0)
    if len({*one, *two}) > 1:
        assert measured.kappa == pytest.approx(metrics.cohen_kappa_score(one, two))
    assert measured.low <= measured.high and measured.n == len(pairs)
    assert measured.equal == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_agreement_with_several_readings_is_their_mean():
    labels, one, two = ["a", "b", "a", "b"], ["a", "b", "a", "b"], ["a", "a", "b", "b"]
    assert agreement(labels, [one], 0).kappa == 1 and agreement(labels, [two], 0).kappa == 0
    both = agreement(labels, [one, two], 0)
    assert (both.kappa, both.equal) == (0.5, 0.75)
    assert both == agreement(labels, [one, two], 0)
    with pytest.raises(ValueError, match="do not fit"):
        agreement(labels, [one[:3]], 0)


def test_the_readings_are_whole_and_their_halves_are_drawn_by_the_seed_that_is_named():
    order = list(range(200))
    random.Random(23).shuffle(order)
    assert [row["id"] for row in ROWS] == list(range(200))
    assert {row["id"] for row in ROWS if row["half"] == "choose"} == set(order[:100])
    assert Counter(row["half"] for row in ROWS) == {"choose": 100, "report": 100}
    assert len({row["text"] for row in ROWS}) == 200
    for row in ROWS:
        for reading in (row["a"], row["b"]):
            assert reading["emotion"] in EMOTIONS and reading["second"] in ("", *EMOTIONS)
            assert reading["group"] in ("positive", "neutral", "negative")


def test_a_classifier_is_compared_with_the_readers_in_each_way_of_scoring(capsys):
    samples = measure_agreement(["embedded-words"])
    readers, ways = samples["readers"], samples["embedded-words"]
    assert readers["report"]["group"]["kappa"] > 0.7
    assert set(ways) >= {DEFAULT, "whole, plain"} and best_way(ways) in ways
    measured = ways[DEFAULT]["report"]
    assert measured["group"]["n"] == 100
    assert measured["group"]["low"] < measured["group"]["kappa"] < measured["group"]["high"]
    assert f"{measured['group']['kappa']:.2f}" in capsys.readouterr().out
