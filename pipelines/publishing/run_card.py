"""README.md of a run, which a job keeps up to date: its header names the committed shards by their digest."""

from time import monotonic

from pipelines.publishing.card_header import DataFiles
from pipelines.publishing.dataset_card import dataset_card
from pipelines.publishing.reviewed_rows import read_verdicts
from schemas.outcomes import Outcomes
from schemas.rows import ACCEPTED
from schemas.run import RunRecord
from services.storage.shard_index import ShardIndex
from services.storage.store import ShardStore

# Object stores take about one write a second of the same file.
_MIN_SECONDS = 1.0


class RunCard:
    """The dataset card of a run.

    Args:
        store: the run folder.
        run: the run's run.json.
        index: index of the committed shards.
        outcomes: outcomes of the rows; the owner keeps them up to date.

    Raises:
        RunError: a file of verdicts of people is damaged.
    """

    def __init__(self, store: ShardStore, run: RunRecord, index: ShardIndex, outcomes: Outcomes) -> None:
        self._store, self._run, self._index, self._outcomes = store, run, index, outcomes
        self._min_seconds = 0.0 if store.can_append else _MIN_SECONDS
        self._reviews = read_verdicts(store)
        self._written_digest, self._written_at = "", 0.0

    def renew_if_due(self) -> None:
        """Writes the card where shards were committed since; cheap to call often."""
        if monotonic() >= self._written_at + self._min_seconds:
            self.renew_if_outdated()

    def renew_if_outdated(self) -> None:
        """Writes the card where shards were committed since, at once.

        Raises:
            OSError: the file system refuses.
        """
        if self._index.digest() != self._written_digest:
            self.renew()

    def renew(self) -> None:
        """Writes the card.

        Raises:
            OSError: the file system refuses.
        """
        digest = self._index.digest()
        files = DataFiles({"train": "data/part-*.parquet"}, digest, self._outcomes.counts[ACCEPTED])
        card = dataset_card(self._run, self._outcomes, files, self._run.schema, reviews=self._reviews)
        self._store.write_text("README.md", card)
        self._written_digest, self._written_at = digest, monotonic()
