"""Each student against its base: positivity by group of prompts, grammar by phenomenon, and variety, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.intervals import Change, Difference, mean_difference
from eval.sentiment import OVERALL
from eval.variety import compare_distinct, compare_openings
from pipelines.evaluation import blimp_results, sentiment_results
from pipelines.evaluation.blimp_results import ModelBlimp, pairs_title
from pipelines.evaluation.sentiment_results import SENTIMENT, ModelSentiment
from pipelines.reporting.evaluations import Evaluations, Setting
from schemas.evaluate import result_path

POSITIVE_GROUP = "positive"
_CERTAIN_P = 0.05
_DISTINCT = 2


@dataclass(frozen=True)
class Positivity:
    """Change of the share of positive responses.

    Attributes:
        student, base: names of the models.
        by: differences by group of the prompts, and over all of them (OVERALL).
        distinct, openings: change of distinct-2 and of the share of different openings; None where the responses have
            too few words.
    """

    student: str
    base: str
    by: dict[str, Difference]
    distinct: Change | None
    openings: Change | None


@dataclass(frozen=True)
class Grammar:
    """Change of the accuracy on BLiMP.

    Attributes:
        student, base: names of the models.
        pairs: name of the pairs in titles: BLiMP, or others.
        part: what `by` is by: phenomenon, or paradigm of pairs that are none of BLiMP's.
        mean: mean change of these parts, each of which counts alike, as in the paper's tables.
        by: differences by part.
    """

    student: str
    base: str
    pairs: str
    part: str
    mean: Change
    by: dict[str, Difference]

    @property
    def worst(self) -> tuple[str, Difference]:
        """The part that lost most, or gained least."""
        return min(self.by.items(), key=lambda part: part[1].difference)


def direction(difference: Difference, comparisons: int = 1) -> int:
    """Returns 1 for a rise and -1 for a fall that leave no doubt, and 0 for no clear difference.

    Both the interval and McNemar's exact test have to say so.

    Args:
        comparisons: number of comparisons among which this one was chosen (Bonferroni).
    """
    if difference.low is None or difference.high is None or difference.p >= _CERTAIN_P / comparisons:
        return 0
    return 1 if difference.low > 0 else -1 if difference.high < 0 else 0


def direction_of_change(change: Change | None) -> int:
    """Returns 1 for a rise and -1 for a fall whose interval leaves out zero, and 0 for no clear change."""
    return 0 if change is None else 1 if change.low > 0 else -1 if change.high < 0 else 0


def compare_positivity(setting: Setting[ModelSentiment]) -> list[Positivity]:
    """Compares each student of a setting with its base, where both have responses to the same prompts.

    Raises:
        RunError: a file of responses cannot be read.
    """
    changes = []
    for student, base in setting.bases.items():
        pair = [setting.models[base], setting.models[student]]
        is_same = len(pair[0].labels) == len(pair[1].labels) and pair[0].emotions == pair[1].emotions
        if POSITIVE_GROUP not in setting.groups or not is_same:
            continue
        for comparison in sentiment_results.compare_models(pair, setting.groups, setting.seed):
            by = {part: groups[POSITIVE_GROUP] for part, groups in comparison.by.items()}
            changes.append(Positivity(student, base, by, *compare_variety(setting, base, [student])))
    return changes


def compare_students(setting: Setting[ModelSentiment], first: str, second: str) -> Difference:
    """Compares the share of positive responses of two students, over all prompts."""
    pair = [setting.models[first], setting.models[second]]
    (comparison,) = sentiment_results.compare_models(pair, setting.groups, setting.seed)
    return comparison.by[OVERALL][POSITIVE_GROUP]


def compare_grammar(setting: Setting[ModelBlimp]) -> list[Grammar]:
    """Compares each student of a setting with its base."""
    changes = []
    for student, base in setting.bases.items():
        (comparison,) = blimp_results.compare_models([setting.models[base], setting.models[student]], setting.seed)
        part = grammar_part(comparison.by)
        by, pairs = comparison.by[part], pairs_title(comparison.by["paradigm"])
        changes.append(Grammar(student, base, pairs, part, mean_difference(list(by.values())), by))
    return changes


def grammar_part(by: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the kind of part that counts alike in a mean: phenomenon, or paradigm where pairs are none of BLiMP's."""
    return "phenomenon" if by["phenomenon"] else "paradigm"


def compare_variety(
    setting: Setting[ModelSentiment], base: str, students: Sequence[str]
) -> tuple[Change | None, Change | None]:
    """Compares distinct-2 and the share of different openings of a base with the mean of students.

    Prompts that one of them did not respond to are left out.

    Raises:
        RunError: a file of responses cannot be read.
    """
    responses = zip(*(read_responses(setting, name) for name in (base, *students)), strict=True)
    there = [each for each in responses if None not in each]
    first, *seconds = ([text or "" for text in texts] for texts in zip(*there, strict=True)) if there else ([], [])
    return compare_distinct(first, seconds, _DISTINCT), compare_openings(first, seconds)


def changes_of(evaluations: Evaluations) -> tuple[list[Positivity], list[Grammar]]:
    """Compares the students in the first setting of each evaluation."""
    positivity = compare_positivity(evaluations.sentiment[0]) if evaluations.sentiment else []
    return positivity, compare_grammar(evaluations.blimp[0]) if evaluations.blimp else []


def read_responses(setting: Setting[ModelSentiment], name: str) -> list[str | None]:
    """Reads the responses of a model, one for each prompt; None where there is none."""
    store = setting.runs[name].store
    table = store.read_table(result_path(SENTIMENT, name, "parquet"), ["response"])
    responses: list[str | None] = table["response"].to_pylist()
    return responses
