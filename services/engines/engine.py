"""The interface that vLLM's engine and the fake engine both implement, its requests and its results."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from schemas.job import Model, Seeds

STREAM_TOKENS = 16
"""number of tokens after which `should_stop` looks at a text again"""

ShouldStop = Callable[[str, int], str]
"""function from the beginning of a text, and the number of tokens that may follow, to the name of the rule that will
reject the text; "" lets it go on"""


class EngineDeadError(Exception):
    """The engine of this replica died; the replica must be replaced.

    Args:
        cause: the engine's own message.
    """


@dataclass(frozen=True)
class EngineSpec:
    """Everything that is needed to start one engine, on whatever node its replica runs.

    Attributes:
        model: model section of the job file.
        engine: vLLM engine arguments, as in the job file.
        gpus: GPUs of the replica; 0 runs the model on the CPU.
        cpus: CPU cores that the engine should have for itself; used where it has no GPU.
        cores: numbers of the CPU cores that it got; known once its replica runs.
        seeds: random numbers that its requests use; with "row" each has a seed of its own.
        seed: seed of the engine's own random numbers where `seeds` is "run", in [0, 2**32).
    """

    model: Model
    engine: dict[str, Any] = field(default_factory=dict)
    gpus: float = 0
    cpus: int = 1
    cores: tuple[int, ...] = ()
    seeds: Seeds = "row"
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by which a job adopts a running engine, under their names in a job: `engine.max_model_len`."""
        sections = {"model": self.model.model_dump(), "engine": self.engine}
        flat = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
        return flat | {"seeds": self.seeds}

    def own_seed(self) -> int:
        """Returns the seed of the engine's own random numbers at this start."""
        return random.SystemRandom().getrandbits(32) if self.seeds == "none" else self.seed


@dataclass(frozen=True)
class EngineInfo:
    """Facts of a started engine.

    Attributes:
        max_num_seqs: number of requests that run at the same time.
        max_model_len: limit of prompt and output tokens together.
        model_revision: commit or content hash of the loaded model.
        settings: settings that were chosen for this machine; kept in run.json.
        pids: processes of the replica and its engine.
        versions: versions of the packages that influence the output.
    """

    max_num_seqs: int
    max_model_len: int
    model_revision: str
    settings: dict[str, Any]
    pids: tuple[int, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Generation:
    """One finished request.

    Attributes:
        text: the response; of a reasoning model the answer alone.
        finish_reason: `stop` at the model's own end, `length` at a limit, `repetition` at a loop
            (`sampling.repetition_detection`).
        prompt_tokens: tokens of the prompt, as the engine counts them.
        cached_prompt_tokens: tokens of the prompt that were in the prefix cache.
        output_tokens: tokens of the response, thoughts included.
        started_at: time of the submission.
        duration_seconds: wall time from submission to the last token.
        rejected_by: rule by which `should_stop` ended the request, or UNFINISHED_REASONING; "" for neither.
        probabilities: probability of each of the sampling's `choices` among them; empty where it has none.
        reasoning: thoughts of a reasoning model; "" where it wrote none.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    started_at: datetime
    duration_seconds: float
    probabilities: tuple[float, ...] = ()
    rejected_by: str = ""
    reasoning: str = ""


class Engine(Protocol):
    """A started engine inside a replica. Requests run concurrently; the engine batches them."""

    info: EngineInfo

    async def check(self, sampling: dict[str, Any]) -> None:
        """Checks the sampling of a job before the first of its rows.

        Args:
            sampling: keys of `schemas.job.Sampling`.

        Raises:
            JobError: every row would fail with it (a token id is outside of the model's vocabulary, say).
        """
        ...

    async def prepare(self, messages: list[dict[str, str]]) -> Any:
        """Turns a conversation into a prompt in the form that `generate` takes (tokens, say).

        Args:
            messages: the conversation; the model's chat template is applied to it.

        Raises:
            RowError: the model cannot take the prompt (it is too long, say).
        """
        ...

    async def generate(
        self, prompt: Any, sampling: dict[str, Any], seed: int, should_stop: ShouldStop | None = None
    ) -> Generation:
        """Generates one response.

        Args:
            prompt: a result of `prepare`.
            sampling: keys of `schemas.job.Sampling`.
            seed: seed of this request alone; unused where the requests of the engine have none.
            should_stop: looks at the text every STREAM_TOKENS tokens, and ends the request; None for never.

        Raises:
            RowError: this request cannot be served; others can.
            EngineDeadError: the engine died.
        """
        ...

    def kv_cache_usage(self) -> float:
        """Returns the share of the KV cache that running requests use, 0 to 1; NaN where the engine does not know."""
        ...

    async def reset_prefix_cache(self) -> bool:
        """Empties the prefix cache; returns False where requests are running, since their prompts stay in it."""
        ...

    async def stop(self) -> None:
        """Ends the engine's processes and frees its memory."""
        ...
