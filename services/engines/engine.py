"""What an engine is: the one interface that vLLM and the fake engine stand behind."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from schemas.job import Model


class EngineDeadError(Exception):
    """The engine behind this replica is gone; the replica must be replaced.

    Args:
        cause: what the engine said of it.
    """


@dataclass(frozen=True)
class EngineSpec:
    """All that is needed to start one engine, wherever its replica lands.

    Attributes:
        model: as in the job file.
        engine: vLLM engine arguments as in the job file.
        gpus: GPUs of the replica; 0 serves on the CPU.
        cpus: CPU cores that it wants for itself, where it serves on the CPU.
        cores: those that it got, once its replica is placed; the engine alone computes on them.
    """

    model: Model
    engine: dict[str, Any] = field(default_factory=dict)
    gpus: float = 0
    cpus: int = 1
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class EngineInfo:
    """What a started engine resolved.

    Attributes:
        max_num_seqs: requests that it runs at once.
        max_model_len: tokens of prompt and output together.
        model_revision: commit or content hash of the loaded model.
        settings: what was chosen for this machine, for run.json.
        pids: processes of the replica and its engine.
        versions: packages that shaped the output.
    """

    max_num_seqs: int
    max_model_len: int
    model_revision: str
    settings: dict[str, Any]
    pids: tuple[int, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Generation:
    """One finished request. Token counts are the engine's own; seconds are wall time from submission to last token."""

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    started_at: datetime
    duration_seconds: float


class Engine(Protocol):
    """A started engine inside a replica. Requests run concurrently; the engine batches them."""

    info: EngineInfo

    async def prepare(self, messages: list[dict[str, str]]) -> Any:
        """Turns a conversation into a prompt as `generate` takes it: tokens, say.

        Args:
            messages: the conversation; the model's chat template is applied to it.

        Raises:
            RowError: the model cannot take it (it is too long, say).
        """
        ...

    async def generate(self, prompt: Any, sampling: dict[str, Any], seed: int) -> Generation:
        """Generates one reply.

        Args:
            prompt: from `prepare`.
            sampling: keys of `schemas.job.Sampling`.
            seed: of this request alone.

        Raises:
            RowError: this request cannot be served; others can.
            EngineDeadError: the engine is gone.
        """
        ...

    def kv_cache_usage(self) -> float:
        """Share of its KV cache that running requests take, 0 to 1; NaN where it does not tell."""
        ...

    async def reset_prefix_cache(self) -> bool:
        """Forgets the prompts it has seen; False while requests run, which keep theirs."""
        ...

    async def stop(self) -> None:
        """Ends the engine's processes and frees its memory."""
        ...
