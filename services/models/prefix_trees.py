"""Log-likelihoods of token sequences under a causal model, with shared beginnings computed only once.

Invariant: each token gets the logits that it would get if its sequence went through the model alone.

Sequences that begin alike are branches of one tree. A tree goes through the model as one row of tokens. A token (a node
of the tree) has the position that it has in its sequences, and attends only to the nodes between it and the root. So no
shared beginning is computed twice, there is hardly any padding, and the output layer computes logits only for the nodes
whose next token is scored. `supports_prefix_trees` tests whether a model keeps the invariant.

The sequences `A B C x` and `A B D E y` are one row of five nodes; `x` and `y` are only scored, as all last tokens are:

    node      A   B   C    D    E
    position  0   1   2    2    3
    sees      A   AB  ABC  ABD  ABDE
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Nodes of one row. The cost of attention grows with the square of this number; in shorter rows fewer sequences share
# their beginning. A row of longer sequences has room for twice the longest one: else the options of a long question
# would share none of it.
_MAX_ROW_NODES = 128
# Rows of one pass: few enough logits for a CPU's caches and memory, and enough work to keep a GPU busy.
_ROWS_PER_PASS = {"cpu": 8, "cuda": 64}
# Positions whose logits are held in single precision at a time.
_POSITIONS_PER_STEP = 64

_support: "WeakKeyDictionary[torch.nn.Module, bool]" = WeakKeyDictionary()


class _Tree:
    """Sequences of one row, added in sorted order.

    In that order the longest beginning that a sequence shares with any earlier one is the one that it shares with the
    sequence just before it. So only that one is compared.

    Attributes:
        tokens: token of each node.
        positions: position of each node; 0 for the root.
        sees: all pairs (node, node that it attends to).
        scored: for each scored token (node before it, token, number of its sequence).
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.sees: list[tuple[int, int]] = []
        self.scored: list[tuple[int, int, int]] = []
        self._last_inputs: list[int] = []
        self._last_branch: list[int] = []

    def has_room(self, inputs: Sequence[int]) -> bool:
        """Returns whether a sequence fits in; an empty tree takes a sequence of any length."""
        new_nodes = len(inputs) - common_prefix_length(self._last_inputs, inputs)
        return not self.tokens or len(self.tokens) + new_nodes <= max(_MAX_ROW_NODES, 2 * len(inputs))

    def add(self, number: int, ids: Sequence[int], start: int) -> None:
        """Adds a sequence.

        Args:
            number: number of the sequence.
            ids: its token ids.
            start: first token that is scored.
        """
        inputs = list(ids[:-1])  # the last token is only scored, and never an input
        branch = self._last_branch[: common_prefix_length(self._last_inputs, inputs)]
        for token in inputs[len(branch) :]:
            node = len(self.tokens)
            branch.append(node)
            self.tokens.append(token)
            self.positions.append(len(branch) - 1)
            self.sees.extend((node, seen) for seen in branch)
        self.scored.extend((branch[position - 1], ids[position], number) for position in range(start, len(ids)))
        self._last_inputs, self._last_branch = inputs, branch


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens that two sequences share at their beginning."""
    for number, (token, other) in enumerate(zip(first, second, strict=False)):
        if token != other:
            return number
    return min(len(first), len(second))


@torch.inference_mode()
def continuation_log_likelihoods(
    model: "PreTrainedModel", sequences: Sequence[list[int]], starts: Sequence[int]
) -> np.ndarray:
    """Computes the log-likelihood of the end of each sequence, given its beginning.

    Args:
        model: a model that `supports_prefix_trees`, in evaluation mode; the softmax is in single precision.
        sequences: token ids of each sequence.
        starts: for each sequence the first token of the end, at least 1. If it is the sequence's length, the end is
            empty, and its log-likelihood 0.

    Returns:
        Log-likelihoods in nats, float64 of shape (sequences,).
    """
    device, sums = next(model.parameters()).device, np.zeros(len(sequences))
    trees, rows = _build_trees(sequences, starts), _ROWS_PER_PASS.get(device.type, _ROWS_PER_PASS["cuda"])
    while pass_trees := list(islice(trees, rows)):
        width = max(len(tree.tokens) for tree in pass_trees)
        # Nodes are counted through all rows of the pass: row x width + node. Shape (scored tokens, 3).
        scored = np.array([(row * width + node, token, number) for row, tree in enumerate(pass_trees)
                           for node, token, number in tree.scored])  # fmt: skip
        # Several tokens may be scored after one node: its logits are computed once.
        nodes, node_index = np.unique(scored[:, 0], return_inverse=True)
        logits = _logits(model, pass_trees, width, torch.from_numpy(nodes).to(device))
        tokens = torch.from_numpy(scored[:, 1]).to(device)
        np.add.at(sums, scored[:, 2], _log_probabilities(logits, torch.from_numpy(node_index).to(device), tokens))
    return sums


def _build_trees(sequences: Sequence[list[int]], starts: Sequence[int]) -> Iterator[_Tree]:
    """Groups the sequences that have scored tokens into trees."""
    tree = _Tree()
    scored = [number for number, start in enumerate(starts) if start < len(sequences[number])]
    for number in sorted(scored, key=lambda number: sequences[number]):
        if not tree.has_room(sequences[number][:-1]):
            yield tree
            tree = _Tree()
        tree.add(number, sequences[number], starts[number])
    if tree.tokens:
        yield tree


def _logits(model: "PreTrainedModel", trees: Sequence[_Tree], width: int, nodes: torch.Tensor) -> torch.Tensor:
    """Computes the logits at some nodes.

    Args:
        trees: one tree for each row.
        width: nodes of a row, padding included.
        nodes: numbers of the nodes, counted through all rows.

    Returns:
        Logits of shape (nodes, vocabulary).
    """
    ids, positions = np.zeros((2, len(trees), width), dtype=np.int64)
    sees = np.zeros((len(trees), 1, width, width), dtype=bool)
    # Padding sees itself: for a node that sees nothing the softmax of attention is undefined.
    sees[..., np.arange(width), np.arange(width)] = True
    for row, tree in enumerate(trees):
        ids[row, : len(tree.tokens)] = tree.tokens
        positions[row, : len(tree.tokens)] = tree.positions
        sees[row, 0][tuple(np.array(tree.sees).T)] = True
    # Attention adds this mask to its scores: 0 where a node sees, the lowest number elsewhere.
    mask = torch.zeros(sees.shape, dtype=model.dtype)
    mask.masked_fill_(torch.from_numpy(~sees), torch.finfo(model.dtype).min)
    with _output_layer_only_at(model, nodes):
        return model(
            input_ids=torch.from_numpy(ids).to(nodes.device), position_ids=torch.from_numpy(positions).to(nodes.device),
            attention_mask=mask.to(nodes.device), use_cache=False,
        ).logits[0]  # fmt: skip


@contextmanager
def _output_layer_only_at(model: "PreTrainedModel", nodes: torch.Tensor) -> Iterator[None]:
    """Passes only some positions to the output layer inside the block.

    The hook joins all rows of hidden states, picks the nodes, and gives them to the layer as one row. Logits of all
    nodes would take most of the time and of the memory.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: inputs[0].flatten(0, 1)[nodes].unsqueeze(0)
    )
    try:
        yield
    finally:
        hook.remove()


