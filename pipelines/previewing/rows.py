"""The rows that a preview runs: a seeded random sample of the rows left, spread over prompts of all lengths.

Invariant: the rendered rows are a random sample of the rows that are left, and none of these has a terminal state.

Rendering a row needs no engine. It shows the length of the prompt, which beginning it has in common with other prompts,
and whether the row is refused before it is generated. So many rows are rendered, and few of them are run.
"""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipelines.inputs.reader import InputRows
from schemas.rows import ERROR, REJECTED, RowError, RowRejection, WorkRow, rule_of
from schemas.run import RunRecord
from services.replicas.row_records import VariantSettings
from services.storage.output_ids import OutputIds
from services.storage.parts import retry_of
from services.storage.row_log import open_row_log
from services.storage.shard_index import read_index
from services.storage.store import ShardStore

# Characters of each prompt that are compared with other prompts; common beginnings are shorter.
_COMPARED_CHARACTERS = 16_384


@dataclass
class RenderedRow:
    """A row whose prompt was rendered.

    Attributes:
        number: number of its input row, counted over all sources.
        refused_state: the state in which it ends before it is generated; "" for a row that is generated.
        reason: why it is refused.
        characters: length of its prompt; 0 for a row that is refused.
        shared_characters: leading characters that another rendered prompt has as well.
    """

    work: WorkRow
    number: int
    refused_state: str = ""
    reason: str = ""
    characters: int = 0
    shared_characters: int = 0


