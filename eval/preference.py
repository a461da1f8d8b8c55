"""Preferences of the respondents of a blind questionnaire, by model, with intervals (the paper's table 4).

Method: a bootstrap that draws respondents and prompts at once (Owen 2007, "The pigeonhole bootstrap", Annals of Applied
Statistics 1), and nowhere an interval that is narrower than Wilson's. With too few respondents, Wilson's alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from eval.intervals import Rate, rate_of
from eval.questionnaire import read_key, read_returned_answers
from schemas.errors import JobError
from schemas.questionnaire import TIE, QuestionnaireKey

# With four respondents there are 35 different resamples: too few to cut 2.5% off each end.
_MIN_RESPONDENTS_TO_RESAMPLE = 5
_RESAMPLES = 2000


@dataclass(frozen=True)
class Reason:
    """Reason that a respondent gave for a choice.

    Attributes:
        prompt: text of the prompt.
        text: the reason in the respondent's words.
        respondent: id of the respondent.
    """

    prompt: str
    text: str
    respondent: str


@dataclass(frozen=True)
class ChoiceCount:
    """Number of times that a model's response, or "no difference", was chosen.

    Attributes:
        count: number of choices.
        share: their share of all choices, "no difference" included.
        reasons: reasons that were given for them.
    """

    count: int
    share: Rate
    reasons: list[Reason]


@dataclass(frozen=True)
class ModelPair:
    """Comparison of two models on the choices of one of the two.

    Attributes:
        first, second: names of the models.
        first_count, second_count: number of times that each of them was chosen.
        share: share of those choices that are of the first model.
    """

    first: str
    second: str
    first_count: int
    second_count: int
    share: Rate


@dataclass(frozen=True)
class Preferences:
    """Preferences of all respondents of one questionnaire.

    Attributes:
        questionnaire: fingerprint of the questionnaire.
        respondents: number of respondents.
        prompts: number of prompts.
        choices: number of answers in which something was chosen, "no difference" included.
        blanks: number of answers in which nothing was chosen.
        models: counts by model, the most often chosen one first.
        ties: count of "no difference".
        pairs: comparisons of two models, the more often chosen one first; pairs of models that nobody chose are left
            out.
        blank_reasons: reasons that were given where nothing was chosen.
        intervals: method of the intervals, for a person.
    """

    questionnaire: str
    respondents: int
    prompts: int
    choices: int
    blanks: int
    models: dict[str, ChoiceCount]
    ties: ChoiceCount
    pairs: list[ModelPair]
    blank_reasons: list[Reason]
    intervals: str

    def as_json(self) -> dict[str, Any]:
        """Returns the preferences in plain values."""
        return asdict(self)


def count_preferences(key: str, returned: Sequence[str], seed: int = 0) -> Preferences:
    """Counts the choices in the files that respondents sent back.

    Args:
        key: path of the questionnaire's key, or its URL on any fsspec file system.
        returned: paths or URLs of the files of answers.
        seed: seed of the bootstrap.

    Raises:
        JobError: a file cannot be read, is not a file of answers, or is of another questionnaire; two are of the same
            respondent; or nothing was chosen in any of them.
    """
    the_key = read_key(key)
    files = read_returned_answers(the_key, returned)
    options = [*the_key.models, TIE]
    chosen = np.zeros((len(files), len(the_key.prompts), len(options)))
    reasons: dict[str | None, list[Reason]] = {option: [] for option in [*options, None]}
    for respondent, file in enumerate(files):
        answer_to = {answer.prompt: answer for answer in file.answers}
        for number, prompt in enumerate(the_key.prompts):
            answer = answer_to[prompt.prompt]
            # A choice is the id of a response, TIE, or None.
            option = prompt.model_of.get(answer.choice or "", answer.choice)
            if option is not None:
                chosen[respondent, number, options.index(option)] = 1
            if answer.reason.strip():
                reasons[option].append(Reason(prompt.text, answer.reason.strip(), file.respondent))
    return _preferences(the_key, chosen, reasons, seed)


def _preferences(
    key: QuestionnaireKey, chosen: np.ndarray, reasons: dict[str | None, list[Reason]], seed: int
) -> Preferences:
    """Computes counts, shares and intervals.

    Args:
        key: the questionnaire's key.
        chosen: 1 where an option was chosen, else 0; shape (respondents, prompts, options), the options being the key's
            models and TIE.
        reasons: reasons by option; those of answers without a choice under None.
        seed: seed of the bootstrap.
    """
    respondents, prompts, _ = chosen.shape
    totals = dict(zip([*key.models, TIE], chosen.sum((0, 1)).astype(int).tolist(), strict=True))
    choices = sum(totals.values())
    if not choices:
        raise JobError(
            "preference.returned", None, "nothing was chosen in any of the files", "name files with at least one choice"
        )
    resampled_totals = _resample_totals(chosen, seed)
    resampled = dict(zip(totals, resampled_totals.T, strict=True))

    def choice_count(option: str) -> ChoiceCount:
        share = _share(totals[option], choices, resampled[option], resampled_totals.sum(1))
        return ChoiceCount(totals[option], share, reasons[option])

    def pair(first: str, second: str) -> ModelPair:
        both = totals[first] + totals[second]
        share = _share(totals[first], both, resampled[first], resampled[first] + resampled[second])
        return ModelPair(first, second, totals[first], totals[second], share)

    models = sorted(key.models, key=lambda model: -totals[model])
    return Preferences(
        questionnaire=key.questionnaire,
        respondents=respondents,
        prompts=prompts,
        choices=choices,
        blanks=respondents * prompts - choices,
        models={model: choice_count(model) for model in models},
        ties=choice_count(TIE),
        # `models` is in falling order: where the first of a pair was never chosen, neither was, and there is no share.
        pairs=[pair(first, second) for first, second in combinations(models, 2) if totals[first]],
        blank_reasons=reasons[None],
        intervals=_interval_method(respondents, prompts),
    )


def _interval_method(respondents: int, prompts: int) -> str:
    """Returns the method of the intervals in words."""
    if respondents < _MIN_RESPONDENTS_TO_RESAMPLE:
        return (
            f"95%, Wilson: too few respondents ({respondents}) for a bootstrap, so all choices are taken as "
            "independent, which those of one respondent are not; the true intervals are wider"
        )
    return (
        f"95%, bootstrap over {respondents} respondents and {prompts} prompts at once ({_RESAMPLES} resamples), "
        "nowhere narrower than Wilson's"
    )


def _resample_totals(chosen: np.ndarray, seed: int) -> np.ndarray:
    """Returns the total of each option when respondents and prompts are drawn again, shape (resamples, options).

    The choices of one respondent are alike, and so are the choices on one prompt. The pigeonhole bootstrap (Owen 2007)
    therefore draws both with replacement, independently of each other. There are no resamples where respondents are too
    few.
    """
    respondents, prompts, options = chosen.shape
    if respondents < _MIN_RESPONDENTS_TO_RESAMPLE:
        return np.empty((0, options))
    draw = np.random.default_rng(seed)
    # Number of times that each respondent, and each prompt, is drawn in each resample.
    respondent_times = draw.multinomial(respondents, np.full(respondents, 1 / respondents), _RESAMPLES)
    prompt_times = draw.multinomial(prompts, np.full(prompts, 1 / prompts), _RESAMPLES)
    by_prompt = np.tensordot(respondent_times, chosen, 1)
    return np.einsum("bp,bpc->bc", prompt_times, by_prompt)


def _share(count: int, total: int, resampled_counts: np.ndarray, resampled_totals: np.ndarray) -> Rate:
    """Returns a share whose interval has, on each side, the wider end of the bootstrap's and Wilson's interval.

    The bootstrap alone would be certain that a model is never chosen, if it was not chosen in the few answers there
    are.

    Args:
        count, total: number of choices, and number that they are a share of.
        resampled_counts, resampled_totals: the same two in each resample, shape (resamples,).
    """
    share = rate_of(count, total)
    has_choices = resampled_totals > 0
    if not has_choices.any():
        return share
    low, high = np.percentile(resampled_counts[has_choices] / resampled_totals[has_choices], [2.5, 97.5])
    return replace(share, low=min(share.low, float(low)), high=max(share.high, float(high)))