def _log_probabilities(logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    """Log-probability of each token at its row of the logits, float64 of shape (tokens,)."""
    # In parts: a copy of all logits in single precision would take twice the memory of logits in 16 bits.
    parts = [part.float().logsumexp(1) for part in logits.split(_POSITIONS_PER_STEP)]
    return (logits[rows, tokens].float() - torch.cat(parts)[rows]).double().cpu().numpy()


def supports_prefix_trees(model: "PreTrainedModel") -> bool:
    """Returns whether a model computes each branch of a tree as if the other branches did not exist.

    Models with attention do so through the mask and the positions that they receive. Recurrent models do not, nor do
    models that take positions from the order of the tokens (ALiBi), nor some attention kernels. The test runs once for
    each model.
    """
    if model not in _support:
        _support[model] = _test_support(model)
    return _support[model]


@torch.inference_mode()
def _test_support(model: "PreTrainedModel") -> bool:
    """Compares the second branch of a small tree with the same sequence alone."""
    vocabulary_size = model.get_input_embeddings().num_embeddings
    first, second = ([number % vocabulary_size for number in numbers] for numbers in ((1, 2, 3, 4, 5), (1, 6, 7, 8, 9)))
    tree = _Tree()
    for ids in (first, second):
        tree.add(0, ids, 1)
    second_branch = torch.arange(-3, 0, device=model.device) % len(tree.tokens)
    try:
        in_tree = _logits(model, [tree], len(tree.tokens), second_branch)
    except Exception:  # models refuse the mask or the positions with errors of any class
        return False
    # `alone`: the right logits. `behind`: the logits if the second branch saw the first one, as in a plain sequence.
    alone, behind = (
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -3:].float()
        for ids in (second[:-1], first[:-1] + second[1:-1])
    )
    # A branch that sees the other one differs from `alone` about as much as `behind` does; rounding differs far less.
    return bool((in_tree.float() - alone).abs().mean() < (behind - alone).abs().mean() / 4)
