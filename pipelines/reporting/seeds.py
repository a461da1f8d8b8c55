"""Students that are one training with several seeds: their mean against the base, with an interval over both."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.intervals import Change, mean_over_seeds
from eval.sentiment import BLANK, OVERALL, group_of_emotion
from pipelines.evaluation.sentiment_results import ModelSentiment
from pipelines.reporting.changes import POSITIVE_GROUP
from pipelines.reporting.evaluations import Evaluations, Setting
from pipelines.reporting.folders import ReportRun
from pipelines.reporting.trainings import trainings_of


def same_trainings(evaluations: Evaluations, names: Sequence[str], runs: Sequence[ReportRun]) -> list[list[str]]:
    """Groups students whose trainings differ in nothing but their seeds; a student alone is in no group."""
    alike: dict[str, list[str]] = {}
    for name in names:
        model = evaluations.models.get(name)
        if trainings := trainings_of(model.path, runs) if model else []:
            alike.setdefault(str([_without_seed(each) for each in trainings]), []).append(name)
    return [listed for listed in alike.values() if len(listed) > 1]


def mean_positivity(setting: Setting[ModelSentiment], names: Sequence[str]) -> dict[str, Change]:
    """Compares the mean of several students with their base: change of positive responses, by group of the prompts.

    Prompts that one of them did not respond to are left out.
    """
    base = setting.models[setting.bases[names[0]]]
    models = [base, *(setting.models[name] for name in names)]
    labels = zip(*(model.labels for model in models), strict=True)
    there = [at for at, each in enumerate(labels) if None not in each]
    group_of = {**group_of_emotion(setting.groups), BLANK: BLANK}
    outcomes = np.array([[group_of[model.labels[at] or BLANK] == POSITIVE_GROUP for at in there] for model in models])
    groups = [group_of[base.emotions[at]] for at in there] if base.emotions else []
    changes = {}
    for part in (*setting.groups, OVERALL):
        chosen = np.array([part in (OVERALL, group) for group in groups] if groups else [part == OVERALL] * len(there))
        if chosen.any():
            changes[part] = mean_over_seeds(outcomes[0, chosen], outcomes[1:, chosen], setting.seed)
    return changes


def _without_seed(training: ReportRun) -> list[tuple[str, Any]]:
    """Everything that decides a training but its seed, and where it lies."""
    identity = training.record.get("identity") or {}
    return sorted((str(key), str(value)) for key, value in identity.items() if key != "seed")
