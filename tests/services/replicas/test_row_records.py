"""Records of finished rows: the rules that all recipes share."""

from datetime import UTC, datetime

import pytest

from pipelines.recipes.messages import Messages
from schemas.rows import ACCEPTED, REJECTED, Prompt, WorkRow
from services.engines.engine import Generation
from services.replicas.row_records import VariantSettings, finished_record

ROW = WorkRow(0, 0, "in.jsonl", 0, 0, {})


def finished(text, finish_reason="stop", **settings):
    generation = Generation(text, finish_reason, 3, 0, 5, datetime.now(UTC), 0.1)
    record = finished_record(ROW, VariantSettings(Messages(), {}, 0, "m", **settings), 1, Prompt([], {}), generation)
    return record["state"], record["reason"], record["text"]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u2003\n"])
def test_a_text_of_blanks_is_rejected_whatever_the_recipe(text):
    assert finished(text) == (REJECTED, "empty_text", text)


def test_a_text_that_was_cut_off_is_accepted_unless_the_job_rejects_it():
    assert finished("Once upon a", "length") == (ACCEPTED, "", "Once upon a")
    assert finished("Once upon a", "length", reject_truncated=True) == (REJECTED, "cut_off", "Once upon a")
    assert finished("The end.", "stop", reject_truncated=True) == (ACCEPTED, "", "The end.")


def test_a_text_that_ended_in_a_loop_is_rejected_by_name():
    assert finished("so so so", "repetition") == (REJECTED, "repetition_detected", "so so so")


def test_a_check_of_the_job_rejects_the_text_that_the_recipe_keeps():
    def check(text, prompt):
        return "too_long" if len(text) > 3 else ""

    assert finished("long", check=check) == (REJECTED, "too_long", "long")
    assert finished("ok", check=check) == (ACCEPTED, "", "ok")
    assert finished(" ", check=check) == (REJECTED, "empty_text", " ")
