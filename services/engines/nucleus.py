"""Top-p (nucleus) sampling without sorting the vocabulary.

vLLM's CPU engine sorts all logits of all requests for it. With a vocabulary of 49,152 tokens and 64 requests, that
takes more than half of a whole step of a model with 135 million parameters (docs/performance.md). Yet a nucleus rarely
has more than a few hundred tokens.
"""

import torch

# How many of the most likely tokens are selected before the whole vocabulary is. The first number is enough in most
# steps of most requests, the second in nearly all. A larger selection costs more.
_SELECTION_SIZES = (128, 2048)


def keep_nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Sets all logits outside the nucleus to -inf.

    The nucleus of a request is the smallest set of its most likely tokens whose probabilities sum to at least `top_p`
    (Holtzman et al., 2020, arXiv:1904.09751). Where several equally likely tokens could be its last, any of them may
    be, as it is with sorting.

    Args:
        logits: shape (requests, vocabulary), float32, after the temperature.
        top_p: shape (requests,), above 0; 1 keeps every token.

    Returns:
        A new tensor, shape (requests, vocabulary).
    """
    kept = torch.full_like(logits, -torch.inf)
    keeps_all = top_p >= 1
    kept[keeps_all] = logits[keeps_all]
    probabilities = logits.softmax(dim=-1)
    undone = (~keeps_all).nonzero().squeeze(1)
    for size in (*_SELECTION_SIZES, logits.shape[1]):
        if not len(undone):
            break
        size = min(size, logits.shape[1])
        likeliest = probabilities[undone].topk(size, dim=-1)
        before = likeliest.values.cumsum(dim=-1) - likeliest.values  # probability of all tokens that are more likely
        inside = before < top_p[undone].unsqueeze(1)
        # Where the last selected token is still inside the nucleus, the nucleus may have more tokens.
        complete = ~inside[:, -1] | (size == logits.shape[1])
        rows, places = (inside & complete.unsqueeze(1)).nonzero(as_tuple=True)
        requests, tokens = undone[rows], likeliest.indices[rows, places]
        kept[requests, tokens] = logits[requests, tokens]
        undone = undone[~complete]
    return kept
