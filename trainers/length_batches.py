"""Order of training examples: batches of similar lengths, so that little of a batch is padding."""

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

# Number of batches that are sorted by length together. More of them mean less padding; fewer of them mean that an
# example meets other examples in each epoch.
_BATCHES_SORTED = 50


class LengthGroupedSampler(Sampler[int]):
    """Yields example numbers so that each batch holds examples of similar lengths, in a new random order each epoch.

    Unlike the class of this name in transformers, the order depends on the seed and the epoch alone: a training that is
    resumed within an epoch sees the rest of the same order.

    Args:
        lengths: tokens of each example, shape (examples,).
        batch_size: number of examples in a batch.
        seed: seed of the order.
        epoch: callable that gives the number of the epoch that begins.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self._seed, self._epoch()])
        order = draw.permutation(len(self._lengths))
        batches, last_batch = [], None
        chunk_size = self._batch_size * _BATCHES_SORTED
        for start in range(0, len(order), chunk_size):
            chunk = order[start : start + chunk_size]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            batches += [chunk[i : i + self._batch_size] for i in range(0, len(chunk), self._batch_size)]
        # The data loader cuts this order into batches by counting, so a short batch in the middle would shift all
        # batches after it: it comes last.
        if batches and len(batches[-1]) < self._batch_size:
            last_batch = batches.pop()
        for number in draw.permutation(len(batches)):
            yield from batches[number].tolist()
        if last_batch is not None:
            yield from last_batch.tolist()
