"""Accuracy on EmoBench (Sabour et al. 2024, "EmoBench: Evaluating the Emotional Intelligence of Large Language Models",
ACL 2024).

EmoBench has two tasks of multiple choice on short scenarios. Emotional understanding (EU) asks which emotion somebody
feels and why; an item is right where both answers are. Emotional application (EA) asks for the best response or action.

Method: a model's choice is the option with the highest score. With the scoring `cloze` the options are not listed: the
score is the log-likelihood of the option as the answer, for each of its characters, as `acc_norm` of
lm-evaluation-harness. So no option has a place, and a long one is not worse for its length. With `letters` the options
are listed, and the score is the log-probability of the option's letter among all letters, averaged over as many orders
as there are options: each option stands once at each letter. Of options that tie, one that is drawn by lot is chosen.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from eval.intervals import Difference, Rate, paired_difference, rate_of

Scoring = Literal["cloze", "letters"]
TASKS = {"EU": "emotional understanding", "EA": "emotional application"}
"""both tasks, by the names of their files"""
_ONE_LETTER = "Answer with one letter."


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple choice.

    Attributes:
        kind: what is asked for: `emotion`, `cause` or `response`.
        text: the question.
        options: texts of the options, in the order of the file.
        label: number of the right option.
    """

    kind: str
    text: str
    options: tuple[str, ...]
    label: int


@dataclass(frozen=True, slots=True)
class Item:
    """One scenario with its questions.

    Attributes:
        task: `EU` or `EA`.
        name: id of the item in its file.
        category: category of the task, by which accuracies are given.
        subcategory: finer category (EU), or `Action` or `Response` (EA).
    """

    task: str
    name: str
    category: str
    subcategory: str
    scenario: str
    questions: tuple[Question, ...]

    @property
    def part(self) -> str:
        """Name of the task and category."""
        return f"{self.task} {self.category}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of an item.

    Attributes:
        right: for each kind of question whether its answer is right.
        right_by_sum: whether all answers are right where options are compared by their whole log-likelihoods.
        ties: number of questions with a tie of the best options.
        chances: for each kind of question the share of right answers of a random choice.
        longest: for each kind of question whether its longest option is the right one.
    """

    task: str
    part: str
    right: dict[str, bool]
    right_by_sum: bool
    ties: int
    chances: dict[str, float]
    longest: dict[str, bool]

    @property
    def is_right(self) -> bool:
        """True where all answers are right."""
        return all(self.right.values())

    @property
    def chance(self) -> float:
        """Probability that random choices are all right."""
        return float(np.prod(list(self.chances.values())))


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of right items or answers, beside those of choices without any understanding.

    Attributes:
        rate: the share, with its interval.
        chance: share of random choices.
        longest: share of choosing the longest option: right options are often longer than the others, and a score by
            character may favour long ones.
    """

    rate: Rate
    chance: float
    longest: float


@dataclass(frozen=True, slots=True)
class EmoBenchRates:
    """Accuracies of one model.

    Attributes:
        by_task: by task; of EU an item is right where emotion and cause are.
        by_question: by task and kind of question, where a task has several: `EU emotion`, `EU cause`.
        by_category: by task and category: `EU complex_emotions`.
        by_sum: by task, where options are compared by their whole log-likelihoods, as `acc` of lm-evaluation-harness.
        ties: number of questions with a tie of the best options.
    """

    by_task: dict[str, Accuracy]
    by_question: dict[str, Accuracy]
    by_category: dict[str, Accuracy]
    by_sum: dict[str, Accuracy]
    ties: int


# Prompts and scores


def prompts_of(scenario: str, question: Question, scoring: Scoring) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields prompts of a question, each with the texts that may answer it: the options, or letters of listed ones."""
    asked = f"{scenario}\n\nQuestion: {question.text}"
    if scoring == "cloze":
        yield asked, question.options
        return
    letters = tuple(ascii_uppercase[: len(question.options)])
    for order in orders(question):
        listed = "\n".join(
            f"{letter}. {question.options[number]}" for letter, number in zip(letters, order, strict=True)
        )
        yield f"{asked}\n{listed}\n{_ONE_LETTER}", letters


def orders(question: Question) -> list[list[int]]:
    """Returns orders of the options, the same for each model; in all of them each option stands once at each place."""
    order = list(range(len(question.options)))
    random.Random(repr(question.options)).shuffle(order)
    return [order[start:] + order[:start] for start in order]


def join_orders(question: Question, log_likelihoods: Sequence[np.ndarray], scoring: Scoring) -> np.ndarray:
    """Returns the log-likelihood of each option, of shape (options,); of letters the mean over all orders.

    Args:
        log_likelihoods: for each prompt of `prompts_of` the log-likelihood of each of its answers.
    """
    if scoring == "cloze":
        return log_likelihoods[0]
    joined = np.zeros(len(question.options))
    for order, of_letters in zip(orders(question), log_likelihoods, strict=True):
        joined[order] += of_letters - np.logaddexp.reduce(of_letters)
    return joined / len(log_likelihoods)


def best_options(scores: np.ndarray) -> list[int]:
    """Returns the numbers of the options with the highest score; several where they tie.

    Raises:
        ValueError: a score is not a number.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    best: list[int] = np.flatnonzero(scores == scores.max()).tolist()
    return best


