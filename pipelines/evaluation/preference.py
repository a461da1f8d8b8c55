"""The evaluation `preference`: the models' responses as a blind questionnaire, and what respondents sent back."""

import logging
from dataclasses import dataclass
from typing import Any

from eval.preference import Preferences, count_preferences
from eval.questionnaire import DEFAULT_QUESTION, write_questionnaire
from pipelines.evaluation.prompts import first_of_each, read_prompts
from pipelines.evaluation.record import write_result
from pipelines.evaluation.responses import Answer, responses_of, write_prompts
from pipelines.evaluation.session import Evaluation, Report, Session
from pipelines.evaluation.tables import Table, percent
from schemas.errors import JobError
from schemas.evaluate import EvaluateJob, Preference
from schemas.text import printable
from services.cluster import connect_to_ray
from services.storage.filesystem import resolve

PREFERENCE = "preference"

_log = logging.getLogger("kindling")


_NO_DIFFERENCE = "No difference"


@dataclass(frozen=True)
class PreferenceReport(Report):
    """Outcome of the evaluation `preference`.

    Attributes:
        page: the questionnaire to hand out; None where a model could not be asked.
        found: None where nothing came back yet.
    """

    page: str | None
    found: Preferences | None

    def tables(self) -> list[Table]:
        """Choices by model, pairs of models, reasons; none before answers came back."""
        return preference_tables(self.found) if self.found else []

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"questionnaire": self.page, "found": self.found.as_json() if self.found else None}


def check_preference(job: EvaluateJob) -> None:
    """Finds before anything runs what is wrong with the prompts, or with the names of returned files.

    Raises:
        JobError: so it is.
    """
    read_prompts(job.preference, PREFERENCE)
    _returned(job.preference)


def evaluate_preference(session: Session) -> PreferenceReport:
    """Has the models answer, writes the questionnaire, and counts what was returned.

    Raises:
        KindlingError: the job, its prompts, a returned file or the folder is at fault.
        StoppedError: a signal came; what is done is kept.
    """
    job, store, section = session.job, session.store, session.job.preference
    returned = _returned(section)
    prompts = first_of_each(read_prompts(section, PREFERENCE), section.per_emotion)
    url = write_prompts(store, PREFERENCE, prompts)
    answers: dict[str, list[Answer]] = {}
    with connect_to_ray(job.cluster.address):
        for name, (model, _) in session.models.items():
            with session.record_failure(name):
                answers[name], _ = responses_of(job, model, PREFERENCE, prompts, url)
    if len(answers) < len(job.models):
        _log.error(
            "there is no questionnaire yet: it is of all models of the job, and some could not answer. "
            "Do what their errors say, or take them out of the job; the same command goes on"
        )
        return PreferenceReport(None, None)
    asked = [number for number in range(len(prompts)) if all(each[number].text for each in answers.values())]
    if len(asked) < len(prompts):
        _log.warning(
            "%d prompts are left out, which a model did not answer: `kindling compare` of its runs below "
            "responses/preference tells which; shorten them, or raise engine.max_model_len", len(prompts) - len(asked),
        )  # fmt: skip
    texts = {name: [each[number].text or "" for number in asked] for name, each in answers.items()}
    folder = f"{job.output.path.rstrip('/')}/{PREFERENCE}"
    written = write_questionnaire(
        [prompts[number].text for number in asked], texts, folder, job.seed, section.question or DEFAULT_QUESTION
    )
    if not returned:
        return PreferenceReport(written.page, None)
    found = count_preferences(written.key, returned, job.seed)
    write_result(store, PREFERENCE, "tally", {"questionnaire": written.fingerprint}, **found.as_json())
    return PreferenceReport(written.page, found)


def _returned(section: Preference) -> list[str]:
    return [path for pattern in section.returned for path in _files(pattern)]


def _files(pattern: str) -> list[str]:
    """The files of a path or glob.

    Raises:
        JobError: there are none.
    """
    fs, path = resolve(pattern, "preference.returned")
    found = [fs.unstrip_protocol(each) for each in sorted(fs.glob(path))]
    if not found:
        raise JobError("preference.returned", pattern, "no file is there", "name those that respondents sent back")
    return found


def preference_tables(found: Preferences) -> list[Table]:
    """All tables, the longest last."""
    tables = [_choices(found), _pairs(found), _reasons(found)]
    return [table for table in tables if table.rows]


def _choices(found: Preferences) -> Table:
    rows = [
        [name, percent(chosen.share), str(chosen.count)]
        for name, chosen in [*found.models.items(), (_NO_DIFFERENCE, found.ties)]
    ]
    return Table(
        "Preferences of the respondents (as Table 4)", ["Model", "Preference (%)", "chosen"], rows,
        f"Respondents: {found.respondents}. Prompts: {found.prompts}. Choices: {found.choices}; left blank, and not "
        f"counted: {found.blanks}. Intervals: {found.intervals}.",
    )  # fmt: skip


def _pairs(found: Preferences) -> Table:
    rows = [
        [pair.first, pair.second, percent(pair.share), f"{pair.first_count} to {pair.second_count}"]
        for pair in found.pairs
    ]
    note = "Of the choices of one of the two. Where neither was ever chosen, there is no line."
    return Table("Two models at a time", ["Model", "over", "Preference (%)", "chosen"], rows, note)


def _reasons(found: Preferences) -> Table:
    groups = [*((name, chosen.reasons) for name, chosen in found.models.items()), (_NO_DIFFERENCE, found.ties.reasons),
              ("Left blank", found.blank_reasons)]  # fmt: skip
    rows = [[name, _line(reason.text), _line(reason.prompt)] for name, reasons in groups for reason in reasons]
    return Table("Reasons", ["Chosen", "Reason", "Prompt"], rows)


def _line(text: str) -> str:
    """What a person or a model wrote, on one line."""
    return " ".join(printable(text).split())


EVALUATION = Evaluation("preference", evaluate_preference, check_preference)
