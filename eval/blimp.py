"""Accuracy on BLiMP (Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English", TACL 8).

BLiMP has 67 paradigms of minimal pairs, in 12 phenomena and four fields of linguistics. A minimal pair is a good
sentence and a bad one that differ in one point of grammar.

Method: a pair is correct where the model gives the good sentence at least the log-likelihood of the bad one, summed
over tokens. This is `acc` of lm-evaluation-harness's BLiMP tasks: there argmax over (good, bad) makes a tie correct,
since the good sentence comes first. The number of ties is part of the result, and so is the rate that counts a tie as
one half, as EWoK's authors do: a model that finds all sentences equally likely has 1.0 by the rule, and 0.5 by this.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.intervals import Difference, Rate, paired_difference, rate_of

OVERALL = "overall"

# Phenomenon -> field -> paradigms, phenomena in the order of the tables of the paper that is reproduced. BLiMP's data
# files call the phenomenon of the two animate_ paradigms `s-selection`; its authors' table of 12 rows counts them to
# argument structure.
_PARADIGMS: dict[str, dict[str, str]] = {
    "anaphor agreement": {"morphology": "anaphor_gender_agreement anaphor_number_agreement"},
    "argument structure": {
        "syntax": """animate_subject_passive animate_subject_trans causative drop_argument inchoative intransitive
            passive_1 passive_2 transitive"""
    },
    "binding": {
        "syntax/semantics": """principle_A_c_command principle_A_case_1 principle_A_case_2 principle_A_domain_1
            principle_A_domain_2 principle_A_domain_3 principle_A_reconstruction"""
    },
    "control/raising": {
        "syntax/semantics": """existential_there_object_raising existential_there_subject_raising
            expletive_it_object_raising tough_vs_raising_1 tough_vs_raising_2"""
    },
    "determiner-noun agreement": {
        "morphology": """determiner_noun_agreement_1 determiner_noun_agreement_2 determiner_noun_agreement_irregular_1
            determiner_noun_agreement_irregular_2 determiner_noun_agreement_with_adj_2
            determiner_noun_agreement_with_adj_irregular_1 determiner_noun_agreement_with_adj_irregular_2
            determiner_noun_agreement_with_adjective_1"""
    },
    "ellipsis": {"syntax": "ellipsis_n_bar_1 ellipsis_n_bar_2"},
    "filler-gap": {
        "syntax": """wh_questions_object_gap wh_questions_subject_gap wh_questions_subject_gap_long_distance
            wh_vs_that_no_gap wh_vs_that_no_gap_long_distance wh_vs_that_with_gap wh_vs_that_with_gap_long_distance"""
    },
    "irregular forms": {"morphology": "irregular_past_participle_adjectives irregular_past_participle_verbs"},
    "island effects": {
        "syntax": """adjunct_island complex_NP_island coordinate_structure_constraint_complex_left_branch
            coordinate_structure_constraint_object_extraction left_branch_island_echo_question
            left_branch_island_simple_question sentential_subject_island wh_island"""
    },
    "NPI licensing": {
        "semantics": """matrix_question_npi_licensor_present npi_present_1 npi_present_2 only_npi_licensor_present
            sentential_negation_npi_licensor_present""",
        "syntax/semantics": "only_npi_scope sentential_negation_npi_scope",
    },
    "quantifiers": {
        "semantics": """existential_there_quantifiers_1 existential_there_quantifiers_2 superlative_quantifiers_1
            superlative_quantifiers_2"""
    },
    "subject-verb agreement": {
        "morphology": """distractor_agreement_relational_noun distractor_agreement_relative_clause
            irregular_plural_subject_verb_agreement_1 irregular_plural_subject_verb_agreement_2
            regular_plural_subject_verb_agreement_1 regular_plural_subject_verb_agreement_2"""
    },
}


@dataclass(frozen=True)
class Paradigm:
    """Phenomenon and field of linguistics that a paradigm belongs to."""

    phenomenon: str
    field: str


PARADIGMS: dict[str, Paradigm] = {
    name: Paradigm(phenomenon, field)
    for phenomenon, fields in _PARADIGMS.items()
    for field, names in fields.items()
    for name in names.split()
}
"""all 67 paradigms by name, phenomenon by phenomenon"""


@dataclass(frozen=True)
class BlimpRates:
    """Share of correct pairs. A phenomenon or field without a pair has no entry.

    Attributes:
        overall: rate over all pairs.
        by_field, by_phenomenon: rates over all pairs of their paradigms. A paradigm that BLiMP does not have belongs to
            none of them.
        by_paradigm: rates by paradigm.
        ties: number of pairs whose sentences are equally likely.
        ties_as_half: share of correct pairs of all, where a tie counts as one half.
    """

    overall: Rate
    by_field: dict[str, Rate]
    by_phenomenon: dict[str, Rate]
    by_paradigm: dict[str, Rate]
    ties: int
    ties_as_half: float


def correct_pairs(margins: np.ndarray) -> np.ndarray:
    """Returns whether each pair counts as correct, as booleans of shape (pairs,).

    Args:
        margins: log-likelihood of the good sentence less that of the bad one, shape (pairs,), as
            `services.models.minimal_pairs.margins` gives it.

    Raises:
        ValueError: a margin is not a number.
    """
    if np.isnan(margins).any():
        raise ValueError("a margin is not a number")
    return margins >= 0


def blimp_rates(margins: Mapping[str, np.ndarray]) -> BlimpRates:
    """Computes the rates of one model.

    Args:
        margins: margins of the pairs by paradigm (see `correct_pairs`).

    Raises:
        ValueError: there are no pairs, or a margin is not a number.
    """
    rates = {
        kind: {part: rate_of(int(correct.sum()), len(correct)) for part, correct in parts.items()}
        for kind, parts in correct_by_part(margins).items()
    }
    ties = sum(int((values == 0).sum()) for values in margins.values())
    overall = rates[OVERALL][OVERALL]
    ties_as_half = overall.rate - ties / (2 * overall.n)
    return BlimpRates(overall, rates["field"], rates["phenomenon"], rates["paradigm"], ties, ties_as_half)


def compare_blimp(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], seed: int
) -> dict[str, dict[str, Difference]]:
    """Compares two models on the same pairs.

    Args:
        first, second: margins of the pairs of each model by paradigm (see `correct_pairs`), in the same order.
        seed: seed of the bootstrap.

    Returns:
        Accuracy of the second model less that of the first: by kind of part ("overall", "phenomenon", "field",
        "paradigm"), then by part.

    Raises:
        ValueError: the models do not have the same paradigms with the same numbers of pairs, there are no pairs, or a
            margin is not a number.
    """
    one, two = correct_by_part(first), correct_by_part(second)
    return {
        kind: {part: paired_difference(correct, two[kind][part], seed) for part, correct in parts.items()}
        for kind, parts in one.items()
    }


def correct_by_part(margins: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns whether pairs are correct: by kind of part (overall, phenomenon, field, paradigm), then by part.

    Raises:
        ValueError: there are no pairs, or a margin is not a number.
    """
    correct = {name: correct_pairs(values) for name, values in margins.items()}
    if not correct:
        raise ValueError("no pairs")
    # BLiMP's order, and paradigms of other data after its own.
    known = {name: PARADIGMS[name] for name in PARADIGMS if name in correct}
    return {
        OVERALL: {OVERALL: np.concatenate(list(correct.values()))},
        "phenomenon": _join(correct, {name: paradigm.phenomenon for name, paradigm in known.items()}),
        "field": _join(correct, {name: paradigm.field for name, paradigm in known.items()}),
        "paradigm": {name: correct[name] for name in [*known, *(name for name in correct if name not in known)]},
    }


def _join(correct: Mapping[str, np.ndarray], part_of: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Joins the pairs of all paradigms of a part, by part."""
    return {
        part: np.concatenate([correct[name] for name, its_part in part_of.items() if its_part == part])
        for part in dict.fromkeys(part_of.values())
    }
