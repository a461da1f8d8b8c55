"""Keys and verdicts of reviews, which lie in the run's folder reviews/.

Invariant: a key is never replaced, since the answers of a page that was handed out are worth nothing without it.
`kindling verify` does not count these files as files of no shard: it looks at the folders of shards alone.
"""

import json

from eval.blind_page import write_key
from pipelines.publishing.reviewed_rows import read_review_files
from pipelines.run_folder import write_errors
from schemas.errors import RunError
from schemas.review import KEY_ENDING, ReviewKey, ReviewVerdicts, review_path
from services.storage.store import ShardStore


def save_key(store: ShardStore, key: ReviewKey) -> str:
    """Writes the key of a review, and returns its path relative to the run.

    Raises:
        RunError: the key of a review of the same rows lies there already, or the folder cannot be written.
    """
    path = review_path(key.review, KEY_ENDING)
    with write_errors(store.path(path), "RUN"):
        if not write_key(store.fs, store.path(path), key):
            cause = "the key of a review of the same rows lies there, and the run had other rows then"
            raise RunError(store.path(path), None, cause, "use that page again, or draw other rows with --seed")
    return path


def read_keys(store: ShardStore) -> dict[str, ReviewKey]:
    """Returns the keys of a run's reviews, by their fingerprints.

    Raises:
        RunError: a key is damaged.
    """
    keys = read_review_files(store, KEY_ENDING, ReviewKey, "put it back from a copy")
    return {key.review: key for key in keys}


def save_verdicts(store: ShardStore, verdicts: ReviewVerdicts) -> None:
    """Writes the verdicts of a review in place of earlier ones.

    Raises:
        RunError: the folder cannot be written.
    """
    path = review_path(verdicts.review)
    with write_errors(store.path(path), "RUN"):
        store.write_text(path, json.dumps(verdicts.model_dump(), indent=1, ensure_ascii=False) + "\n")
