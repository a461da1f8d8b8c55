"""What the baseline processes share.

A worker is started with the path of a JSON file, `{"engine": {...}, "cores": [...], "model": {...}}` (`model` as in a
job file, by default the embedded one). It answers one line `READY {json}`; then for each line of JSON on its standard
input it runs one arm and answers one line `RESULT {json}`. It ends with its standard input.

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
    """A workload as a worker gets it (`Workload.write_requests`)."""

    messages: list[list[dict[str, str]]]
    seeds: list[int]
    sampling: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> "Requests":
        """Reads the file that `Workload.write_requests` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Result:
    """What one run of an arm came to. `cached_prompt_tokens` is None where the arm does not tell."""

    seconds: float
    rows: int
    prompt_tokens: int
    cached_prompt_tokens: int | None
    output_tokens: int
    output_lengths: list[int]
    finish_reasons: dict[str, int]


def result(
    seconds: float, prompt_tokens: int, cached: int | None, lengths: Sequence[int], reasons: Sequence[str]
) -> Result:
    """Adds up the rows of a run."""
    counts = dict(collections.Counter(reasons))
    return Result(seconds, len(lengths), prompt_tokens, cached, sum(lengths), list(lengths), counts)


class Channel:
    """The worker's end of the protocol: orders come in, words with JSON go out.

    From its making on, standard output is standard error: the engine's processes inherit it and log there.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.set_inheritable(self._out.fileno(), False)
        os.dup2(2, 1)
        # A worker that is told to stop unwinds, and so takes its engine along.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def orders(self) -> Iterator[dict[str, Any]]:
        """Each order as it comes, until the other end closes."""
        for line in sys.stdin:
            if line.strip():
                yield json.loads(line)

    def ready(self, **facts: Any) -> None:
        """Says that orders are taken from now on."""
        self._say("READY", facts)

    def answer(self, outcome: Result, **further: Any) -> None:
        """Answers an order."""
        self._say("RESULT", {**asdict(outcome), **further})

    def _say(self, word: str, content: dict[str, Any]) -> None:
        self._out.write(f"{word} {json.dumps(content)}\n")
        self._out.flush()


def spec_of(path: str) -> EngineSpec:
    """The engine that a worker's file asks for."""
    given = json.loads(Path(path).read_text(encoding="utf-8"))
    return EngineSpec(Model(**given.get("model", {})), given["engine"], cores=tuple(given["cores"]))


def engine_settings(spec: EngineSpec) -> dict[str, Any]:
    """vLLM's engine arguments as a replica would give them, those at vLLM's default left out; `model` is the path.

    What a replica sets in the environment is set here too.
    """
    from services.engines.vllm_engine import engine_args, prepare_environment
    from services.models.checkpoints import locate

    prepare_environment(spec)
    path, _ = locate(spec.model)
    arguments = engine_args(spec, path)
    # EngineArgs looks for its model when it is made, and offline vLLM's default one is not there.
    defaults = type(arguments)(model=path)
    names = [f.name for f in dataclasses.fields(arguments)]
    return {"model": path} | {
        name: value for name in names if (value := getattr(arguments, name)) != getattr(defaults, name)
    }
