"""Agreement of emotion classifiers with two readings of 200 texts, in readings.jsonl.

One half of the texts chooses: pooling, and whether the scores are calibrated. The other half reports.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.agreement import Agreement, agreement
from eval.sentiment import PAPER_GROUPS, group_of_emotion
from schemas.emotions import EMOTIONS
from schemas.job import Classifier
from services.models.classifier import EmotionClassifier, load_classifier
from services.models.document_scores import POOLINGS, calibrate, score_documents

_READERS = ("a", "b")
_HALVES = ("choose", "report")
_SEED = 0
# The way of scoring that evaluations use, which is to be the best one on the half that chooses.
DEFAULT = "passages, calibrated"


def measure_agreement(ids: Sequence[str]) -> dict[str, Any]:
    """Compares classifiers with the readings, prints a table, and returns all figures.

    Args:
        ids: `classifier.id` of each classifier.

    Returns:
        readers: agreement of the two readings, by half.
        <id>: way of scoring -> half -> agreement.

    Raises:
        EngineError: a classifier cannot be loaded.
    """
    rows = [json.loads(line) for line in Path(__file__).with_name("readings.jsonl").read_text().splitlines()]
    classifiers = {name: load_classifier(Classifier(id=name)) for name in ids}  # a missing one ends the bench at once
    labels = {name: _label_ways(each, [row["text"] for row in rows]) for name, each in classifiers.items()}
    first = [row[_READERS[0]]["emotion"] for row in rows]
    samples: dict[str, Any] = {"readers": {half: _agreements(rows, first, half, _READERS[1:]) for half in _HALVES}}
    for name, ways in labels.items():
        samples[name] = {way: {half: _agreements(rows, each, half) for half in _HALVES} for way, each in ways.items()}
    _print(samples)
    return samples


def best_way(ways: dict[str, Any]) -> str:
    """Returns the way of scoring with the best kappa of groups on the half that chooses; the first of equal ones."""
    return max(ways, key=lambda way: ways[way]["choose"]["group"]["kappa"])


def _label_ways(classifier: EmotionClassifier, texts: list[str]) -> dict[str, list[str]]:
    """Labels the texts in each way of scoring."""
    ways = {}
    for pooling in (*POOLINGS, "whole"):
        scores = score_documents(classifier, texts, pooling)
        for name, compared in (("plain", scores), ("calibrated", calibrate(scores, classifier.thresholds))):
            ways[f"{pooling}, {name}"] = [EMOTIONS[label] for label in compared.argmax(1)]
    return ways


def _agreements(
    rows: Sequence[dict[str, Any]], labels: Sequence[str], half: str, readers: Sequence[str] = _READERS
) -> dict[str, Any]:
    """Compares labels with readings on one half of the texts, by emotion and by the groups of `eval.sentiment`."""
    chosen = [number for number, row in enumerate(rows) if row["half"] == half]
    mine = [labels[number] for number in chosen]
    readings = [[rows[number][reader]["emotion"] for number in chosen] for reader in readers]
    group_of = group_of_emotion(PAPER_GROUPS)
    groups = [[group_of[label] for label in each] for each in (mine, *readings)]
    by_group, by_emotion = agreement(groups[0], groups[1:], _SEED), agreement(mine, readings, _SEED)
    return {"group": _rounded(by_group), "emotion": _rounded(by_emotion)}


def _rounded(measured: Agreement) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in asdict(measured).items()}


def _print(samples: dict[str, Any]) -> None:
    table = Table("labels", "way of scoring", "chosen by: groups", "reported: groups", "reported: emotions")
    for name, ways in samples.items():
        for way, halves in ({"": ways} if name == "readers" else ways).items():
            cells = [_cell(halves[half][level]) for half, level in
                     (("choose", "group"), ("report", "group"), ("report", "emotion"))]  # fmt: skip
            table.add_row(name, way, *cells)
    Console(width=120).print(table)


def _cell(measured: dict[str, Any]) -> str:
    return f"{measured['kappa']:.2f} ({measured['low']:.2f} to {measured['high']:.2f})"
