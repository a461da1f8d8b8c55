"""Verdicts of people on the rows of a run (`kindling review`), and the rows that they accepted."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import ValidationError

from schemas.errors import RunError
from schemas.record import Record
from schemas.review import (
    KEY_ENDING,
    REVIEWS_FOLDER,
    VERDICTS_ENDING,
    ReviewVerdicts,
    text_sha256,
    verdict_of_most,
)
from schemas.rows import ACCEPTED, IDENTITY, REJECTED
from schemas.text import plural
from services.storage.store import ShardStore

REVIEWED_COLUMNS = [*IDENTITY, "text"]
"""columns by which a row is looked up"""
LEFT_OUT = {
    "unseen": "that nobody judged",
    "rejected": "that people rejected",
    "divided": "on which people were divided",
    "changed": "whose text is another one since",
    "refused_by_checks": "that people accepted and the run's rules had rejected",
}
"""causes for which a row is not in an export of the rows that people accepted, as they follow `12 rows`"""

_Kind = TypeVar("_Kind", bound=Record)


def read_review_files(store: ShardStore, ending: str, kind: type[_Kind], remedy: str) -> list[_Kind]:
    """Returns the files of one kind of a run's reviews.

    Args:
        store: folder of the run.
        ending: ending of the files' names.
        kind: record that each of them is.
        remedy: what repairs a damaged one.

    Raises:
        RunError: a file is damaged.
    """
    records = []
    for name in store.list_names(REVIEWS_FOLDER):
        if not name.endswith(ending) or (ending != KEY_ENDING and name.endswith(KEY_ENDING)):
            continue
        path = store.path(f"{REVIEWS_FOLDER}/{name}")
        try:
            records.append(kind.model_validate_json(store.fs.cat_file(path)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise RunError(path, None, f"it is damaged: {first['msg']}", remedy) from None
    return records


def read_verdicts(store: ShardStore) -> list[ReviewVerdicts]:
    """Returns the verdicts of all reviews of a run whose answers were counted.

    Raises:
        RunError: a file of verdicts is damaged.
    """
    remedy = "remove it, and count the answers again: kindling review RUN --returned FILES"
    return read_review_files(store, VERDICTS_ENDING, ReviewVerdicts, remedy)


def left_out_lines(left_out: Mapping[str, int]) -> list[str]:
    """Formats the rows that an export leaves out: `12 rows that nobody judged`."""
    return [f"{plural(rows, 'row')} {LEFT_OUT[cause]}" for cause, rows in left_out.items()]


class PeoplesVerdicts:
    """Verdicts of people on the rows of a run, over all its reviews.

    Args:
        store: folder of the run.

    Raises:
        RunError: no answers were counted yet, or a file of verdicts is damaged.
    """

    def __init__(self, store: ShardStore) -> None:
        reviews = read_verdicts(store)
        if not reviews:
            remedy = (
                "write a page: kindling review RUN --to review.html; then count: kindling review RUN --returned FILES"
            )
            raise RunError("RUN", store.url, "it has no verdicts of people", remedy)
        self._url = store.url
        judged: dict[tuple[Any, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self._refused_by_checks: set[tuple[Any, ...]] = set()
        for row in (row for review in reviews for row in review.rows):
            judged[row.identity][row.text_sha256] += [judgement.verdict for judgement in row.judgements]
            if row.state == REJECTED and row.verdict == ACCEPTED:
                self._refused_by_checks.add(row.identity)
        self._judged = judged

    def accepted(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Returns those of the rows that people accepted.

        Args:
            rows: rows with REVIEWED_COLUMNS.
        """
        return rows.filter(pa.array([verdict == ACCEPTED for _, verdict in self._verdicts(rows)], pa.bool_()))

    def left_out(self, batches: Iterable[pa.RecordBatch]) -> dict[str, int]:
        """Counts the rows that an export of the rows that people accepted does not have, by cause.

        Args:
            batches: all accepted rows of the run, with REVIEWED_COLUMNS.

        Returns:
            Accepted rows of the run that were `unseen`, `rejected` or `divided`, or whose text was `changed` since; and
            rows that people accepted, but which were `refused_by_checks`.

        Raises:
            RunError: people accepted none of the rows.
        """
        counts: Counter[str] = Counter()
        refused = set(self._refused_by_checks)
        for identity, verdict in (pair for batch in batches for pair in self._verdicts(batch)):
            counts[verdict] += 1
            refused.discard(identity)
        if not counts[ACCEPTED]:
            remedy = "have more rows judged: kindling review RUN --to review.html --seed 1"
            raise RunError("RUN", self._url, "people accepted none of its accepted rows", remedy)
        counts["refused_by_checks"] = len(refused)
        return {cause: counts[cause] for cause in LEFT_OUT if counts[cause]}

    def _verdicts(self, rows: pa.RecordBatch) -> Iterator[tuple[tuple[Any, ...], str]]:
        """Yields the identity of each row, and the verdict on it, `unseen` or `changed`."""
        columns = [rows[name].to_pylist() for name in IDENTITY]
        for number, identity in enumerate(zip(*columns, strict=True)):
            texts = self._judged.get(identity)
            if texts is None:
                yield identity, "unseen"
                continue
            judged = texts.get(text_sha256(rows["text"][number].as_py()))
            yield identity, verdict_of_most(judged) if judged else "changed"
