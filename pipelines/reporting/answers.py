"""The paper's questions, answered in the first lines of a report, in plain words and with intervals.

Invariant: a claim is made only where the interval and the exact test leave no doubt; else there is "no clear
difference". What was not run is said to be not run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.blimp import PARADIGMS
from eval.intervals import Change, Difference, Rate
from eval.sentiment import OVERALL
from pipelines.evaluation.sentiment_results import ModelSentiment
from pipelines.pages.tables import points
from pipelines.reporting.changes import (
    POSITIVE_GROUP,
    Grammar,
    Positivity,
    compare_positivity,
    compare_students,
    direction,
    direction_of_change,
)
from pipelines.reporting.evaluations import Evaluations, Setting
from schemas.text import plural

_PHENOMENA = len({paradigm.phenomenon for paradigm in PARADIGMS.values()})
# Students that are named one by one in an answer; the table below it has all.
_MAX_NAMED = 4
_CLAIMS = {1: "higher", 0: "no clear difference", -1: "lower"}


@dataclass(frozen=True)
class Answer:
    """Answer to one question: sentences, of which each stands on a line."""

    question: str
    lines: list[str]


@dataclass(frozen=True)
class Reading:
    """Share of a model's responses that still answer their prompt, by people or by a judge.

    Attributes:
        by: who said so.
        share: the share, with its interval.
    """

    by: str
    share: Rate


def answers(
    evaluations: Evaluations,
    positivity: Sequence[Positivity],
    grammar: Sequence[Grammar],
    readings: dict[str, list[Reading]],
) -> list[Answer]:
    """Answers the paper's questions.

    Args:
        positivity, grammar: changes of each student, in the first setting of its evaluation.
        readings: shares of responses that still answer their prompt, by the model's name.
    """
    return [
        Answer("Does augmentation raise positivity?", list(_positivity(evaluations, positivity))),
        Answer("At what cost in grammar?", list(_grammar(positivity, grammar))),
        Answer("Which part of the data does it?", list(_parts(evaluations, positivity))),
        Answer("Is the gain more than style?", list(_style(positivity, readings))),
    ]


def largest_gain(positivity: Sequence[Positivity]) -> Positivity:
    """Returns the change of the student that gained most over all prompts."""
    return max(positivity, key=lambda each: each.by[OVERALL].difference)


def points_text(difference: Difference) -> str:
    """Formats a difference as `+53.7 points (+48.9 to +58.5)`."""
    figure = points(difference)
    same = "no pair differs" if difference.only_first == difference.only_second == 0 else "one pair, no interval"
    return f"{figure.value} points ({figure.interval or same})"


def change_text(change: Change, decimals: int = 3) -> str:
    """Formats a change as `+0.021 (+0.004 to +0.038)`."""
    return f"{change.value:+.{decimals}f} ({change.low:+.{decimals}f} to {change.high:+.{decimals}f})"


def _positivity(evaluations: Evaluations, positivity: Sequence[Positivity]) -> Iterator[str]:
    if evaluations.sentiment and POSITIVE_GROUP not in evaluations.sentiment[0].groups:
        yield "Not known: the groups of this evaluation have none that is called positive."
        return
    if not positivity:
        yield "Not run: it needs an evaluation sentiment of a base and of a student that was trained on the data."
        return
    setting = evaluations.sentiment[0]
    raised = [each for each in positivity if direction(each.by[OVERALL]) > 0]
    lowered = [each for each in positivity if direction(each.by[OVERALL]) < 0]
    yield _verdict(len(positivity), len(raised), [each.student for each in lowered])
    best = largest_gain(positivity)
    yield f"{_largest(best, positivity)}: {'; '.join(_by_group(best, setting))}."
    for other in evaluations.sentiment[1:]:
        changes = {each.student: each for each in compare_positivity(other)}
        if change := changes.get(best.student):
            text = f"{points_text(change.by[OVERALL])}, {_CLAIMS[direction(change.by[OVERALL])]}"
            yield f"Measured otherwise ({evaluations.label(other)}), {best.student} over all prompts: {text}."


def _verdict(students: int, raised: int, lowered: Sequence[str]) -> str:
    less = f"; {', '.join(lowered)} less" if lowered else ""
    if raised == students:
        who = "the student gives" if students == 1 else f"each of the {students} students gives"
        return f"Yes: over all prompts, {who} more positive responses than its base."
    if raised:
        return f"For some: over all prompts, {raised} of {students} students give more positive responses{less}."
    if lowered:
        return f"No: over all prompts, no student gives more positive responses than its base{less}."
    return f"No clear difference from the base, over all prompts, for {plural(students, 'student')}."


def _largest(best: Positivity, positivity: Sequence[Positivity]) -> str:
    return best.student if len(positivity) == 1 else f"Largest gain, {best.student}"


def _by_group(change: Positivity, setting: Setting[ModelSentiment]) -> Iterator[str]:
    base, student = (setting.models[name].rates for name in (change.base, change.student))
    for group, difference in change.by.items():
        if group == OVERALL and len(change.by) > 1:
            continue
        one, two = (
            (rates.overall if group == OVERALL else rates.by_group[group])[POSITIVE_GROUP] for rates in (base, student)
        )
        prompts = "all prompts" if group == OVERALL else f"{group} prompts"
        claim = "" if direction(difference) else ", no clear difference"
        yield f"{prompts} {one.rate:.1%} to {two.rate:.1%}, {points_text(difference)}{claim}"


def _grammar(positivity: Sequence[Positivity], grammar: Sequence[Grammar]) -> Iterator[str]:
    if not grammar:
        yield "Not run: it needs an evaluation blimp of a base and of a student that was trained on the data."
        return
    named = {each.student: each for each in grammar}
    best = largest_gain(positivity).student if positivity else ""
    first = named.get(best) or min(grammar, key=lambda each: each.mean.value)
    phenomenon, worst = first.worst
    claim = {1: "a clear gain", 0: "no clear change", -1: "a clear loss"}[direction_of_change(first.mean)]
    among = f" among {len(first.by)} that are compared" if len(first.by) > 1 else ""
    clear = "a clear loss" if direction(worst, len(first.by)) < 0 else f"no clear loss{among}"
    pairs = first.pairs if first.pairs.startswith("BLiMP") else first.pairs[0].lower() + first.pairs[1:]
    mean = f"{_percent_points(first.mean)} points of {pairs}, the mean of {_parts_text(first)}"
    yield f"{first.student}: {mean}: {claim}; worst is {phenomenon}, {points_text(worst)}: {clear}."
    others = [each for each in grammar if each is not first]
    texts = [f"{each.student} {_percent_points(each.mean)}" for each in others[:_MAX_NAMED]]
    more = f"; {len(others) - _MAX_NAMED} more below" if len(others) > _MAX_NAMED else ""
    if texts:
        yield f"The other students: {'; '.join(texts)}{more}."


def _parts_text(change: Grammar) -> str:
    if change.part == "paradigm":
        return plural(len(change.by), "paradigm")
    whole = "" if len(change.by) == _PHENOMENA else f" of {_PHENOMENA}"
    return f"{len(change.by)}{whole} phenomena"


def _percent_points(change: Change) -> str:
    return change_text(Change(100 * change.value, 100 * change.low, 100 * change.high), 1)


def _parts(evaluations: Evaluations, positivity: Sequence[Positivity]) -> Iterator[str]:
    base = largest_gain(positivity).base if positivity else ""
    students = [each for each in positivity if each.base == base]
    if len(students) < 2:
        yield "Not run: it needs two students of one base, trained on different parts of the data."
        return
    students.sort(key=lambda each: -each.by[OVERALL].difference)
    named = [f"{_with_data(each.student, evaluations)} {points_text(each.by[OVERALL])}" for each in students]
    more = f"; {len(named) - _MAX_NAMED} more below" if len(named) > _MAX_NAMED else ""
    yield f"Positive responses to all prompts, more than {base}'s: {'; '.join(named[:_MAX_NAMED])}{more}."
    first, *others = students
    claims = []
    for other in others[:_MAX_NAMED]:
        difference = compare_students(evaluations.sentiment[0], other.student, first.student)
        claim = "" if direction(difference, len(others)) else ", no clear difference"
        claims.append(f"than {other.student} {points_text(difference)}{claim}")
    yield f"{first.student} has more {'; '.join(claims)}."


def _with_data(student: str, evaluations: Evaluations) -> str:
    data = evaluations.data.get(student)
    return f"{student} ({data})" if data else student


def _style(positivity: Sequence[Positivity], readings: dict[str, list[Reading]]) -> Iterator[str]:
    if not positivity:
        yield "Not run: it needs the responses of a base and of a student to the same prompts."
        return
    best = largest_gain(positivity)
    changes = {"distinct-2": best.distinct, "share of different openings": best.openings}
    there = {name: change for name, change in changes.items() if change}
    fallen = [name for name, change in there.items() if direction_of_change(change) < 0]
    verdict = "less varied than" if fallen else "no less varied than" if there else "too short to compare with"
    figures = "; ".join(f"{name} {change_text(change)}" for name, change in there.items())
    yield f"The responses of {best.student} are {verdict} those of {best.base}: {figures or 'no figure'}."
    texts = [
        f"{name} {each.share.rate:.1%} ({each.share.low:.1%} to {each.share.high:.1%}), by {each.by}"
        for name in (best.base, best.student)
        for each in readings.get(name, ())
    ]
    if texts:
        yield f"Responses that still answer their prompt: {'; '.join(texts)}."
    else:
        yield "Whether the responses still answer their prompts: not run (no judge and no reading is among the runs)."
