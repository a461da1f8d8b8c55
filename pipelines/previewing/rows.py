"""The rows that a preview runs: a seeded random sample of those that a job has left, even over prompts of all lengths.

Many rows are looked at, which costs no engine: rendered, they say how long prompts are, how they begin alike, and which
rows are refused before they are generated. Of those, few are drawn to be generated.
"""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipelines.inputs.reader import InputRows
from schemas.rows import ERROR, REJECTED, RowError, RowRejection, WorkRow, rule_of
from schemas.run import RunRecord
from services.replicas.row_records import VariantSettings
from services.storage.output_ids import OutputIds
from services.storage.row_log import RowLog
from services.storage.shard_index import read_index
from services.storage.store import ShardStore

# So many that the mean of what is known of them is that of the whole job, within a percent or two.
_MOST_LOOKED_AT = 2000
# Held of each prompt, to be compared with the others; the beginnings that prompts have in common are shorter.
_HELD_CHARACTERS = 16_384


@dataclass
class Candidate:
    """A row that was looked at.

    Attributes:
        number: of its input row, counted over all sources.
        refused: the state that it ends in before it is generated; "" for a row that is generated.
        reason: why.
        characters: of its prompt.
        shared: leading characters of its prompt that another one has as well; all prompts of the job tell, so those
            that were looked at.
    """

    work: WorkRow
    number: int
    refused: str = ""
    reason: str = ""
    characters: int = 0
    shared: int = 0


@dataclass(frozen=True)
class Population:
    """What a job has left, and some of it looked at.

    Attributes:
        left: rows without a terminal state.
        done: the others.
        looked_at: a random sample of those that are left, or all of them.
    """

    left: int
    done: int
    looked_at: list[Candidate]

    def generated(self) -> list[Candidate]:
        """Those looked at that are not refused before they are generated."""
        return [candidate for candidate in self.looked_at if not candidate.refused]

    @property
    def to_generate(self) -> float:
        """Rows of all that are left that are generated, as far as those looked at tell."""
        return self.left * len(self.generated()) / len(self.looked_at)

    def refused(self) -> dict[str, int]:
        """Those looked at that are, by reason, the commonest first."""
        reasons = Counter(rule_of(each.reason) for each in self.looked_at if each.refused)
        return dict(reasons.most_common())

    def draw(self, rows: int, seed: int) -> list[Candidate]:
        """So many of those that are generated, or all there are: one from each stretch of their order by length."""
        ordered = sorted(self.generated(), key=lambda each: (each.work.variant, each.characters, each.work.output_id))
        rows = min(rows, len(ordered))
        ends = [len(ordered) * number // rows for number in range(rows + 1)] if rows else [0]
        draw = random.Random(seed)
        drawn = [ordered[draw.randrange(start, end)] for start, end in pairwise(ends)]
        return sorted(drawn, key=lambda each: each.work.output_id)

    def others(self, drawn: list[Candidate], seed: int) -> list[Candidate]:
        """Those that are generated and not among the drawn ones, in random order."""
        output_ids = {each.work.output_id for each in drawn}
        others = [each for each in self.generated() if each.work.output_id not in output_ids]
        random.Random(seed).shuffle(others)
        return others


def look_at(
    run: RunRecord,
    reader: InputRows,
    variants: Mapping[str, VariantSettings],
    numbers: list[tuple[int, int]],
    left: int,
    duplicates: Mapping[int, int],
) -> Population:
    """Renders rows.

    Args:
        variants: settings of each variant of the run, by its name, in the run's order.
        numbers: input rows and which of their outputs, from `drawn_numbers`.
        duplicates: rows that are refused as near-duplicates.
    """
    outputs = [(sample, variant) for sample in range(run.samples) for variant in variants]
    cursor = reader.cursor()
    looked_at, beginnings = [], []
    read = -1
    for number, output in numbers:
        if read != number:
            ((source, index, row),) = cursor.rows(number, number + 1)
            read = number
        sample, variant = outputs[output]
        work = WorkRow(number * len(outputs) + output, 0, source, index, sample, row.values, row.fault, variant=variant)
        candidate = Candidate(work, number)
        text = _render(candidate, variants[variant], number in duplicates)
        looked_at.append(candidate)
        beginnings.append(text[:_HELD_CHARACTERS])
    _compare(looked_at, beginnings)
    return Population(left, run.outputs - left, looked_at)


def drawn_numbers(store: ShardStore, run: RunRecord, seed: int) -> tuple[list[tuple[int, int]], int]:
    """Some of the rows that are left, drawn by the seed, or all of them.

    Returns:
        (number of the input row, number of its output) of each, in order; and how many are left in all.
    """
    log, output_ids = RowLog(store), OutputIds(run)
    logged = {shard: output_ids.of(log.recover(shard)) for shard in log.shards()}
    committed = read_index(store, run).committed  # after the logs: a shard may be committed meanwhile
    done = {output_id for shard in logged.keys() - committed for output_id in logged[shard] if output_id >= 0}
    ranges = [(start, end) for shard, start, end in run.shard_ranges() if shard not in committed]
    ends = list(accumulate((end - start) * run.outputs_per_row for start, end in ranges))
    uncommitted = ends[-1] if ends else 0

    def place(at: int) -> int:
        shard = bisect_right(ends, at)
        return ranges[shard][1] * run.outputs_per_row - ends[shard] + at

    wanted = min(uncommitted, _MOST_LOOKED_AT + len(done))
    places = sorted(random.Random(seed).sample(range(uncommitted), wanted))
    # Those that the log has fall out: what stays is as random.
    drawn = [divmod(output_id, run.outputs_per_row) for output_id in map(place, places) if output_id not in done]
    if len(drawn) > _MOST_LOOKED_AT:
        drawn = sorted(random.Random(seed).sample(drawn, _MOST_LOOKED_AT))
    return drawn, uncommitted - len(done)


def _render(candidate: Candidate, settings: VariantSettings, duplicate: bool) -> str:
    """The prompt's text; "" for a row that is refused."""
    work = candidate.work
    try:
        if work.values is None:
            raise RowError(work.fault)
        if duplicate:
            raise RowRejection("near_duplicate")
        prompt = settings.recipe.render(work.values, settings.seed_of(work))
    except RowRejection as rejection:
        candidate.refused, candidate.reason = REJECTED, str(rejection)
        return ""
    except RowError as error:
        candidate.refused, candidate.reason = ERROR, str(error)
        return ""
    text = "\n".join(message["content"] for message in prompt.messages)
    candidate.characters = len(text)
    return text


def _compare(looked_at: list[Candidate], beginnings: list[str]) -> None:
    """Of each prompt, what it has in common with the one that is most like it: that is its neighbour in their order."""
    order = sorted((n for n, each in enumerate(looked_at) if not each.refused), key=lambda n: beginnings[n])
    for one, two in pairwise(order):
        shared = _in_common(beginnings[one], beginnings[two])
        for number in (one, two):
            looked_at[number].shared = max(looked_at[number].shared, shared)


def _in_common(one: str, two: str) -> int:
    """Characters with which both begin."""
    least, most = 0, min(len(one), len(two))
    while least < most:
        middle = (least + most + 1) // 2
        if one[:middle] == two[:middle]:
            least = middle
        else:
            most = middle - 1
    return least