@dataclass(frozen=True)
class Population:
    """Rows that a job has left, of which some or all were rendered.

    Attributes:
        rows_left: number of rows without a terminal state.
        rows_done: number of rows with one.
        rendered: a random sample of the rows that are left, or all of them.
    """

    rows_left: int
    rows_done: int
    rendered: list[RenderedRow]

    def generated_rows(self) -> list[RenderedRow]:
        """Returns the rendered rows that are not refused before they are generated."""
        return [row for row in self.rendered if not row.refused_state]

    @property
    def rows_to_generate(self) -> float:
        """Number of the rows left that are generated, by the share of the rendered ones."""
        return self.rows_left * len(self.generated_rows()) / len(self.rendered)

    def refusals(self) -> dict[str, int]:
        """Returns how many rendered rows are refused for each reason, the most frequent reason first."""
        reasons = Counter(rule_of(row.reason) for row in self.rendered if row.refused_state)
        return dict(reasons.most_common())

    def draw(self, rows: int, seed: int) -> list[RenderedRow]:
        """Draws so many of the rows that are generated, or all of them: one of each stretch in the order by length."""
        ordered = sorted(self.generated_rows(), key=lambda row: (row.work.variant, row.characters, row.work.output_id))
        rows = min(rows, len(ordered))
        bounds = [len(ordered) * number // rows for number in range(rows + 1)] if rows else [0]
        draw = random.Random(seed)
        drawn = [ordered[draw.randrange(start, end)] for start, end in pairwise(bounds)]
        return sorted(drawn, key=lambda row: row.work.output_id)

    def fillers(self, drawn: Sequence[RenderedRow], seed: int) -> list[RenderedRow]:
        """Returns the rows that are generated and were not drawn, in random order."""
        output_ids = {row.work.output_id for row in drawn}
        fillers = [row for row in self.generated_rows() if row.work.output_id not in output_ids]
        random.Random(seed).shuffle(fillers)
        return fillers


def render_rows(
    run: RunRecord,
    reader: InputRows,
    variants: Mapping[str, VariantSettings],
    outputs: Sequence[tuple[int, int]],
    rows_left: int,
    duplicates: Mapping[int, int],
) -> Population:
    """Renders the prompts of some outputs of a run.

    Args:
        reader: the input of the run.
        variants: settings of each variant of the run, by its name, in the run's order.
        outputs: input rows and which of their outputs, from `draw_outputs`.
        rows_left: number of outputs that the run has left.
        duplicates: numbers of the input rows that are refused as near-duplicates.
    """
    samples_and_variants = [(sample, variant) for sample in range(run.samples) for variant in variants]
    cursor = reader.cursor()
    rendered, beginnings = [], []
    read = -1
    for number, output in outputs:
        if read != number:
            ((source, index, row),) = cursor.rows(number, number + 1)
            read = number
        sample, variant = samples_and_variants[output]
        output_id = number * len(samples_and_variants) + output
        work = WorkRow(output_id, 0, source, index, sample, row.values, row.fault, variant=variant)
        candidate = RenderedRow(work, number)
        text = _render(candidate, variants[variant], number in duplicates)
        rendered.append(candidate)
        beginnings.append(text[:_COMPARED_CHARACTERS])
    _compare_beginnings(rendered, beginnings)
    return Population(rows_left, run.outputs - rows_left, rendered)


def draw_outputs(store: ShardStore, run: RunRecord, seed: int, max_rows: int) -> tuple[list[tuple[int, int]], int]:
    """Draws `max_rows` of the outputs that a run has left, or takes all of them.

    Returns:
        (number of the input row, number of its output) of each, in order; and the number of outputs that are left.
    """
    log, output_ids = open_row_log(store), OutputIds(run)
    logged = {shard: output_ids.of(log.recover(shard)) for shard in log.shards() if not retry_of(shard)}
    committed = read_index(store, run).committed  # after the logs: a shard may be committed meanwhile
    done = {output_id for shard in logged.keys() - committed for output_id in logged[shard] if output_id >= 0}
    ranges = [(start, end) for shard, start, end in run.shard_ranges() if shard not in committed]
    ends = list(accumulate((end - start) * run.outputs_per_row for start, end in ranges))
    uncommitted = ends[-1] if ends else 0

    def output_id_at(place: int) -> int:
        """Returns the output at a place in the order of all uncommitted ones."""
        shard = bisect_right(ends, place)
        return ranges[shard][1] * run.outputs_per_row - ends[shard] + place

    # Logged rows drop out after the draw, which leaves the rest a random sample; so as many more are drawn.
    wanted = min(uncommitted, max_rows + len(done))
    places = sorted(random.Random(seed).sample(range(uncommitted), wanted))
    drawn = [divmod(output_id, run.outputs_per_row) for output_id in map(output_id_at, places) if output_id not in done]
    if len(drawn) > max_rows:
        drawn = sorted(random.Random(seed).sample(drawn, max_rows))
    return drawn, uncommitted - len(done)


def _render(row: RenderedRow, settings: VariantSettings, is_duplicate: bool) -> str:
    """Renders a prompt and notes its length in the row; returns its text, or "" for a row that is refused."""
    work = row.work
    try:
        if work.values is None:
            raise RowError(work.fault)
        if is_duplicate:
            raise RowRejection("near_duplicate")
        prompt = settings.recipe.render(work.values, settings.seed_of(work))
    except RowRejection as rejection:
        row.refused_state, row.reason = REJECTED, str(rejection)
        return ""
    except RowError as error:
        row.refused_state, row.reason = ERROR, str(error)
        return ""
    text = "\n".join(message["content"] for message in prompt.messages)
    row.characters = len(text)
    return text


def _compare_beginnings(rows: list[RenderedRow], beginnings: list[str]) -> None:
    """Notes in each row how many leading characters of its prompt another prompt has as well.

    The prompt with the longest common beginning is a neighbour in alphabetical order.
    """
    order = sorted((n for n, row in enumerate(rows) if not row.refused_state), key=lambda n: beginnings[n])
    for one, two in pairwise(order):
        shared = common_characters(beginnings[one], beginnings[two])
        for number in (one, two):
            rows[number].shared_characters = max(rows[number].shared_characters, shared)


def common_characters(one: str, two: str) -> int:
    """Returns the number of leading characters that both texts have, by bisection."""
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == two[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
