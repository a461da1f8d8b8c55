"""How likely a causal model finds token sequences, with whatever begins alike computed once.

Sequences that begin alike are branches of one tree. A tree goes through the model as one row: each node has the
position that it has in its sequences, and sees what lies between it and the root. So nothing is computed twice, hardly
anything is padding, and the output layer computes only where the next token is asked for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np
import torch

# Attention within a row grows with the square of its nodes, and less begins alike in shorter rows.
_NODES_OF_ROW = 128
# Of a pass: as many logits as a CPU's caches and memory take well, and enough to keep a GPU busy.
_ROWS_AT_ONCE = {"cpu": 8, "cuda": 64}
# Positions whose logits are in single precision at a time.
_POSITIONS_AT_ONCE = 64

_following: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


class _Tree:
    """The sequences of one row. They come in sorted order: what one shares with any before it, it shares with the last.

    Attributes:
        tokens: of each node.
        positions: of each node, the root's being 0.
        sees: (node, node that it sees) of all.
        asked: (node, token that may come next, sequence that asks) of all.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.sees: list[tuple[int, int]] = []
        self.asked: list[tuple[int, int, int]] = []
        self._last: list[int] = []
        self._branch: list[int] = []

    def takes(self, inputs: Sequence[int]) -> bool:
        """Whether there is room for a sequence."""
        new = len(inputs) - common_beginning(self._last, inputs)
        return not self.tokens or len(self.tokens) + new <= _NODES_OF_ROW

    def add(self, number: int, ids: Sequence[int], start: int) -> None:
        """Adds a sequence, whose tokens from `start` on are asked for."""
        inputs = list(ids[:-1])  # nothing is asked for behind the last token
        branch = self._branch[: common_beginning(self._last, inputs)]
        for token in inputs[len(branch) :]:
            node = len(self.tokens)
            branch.append(node)
            self.tokens.append(token)
            self.positions.append(len(branch) - 1)
            self.sees.extend((node, seen) for seen in branch)
        self.asked.extend((branch[at - 1], ids[at], number) for at in range(start, len(ids)))
        self._last, self._branch = inputs, branch


def common_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    for number, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its:
            return number
    return min(len(one), len(other))


@torch.inference_mode()
def log_likelihoods_from(
    model: torch.nn.Module, sequences: Sequence[Sequence[int]], starts: Sequence[int]
) -> np.ndarray:
    """The log-likelihood of the end of each sequence, given its beginning; in nats, float64, of shape (sequences,).

    Args:
        model: one that `follows_trees`, in evaluation mode; the softmax is in single precision.
        sequences: token ids of each.
        starts: of each, the first token that counts; at least 1. Where it is the length, nothing counts: 0.
    """
    device, found = next(model.parameters()).device, np.zeros(len(sequences))
    left, rows = _trees(sequences, starts), _ROWS_AT_ONCE.get(device.type, _ROWS_AT_ONCE["cuda"])
    while trees := list(islice(left, rows)):
        width = max(len(tree.tokens) for tree in trees)
        asked = np.array([(row * width + node, token, number) for row, tree in enumerate(trees)
                          for node, token, number in tree.asked])  # fmt: skip
        nodes, at = np.unique(asked[:, 0], return_inverse=True)
        logits = _logits(model, trees, width, torch.from_numpy(nodes).to(device))
        each = _log_probabilities(logits, torch.from_numpy(at).to(device), torch.from_numpy(asked[:, 1]).to(device))
        np.add.at(found, asked[:, 2], each)
    return found


def _trees(sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> Iterator[_Tree]:
    tree = _Tree()
    asked = [number for number, start in enumerate(starts) if start < len(sequences[number])]
    for number in sorted(asked, key=sequences.__getitem__):
        if not tree.takes(sequences[number][:-1]):
            yield tree
            tree = _Tree()
        tree.add(number, sequences[number], starts[number])
    if tree.tokens:
        yield tree


def _logits(model: torch.nn.Module, trees: Sequence[_Tree], width: int, nodes: torch.Tensor) -> torch.Tensor:
    """Logits at some nodes, counted through all rows; of shape (nodes, vocabulary)."""
    ids, positions = np.zeros((2, len(trees), width), dtype=np.int64)
    seen = np.zeros((len(trees), 1, width, width), dtype=bool)
    seen[..., np.arange(width), np.arange(width)] = True  # padding sees itself: a row of nothing has no softmax
    for row, tree in enumerate(trees):
        ids[row, : len(tree.tokens)] = tree.tokens
        positions[row, : len(tree.tokens)] = tree.positions
        seen[row, 0][tuple(np.array(tree.sees).T)] = True
    mask = torch.zeros(seen.shape, dtype=model.dtype)
    mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(model.dtype).min)
    with _head_only_at(model, nodes):
        return model(
            input_ids=torch.from_numpy(ids).to(nodes.device), position_ids=torch.from_numpy(positions).to(nodes.device),
            attention_mask=mask.to(nodes.device), use_cache=False,
        ).logits[0]  # fmt: skip


@contextmanager
def _head_only_at(model: torch.nn.Module, nodes: torch.Tensor) -> Iterator[None]:
    """Inside the block the output layer gets some positions alone, those of all rows one after the other."""
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: inputs[0].flatten(0, 1)[nodes].unsqueeze(0)
    )
    try:
        yield
    finally:
        hook.remove()


def _log_probabilities(logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    parts = [part.float().logsumexp(1) for part in logits.split(_POSITIONS_AT_ONCE)]
    return (logits[rows, tokens].float() - torch.cat(parts)[rows]).double().cpu().numpy()


def follows_trees(model: torch.nn.Module) -> bool:
    """Whether a model computes each branch of a tree as if the others were not there.

    Models with attention do that by the mask and the positions that they are given. Recurrent ones do not, nor those
    that take positions from the order of the tokens (ALiBi), nor some kernels of attention. A model is asked once.
    """
    if model not in _following:
        _following[model] = _tried(model)
    return _following[model]


@torch.inference_mode()
def _tried(model: torch.nn.Module) -> bool:
    many = model.get_input_embeddings().num_embeddings
    one, other = ([number % many for number in numbers] for numbers in ((1, 2, 3, 4, 5), (1, 6, 7, 8, 9)))
    tree = _Tree()
    for ids in (one, other):
        tree.add(0, ids, 1)
    try:
        found = _logits(model, [tree], len(tree.tokens), torch.arange(-3, 0, device=model.device) % len(tree.tokens))
    except Exception:  # of whatever class: it is not asked in what way a model cannot
        return False
    alone, behind = (
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -3:].float()
        for ids in (other[:-1], one[:-1] + other[1:-1])
    )
    # Other branches seen would make the one difference as large as the other.
    return bool((found.float() - alone).abs().mean() < (behind - alone).abs().mean() / 4)
