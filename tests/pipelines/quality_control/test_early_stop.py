"""A request is ended only where every text with its beginning would be rejected."""

import asyncio

import pytest

from pipelines import augment
from pipelines.benchmarks.quality.replay import Recording, replay
from pipelines.quality_control.early_stop import EarlyStop
from pipelines.quality_control.quality_rules import QualityRules
from pipelines.recipes.alpaca import AlpacaRewrite
from pipelines.recipes.messages import Messages
from schemas.job import Model
from schemas.quality import Quality
from schemas.rows import Prompt
from services.engines.engine import EngineSpec
from services.engines.fake_engine import FakeEngine, fake_text
from services.storage.store import ShardStore
from tests.support.files import SHARED_DATA

PROMPT = Prompt([{"role": "user", "content": "Tell me of the river that flows by the old mill at night."}], {}, "joy")
REWRITE = AlpacaRewrite("v3", "drawn")
LONG = "word " * 130


def stopped(text, recipe=None, tokens_left=100, **rules):
    return EarlyStop(Quality(stop_early=True, **rules))(text, tokens_left, PROMPT, recipe or Messages())


@pytest.mark.parametrize(
    ("text", "rules", "rule"),
    [
        ("one two three four five six se", {"max_words": 5}, "too_many_words"),
        ("one two three four five si", {"max_words": 5}, ""),  # the sixth word may still become part of another one
        ("I'm sorry, but I can't help with that. I", {"reject_refusals": True}, "refusal"),
        ("I'm sorry, but I can't help", {"reject_refusals": True}, ""),  # ... but smile
        ("\"I'm sorry, but I can't help with that.\"\n\nSaid", {"reject_refusals": True}, ""),  # ... Tom
        ("Rewritten answer: the sun shone on us all that day long ago in", {"reject_meta_talk": True}, "meta_talk"),
        ("Rewritten answer: ", {"reject_meta_talk": True}, ""),
        ("A day full of joy and", {"reject_emotion_word": True}, "emotion_word"),
        ("A day full of joy", {"reject_emotion_word": True}, ""),  # joystick
        ("He took the whisky and", {"reject_unsuitable": True}, "unsuitable"),
        ("la la la la la la la la la la la la la la la la la la la la la la", {"max_repetition": 0.05}, "repetition"),
        ("la la la la la la la la la la la la la la la la la la la la la la", {"max_repetition": 0.9}, ""),
        ("the river that flows by the old mill at night. And", {"max_copied": 0.01}, "copied"),
        ("the river that flows by the old mill at night. And", {"max_copied": 0.5}, ""),  # what follows may be new
        ("", {"max_words": 5}, ""),
    ],
)
def test_a_rule_is_sure_of_the_beginning_or_waits(text, rules, rule):
    tokens_left = 5 if "la la" in text else 100
    assert stopped(text, tokens_left=tokens_left, **rules) == rule


def test_a_closing_remark_that_the_recipe_cuts_off_does_not_count():
    remark = "\nNote: I have rewritten the answer so that its tone is one of joy, with many warm words in it."
    text = " ".join(["word"] * 95)
    assert stopped(text + remark + " And", REWRITE) == "" and not REWRITE.finish(text + remark)[0].endswith("it.")
    assert stopped(LONG + "\nand on", REWRITE) == "too_many_words"


def test_a_quoted_beginning_may_become_speech():
    assert stopped("\"I'm sorry, but I can't help with that.\"\n\n", REWRITE, reject_refusals=True) == ""


def test_what_people_write_is_never_ended_wrongly(shared_stories):
    quality = Quality(reject_refusals=True, reject_meta_talk=True, reject_emotion_word=True, max_repetition=0.1,
                      max_copied=0.3, max_words=240, stop_early=True)  # fmt: skip
    recordings = [Recording(text, Prompt([], {}, emotion), Messages(), 400) for text, emotion in shared_stories]
    counts = replay(recordings, quality, WordTokenizer())
    assert counts.false_stops == 0 < counts.accepted and counts.saved_tokens > 0.1 * counts.tokens


class WordTokenizer:
    def encode(self, text, add_special_tokens):
        return text.split(" ")

    def decode(self, words):
        return " ".join(words)


@pytest.fixture
def shared_stories():
    import polars

    path = SHARED_DATA / "mistral_stories.parquet"
    if not path.is_file():
        pytest.skip("needs ../shared/data/mistral_stories.parquet")
    rows = polars.read_parquet(path, n_rows=4000).sample(200, seed=3).to_dicts()
    return [(row["story"], row["emotions"] if isinstance(row["emotions"], str) else row["emotions"][0]) for row in rows]


def test_an_engine_ends_the_request_and_says_by_which_rule():
    engine = FakeEngine(EngineSpec(Model(id="fake")))
    looks = []

    def should_stop(text, tokens_left):
        looks.append((len(text.split()), tokens_left))
        return "too_many_words" if len(looks) == 2 else ""

    prompt = [{"role": "user", "content": "hello"}]
    seed = next(seed for seed in range(100) if len(fake_text(prompt, seed, 64)[0].split()) > 40)
    whole = asyncio.run(engine.generate(prompt, {"max_tokens": 64}, seed))
    ended = asyncio.run(engine.generate(prompt, {"max_tokens": 64}, seed, should_stop))
    assert whole.text.startswith(ended.text)
    assert (ended.output_tokens, ended.finish_reason, ended.rejected_by) == (32, "early_stop", "too_many_words")
    assert looks == [(16, 48), (32, 32)]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("max_tries", [1, 2])
def test_a_run_that_stops_early_accepts_the_same_rows(fake_job, tmp_path, max_tries):
    job = fake_job | {"sampling": {"max_tokens": 64}, "quality": {"max_words": 20, "max_tries": max_tries}}

    def rows_of(summary):
        store = ShardStore(summary.run)
        return [
            {(row["row_index"], row["text"]) for batch in store.read_rows(state) for row in batch.to_pylist()}
            for state in ("accepted", "rejected")
        ]

    whole = augment(job | {"output": {**job["output"], "path": str(tmp_path / "whole")}})
    early = augment(job | {"quality": {**job["quality"], "stop_early": True}})
    (accepted, _), (same, rejected) = rows_of(whole), rows_of(early)
    assert accepted == same and early.rejects == whole.rejects and early.output_tokens < whole.output_tokens
    assert {len(text.split()) for _, text in rejected} <= {32, *range(21, 32)}
    rules = QualityRules(Quality(max_words=20))
    assert all(rules(text, PROMPT) for _, text in rejected)
