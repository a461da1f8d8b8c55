"""Rules of the section `quality`: what each rejects, and what it must not reject."""

import pickle

import pytest

from pipelines.quality_control.emotion_words import names_emotion
from pipelines.quality_control.quality_rules import QualityRules
from pipelines.quality_control.text_checks import copied_share, lost_names, lost_numbers, refuses, repetition
from schemas.augment import AugmentJob
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.job_parsing import parse_job
from schemas.quality import Quality
from schemas.rows import Prompt


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry, but I can\u2019t assist with this request.", True),
        ("Unfortunately, I am unable to answer the question.", True),
        ("I am unable to answer the question as the emotion is not given.", True),
        ("As an AI language model, I do not have feelings.", True),
        ("I am an AI language model and do not have personal experiences.", True),
        ("I'm just an AI, so I cannot taste it.", True),
        ("I can't help but feel a sense of admiration for you, Mike.", False),
        ("I'm sorry that I broke your cup, said the fox.", False),
        ("Sorry! The shop is closed, and nobody can help you.", False),
        ("I cannot sleep, whispered Lily.", False),
        ("The artificial intelligence in the film writes poems.", False),
    ],
)
def test_refusals(text, is_refusal):
    assert refuses(text) is is_refusal


def test_every_emotion_is_found_in_its_own_forms_and_in_no_other_words():
    assert all(names_emotion(f"It was {emotion} indeed.", emotion) for emotion in EMOTIONS if emotion != "neutral")
    for text, emotion in (
        ("She was overjoyed.", "joy"),
        ("PROUDLY he sang", "pride"),
        ("I realised it", "realization"),
    ):
        assert names_emotion(text, emotion)
    for text, emotion in (
        ("A saddle and a lovage leaf.", "sadness"), ("A glove lay there.", "love"), ("neutral", "neutral"),
        ("Any text", ""), ("The dangerous road", "anger"),
    ):  # fmt: skip
        assert not names_emotion(text, emotion)


def test_shares():
    assert repetition("no no no no no no no no") > 0.7 and repetition("Each word here stands only once in it.") == 0
    source = "Write it anew: the cat sat on the mat and slept all day"
    assert copied_share("The cat sat on the mat and slept all day!", source) == 1
    assert copied_share("A dog ran over the hill and barked at noon.", source) == 0
    assert copied_share("too short", source) == 0


def test_numbers_and_names_that_are_lost():
    assert lost_numbers("It has 1000 parts and five doors.", "It has 1,000 parts and 5 doors, 2.5 m wide.") == ["2.5"]
    assert lost_numbers("none", "no number") == []
    assert lost_names("berlin is large.", "We went to Berlin, with Anna. The train was late.") == ["Anna"]


@pytest.mark.parametrize(
    ("quality", "text", "rule"),
    [
        ({"min_words": 3}, "Two words", "too_few_words"),
        ({"max_words": 1}, "Two words", "too_many_words"),
        ({"reject_refusals": True}, "I'm sorry, I cannot write that.", "refusal"),
        ({"reject_meta_talk": True}, "Rewritten Output: The sky is blue.", "meta_talk"),
        ({"reject_meta_talk": True}, '"The sky is blue."', ""),
        ({"reject_emotion_word": True}, "What a joyful day!", "emotion_word"),
        ({"max_repetition": 0.3}, "so it goes " * 9, "repetition"),
        ({"max_copied": 0.5}, "Tell Anna about the 12 blue cups.", "copied"),
        ({"keep_numbers": True}, "Blue cups for Anna.", "numbers_lost"),
        ({"keep_names": True}, "All 12 cups are blue.", "names_lost"),
        ({"keep_names": True, "source": ["topic"]}, "All 12 cups are blue.", ""),
    ],
)
def test_each_rule_has_its_name(quality, text, rule):
    prompt = Prompt(
        [{"role": "user", "content": "Tell Anna about the 12 blue cups."}],
        {"text": "This is for Anna: 12 cups", "topic": "cups", "n": 3}, "joy",
    )  # fmt: skip
    rules = pickle.loads(pickle.dumps(QualityRules(Quality(**quality))))
    assert rules(text, prompt) == rule


@pytest.mark.parametrize(
    ("quality", "cause"),
    [
        ({"min_words": 5, "max_words": 3}, "min_words is larger"),
        ({"source": ["text"]}, "no use"),
        ({"max_copied": 1.5}, "less than 1"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(quality, cause):
    job = {"name": "q", "input": "a.csv", "recipe": "template", "output": "r", "quality": quality}
    with pytest.raises(JobError, match=cause):
        parse_job(job, AugmentJob)
