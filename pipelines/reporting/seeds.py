"""Students that are one training with several seeds: their mean against the base, with an interval over both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.blimp import correct_by_part
from eval.intervals import Change, mean_over_seeds
from eval.sentiment import BLANK, OVERALL, group_of_emotion
from pipelines.evaluation.blimp_results import ModelBlimp
from pipelines.evaluation.sentiment_results import ModelSentiment
from pipelines.reporting.changes import POSITIVE_GROUP, compare_variety, grammar_part
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


@dataclass(frozen=True)
class SeedMeans:
    """Changes of the mean of several students from their base, as `changes.Positivity` and `changes.Grammar` have them.

    Attributes:
        by: change of the share of positive responses, by group of the prompts, and over all of them (OVERALL).
        distinct, openings: changes of variety; their intervals are over prompts alone.
        grammar: mean change of accuracy; None where it was not measured for all of them.
        by_part: change of accuracy by phenomenon, or by paradigm of pairs that are none of BLiMP's.
    """

    by: dict[str, Change]
    distinct: Change | None
    openings: Change | None
    grammar: Change | None
    by_part: dict[str, Change]


def mean_of_seeds(evaluations: Evaluations, names: Sequence[str]) -> SeedMeans:
    """Compares the mean of several students with their base, in the first setting of each evaluation.

    Raises:
        RunError: a file of responses cannot be read.
    """
    sentiment, blimp = next(iter(evaluations.sentiment), None), next(iter(evaluations.blimp), None)
    by: dict[str, Change] = {}
    variety: tuple[Change | None, Change | None] = (None, None)
    if sentiment and (base := _base_of(sentiment, names)):
        by, variety = _positivity(sentiment, [base, *names]), compare_variety(sentiment, base, names)
    grammar: Change | None = None
    by_part: dict[str, Change] = {}
    if blimp and (base := _base_of(blimp, names)):
        parts = _correct_by_part(blimp, [base, *names])
        grammar = mean_over_seeds(list(parts.values()), blimp.seed)
        by_part = {part: mean_over_seeds([outcomes], blimp.seed) for part, outcomes in parts.items()}
    return SeedMeans(by, *variety, grammar, by_part)


def _base_of(setting: Setting[Any], names: Sequence[str]) -> str | None:
    """Returns the model that a setting compares all of these students with; None where it is not one for all."""
    base, *others = {setting.bases.get(name) for name in names}
    return None if others else base


def _positivity(setting: Setting[ModelSentiment], names: Sequence[str]) -> dict[str, Change]:
    """Compares the first model with the others, by group; prompts that one did not respond to are left out."""
    models = [setting.models[name] for name in names]
    base = models[0]
    labels = zip(*(model.labels for model in models), strict=True)
    there = [at for at, each in enumerate(labels) if None not in each]
    group_of = {**group_of_emotion(setting.groups), BLANK: BLANK}
    outcomes = np.array([[group_of[model.labels[at] or BLANK] == POSITIVE_GROUP for at in there] for model in models])
    groups = [group_of[base.emotions[at]] for at in there] if base.emotions else []
    changes = {}
    for part in (*setting.groups, OVERALL):
        chosen = np.array([part in (OVERALL, group) for group in groups] if groups else [part == OVERALL] * len(there))
        if chosen.any():
            changes[part] = mean_over_seeds([(outcomes[0, chosen], outcomes[1:, chosen])], setting.seed)
    return changes


def _correct_by_part(setting: Setting[ModelBlimp], names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns whether the first model, and each other one, is right on each pair, by part."""
    base, *students = (correct_by_part(setting.models[name].margins) for name in names)
    kind = grammar_part(base)
    return {part: (right, np.array([each[kind][part] for each in students])) for part, right in base[kind].items()}


def _without_seed(training: ReportRun) -> list[tuple[str, Any]]:
    """Everything that decides a training but its seed, and where it lies."""
    identity = training.record.get("identity") or {}
    return sorted((str(key), str(value)) for key, value in identity.items() if key != "seed")
