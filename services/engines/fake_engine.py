"""An engine without a model: it has the interface of the real one, and a latency model in place of the computation.

Used by scale tests and simulation. Its text is a pure function of messages, seed and max_tokens, so that a check can
compute any row again. Of the other keys of `sampling`, `bad_words`, `structured_outputs.choice`,
`repetition_detection` and `thinking_token_budget` have an effect.
"""

import asyncio
import difflib
import hashlib
import os
import random
import time
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from schemas.errors import EngineError
from schemas.outcomes import CUT_OFF, EARLY_STOP, REPETITION, UNFINISHED_REASONING
from schemas.rows import RowError
from services.engines.choices import CHOICES
from services.engines.engine import STREAM_TOKENS, EngineDeadError, EngineInfo, EngineSpec, Generation, ShouldStop

_WORDS = [
    "sun", "moon", "river", "stone", "little", "garden", "bird", "window", "morning", "quiet", "friend", "lantern",
    "apple", "blanket", "hill", "door", "rain", "song", "boat", "feather", "kite", "button", "story", "summer",
    "shadow", "path", "candle", "meadow", "cloud", "whistle",
]  # fmt: skip

# Lengths of the texts in words, uniformly distributed.
MIN_WORDS, MAX_WORDS = 8, 64


@dataclass(frozen=True)
class LatencyModel:
    """Seconds that a batched engine takes, and its limits; the keys of `engine` in a job with `model.id: fake`.

    A request takes `start_seconds + prompt_tokens / prefill_tokens_per_second + output_tokens * step_seconds`, and
    waits while `max_num_seqs` others run.
    """

    max_num_seqs: int = 32
    max_model_len: int = 2048
    start_seconds: float = 0.0
    prefill_tokens_per_second: float = 50_000.0
    step_seconds: float = 0.0005
    die_at_start: bool = False
    die_after_requests: int = 0
    """number of served requests after which the engine dies; 0: it does not die"""
    poison: str = ""
    """word that kills the engine when a prompt contains it; "": no word does"""
    reasoning_parser: str = ""
    """any name makes it a reasoning model: it writes thoughts before its text"""
    journal: str = ""
    """file to which a line is appended when a request begins to run, and another when it ends: see `journal_line`"""

    def request_seconds(self, prompt_tokens: int, output_tokens: int) -> float:
        """Returns the seconds that one request takes once it runs."""
        prefill = self.start_seconds + prompt_tokens / self.prefill_tokens_per_second
        return prefill + output_tokens * self.step_seconds


