import asyncio
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import augment, verify
from pipelines.augmentation.plan import facts_of
from pipelines.jobfile import as_job
from pipelines.quality_control.scored_checks import BatchScorer, EmotionCheck, MeaningCheck, scored_checks
from schemas.errors import EngineError
from schemas.quality import ExpressedEmotion, Meaning, Quality
from schemas.rows import RowError
from tests.pipelines.quality_control.test_row_program import run_row

HAPPY, SAD = (
    "I am so happy today, what a wonderful morning! We laughed all day.",
    "She cried alone. He is dead, and all is lost.",
)


def scores_of(check, *items):
    async def run():
        scorer = BatchScorer(check)
        return await asyncio.gather(*(scorer.score(item) for item in items))

    return asyncio.run(run())


def test_a_text_has_a_margin_by_the_emotion_asked_for_or_its_group():
    group = EmotionCheck(ExpressedEmotion())
    happy, sad = scores_of(group, group.item(HAPPY, "joy", {}), group.item(SAD, "joy", {}))
    assert happy > 0.2 > 0 > sad
    emotion = EmotionCheck(ExpressedEmotion(level="emotion", pooling="whole"))
    joy, gratitude = scores_of(emotion, emotion.item(HAPPY, "joy", {}), emotion.item(HAPPY, "gratitude", {}))
    assert joy > 0 > gratitude
    assert group.item(HAPPY, "", {}) is None  # no emotion is asked for


def test_a_text_is_compared_with_its_source():
    check = MeaningCheck(Meaning(source=["output"]))
    inputs = {"instruction": "Name a fruit.", "output": "An apple is a sweet fruit."}
    near, far = scores_of(
        check,
        check.item("Oh, apples are such sweet and lovely fruit!", "", inputs),
        check.item("The train to London leaves at nine.", "", inputs),
    )
    assert near > 0.7 > 0.3 > far
    assert check.item("text", "", {"output": " "}) is None


def test_a_rejected_text_is_tried_again_and_each_score_is_kept(fake_job):
    job = {**fake_job, "quality": {"expressed_emotion": "group", "max_tries": 3}}
    record, requests = run_row(job, [SAD, HAPPY])
    assert (record["state"], record["text"], record["try"], len(requests)) == ("accepted", HAPPY, 2, 2)
    assert json.loads(record["scores"])["expressed_emotion"] > 0
    (earlier,) = record["earlier_tries"]
    assert earlier["reason"] == "expressed_emotion" and json.loads(earlier["scores"])["expressed_emotion"] < 0


def test_a_model_that_fails_fails_its_rows_by_the_name_of_the_check(fake_job, monkeypatch):
    def fail(check):
        raise ValueError("no memory is left")

    monkeypatch.setattr(EmotionCheck, "load", fail)
    check = EmotionCheck(ExpressedEmotion(min_margin=0.123))
    with pytest.raises(RowError, match="expressed_emotion: no memory is left"):
        scores_of(check, (HAPPY, "joy"))
    record, requests = run_row(
        {**fake_job, "quality": {"expressed_emotion": {"min_margin": 0.124}, "max_tries": 3}}, [SAD]
    )
    assert record["state"] == "error" and record["reason"].startswith("expressed_emotion: ") and len(requests) == 1


@pytest.mark.parametrize(
    ("quality", "key"),
    [
        ({"expressed_emotion": {"classifier": "no/such/folder"}}, "classifier.id"),
        ({"meaning": "no/such/folder"}, "quality.meaning.encoder"),
    ],
)
def test_a_model_that_is_missing_is_one_error_before_any_engine_starts(fake_job, quality, key):
    with pytest.raises(EngineError) as caught:
        augment({**fake_job, "quality": quality})
    assert caught.value.key == key


def test_the_fingerprint_knows_the_model_and_the_threshold(fake_job):
    job = as_job({**fake_job, "quality": {"expressed_emotion": "emotion", "meaning": {"min_similarity": 0.4}}})
    facts = facts_of(job, {})
    assert set(facts) == {"expressed_emotion_revision", "meaning_revision"} and all(facts.values())
    assert [check.min_score for check in scored_checks(job.quality)] == [0.0, 0.4] and scored_checks(Quality()) == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_with_scores_is_whole(fake_job):
    job = {**fake_job, "quality": {"expressed_emotion": {"min_margin": -0.5}, "max_tries": 2}}
    summary = augment(job)
    assert sum(summary.rows.values()) == 40 and summary.rows["error"] == 0 and not verify(summary.run).faults
    folders = [folder for folder in ("data", "rejected") if Path(summary.run, folder).exists()]
    rows = [row for folder in folders for row in pq.read_table(f"{summary.run}/{folder}").to_pylist()]
    assert len(rows) == 40
    for row in rows:
        margin = json.loads(row["scores"])["expressed_emotion"]
        assert (margin >= -0.5) == (row["state"] == "accepted")