def outcome_of(item: Item, log_likelihoods: Sequence[np.ndarray], scoring: Scoring) -> Outcome:
    """Counts the answers of an item.

    Args:
        log_likelihoods: for each question the log-likelihoods of its options, as `join_orders` returns them.

    Raises:
        ValueError: a log-likelihood is not a number.
    """
    right, longest, by_sum, ties = {}, {}, [], 0
    for question, sums in zip(item.questions, log_likelihoods, strict=True):
        # Lots are drawn among options that tie, the same for each model: no preference has the accuracy of chance.
        lots = random.Random(f"{item.part} {item.name} {question.kind}").sample(
            range(len(question.options)), len(question.options)
        )
        lengths = np.array([len(option) for option in question.options])
        best = best_options(sums / lengths if scoring == "cloze" else sums)
        ties += len(best) > 1
        right[question.kind] = min(best, key=lots.index) == question.label
        by_sum.append(min(best_options(sums), key=lots.index) == question.label)
        longest[question.kind] = min(best_options(lengths), key=lots.index) == question.label
    chances = {question.kind: 1 / len(question.options) for question in item.questions}
    return Outcome(item.task, item.part, right, all(by_sum), ties, chances, longest)


# Accuracies


def emobench_rates(outcomes: Sequence[Outcome]) -> EmoBenchRates:
    """Computes the accuracies of one model.

    Raises:
        ValueError: there are no items.
    """
    if not outcomes:
        raise ValueError("no items")
    by = {
        kind: {
            part: Accuracy(
                rate_of(int(its.right.sum()), len(its.right)), float(its.chances.mean()), float(its.longest.mean())
            )
            for part, its in parts.items()
        }
        for kind, parts in _by_part(outcomes).items()
    }
    ties = sum(outcome.ties for outcome in outcomes)
    return EmoBenchRates(by["task"], by["question"], by["category"], by["sum"], ties)


def compare_emobench(
    first: Sequence[Outcome], second: Sequence[Outcome], seed: int
) -> dict[str, dict[str, Difference]]:
    """Compares two models on the same items.

    Args:
        first, second: outcomes of the same items, in the same order.
        seed: seed of the bootstrap.

    Returns:
        Accuracy of the second model less that of the first: by kind of part (`task`, `question`, `category`, `sum`),
        then by part.

    Raises:
        ValueError: the models do not have the same items.
    """
    one, two = _by_part(first), _by_part(second)
    return {
        kind: {part: paired_difference(its.right, two[kind][part].right, seed) for part, its in parts.items()}
        for kind, parts in one.items()
    }


@dataclass(frozen=True, slots=True)
class _Part:
    """Items or answers of one part, each of the arrays of shape (items,); see `Accuracy`."""

    right: np.ndarray
    chances: np.ndarray
    longest: np.ndarray


def _by_part(outcomes: Sequence[Outcome]) -> Mapping[str, dict[str, _Part]]:
    """Returns items and answers by kind of part, then by part."""
    parts: dict[str, dict[str, list[tuple[Any, ...]]]] = {
        "task": {}, "question": {}, "category": {}, "sum": {},
    }  # fmt: skip

    def add(kind: str, part: str, *figures: Any) -> None:
        parts[kind].setdefault(part, []).append(figures)

    for outcome in outcomes:
        by_luck = outcome.chance, all(outcome.longest.values())
        add("task", outcome.task, outcome.is_right, *by_luck)
        add("category", outcome.part, outcome.is_right, *by_luck)
        add("sum", outcome.task, outcome.right_by_sum, *by_luck)
        if len(outcome.right) > 1:
            for kind, is_right in outcome.right.items():
                add("question", f"{outcome.task} {kind}", is_right, outcome.chances[kind], outcome.longest[kind])
    return {
        kind: {part: _Part(*map(np.array, zip(*each, strict=True))) for part, each in its.items()}
        for kind, its in parts.items()
    }