class FakeEngine:
    """An `Engine` that draws words at random and takes as long as its latency model says.

    Args:
        spec: `spec.engine` has the keys of `LatencyModel`.

    Raises:
        EngineError: `spec.engine` has a key that the latency model does not know.
        EngineDeadError: the job sets `engine.die_at_start`.
    """

    def __init__(self, spec: EngineSpec) -> None:
        known = [field.name for field in fields(LatencyModel)]
        for key, value in spec.engine.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                remedy = f"did you mean `engine.{close[0]}`?" if close else f"the known keys are {', '.join(known)}"
                raise EngineError(f"engine.{key}", value, "the fake engine does not know this key", remedy)
        self._latency = LatencyModel(**spec.engine)
        if self._latency.die_at_start:
            raise EngineDeadError("the fake engine was told to die at its start")
        # Opened for appending: all engines of a job write to it, and a killed one has written whole lines only.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._journal = os.open(self._latency.journal, flags, 0o644) if self._latency.journal else None
        self._draw = None if spec.seeds == "row" else random.Random(spec.own_seed())
        self._slots = asyncio.Semaphore(self._latency.max_num_seqs)
        self._served = self._running = 0
        self.info = EngineInfo(
            max_num_seqs=self._latency.max_num_seqs,
            max_model_len=self._latency.max_model_len,
            model_revision="fake-1",
            settings={"device": "fake", "cores": list(spec.cores)},
            pids=(os.getpid(),),
            versions={},
        )

    async def check(self, sampling: dict[str, Any]) -> None:
        """Does nothing: any sampling can be drawn with. See `Engine.check`."""

    async def prepare(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """Returns the messages, where they are short enough. Every word counts as a token. See `Engine.prepare`."""
        prompt_tokens = _count_tokens(messages)
        if prompt_tokens + 1 > self._latency.max_model_len:
            limit = self._latency.max_model_len
            raise RowError(f"the prompt has {prompt_tokens} tokens and the model takes at most {limit}")
        return messages

    async def generate(
        self,
        prompt: list[dict[str, str]],
        sampling: dict[str, Any],
        seed: int,
        should_stop: ShouldStop | None = None,
    ) -> Generation:
        """Returns random words after the time that the latency model gives. See `Engine.generate`."""
        started_at, clock = datetime.now(UTC), asyncio.get_running_loop().time
        start, prompt_tokens, row_seed = clock(), _count_tokens(prompt), seed
        if self._draw is not None:
            seed = self._draw.getrandbits(63)
        probabilities: tuple[float, ...] = ()
        reasoning = rejected_by = ""
        if choices := sampling.get(CHOICES):
            first = random.Random(seed).random()
            probabilities = (first, *[(1 - first) / (len(choices) - 1)] * (len(choices) - 1))
            text, finish_reason = choices[probabilities.index(max(probabilities))], "stop"
        else:
            reasoning = self._thoughts(prompt, seed, sampling)
            tokens_left = sampling["max_tokens"] - len(reasoning.split())
            text, finish_reason = _constrain(*fake_text(prompt, seed, tokens_left), seed, sampling)
            if not tokens_left:
                text, finish_reason, rejected_by = "", CUT_OFF, UNFINISHED_REASONING
            elif should_stop is not None:
                text, rejected_by = _stopped(text, tokens_left, should_stop)
                finish_reason = EARLY_STOP if rejected_by else finish_reason
        output_tokens = len(reasoning.split()) + len(text.split())
        async with self._slots:
            self._note("start", row_seed)
            self._running += 1
            try:
                await asyncio.sleep(self._latency.request_seconds(prompt_tokens, output_tokens))
            finally:
                self._running -= 1
            self._served += 1
        if self._latency.poison and any(self._latency.poison in message["content"] for message in prompt):
            raise EngineDeadError(f"the fake engine was told to die of the word {self._latency.poison!r}")
        if 0 < self._latency.die_after_requests < self._served:
            raise EngineDeadError(f"the fake engine was told to die after {self._latency.die_after_requests} requests")
        self._note("end", row_seed)
        seconds = clock() - start
        return Generation(
            text, finish_reason, prompt_tokens, 0, output_tokens, started_at, seconds, probabilities, rejected_by,
            reasoning,
        )  # fmt: skip

    def _thoughts(self, prompt: list[dict[str, str]], seed: int, sampling: dict[str, Any]) -> str:
        """Returns the words that come before the text of a reasoning model; "" of another model."""
        if not self._latency.reasoning_parser:
            return ""
        budget = sampling.get("thinking_token_budget")
        most = sampling["max_tokens"] if budget is None else min(budget, sampling["max_tokens"])
        return fake_text(prompt, seed + 1, most)[0]

    def kv_cache_usage(self) -> float:
        """Returns the share of its slots that are in use: every request takes the same space."""
        return self._running / self._latency.max_num_seqs

    async def reset_prefix_cache(self) -> bool:
        """Returns True: there is no cache."""
        return True

    async def stop(self) -> None:
        """Does nothing: there is no process to end."""

    def _note(self, event: str, seed: int) -> None:
        if self._journal is not None:
            os.write(self._journal, journal_line(event, seed))


def _stopped(text: str, max_tokens: int, should_stop: ShouldStop) -> tuple[str, str]:
    """Returns the text up to where it is ended, and the rule that ends it; every word is a token."""
    words = text.split()
    for number in range(STREAM_TOKENS, len(words), STREAM_TOKENS):
        beginning = " ".join(words[:number])
        if rejected_by := should_stop(beginning, max_tokens - number):
            return beginning, rejected_by
    return text, ""


def _count_tokens(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def journal_line(event: str, seed: int) -> bytes:
    """Returns a line of the journal: event, the row's seed, seconds since 1970, process id.

    It is written in one call, so that lines of several processes do not mix.

    Args:
        event: `start` or `end`.
    """
    return f"{event} {seed} {time.time():.6f} {os.getpid()}\n".encode()


def fake_text(messages: list[dict[str, str]], seed: int, max_tokens: int) -> tuple[str, str]:
    """Returns the fake engine's text, words drawn by prompt and seed, and its finish reason."""
    content = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    draw = random.Random(hashlib.blake2b(f"{seed}\n{content}".encode(), digest_size=8).digest())
    length = draw.randint(MIN_WORDS, MAX_WORDS)
    words = [draw.choice(_WORDS) for _ in range(min(length, max_tokens))]
    return " ".join(words), "length" if length > max_tokens else "stop"


def _constrain(text: str, finish_reason: str, seed: int, sampling: dict[str, Any]) -> tuple[str, str]:
    """Returns the text and its finish reason by those keys of the sampling that the fake engine follows."""
    if choices := (sampling.get("structured_outputs") or {}).get("choice"):
        return choices[seed % len(choices)], "stop"
    bad_words = sampling.get("bad_words") or []
    words = [word for word in text.split() if word not in bad_words]
    if loop := sampling.get("repetition_detection"):
        for end in range(1, len(words) + 1):
            for size in range(loop.get("min_pattern_size", 1), loop["max_pattern_size"] + 1):
                tail = words[:end][-size * loop["min_count"] :]
                if tail == tail[:size] * loop["min_count"]:
                    return " ".join(words[:end]), REPETITION
    return " ".join(words), finish_reason
