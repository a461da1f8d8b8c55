"""BLiMP (Warstadt et al. 2020): 67 paradigms of minimal pairs, in 12 phenomena and four fields of linguistics.

A pair counts as lm-evaluation-harness counts it for `acc` of its BLiMP tasks: right where the good sentence is at least
as likely as the bad one. A tie is right there, since the good one comes first; how many there were is told.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from eval.intervals import Difference, Rate, paired_difference, rate_of

OVERALL = "overall"

# By phenomenon, in the order of the paper's tables; of each field the paradigms. BLiMP's data call the two animate_
# paradigms `s-selection`; its authors count them to argument structure, and so does a table of 12 rows.
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
    """Where a paradigm belongs."""

    phenomenon: str
    field: str


PARADIGMS: dict[str, Paradigm] = {
    name: Paradigm(phenomenon, field)
    for phenomenon, fields in _PARADIGMS.items()
    for field, names in fields.items()
    for name in names.split()
}
"""all 67, phenomenon by phenomenon"""


@dataclass(frozen=True)
class BlimpRates:
    """The share of pairs that are right. A phenomenon or field without a pair has no entry.

    Attributes:
        by_phenomenon, by_field: over all pairs of their paradigms; a paradigm that is not BLiMP's is in none.
        ties: pairs whose sentences are equally likely.
    """

    overall: Rate
    by_field: dict[str, Rate]
    by_phenomenon: dict[str, Rate]
    by_paradigm: dict[str, Rate]
    ties: int


def correct_pairs(margins: np.ndarray) -> np.ndarray:
    """Whether each pair counts as right: its margin (`services.models.minimal_pairs.margins`) is not below 0."""
    return margins >= 0


def blimp_rates(margins: Mapping[str, np.ndarray]) -> BlimpRates:
    """Rates of a model.

    Args:
        margins: by paradigm, of each pair.

    Raises:
        ValueError: there are no pairs.
    """
    names = {kind: {part: rate_of(int(each.sum()), len(each)) for part, each in parts.items()}
             for kind, parts in _parts(margins).items()}  # fmt: skip
    ties = sum(int((each == 0).sum()) for each in margins.values())
    return BlimpRates(names[OVERALL][OVERALL], names["field"], names["phenomenon"], names["paradigm"], ties)


def compare_blimp(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], seed: int
) -> dict[str, dict[str, Difference]]:
    """How much more often the second model is right, on the same pairs: by phenomenon, field, paradigm and overall.

    Raises:
        ValueError: they have not the same paradigms of the same sizes, or no pairs.
    """
    one, two = _parts(first), _parts(second)
    return {
        kind: {part: paired_difference(each, two[kind][part], seed) for part, each in parts.items()}
        for kind, parts in one.items()
    }


def _parts(margins: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Whether pairs are right: by the kind of a part, then by part."""
    found = {name: correct_pairs(each) for name, each in margins.items()}
    if not found:
        raise ValueError("no pairs")
    places = {name: PARADIGMS[name] for name in PARADIGMS if name in found}
    return {
        OVERALL: {OVERALL: np.concatenate(list(found.values()))},
        "phenomenon": dict(_joined(found, {name: place.phenomenon for name, place in places.items()})),
        "field": dict(_joined(found, {name: place.field for name, place in places.items()})),
        "paradigm": {name: found[name] for name in [*places, *(name for name in found if name not in places)]},
    }


def _joined(found: Mapping[str, np.ndarray], part_of: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    for part in dict.fromkeys(part_of.values()):
        yield part, np.concatenate([found[name] for name, its in part_of.items() if its == part])
