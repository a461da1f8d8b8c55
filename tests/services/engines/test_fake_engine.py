"""The fake engine: which keys of the sampling it follows."""

import asyncio

import pytest

from schemas.job import Model
from services.engines.engine import EngineSpec
from services.engines.fake_engine import FakeEngine, fake_text

PROMPT = [{"role": "user", "content": "Tell me."}]


def generated(seed=1, **sampling):
    async def run():
        generation = await FakeEngine(EngineSpec(Model(id="fake"))).generate(
            PROMPT, {"max_tokens": 40, **sampling}, seed
        )
        return generation.text, generation.finish_reason

    return asyncio.run(run())


@pytest.mark.parametrize("kind", ["row", "run", "none"])
def test_only_requests_with_seeds_have_the_same_text_in_any_order(kind):
    async def texts(seed, order):
        engine = FakeEngine(EngineSpec(Model(id="fake"), seeds=kind, seed=seed))
        return {row: (await engine.generate(PROMPT, {"max_tokens": 40}, row)).text for row in order}

    first, again, turned, other = (
        asyncio.run(texts(seed, order)) for seed, order in ((1, (5, 6)), (1, (5, 6)), (1, (6, 5)), (2, (5, 6)))
    )
    assert (first == again) == (kind != "none")
    assert (first == turned) == (first == other) == (kind == "row")
    if kind == "run":  # one stream of numbers, whatever rows there are
        assert list(first.values()) == list(turned.values())


def test_a_choice_is_drawn_by_the_seed():
    texts = {generated(seed, structured_outputs={"choice": ["yes", "no"]}) for seed in range(4)}
    assert texts == {("yes", "stop"), ("no", "stop")}


def test_bad_words_are_left_out():
    text, reason = fake_text(PROMPT, 1, 40)
    word = text.split()[0]
    assert generated(bad_words=[word]) == (" ".join(w for w in text.split() if w != word), reason)


@pytest.mark.parametrize("size", [1, 2])
def test_a_loop_ends_the_text(size):
    ended = [generated(seed, repetition_detection={"max_pattern_size": size, "min_pattern_size": 1, "min_count": 2})
             for seed in range(40)]  # fmt: skip
    loops = [text.split() for text, reason in ended if reason == "repetition"]
    assert 0 < len(loops) < 40
    assert all(words[-1] == words[-2] or words[-2:] == words[-4:-2] for words in loops)
    # Nothing else ends early.
    whole = [(text, reason) for text, reason in ended if reason != "repetition"]
    assert set(whole) <= {fake_text(PROMPT, seed, 40) for seed in range(40)}


def test_a_reasoning_model_writes_thoughts_before_its_text():
    async def run(**sampling):
        engine = FakeEngine(EngineSpec(Model(id="fake"), {"reasoning_parser": "fake"}))
        return await engine.generate(PROMPT, {"max_tokens": 200, **sampling}, 1)

    whole = asyncio.run(run())
    assert (whole.text, whole.reasoning) == (fake_text(PROMPT, 1, 200)[0], fake_text(PROMPT, 2, 200)[0])
    assert whole.output_tokens == len(whole.text.split()) + len(whole.reasoning.split())
    assert asyncio.run(run(thinking_token_budget=3)).reasoning == " ".join(whole.reasoning.split()[:3])
    cut_off = asyncio.run(run(max_tokens=5))
    assert (cut_off.text, cut_off.rejected_by, cut_off.finish_reason) == ("", "unfinished_reasoning", "length")
    assert len(cut_off.reasoning.split()) == cut_off.output_tokens == 5
