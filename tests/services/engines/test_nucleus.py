"""The nucleus that top_p leaves, compared with its definition, one token after the other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engines.nucleus import keep_nucleus

INFINITY = float("inf")


def kept_tokens(logits, top_p):
    kept = keep_nucleus(torch.tensor(logits, dtype=torch.float32), torch.tensor(top_p, dtype=torch.float32))
    return [[token for token, logit in enumerate(row) if logit != -INFINITY] for row in kept.tolist()]


def nucleus_by_definition(logits, top_p):
    total = sum(map(math.exp, logits))
    tokens, mass = [], 0.0
    for token in sorted(range(len(logits)), key=lambda each: -logits[each]):
        if mass >= top_p:
            break
        tokens.append(token)
        mass += math.exp(logits[token]) / total
    return sorted(tokens)


def test_as_few_tokens_as_reach_top_p():
    probabilities = [0.5, 0.3, 0.15, 0.05]
    logits = [list(map(math.log, probabilities))] * 5
    assert kept_tokens(logits, [0.4, 0.6, 0.9, 0.97, 1.0]) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_what_is_kept_keeps_its_logit_and_the_input_stays():
    logits = torch.tensor([[2.0, -1.0, 0.0]])
    kept = keep_nucleus(logits, torch.tensor([0.9]))
    assert kept.tolist() == [[2.0, -INFINITY, 0.0]]
    assert logits.tolist() == [[2.0, -1.0, 0.0]]


def test_tokens_that_top_k_ruled_out_stay_out():
    assert kept_tokens([[1.0, -INFINITY, 1.0]], [0.99]) == [[0, 2]]


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 4.0])
def test_flat_and_steep_distributions_over_a_whole_vocabulary(spread):
    # Flat ones have nuclei of thousands of tokens, beyond every selection.
    logits = torch.randn(6, 9000, generator=torch.Generator().manual_seed(0)) * spread
    top_p = [0.1, 0.5, 0.9, 0.95, 0.999, 1.0]
    for found, row, p in zip(kept_tokens(logits.tolist(), top_p), logits.tolist(), top_p, strict=True):
        wanted = nucleus_by_definition(row, p) if p < 1 else range(9000)
        # Rounding of a sum of thousands of float32 may move the border.
        assert abs(len(found) - len(wanted)) <= 0.001 * len(wanted) + 1
        assert min(row[token] for token in found) >= max(
            (row[token] for token in set(range(9000)) - set(found)), default=-INFINITY
        )


@settings(deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=12), st.integers(1, 100))
def test_the_nucleus_is_that_of_the_definition(steps, hundredths):
    # Ties are everywhere here: which of them are kept is open, how many is not.
    logits = [step / 2 for step in steps]
    top_p = hundredths / 100
    (found,) = kept_tokens([logits], [top_p])
    wanted = nucleus_by_definition(logits, top_p) if top_p < 1 else range(len(logits))
    mass = [math.exp(logit) for logit in logits]
    reached = [sum(sorted(mass, reverse=True)[:number]) / sum(mass) for number in range(1, len(mass) + 1)]
    on_the_border = any(abs(each - top_p) < 1e-5 for each in reached)
    assert on_the_border or len(found) == len(wanted)
    assert on_the_border or sorted(logits[token] for token in found) == sorted(logits[token] for token in wanted)
