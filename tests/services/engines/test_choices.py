import math

import pytest

from schemas.rows import RowError
from services.engines.choices import choice_probabilities, choice_tokens

# ` no` and `no` are the same token.
IDS = {"yes": 1, " yes": 2, "Yes": 3, " Yes": 4, "no": 5, " no": 5, "No": 6, " No": 7, "A": 8, " A": 9}


class Tokenizer:
    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return [IDS[text], 99]


def test_a_choice_is_each_token_by_which_its_answer_may_begin():
    tokens = choice_tokens(Tokenizer(), ["yes", "no"])
    assert tokens == [{1, 2, 3, 4}, {5, 6, 7}]
    logprobs = {1: math.log(0.1), 3: math.log(0.2), 5: math.log(0.1), 99: math.log(0.6)}
    assert choice_probabilities(["yes", "no"], tokens, logprobs) == pytest.approx((0.75, 0.25))


def test_a_judge_that_would_answer_something_else_is_an_error_of_its_row():
    with pytest.raises(RowError, match=r"gives the answers yes, no together a probability of 0\.5%"):
        choice_probabilities(["yes", "no"], [{1}, {5}], {1: math.log(0.002), 5: math.log(0.003)})


def test_choices_that_begin_alike_are_refused():
    with pytest.raises(ValueError, match="two begin with the same token"):
        choice_tokens(Tokenizer(), ["A", "A"])
