"""The parts that the baseline processes share: their settings, their orders, and the figures that they answer.

A worker is started with the path of a JSON file, `{"engine": {...}, "cores": [...], "model": {...}, "seeds": "row"}`
(`model` as in a job file, by default the embedded one; `seeds` too, by default `row`). It prints one
line `READY`; then for each line of JSON on its standard input it runs one arm and prints one line `RESULT {json}`. It
ends with its standard input.

Everything else that it or its engine prints goes to standard error.
"""

import collections
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.job import Model
from services.engines.engine import EngineSpec


@dataclass(frozen=True)
class Requests:
    """The requests of a workload, as `Workload.write` leaves them for a worker; one of each list for each row."""

    messages: list[list[dict[str, str]]]
    seeds: list[int]
    sampling: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> "Requests":
        """Reads the file that `Workload.write` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Result:
    """Figures of one run of an arm.

    Attributes:
        seconds: time by the arm's clock.
        cached_prompt_tokens: prompt tokens that the prefix cache held; None where the arm does not report them.
        output_lengths: output tokens of each row.
        finish_reasons: number of rows by finish reason.
        processor_seconds: processor time by kind of process, from the order to the answer (`processor_time`).
    """

    seconds: float
    rows: int
    prompt_tokens: int
    cached_prompt_tokens: int | None
    output_tokens: int
    output_lengths: list[int]
    finish_reasons: dict[str, int]
    processor_seconds: dict[str, float]


Samples = dict[str, dict[str, list[dict[str, Any]]]]
"""the fields of each run's `Result`, by workload and arm"""


def sum_rows(
    seconds: float, prompt_tokens: int, cached: int | None, lengths: Sequence[int], reasons: Sequence[str]
) -> Result:
    """Adds up the rows of a run."""
    counts = dict(collections.Counter(reasons))
    return Result(seconds, len(lengths), prompt_tokens, cached, sum(lengths), list(lengths), counts, {})


class Channel:
    """The worker's end of the protocol: orders come in, words with JSON go out.

    Once a channel is made, standard output is standard error: the engine's processes inherit it and log there.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.set_inheritable(self._out.fileno(), False)
        os.dup2(2, 1)
        # SIGTERM raises SystemExit, so that the worker's `finally` blocks end its engine.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def orders(self) -> Iterator[dict[str, Any]]:
        """Yields each order as it comes, until the other end closes."""
        for line in sys.stdin:
            if line.strip():
                yield json.loads(line)

    def ready(self) -> None:
        """Reports that the engine is up and orders are taken."""
        self._print("READY")

    def answer(self, result: Result) -> None:
        """Answers an order."""
        self._print(f"RESULT {json.dumps(asdict(result))}")

    def _print(self, line: str) -> None:
        self._out.write(f"{line}\n")
        self._out.flush()


def read_spec(path: str) -> EngineSpec:
    """Reads the engine's settings from the file that a worker is started with."""
    settings = json.loads(Path(path).read_text(encoding="utf-8"))
    model, cores = Model(**settings.get("model", {})), tuple(settings["cores"])
    return EngineSpec(model, settings["engine"], cores=cores, seeds=settings.get("seeds", "row"))


def engine_settings(spec: EngineSpec) -> dict[str, Any]:
    """Returns the engine arguments of vLLM that a replica would give, without those at vLLM's default.

    `model` is the path of the checkpoint. The environment variables that a replica sets are set here too.
    """
    from services.engines.vllm_engine import set_vllm_environment, vllm_arguments
    from services.models.checkpoints import locate

    set_vllm_environment(spec)
    path, _ = locate(spec.model)
    arguments = vllm_arguments(spec, path)
    # EngineArgs looks for its model when it is made, and vLLM's default model is not on this machine.
    defaults = type(arguments)(model=path)
    names = [f.name for f in dataclasses.fields(arguments)]
    return {"model": path} | {
        name: value for name in names if (value := getattr(arguments, name)) != getattr(defaults, name)
    }
