"""docs/concepts.md explains the words of the job files, of the shards and of the metrics.

The last column of its tables names where a word occurs. A new top-level key, column or metric fails these tests until
some word names it there; so does a name there that no longer exists.
"""

import re
from typing import get_args, get_origin

import pytest

from docs.job_file_reference import JOBS
from schemas.augment import AugmentJob
from schemas.evaluate import EvaluateJob
from schemas.job_parsing import kind_key, sections_in
from schemas.row_programs import row_schema
from schemas.train import TrainJob
from services.observability.metrics import ReplicaStatus
from services.observability.series import AugmentMetrics, EvaluateMetrics, TrainMetrics
from tests.support.files import ROOT

PAGE = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
ENTRIES = [tuple(map(str.strip, line.strip("|").split("|"))) for line in PAGE.splitlines() if line.startswith("| ")]
ENTRIES = [entry for entry in ENTRIES if entry[0] not in ("word", "---")]
PLACES = {place for entry in ENTRIES for place in re.findall(r"`([^`]+)`", entry[-1])}


def keys_of(section, prefix=""):
    """Every key of a job file, with the sections above it: `stages.N.dev`."""
    for key, field in section.model_fields.items():
        yield f"{prefix}{key}"
        step = {dict: ".NAME", list: ".N"}.get(get_origin(field.annotation), "")
        for inner in sections_in(field.annotation):
            yield from keys_of(inner, f"{prefix}{key}{step}.")


def metrics():
    """The name of every metric, as Prometheus is asked for it."""
    augment = AugmentMetrics("a")
    augment.add_replica_series(lambda: [ReplicaStatus(0, "serving", 1, 1, 0, 1.0)])
    for endpoint in (augment, TrainMetrics("a"), EvaluateMetrics("a")):
        for family in endpoint.registry.collect():
            yield family.name + ("_total" if family.type == "counter" else "")


TOP_KEYS = {key for job in JOBS.values() for key in job.model_fields}
COLUMNS = set(row_schema(has_programs=True, has_reasoning=True).names)
ALL_KEYS = {key for job in JOBS.values() for key in keys_of(job)}


def test_each_word_has_one_line_with_a_meaning():
    words = [entry[0] for entry in ENTRIES]
    assert len(words) > 80
    assert {word for word in words if words.count(word) > 1} == set()
    assert [entry for entry in ENTRIES if len(entry) != 3 or len(entry[1].split()) < 3] == []


@pytest.mark.parametrize("names", [TOP_KEYS, COLUMNS, set(metrics())], ids=["top-level keys", "columns", "metrics"])
def test_every_name_has_a_word(names):
    assert len(names) > 20
    missing = sorted(names - PLACES)
    assert missing == [], "docs/concepts.md needs a word that names these in its last column"


def test_every_name_on_the_page_exists():
    assert sorted(PLACES - ALL_KEYS - COLUMNS - set(metrics())) == []


@pytest.mark.parametrize(
    "values",
    [
        get_args(AugmentJob.model_fields["recipe"].annotation),
        get_args(get_args(EvaluateJob.model_fields["evaluations"].annotation)[0]),
        [kind_key(stage) for stage in sections_in(TrainJob.model_fields["stages"].annotation)],
    ],
    ids=["recipes", "evaluations", "kinds of stages"],
)
def test_the_page_names_every_choice(values):
    assert len(values) >= 3
    assert [value for value in values if f"`{value}`" not in PAGE] == []
