"""Goals of `bench quality`, from made-up samples."""

import pytest

from pipelines.benchmarks.quality.bench import _goals
from pipelines.benchmarks.quality.replay import Recording, Replay, replay
from pipelines.recipes.messages import Messages
from schemas.quality import Quality
from schemas.rows import Prompt


def arm(tokens, seconds):
    return {"rows": {"accepted": 4}, "tries": {}, "output_tokens": tokens, "serving_seconds": seconds}


def samples():
    return {
        "arms": {"single": arm(1000, 10.0), "loop": arm(3000, 40.0)},
        "margins": {
            "embedded": {"single": [1, -1, -1, -1], "loop": [1, 1, 1, 1]},
            "embedded-words": {"single": [0.2, -0.1, 0.1, -0.4], "loop": [0.1, 0.2, 0.3, -0.1]},
        },
        "check_processor_seconds": 4.0,
        "judge": {"prompt_tokens": 10_000, "cached_prompt_tokens": 9000, "cold_tokens_per_second": 250.0},
        "cores": 2,
    }  # fmt: skip


def goals_of(samples, **replays):
    whole = {"rewrites": Replay(2000, 1000, 200, 0, 100_000, 20_000)} | replays
    return {goal.name: goal for goal in _goals(samples, whole)}


def test_the_gain_is_that_of_the_classifier_that_the_loop_did_not_use():
    gain = goals_of(samples())["expressed as asked, loop over single"]
    assert gain.value == 1.5 and gain.met


def test_the_own_time_of_check_and_judge_is_taken_off():
    # 4 s of one core of two, and 1,000 computed tokens at 250 a second: 6 of 40 s.
    (speed,) = (goal for name, goal in goals_of(samples()).items() if name.startswith("tokens/s"))
    assert speed.value == pytest.approx(3000 / 34 / 100) and not speed.met


def test_one_good_text_that_is_ended_is_a_missed_goal():
    goals = goals_of(samples(), stories=Replay(10, 5, 2, 1, 100, 10))
    assert not goals["false early stops"].met and goals["recorded responses"].value == 2010
    assert goals["tokens saved on v3"].value == 0.2
    assert Replay(2000).false_stop_bound == pytest.approx(0.0015, abs=1e-4)
    assert Replay(10, false_stops=1).false_stop_bound == 1


class LetterTokenizer:
    def encode(self, text, add_special_tokens):
        return list(text)

    def decode(self, letters):
        return "".join(letters)


def test_a_replay_ends_a_text_where_the_rule_is_sure_and_counts_what_it_saves():
    texts = ["one two three four five six seven eight nine ten", "one two"]
    recordings = [Recording(text, Prompt([], {}), Messages(), 100) for text in texts]
    counts = replay(recordings, Quality(max_words=3, stop_early=True), LetterTokenizer())
    # 32 letters: "one two three four five six seve".
    assert (counts.responses, counts.accepted, counts.stopped, counts.false_stops) == (2, 1, 1, 0)
    assert counts.saved_tokens == len(texts[0]) - 32 and counts.tokens == len(texts[0]) + len(texts[1])
