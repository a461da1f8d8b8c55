"""The order of examples: batches of like lengths, so that little of them is padding."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

# So many batches are sorted by length together: less padding, and still other company in each epoch.
_BATCHES_SORTED = 50


class ByLength(Sampler):
    """Batches of like lengths, drawn anew each epoch: a resumed epoch is drawn as it was.

    Args:
        lengths: tokens of each example.
        batch: examples in one.
        epoch: tells the epoch that begins.
    """

    def __init__(self, lengths: np.ndarray, batch: int, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self._seed, self._epoch()])
        order = draw.permutation(len(self._lengths))
        batches, last = [], None
        for at in range(0, len(order), self._batch * _BATCHES_SORTED):
            some = order[at : at + self._batch * _BATCHES_SORTED]
            some = some[np.argsort(self._lengths[some], kind="stable")]
            batches += [some[i : i + self._batch] for i in range(0, len(some), self._batch)]
        if batches and len(batches[-1]) < self._batch:
            last = batches.pop()  # a short batch in between would shift all behind it
        for number in draw.permutation(len(batches)):
            yield from batches[number].tolist()
        if last is not None:
            yield from last.tolist()
