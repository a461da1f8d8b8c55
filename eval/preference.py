"""Preference (the paper's Table 4): what respondents of a blind questionnaire chose, by model, with intervals."""

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
_FEWEST_TO_RESAMPLE = 5
_RESAMPLES = 2000

Counts = np.ndarray


@dataclass(frozen=True)
class Reason:
    """Why a respondent chose as they did, in their own words."""

    prompt: str
    text: str
    respondent: str


@dataclass(frozen=True)
class ChoiceCount:
    """How often one model's answer, or "no difference", was chosen.

    Attributes:
        share: of all choices, "no difference" among them.
    """

    count: int
    share: Rate
    reasons: list[Reason]


@dataclass(frozen=True)
class ModelPair:
    """Two models compared: of the choices of one of the two, the share that are of the first."""

    first: str
    second: str
    first_count: int
    second_count: int
    share: Rate


@dataclass(frozen=True)
class Preferences:
    """What the respondents of one questionnaire prefer.

    Attributes:
        questionnaire: its fingerprint.
        choices: answers in which something was chosen, "no difference" too.
        blanks: answers in which nothing was.
        models: the most often chosen first.
        pairs: of models of which at least one was chosen, the more often chosen first.
        intervals: how the intervals were made.
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
        """Plain values."""
        return asdict(self)


def count_preferences(key: str, returned: Sequence[str], seed: int = 0) -> Preferences:
    """Counts the files that respondents sent back.

    Args:
        key: the questionnaire's key: a path, or a URL of any fsspec file system.
        returned: the files.
        seed: of the bootstrap.

    Raises:
        JobError: a file cannot be read, is no file of answers, or is of another questionnaire; two are of the same
            respondent; or nothing was chosen in any of them.
    """
    of_key = read_key(key)
    files = read_returned_answers(of_key, returned)
    columns = [*of_key.models, TIE]
    counts = np.zeros((len(files), len(of_key.prompts), len(columns)))
    reasons: dict[str | None, list[Reason]] = {column: [] for column in [*columns, None]}
    for row, file in enumerate(files):
        given = {answer.prompt: answer for answer in file.answers}
        for place, prompt in enumerate(of_key.prompts):
            answer = given[prompt.prompt]
            choice = prompt.model_of.get(answer.choice or "", answer.choice)
            if choice is not None:
                counts[row, place, columns.index(choice)] = 1
            if answer.reason.strip():
                reasons[choice].append(Reason(prompt.text, answer.reason.strip(), file.respondent))
    return _preferences(of_key, counts, reasons, seed)


def _preferences(
    key: QuestionnaireKey, counts: Counts, reasons: dict[str | None, list[Reason]], seed: int
) -> Preferences:
    """Shares and intervals.

    Args:
        counts: 1 where it was chosen, else 0: [respondents, prompts, models and TIE].
        reasons: by model or TIE; under None where nothing was chosen.
    """
    respondents, prompts, _ = counts.shape
    totals = dict(zip([*key.models, TIE], counts.sum((0, 1)).astype(int).tolist(), strict=True))
    choices = sum(totals.values())
    if not choices:
        raise JobError(
            "preference.returned", None, "nothing was chosen in any of the files", "name files in which something was"
        )
    resampled = dict(zip(totals, _resampled(counts, seed).T, strict=True))

    def chosen(name: str) -> ChoiceCount:
        share = _share(totals[name], choices, resampled[name], sum(resampled.values()))
        return ChoiceCount(totals[name], share, reasons[name])

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
        models={model: chosen(model) for model in models},
        ties=chosen(TIE),
        # Where neither was chosen there is no share.
        pairs=[pair(first, second) for first, second in combinations(models, 2) if totals[first]],
        blank_reasons=reasons[None],
        intervals=_how(respondents, prompts),
    )


def _how(respondents: int, prompts: int) -> str:
    if respondents < _FEWEST_TO_RESAMPLE:
        return (
            f"95%, Wilson: too few respondents ({respondents}) for a bootstrap, so all choices are taken as "
            "independent, which those of one respondent are not; the true intervals are wider"
        )
    return (
        f"95%, bootstrap over {respondents} respondents and {prompts} prompts at once ({_RESAMPLES} resamples), "
        "nowhere narrower than Wilson's"
    )


def _resampled(counts: Counts, seed: int) -> Counts:
    """Totals of each choice when respondents and prompts are drawn again: [resamples, choices].

    The choices of one respondent are alike, and so are those on one prompt. So both are drawn with replacement,
    independently of each other (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1).
    """
    respondents, prompts, columns = counts.shape
    if respondents < _FEWEST_TO_RESAMPLE:
        return np.empty((0, columns))
    draw = np.random.default_rng(seed)
    respondent_times = draw.multinomial(respondents, np.full(respondents, 1 / respondents), _RESAMPLES)
    prompt_times = draw.multinomial(prompts, np.full(prompts, 1 / prompts), _RESAMPLES)
    by_prompt = np.tensordot(respondent_times, counts, 1)
    return np.einsum("bp,bpc->bc", prompt_times, by_prompt)


def _share(count: int, of: int, counts: Counts, ofs: Counts) -> Rate:
    """A share with the wider of the bootstrap's and Wilson's ends on each side.

    Of a model that was never chosen every resample says so too, which would make it a certainty.
    """
    share = rate_of(count, of)
    drawn = ofs > 0
    if not drawn.any():
        return share
    low, high = np.percentile(counts[drawn] / ofs[drawn], [2.5, 97.5])
    return replace(share, low=min(share.low, float(low)), high=max(share.high, float(high)))
