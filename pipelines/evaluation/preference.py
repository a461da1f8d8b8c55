"""The evaluation `preference`: responses of all models in a blind questionnaire, and the answers that came back."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.preference import Preferences, count_preferences
from eval.questionnaire import DEFAULT_QUESTION, write_questionnaire
from pipelines.evaluation.generation import read_generated
from pipelines.evaluation.prompts import EmotionPrompt, first_per_emotion, read_prompts
from pipelines.evaluation.record import write_result
from pipelines.evaluation.reports import Report
from pipelines.evaluation.responses import Response
from pipelines.evaluation.session import Evaluation, Session, UnansweredPrompts
from pipelines.inputs.file_choice import returned_files
from pipelines.pages.tables import Figure, Table, percent
from schemas.evaluate import EvaluateJob, Preference
from schemas.text import printable

PREFERENCE = "preference"

_log = logging.getLogger("kindling")


_NO_DIFFERENCE = "No difference"


@dataclass(frozen=True)
class PreferenceReport(Report):
    """Outcome of the evaluation `preference`.

    Attributes:
        page: path of the questionnaire to hand out; None where a model could not respond.
        preferences: counted answers; None where none came back yet.
    """

    page: str | None
    preferences: Preferences | None

    def tables(self) -> list[Table]:
        """Choices by model, pairs of models, reasons; none before answers came back."""
        return preference_tables(self.preferences) if self.preferences else []

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"questionnaire": self.page, "found": self.preferences.as_json() if self.preferences else None}


def check_preference(job: EvaluateJob) -> None:
    """Checks the section before any evaluation runs.

    Raises:
        JobError: the prompts cannot be read, or a returned file does not exist.
    """
    read_prompts(job.preference, PREFERENCE)
    _returned(job.preference)


def _prompts(section: Preference) -> list[EmotionPrompt]:
    return first_per_emotion(read_prompts(section, PREFERENCE), section.per_emotion)


def unanswered_prompts(session: Session) -> UnansweredPrompts:
    """Returns all models: the run of each knows which of its responses are there."""
    return UnansweredPrompts(list(session.models), _prompts(session.job.preference))


def evaluate_preference(session: Session) -> PreferenceReport:
    """Writes the questionnaire of the models' responses, and counts the answers that came back.

    Raises:
        KindlingError: the job, its prompts, a returned file or the folder is at fault.
    """
    job, store, section = session.job, session.store, session.job.preference
    returned = _returned(section)
    prompts = _prompts(section)
    responses: dict[str, list[Response]] = {
        name: read_generated(job, model, PREFERENCE, prompts)[0]
        for name, (model, _) in session.models.items()
        if name not in session.failures
    }
    if len(responses) < len(job.models):
        _log.error(
            "there is no questionnaire yet: it needs responses of all models of the job, and some could not respond. "
            "Do what their errors say, or take them out of the job; the same command goes on"
        )
        return PreferenceReport(None, None)
    asked = [number for number in range(len(prompts)) if all(listed[number].text for listed in responses.values())]
    if len(asked) < len(prompts):
        _log.warning(
            "%d prompts are left out, since a model did not respond to them: `kindling compare` of its runs below "
            "responses/preference shows which; shorten them, or raise engine.max_model_len", len(prompts) - len(asked),
        )  # fmt: skip
    texts = {name: [listed[number].text or "" for number in asked] for name, listed in responses.items()}
    folder = f"{job.output.path.rstrip('/')}/{PREFERENCE}"
    written = write_questionnaire(
        [prompts[number].text for number in asked], texts, folder, job.seed, section.question or DEFAULT_QUESTION
    )
    if not returned:
        return PreferenceReport(written.page, None)
    preferences = count_preferences(written.key, returned, job.seed)
    write_result(store, PREFERENCE, "tally", {"questionnaire": written.fingerprint}, **preferences.as_json())
    return PreferenceReport(written.page, preferences)


def _returned(section: Preference) -> list[str]:
    return returned_files("preference.returned", section.returned)


def preference_tables(preferences: Preferences) -> list[Table]:
    """Tables of the counted answers, the longest last."""
    tables = [_choices(preferences), _pairs(preferences), _reasons(preferences)]
    return [table for table in tables if table.rows]


def _choices(preferences: Preferences) -> Table:
    rows: list[Sequence[str | Figure]] = [
        [name, percent(chosen.share), str(chosen.count)]
        for name, chosen in [*preferences.models.items(), (_NO_DIFFERENCE, preferences.ties)]
    ]
    return Table(
        "Preferences of the respondents (as Table 4)", ["Model", "Preference (%)", "chosen"], rows,
        f"Respondents: {preferences.respondents}. Prompts: {preferences.prompts}. Choices: {preferences.choices}; left "
        f"blank, and not counted: {preferences.blanks}. Intervals: {preferences.intervals}.",
    )  # fmt: skip


def _pairs(preferences: Preferences) -> Table:
    rows: list[Sequence[str | Figure]] = [
        [pair.first, pair.second, percent(pair.share), f"{pair.first_count} to {pair.second_count}"]
        for pair in preferences.pairs
    ]
    note = "Of the choices of one of the two. Where neither was ever chosen, there is no line."
    return Table("Two models at a time", ["Model", "over", "Preference (%)", "chosen"], rows, note)


def _reasons(preferences: Preferences) -> Table:
    groups = [
        *((name, chosen.reasons) for name, chosen in preferences.models.items()),
        (_NO_DIFFERENCE, preferences.ties.reasons),
        ("Left blank", preferences.blank_reasons),
    ]
    rows = [[name, _line(reason.text), _line(reason.prompt)] for name, reasons in groups for reason in reasons]
    return Table("Reasons", ["Chosen", "Reason", "Prompt"], rows)


def _line(text: str) -> str:
    """A text that a person or a model wrote, on one line."""
    return " ".join(printable(text).split())


EVALUATION = Evaluation("preference", evaluate_preference, check_preference, unanswered_prompts)
