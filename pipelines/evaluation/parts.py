"""Scores of a model, part by part: each finished part is kept on disk, so that a stopped evaluation goes on there."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipelines.evaluation.session import Item, Loaded, Session, spread_over_model
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")


def score_parts(
    session: Session,
    evaluation: str,
    name: str,
    parts: Mapping[str, Sequence[Item]],
    score: Callable[[Loaded, Sequence[Item]], list[Any]],
    folder: str,
    nouns: tuple[str, str],
) -> dict[str, list[Any]]:
    """Scores all items of an evaluation by one model.

    Args:
        name: name of the model.
        parts: items of each part.
        score: scores the items of a part, in an actor that holds the model; a plain value for each item.
        folder: folder, below that of the job, in which each finished part is kept for a later start.
        nouns: plurals for the items and for the parts: `("pairs", "paradigms")`.

    Returns:
        scores of the items, by part.
    """
    store, sizes = session.store, {part: len(items) for part, items in parts.items()}
    scores = dict(_kept_scores(store, folder, parts))
    left = [part for part in parts if part not in scores]
    _log.info("%s: %d of %d %s to score", name, len(left), len(parts), nouns[1])
    items, done = [parts[part] for part in left], sum(sizes[part] for part in scores)
    with session.progress.show(evaluation, nouns[0], {name: sum(sizes.values())}, {name: done}) as advance:
        for number, scored in spread_over_model(session, name, score, items):
            scores[left[number]] = scored
            store.write_text(_path(folder, left[number]), json.dumps(scored))
            advance(name, len(scored))
    return {part: scores[part] for part in parts}


def _kept_scores(store: ShardStore, folder: str, parts: Iterable[str]) -> Iterator[tuple[str, list[Any]]]:
    for part in parts:
        try:
            yield part, json.loads(store.fs.cat_file(store.path(_path(folder, part))))
        except (FileNotFoundError, ValueError):
            continue


def _path(folder: str, part: str) -> str:
    """Path of the scores of a part, whose name may hold characters that no file name has."""
    return f"{folder}/{quote(part, safe='')}.json"
