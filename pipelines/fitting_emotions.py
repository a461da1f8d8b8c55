"""An emotion for each row that fits what it says: the positive one that a classifier scores best on its answer."""

import logging
from collections.abc import Iterator
from itertools import islice

import numpy as np

from pipelines.inputs import InputCursor, InputReader
from pipelines.sources import InputRow
from schemas.emotions import EMOTIONS, POSITIVE
from schemas.job import Classifier
from services.classifier import load_classifier
from services.document_scores import score_documents

_log = logging.getLogger("kindling")

_POSITIVE = [number for number, emotion in enumerate(EMOTIONS) if emotion in POSITIVE]
_ROWS_AT_A_TIME = 2048


class FittingEmotions:
    """An input whose rows have one field more, `emotion`. All rows are scored when this is made.

    Args:
        reader: the input; its field `output` is what is scored.
        section: the classifier.

    Raises:
        EngineError: the classifier is not there, or has other labels.
    """

    def __init__(self, reader: InputReader, section: Classifier) -> None:
        self.inputs = reader.inputs
        self._reader = reader
        total = sum(source.rows for source in self.inputs)
        _log.info("picking an emotion for each of %d rows", total)
        classifier = load_classifier(section)
        self._emotions = np.zeros(total, dtype=np.uint8)
        rows = (_text(row) for _, _, row in reader.rows(0, total))
        for first in range(0, total, _ROWS_AT_A_TIME):
            scores = score_documents(classifier, list(islice(rows, _ROWS_AT_A_TIME)))
            self._emotions[first : first + len(scores)] = np.take(_POSITIVE, scores[:, _POSITIVE].argmax(1))

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        """See `InputReader.rows`."""
        return self.cursor().rows(start, end)

    def cursor(self) -> "_Cursor":
        """See `InputReader.cursor`."""
        return _Cursor(self._reader.cursor(), self._emotions)


class _Cursor:
    def __init__(self, cursor: InputCursor, emotions: np.ndarray) -> None:
        self._cursor, self._emotions = cursor, emotions

    def rows(self, start: int, end: int) -> Iterator[tuple[str, int, InputRow]]:
        for number, (source, index, row) in enumerate(self._cursor.rows(start, end), start):
            if row.values is not None:
                row = InputRow({**row.values, "emotion": EMOTIONS[self._emotions[number]]})
            yield source, index, row


def _text(row: InputRow) -> str:
    text = row.values.get("output") if row.values is not None else ""
    return text if isinstance(text, str) else ""
