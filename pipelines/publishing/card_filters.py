"""Sections of a dataset card on its quality: rules that refused texts, with counts; judges; people; known limits."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.pages.markdown import code, escaped
from pipelines.publishing.card_verdicts import judges_of, judges_section, people_section
from schemas.outcomes import CUT_OFF_TEXT, Outcomes, by_frequency
from schemas.quality import Quality, rule_of_set
from schemas.review import ReviewVerdicts
from schemas.run import RunRecord
from schemas.text import shorten

# The rule of a key of `quality` is named in the string below the key: "rejection (`refusal`) of texts that ...".
RULE_NAME = re.compile(r"\(`(\w+)`\)")


def quality_sections(
    run: RunRecord,
    outcomes: Outcomes,
    removed: Mapping[str, int] | None,
    reviews: Sequence[ReviewVerdicts],
    part: str = "",
) -> str:
    """Makes the sections on the quality of a run's rows.

    Args:
        run: record of the run.
        outcomes: states of the rows, and reasons.
        removed: rows that `kindling dedup` removed, by rule; None where it was not called, or is not followed.
        reviews: verdicts of people.
        part: name of the part of a corpus that the rows are; "" for a dataset of its own.
    """
    of = f" of {code(part)}" if part else ""
    sections = (
        filters_section(run, outcomes, removed, of),
        judges_section(run, outcomes, of),
        people_section(reviews, of),
        limits_section(run, outcomes, removed, reviews, of),
    )
    return "\n\n".join(filter(None, sections))


def filters_section(run: RunRecord, outcomes: Outcomes, removed: Mapping[str, int] | None, of: str) -> str:
    """Makes the section on the rules that kept texts out of the data files.

    Args:
        run: record of the run.
        outcomes: states of the rows, and reasons.
        removed: rows that `kindling dedup` removed, by rule; None where it was not called, or is not followed.
        of: end of the heading, which names the part of a corpus; "" for a dataset of its own.
    """
    quality: Mapping[str, Any] = run.job.get("quality") or {}
    own = by_frequency(dict.fromkeys(outcomes.tries, 0) | dict(outcomes.rejects))
    rows, counted = [], set[str]()
    for key, value in quality.items():
        field = Quality.model_fields.get(key)
        meaning = " ".join((field.description or "").split()) if field else ""
        rule = match[1] if (match := RULE_NAME.search(meaning)) else ""
        rules = [rule] if rule else []
        if key == "reference_sets":
            rules = [rule_of_set(name) for name in value]
        elif key == "check":  # a user's own check gives reasons of its own
            rules = [reason for reason in own if reason.startswith(f"{key}: ")]
        counted.update(rules)
        rows += [(each, f"{key}: {shorten(value)}", meaning) for each in rules or [""]]
    rows += [(rule, "", "a rule of the recipe, or of every run") for rule in own if rule not in counted]
    rows += [(rule, "kindling dedup", "removed from the whole run after generation") for rule in removed or ()]
    if not rows:
        return f"## Filters{of}\n\nNo rule was set, and none refused a text."
    lines = []
    for rule, setting, meaning in rows:
        by_dedup = setting == "kindling dedup"
        refused = (removed or {})[rule] if by_dedup else outcomes.rejects[rule]
        tries = "" if by_dedup else outcomes.tries[rule] or ""
        shown = code(rule, in_table=True) if rule else ""
        setting = code(setting, in_table=True) if setting else ""
        lines.append(f"| {shown} | {refused if rule else ''} | {tries} | {setting} | {escaped(meaning)} |")
    table = "\n".join(lines)
    return f"""## Filters{of}

What a rule refused is not in the data files. A row counts under the first rule that refused it; `tries` are texts that
were refused, and whose row was tried again.

| rule | rows | tries | setting | meaning |
| --- | --- | --- | --- | --- |
{table}"""


def limits_section(
    run: RunRecord, outcomes: Outcomes, removed: Mapping[str, int] | None, reviews: Sequence[ReviewVerdicts], of: str
) -> str:
    """Makes the section on known limits of the data, from what was and was not done; the arguments are those above."""
    quality: Mapping[str, Any] = run.job.get("quality") or {}
    limits = [
        "The texts are those of a language model. They may be wrong, and repeat what the model has seen. The rules "
        "above are those of a program: each misses some texts, and several know English alone."
    ]
    if judges_of(run):
        limits.append("The judge and the writer are one model: it may like its own faults.")
    if not reviews:
        limits.append("No person judged the texts (`kindling review`).")
    if left := run.outputs - outcomes.counts.total():
        limits.append(f"{left:,} of {run.outputs:,} planned rows were not generated when this card was written.")
    if outcomes.cut_off and CUT_OFF_TEXT not in outcomes.rejects:
        limits.append(f"Texts that end in the middle, cut off by `max_tokens` or its limit: {outcomes.cut_off:,}.")
    if removed is None:
        limits.append("Texts that are nearly the same were not looked for (`kindling dedup`).")
    if not quality.get("reference_sets") and not any(rule.startswith(rule_of_set("")) for rule in removed or ()):
        limits.append("Sentences of test sets were not looked for: a model may be trained on what it is tested on.")
    return "\n".join([f"## Known limits{of}", "", *(f"- {limit}" for limit in limits)])
