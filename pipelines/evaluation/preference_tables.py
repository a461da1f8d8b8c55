"""The tables of the evaluation `preference`: the paper's 4, the models in pairs, and the reasons given."""

from eval.preference import Preferences
from pipelines.evaluation.tables import Table, percent
from pipelines.printable import printable

_NO_DIFFERENCE = "No difference"


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
