"""Sections of a dataset card on who judged the texts: the judges of the job, with their rubrics, and people."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages.markdown import code, code_block
from schemas.generations import Generation
from schemas.outcomes import Outcomes
from schemas.review import ReviewFigure, ReviewVerdicts
from schemas.rows import ACCEPTED, REJECTED
from schemas.run import RunRecord
from schemas.text import plural, printable


def judges_of(run: RunRecord) -> list[Generation]:
    """Returns the judges of a run's job."""
    generations: list[Mapping[str, Any]] = run.job.get("generations") or []
    return [judge for each in generations if (judge := Generation.model_validate(each)).kind == "judge"]


def judges_section(run: RunRecord, outcomes: Outcomes, of: str = "") -> str:
    """Makes the section on the judges of a job: question, answers, threshold and rubric; "" for a job without one.

    Args:
        run: record of the run.
        outcomes: states of the rows, and reasons.
        of: end of the heading, which names the part of a corpus.
    """
    if not (judges := judges_of(run)):
        return ""
    parts = [f"## Judges{of}", "The model that wrote the texts judged them too, in one token, by the rubrics below."]
    for judge in judges:
        first, *others = (code(choice) for choice in judge.judge_choices)
        lines = [f"The value of {code(judge.name)} is the probability of {first}, against {', '.join(others)}."]
        if judge.compare:
            names = " with ".join(map(code, judge.compare))
            lines.append(f"It compares {names}, in both orders; {first} stands for the one named first here.")
        if judge.threshold is not None:
            lines.append(f"A value below {judge.threshold:g} rejects the row.")
        if judge.threshold is not None or judge.reject_when is not None:
            rows, tries = outcomes.rejects[judge.name], outcomes.tries[judge.name]
            lines.append(f"It rejected {plural(rows, 'row')}, and {plural(tries, 'text')} whose row was tried again.")
        parts.append(" ".join(lines))
        if rubric := run.rubrics.get(judge.name):
            parts.append(code_block(printable(rubric.strip())))
    return "\n\n".join(parts)


def people_section(reviews: Sequence[ReviewVerdicts], of: str = "") -> str:
    """Makes the section on the verdicts of people (`kindling review`); "" where nobody judged a row."""
    if not reviews:
        return ""
    lines = [
        f"## Verdicts of people{of}",
        "People read a sample of the texts, without knowing what the rules above made of them. Shares are of all rows "
        "of the run that have a text, with 95% intervals.",
    ]
    for review in reviews:
        facts = [f"{plural(len(review.rows), 'row')} judged by {plural(len(review.reviewers), 'reviewer')}."]
        shares = [
            f"{_share(figure)} of those that the rules {state}"
            for state in (ACCEPTED, REJECTED)
            if (figure := review.accepted.get(state))
        ]
        facts += [f"They accept {', and '.join(shares)}."] if shares else []
        people = {reviewer: number for number, reviewer in enumerate(review.reviewers, 1)}
        for pair in review.pairs:
            both = f"Reviewers {people[pair.first]} and {people[pair.second]}"
            if pair.agreement:
                kappa = pair.kappa
                beyond = f"; Cohen's kappa {kappa.value:.2f} ({kappa.low:.2f} to {kappa.high:.2f})" if kappa else ""
                facts.append(f"{both} agree on {_share(pair.agreement)} of {plural(pair.rows, 'row')}{beyond}.")
        lines.append(f"- {' '.join(facts)}")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _share(figure: ReviewFigure) -> str:
    return f"{100 * figure.value:.1f}% ({100 * figure.low:.1f} to {100 * figure.high:.1f})"
