"""The table of students: each one against its base, in positivity, grammar and variety, with what it was trained on."""

from collections.abc import Sequence

from eval.intervals import Change
from eval.sentiment import OVERALL
from pipelines.pages.tables import Figure, Table, points
from pipelines.reporting.answers import Reading
from pipelines.reporting.changes import Grammar, Positivity
from pipelines.reporting.evaluations import Evaluations
from pipelines.reporting.folders import ReportRun
from pipelines.reporting.seeds import SeedMeans, mean_of_seeds, same_trainings

_NOT_RUN = "not run"
_NOTE = (
    "Percentage points more than the base, of positive responses and of accuracy on minimal pairs, where each "
    "phenomenon (or paradigm of other pairs than BLiMP's) counts alike. Intervals: 95%; paired bootstrap, for variety "
    "a jackknife over prompts. Each is of one figure by itself. Of several seeds: a bootstrap over prompts or pairs "
    "and over seeds, which is too narrow where seeds are few; for variety over prompts alone."
)


def student_table(
    evaluations: Evaluations,
    positivity: Sequence[Positivity],
    grammar: Sequence[Grammar],
    readings: dict[str, list[Reading]],
    runs: Sequence[ReportRun],
) -> Table | None:
    """Makes the table; None where no student was measured."""
    sentiment, blimp = {each.student: each for each in positivity}, {each.student: each for each in grammar}
    bases = {each.student: each.base for each in grammar} | {each.student: each.base for each in positivity}
    if not bases:
        return None
    groups = [*dict.fromkeys(group for each in positivity for group in each.by if group != OVERALL), OVERALL]
    columns = [f"{'all' if group == OVERALL else group} prompts" for group in groups]
    header = ["Student", "Data", "Base", *columns, "grammar, mean", "worst of it", "distinct-2", "openings",
              "answers its prompt"]  # fmt: skip
    rows: list[Sequence[str | Figure]] = []
    for name, base in bases.items():
        change, loss = sentiment.get(name), blimp.get(name)
        by = change.by if change else {}
        variety = [_variety(change.distinct), _variety(change.openings)] if change else [_NOT_RUN] * 2
        read = "; ".join(f"{each.share.rate:.1%} by {each.by}" for each in readings.get(name, ()))
        rows.append(
            [
                name,
                evaluations.data.get(name) or "not known",
                base,
                *(points(by[group]) if group in by else _NOT_RUN for group in groups),
                *(_grammar(loss.mean, loss.worst[0], points(loss.worst[1])) if loss else [_NOT_RUN] * 2),
                *variety,
                read or _NOT_RUN,
            ]
        )
    for names in same_trainings(evaluations, list(bases), runs):
        means = mean_of_seeds(evaluations, names)
        figures = [_points(means.by[group]) if group in means.by else _NOT_RUN for group in groups]
        rows.append(
            [
                f"mean of {len(names)} seeds: {', '.join(names)}",
                evaluations.data.get(names[0], ""),
                bases[names[0]],
                *figures,
                *_mean_grammar(means),
                _variety(means.distinct),
                _variety(means.openings),
                "-",
            ]
        )
    return Table("Every student against its base", header, rows, _NOTE)


def _grammar(mean: Change, part: str, worst: Figure) -> list[str | Figure]:
    return [_points(mean), Figure(f"{part} {worst.value}", worst.interval)]


def _mean_grammar(means: SeedMeans) -> list[str | Figure]:
    if means.grammar is None:
        return [_NOT_RUN] * 2
    part, worst = min(means.by_part.items(), key=lambda each: each[1].value)
    return _grammar(means.grammar, part, _points(worst))


def _points(change: Change) -> Figure:
    return Figure(f"{100 * change.value:+.1f}", f"{100 * change.low:+.1f} to {100 * change.high:+.1f}")


def _variety(change: Change | None) -> str | Figure:
    return Figure(f"{change.value:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}") if change else "-"
