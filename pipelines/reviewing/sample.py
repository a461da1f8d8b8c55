"""Sample of a run's rows for a review: by verdict of the checks, then spread over prompts, variants and emotions.

Method: half of the rows come from the accepted ones, half from the rejected ones, shared evenly among the rules. So
something is known about each rule, and the tally weighs each group by its size in the run. Inside a group the rows are
drawn at equal intervals from a list in the order of variant, prompt and emotion, beginning at random (a systematic
sample), so that each of these has its share; within the same three they are drawn at random.

Invariant: in a group each row has the same chance. The same seed draws the same rows of the same run.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run_folder import read_part
from schemas.errors import JobError, RunError
from schemas.outcomes import OTHER_REASONS
from schemas.rows import ACCEPTED, IDENTITY, REJECTED, rule_of
from services.storage.store import ShardStore

# So that a rule's share is worth its name: rules that would get fewer rows are drawn from together.
_MIN_ROWS_OF_RULE = 5

_CELL_COLUMNS = ["state", "reason", "variant", "prompt_id", "emotion"]
_COLUMNS = [*IDENTITY, *_CELL_COLUMNS[1:], "state", "text", "inputs"]

Group = tuple[str, str]
"""state, and rule that rejected the rows ("" for accepted ones)"""
_Cell = tuple[str, str, str, str, str]
"""state, rule, variant, prompt, emotion"""


@dataclass(frozen=True)
class Sample:
    """Rows that were drawn.

    Attributes:
        sizes: number of rows of the run by group; the rarest rules may be one group, OTHER_REASONS.
        rows: drawn rows as dicts of columns, with their groups.
        without_text: number of rejected rows that have no text to judge, by rule.
    """

    sizes: dict[Group, int]
    rows: list[tuple[Group, dict[str, Any]]]
    without_text: dict[str, int]


def draw_sample(store: ShardStore, count: int, seed: int) -> Sample:
    """Draws rows of a run that have a text.

    Args:
        store: folder of the run.
        count: number of rows; all rows are drawn where there are no more.
        seed: seed of the draw.

    Raises:
        JobError: the number is too small to draw from accepted and rejected rows.
        RunError: no committed row has a text, or a shard is damaged.
    """
    if count < 2:
        raise JobError("-n", count, "too few to draw accepted and rejected rows", "give 2 or more; 200 is usual")
    # Listed once: a job that runs may commit more, and committed files do not change.
    files = [
        path
        for state in (ACCEPTED, REJECTED)
        for part in store.live_parts(state)
        if (path := store.file_of(part, state))
    ]
    cells: Counter[_Cell] = Counter()
    without_text: Counter[str] = Counter()
    for table in _tables(store, files, [*_CELL_COLUMNS, "text"]):
        has_text = pc.not_equal(pc.utf8_trim_whitespace(table["text"]), "").to_pylist()
        for cell, judged in zip(_cells(table), has_text, strict=True):
            if judged:
                cells[cell] += 1
            else:
                without_text[cell[1]] += 1
    if not cells:
        remedy = "`kindling status` shows the progress of the run, and why rows were refused"
        raise RunError("RUN", store.url, "it has no committed row with a text yet", remedy)
    group_of = _groups(cells, count)
    sizes: Counter[Group] = Counter()
    for cell, rows in cells.items():
        sizes[group_of[cell[:2]]] += rows
    chosen = _choose(cells, group_of, _shares(sizes, count), random.Random(f"kindling review {seed}"))
    drawn = [(group_of[cell[:2]], row) for cell, row in _pick(store, files, chosen)]
    return Sample(dict(sorted(sizes.items())), drawn, dict(without_text))


def _tables(store: ShardStore, files: list[str], columns: list[str]) -> Iterator[pa.Table]:
    for path in files:
        yield read_part(store, path, columns)


def _cells(table: pa.Table) -> Iterator[_Cell]:
    """Yields the cell of each row."""
    columns = [table[name].to_pylist() for name in _CELL_COLUMNS]
    for state, reason, variant, prompt, emotion in zip(*columns, strict=True):
        yield state, rule_of(reason) if state == REJECTED else "", variant, prompt, emotion


def _groups(cells: Mapping[_Cell, int], count: int) -> dict[Group, Group]:
    """Returns the group that is drawn from, for each state and rule: the rarest rules are drawn from together."""
    rules = Counter({cell[:2]: 0 for cell in cells if cell[0] == REJECTED})
    for cell, rows in cells.items():
        if cell[0] == REJECTED:
            rules[cell[:2]] += rows
    most = max(count // 2 // _MIN_ROWS_OF_RULE, 1)
    ranked = sorted(rules, key=lambda rule: (-rules[rule], rule))
    alone = ranked if len(ranked) <= most else ranked[: most - 1]
    together = dict.fromkeys(ranked[len(alone) :], (REJECTED, OTHER_REASONS))
    return {(ACCEPTED, ""): (ACCEPTED, ""), **{rule: rule for rule in alone}, **together}


def _shares(sizes: Mapping[Group, int], count: int) -> dict[Group, int]:
    """Returns the number of rows to draw from each group; what a group does not have, others give."""
    accepted = sizes.get((ACCEPTED, ""), 0)
    rejected = sum(sizes.values()) - accepted
    from_accepted = min(accepted, max(count - count // 2, count - rejected))
    shares = {(ACCEPTED, ""): from_accepted} if accepted else {}
    left = min(count - from_accepted, rejected)
    rules = sorted((group for group in sizes if group[0] == REJECTED), key=lambda group: (sizes[group], group))
    for number, group in enumerate(rules):
        shares[group] = min(sizes[group], left // (len(rules) - number))
        left -= shares[group]
    return shares


def _choose(
    cells: Mapping[_Cell, int], group_of: Mapping[Group, Group], shares: Mapping[Group, int], draw: random.Random
) -> dict[_Cell, set[int]]:
    """Returns the drawn rows of each cell, as numbers of the cell's rows in the order of the run."""
    cells_of: dict[Group, list[_Cell]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: (*cell[2:], cell[1])):
        cells_of[group_of[cell[:2]]].append(cell)
    chosen: dict[_Cell, set[int]] = {}
    for group in sorted(shares):
        size, share = sum(cells[cell] for cell in cells_of[group]), shares[group]
        start = draw.random()
        # Rows are numbered through the cells; the i-th drawn one has the number (i + start) * size / share.
        numbers = iter([min(int((i + start) * size / share), size - 1) for i in range(share)])
        number, end = next(numbers, size), 0
        for cell in cells_of[group]:
            end += cells[cell]
            drawn = 0
            while number < end:
                drawn, number = drawn + 1, next(numbers, size)
            if drawn:
                chosen[cell] = set(draw.sample(range(cells[cell]), drawn))
    return chosen


def _pick(
    store: ShardStore, files: list[str], chosen: Mapping[_Cell, set[int]]
) -> Iterator[tuple[_Cell, dict[str, Any]]]:
    """Yields the drawn rows."""
    seen: Counter[_Cell] = Counter()
    for table in _tables(store, files, _COLUMNS):
        has_text = pc.not_equal(pc.utf8_trim_whitespace(table["text"]), "").to_pylist()
        for number, (cell, judged) in enumerate(zip(_cells(table), has_text, strict=True)):
            if judged:
                if seen[cell] in chosen.get(cell, ()):
                    yield cell, table.slice(number, 1).to_pylist()[0]
                seen[cell] += 1
