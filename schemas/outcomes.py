"""Outcomes of rows: how many are in which state, how many texts were cut off, and the commonest reasons of the others.

Figures of one batch, one shard or a whole run have the same form, and are added up.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from schemas.row_programs import tries_by_rule
from schemas.rows import ACCEPTED, ERROR, REJECTED, rule_of
from schemas.text import shorten

OUTCOME_COLUMNS = ("state", "reason", "finish_reason")
"""columns of a shard that `Outcomes.of` needs"""

CUT_OFF = "length"
"""finish reason of a text that `max_tokens` or the model's own limit ended"""

REPETITION = "repetition"
"""finish reason of a text that `sampling.repetition_detection` ended"""

EMPTY_TEXT, CUT_OFF_TEXT, REPETITION_TEXT = "empty_text", "cut_off", "repetition_detected"
"""rules for the texts of all recipes: there is nothing but blanks; it was cut off, which the job does not allow; it
ended in a loop"""

UNFINISHED_REASONING = "unfinished_reasoning"
"""rule for the texts of a reasoning model: its thoughts did not end, so there is no answer"""

EARLY_STOP = "early_stop"
"""finish reason of a text that was ended since a rule will reject it"""

# Different reasons that are counted by themselves. Reasons may hold values of the data, and so be as many as the rows.
_MAX_REASONS = 50
OTHER_REASONS = "other reasons"

# Numbers and hexadecimal ids differ from row to row, and the reason is the same. A digit within a name (p3, UTF-8)
# is kept.
_NUMBERS = re.compile(
    r"\b(?:0x[0-9a-f]+|[0-9a-f]{8,}(?:-[0-9a-f]{4,})*)\b|(?<![\w.])(?<![A-Za-z]-)\d+(?:[.,:]\d+)*", re.IGNORECASE
)


@dataclass
class Outcomes:
    """Counts of rows that have a final state.

    Attributes:
        counts: rows by state.
        cut_off: accepted rows whose text was cut off.
        rejects: rejected rows by rule.
        errors: failed rows by reason, numbers and ids in it replaced by N.
        tries: tries that were not the last one of their row, by the rule that rejected them.
    """

    counts: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, rows: pa.Table | pa.RecordBatch) -> "Outcomes":
        """Counts the outcomes of rows, which have the columns OUTCOME_COLUMNS, and the column of tries where there is
        one."""
        outcomes = cls(Counter(rows["state"].to_pylist()))
        add_reasons(outcomes.tries, tries_by_rule(rows))
        cut_off = pc.and_(pc.equal(rows["state"], ACCEPTED), pc.equal(rows["finish_reason"], CUT_OFF))
        outcomes.cut_off = pc.sum(cut_off).as_py() or 0
        for state, counter, group_of in (
            (REJECTED, outcomes.rejects, rule_of),
            (ERROR, outcomes.errors, error_group),
        ):
            if outcomes.counts[state]:
                reasons = pc.filter(rows["reason"], pc.equal(rows["state"], state)).to_pylist()
                add_reasons(counter, Counter(map(group_of, reasons)))
        return outcomes

    def add(self, other: "Outcomes") -> "Outcomes":
        """Adds the counts of other rows, and returns what was added: rare reasons are counted together."""
        self.counts.update(other.counts)
        self.cut_off += other.cut_off
        rejects, errors = add_reasons(self.rejects, other.rejects), add_reasons(self.errors, other.errors)
        tries = add_reasons(self.tries, other.tries)
        return Outcomes(other.counts, other.cut_off, rejects, errors, tries)


def add_reasons(counter: Counter[str], more: Mapping[str, int]) -> Counter[str]:
    """Adds rows by reason, and returns what was added.

    Once the counter has many reasons, further ones are counted together.
    """
    added: Counter[str] = Counter()
    for reason, rows in more.items():
        known = reason in counter or len(counter) < _MAX_REASONS
        added[reason if known else OTHER_REASONS] += rows
        counter[reason if known else OTHER_REASONS] += rows
    return added


def error_group(reason: str) -> str:
    """Returns the reason of an error with N in place of numbers and ids, by which errors are counted."""
    return shorten(_NUMBERS.sub("N", " ".join(reason.split())))


def by_frequency(reasons: Mapping[str, int]) -> dict[str, int]:
    """Returns rows by reason, the commonest first."""
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def cut_off_share(cut_off: int, accepted: int) -> str:
    """Formats the number of texts that were cut off: `12 of 48 accepted rows (25.0%)`."""
    return f"{cut_off:,} of {accepted:,} accepted rows ({cut_off / max(accepted, 1):.1%})"
