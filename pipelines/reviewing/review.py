"""`kindling review`: writes a page on which people judge sampled rows of a run, and the key that stays with the run.

Invariant: the page has the texts, their emotions and their sources, and nothing of what the run made of them: no state,
reason, model or score, neither in its ids nor in its order.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.blind_page import blind_page, opaque_id
from pipelines.recipes import all_fields, recipes_of_run
from pipelines.result import Result
from pipelines.reviewing.sample import Group, Sample, draw_sample
from pipelines.reviewing.verdicts import save_key
from pipelines.run_folder import open_run, refuse_existing, write_errors
from schemas.errors import JobError, RunError
from schemas.fingerprint import fingerprint
from schemas.review import REASONS, KeyRow, ReviewGroup, ReviewKey, text_sha256
from schemas.rows import IDENTITY
from schemas.run import RunRecord
from schemas.text import printable
from services.storage.filesystem import resolve, write_atomic
from services.storage.store import ShardStore

QUESTION = "Would you keep this text?"
# Fields that are not shown as a source: the emotion that was asked for stands above the text, alone.
_EMOTION_FIELDS = ("emotion", "emotions")


@dataclass(frozen=True)
class ReviewPage(Result):
    """Result of `review`: a page to hand out, and its key.

    Attributes:
        to: path of the page.
        key: path of the key, in the run. The answers cannot be counted without it.
        review: sha256 of all that the page shows.
        rows: number of rows on the page.
        groups: groups that the rows were drawn from: `state`, `rule`, number of `rows` in the run, number `drawn`.
        without_text: number of rejected rows without a text, which are not shown, by rule.
    """

    to: str
    key: str
    review: str
    rows: int
    groups: list[dict[str, Any]]
    without_text: dict[str, int]

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each group."""
        return self.groups


def review(url: str, to: str, count: int = 200, seed: int = 0, columns: Sequence[str] | None = None) -> ReviewPage:
    """Writes a page with sampled rows of a run, to hand out to people who judge them, and the page's key.

    Args:
        url: the run folder.
        to: a new file that ends with .html; a local path or a URL.
        count: number of rows; all rows are shown where there are no more.
        seed: seed of the draw: the same seed draws the same rows of the same run.
        columns: columns of the input row to show as the source; by default those that the prompt was made from.

    Raises:
        JobError: an option is wrong.
        RunError: the folder `url` holds no run, or none with a text; a shard is damaged; the columns of the prompt are
            not known; or `to` exists already or cannot be written.
    """
    if not to.endswith(".html"):
        raise JobError("--to", to, "its ending names no page", "let it end with .html")
    store = ShardStore(url)
    run = open_run(store)
    refuse_existing(to, "--to")
    fs, path = resolve(to, "--to")
    fields = _prompt_fields(run) if columns is None else list(columns)
    sample = draw_sample(store, count, seed)
    items, key = _items_and_key(sample, fields, seed)
    shown = {"emotion": any(item["emotion"] for item in items), "meaning": any(item["source"] for item in items)}
    reasons = [(name, text) for name, text in REASONS.items() if shown.get(name, True)]
    key_path = save_key(store, key)
    page = blind_page("pipelines.reviewing", "review", key.review, items, reasons=reasons, question=QUESTION)
    with write_errors(to, "--to"):
        write_atomic(fs, path, page.encode(), must_be_new=True)
    drawn = Counter(row.group for row in key.rows)
    groups = [{**group.model_dump(), "drawn": drawn[number]} for number, group in enumerate(key.groups)]
    return ReviewPage(to, f"{url.rstrip('/')}/{key_path}", key.review, len(items), groups, sample.without_text)


def _prompt_fields(run: RunRecord) -> list[str]:
    """Returns the fields that the prompts of a run were made from, without those that `input.keep` carried along.

    A kept column may say what somebody else's check found.
    """
    try:
        return [name for name in all_fields(recipes_of_run(run.job)) if name not in _EMOTION_FIELDS]
    except JobError as error:
        cause = f"the columns that the prompts were made from are not known: {error.key} = {error.value}: {error.cause}"
        remedy = "run it in the folder where the job ran, or name columns of the input to show: --columns NAME,NAME"
        raise RunError("--columns", None, cause, remedy) from None


def _items_and_key(sample: Sample, fields: list[str], seed: int) -> tuple[list[dict[str, Any]], ReviewKey]:
    """Returns what the page shows of each row, and what the ids stand for, both in the order of the ids."""
    groups: list[Group] = list(sample.sizes)
    # The ids, and with them the order, depend on all that is known of all rows: nobody finds them from the page alone.
    known = [[*group, *(row[name] for name in IDENTITY), row["reason"], row["text"]] for group, row in sample.rows]
    secret = fingerprint({"seed": seed, "rows": known})
    rows = {opaque_id(secret, number): drawn for number, drawn in enumerate(sample.rows)}
    items, key_rows = [], []
    for row_id, (group, row) in sorted(rows.items()):
        source = _source(json.loads(row["inputs"]), fields)
        items.append(
            {"id": row_id, "emotion": printable(row["emotion"]), "source": source, "text": printable(row["text"])}
        )
        identity = {name: row[name] for name in IDENTITY}
        key_rows.append(KeyRow(row=row_id, group=groups.index(group), text_sha256=text_sha256(row["text"]), **identity))
    key_groups = [ReviewGroup(state=state, rule=rule, rows=sample.sizes[state, rule]) for state, rule in groups]
    return items, ReviewKey(review=fingerprint({"rows": items}), groups=key_groups, rows=key_rows)


def _source(inputs: dict[str, Any], fields: list[str]) -> list[list[str]]:
    """Returns name and text of each field that the row has."""
    values = {name: inputs[name] for name in fields if inputs.get(name) not in (None, "", [], {})}
    return [
        [
            printable(name),
            printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)),
        ]
        for name, value in values.items()
    ]
