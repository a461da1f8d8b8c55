"""Picks an emotion that fits a row: the positive emotion that a classifier scores highest for the row's `output`."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pipelines.inputs.cells import text_or_blank_cell
from pipelines.inputs.reader import InputRows, RowCursor
from pipelines.inputs.sources import InputRow
from schemas.emotions import EMOTIONS, POSITIVE
from schemas.job import Classifier
from schemas.rows import RowError
from schemas.text import plural
from services.models.classifier import load_classifier
from services.models.document_scores import score_documents

_log = logging.getLogger("kindling")

_POSITIVE = [number for number, emotion in enumerate(EMOTIONS) if emotion in POSITIVE]
# Limits of a batch. It is large, so that texts of similar length can be scored together.
_MAX_ROWS, _MAX_CHARACTERS = 2048, 4 << 20


class FittingEmotions(InputRows):
    """An input whose rows have one more field, `emotion`. The constructor scores all rows.

    Args:
        reader: the input; the classifier scores the field `output` of its rows.
        section: the `classifier` section of the job.
        ranges: ranges of rows (start, end) to score, in order; the emotion of any other row has no meaning.
        on_batch: called after each batch; an exception of it ends the scoring.

    Raises:
        EngineError: the classifier does not exist, or has other labels.
    """

    def __init__(
        self,
        reader: InputRows,
        section: Classifier,
        ranges: Sequence[tuple[int, int]],
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self.inputs = reader.inputs
        self._reader = reader
        _log.info("picking an emotion for each of %s", plural(sum(end - start for start, end in ranges), "row"))
        classifier = load_classifier(section)
        self._emotions = np.zeros(sum(source.rows for source in self.inputs), dtype=np.uint8)
        cursor = reader.cursor()
        texts = ((n, _text(row)) for start, end in ranges for n, (*_, row) in enumerate(cursor.rows(start, end), start))
        for batch in _batches(texts):
            scores = score_documents(classifier, [text for _, text in batch], "top3")
            self._emotions[[number for number, _ in batch]] = np.take(_POSITIVE, scores[:, _POSITIVE].argmax(1))
            on_batch()

    def cursor(self) -> RowCursor:
        """Returns a cursor that reads range after range, and adds the emotions."""
        return _Cursor(self._reader.cursor(), self._emotions)


class _Cursor:
    def __init__(self, cursor: RowCursor, emotions: np.ndarray) -> None:
        self._cursor, self._emotions = cursor, emotions

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        for number, (source, index, row) in enumerate(self._cursor.rows(start, end), start):
            if row.values is not None:
                row = InputRow({**row.values, "emotion": EMOTIONS[self._emotions[number]]})
            yield source, index, row


def _batches(texts: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    characters = 0
    for number, text in texts:
        batch.append((number, text))
        characters += len(text)
        if len(batch) == _MAX_ROWS or characters >= _MAX_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _text(row: InputRow) -> str:
    """Returns the field `output`; "" for a row without it, which the recipe will refuse."""
    try:
        return text_or_blank_cell(row.values or {}, "output")
    except RowError:
        return ""
