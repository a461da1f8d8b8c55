"""Which tokens `top_p` leaves, found without sorting the vocabulary.

vLLM's CPU engine sorts all logits of all requests for it. At a vocabulary of 49,152 and 64 requests that takes longer
than half of a whole step of a model with 135 million parameters (docs/performance.md), though a nucleus rarely holds
more than a few hundred tokens.
"""

import torch

# How many of the most likely tokens are looked at before the whole vocabulary is: the first number is enough for most
# steps of most requests, the second for nearly all, and what selecting costs grows with the number.
_SELECTED = (128, 2048)


def keep_nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Sets all logits but the nucleus's to -inf.

    The nucleus of a request is its most likely tokens, as few of them as together reach a probability of `top_p`
    (Holtzman et al., 2020, arXiv:1904.09751). Which of several equally likely tokens are its last is left open, as it
    is by sorting.

    Args:
        logits: (requests, vocabulary), float32, temperature applied.
        top_p: (requests,), above 0; 1 keeps every token.

    Returns:
        (requests, vocabulary), a new tensor.
    """
    kept = torch.full_like(logits, -torch.inf)
    whole = top_p >= 1
    kept[whole] = logits[whole]
    probabilities = logits.softmax(dim=-1)
    undone = (~whole).nonzero().squeeze(1)
    for number in (*_SELECTED, logits.shape[1]):
        if not len(undone):
            break
        number = min(number, logits.shape[1])
        likeliest = probabilities[undone].topk(number, dim=-1)
        before = likeliest.values.cumsum(dim=-1) - likeliest.values
        inside = before < top_p[undone].unsqueeze(1)
        # Where the last one looked at is inside, there may be more.
        complete = ~inside[:, -1] | (number == logits.shape[1])
        rows, places = (inside & complete.unsqueeze(1)).nonzero(as_tuple=True)
        requests, tokens = undone[rows], likeliest.indices[rows, places]
        kept[requests, tokens] = logits[requests, tokens]
        undone = undone[~complete]
    return kept
