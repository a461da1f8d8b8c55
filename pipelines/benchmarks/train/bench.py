"""`kindling bench train`: real tokens/s of training beside TRL's SFTTrainer, on the same rows and at the same loss.

Padding counts for nothing. TRL has its defaults, but for gradient checkpointing, which is off: that switch is no merit
of ours. What it costs, and what each change of ours gains, is measured once, by switching it off alone.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.benchmarks.report import Goal, conclude, ratio
from pipelines.benchmarks.train.arm import BASE, KINDLING, TRL, TRL_CHECKPOINTING, WITHOUT, Spec
from schemas.errors import EngineError, JobError
from schemas.text import shorten

SHIPPED = str(files("pipelines") / "recipes" / "prompts" / "alpaca_examples.jsonl")

_SETTINGS = {"batch_size": 4, "accumulation": 4, "learning_rate": 1e-4}
_DEV_ROWS = 24

_console = Console(stderr=True)


def measure(data: str | None, rows: int, rounds: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: JSONL with instruction, input and output; by default the few rows that Kindling ships.
        rows: to train on, once; at most so many.
        rounds: of TRL and Kindling, in alternating order.
    """
    chosen = rows_of(data or SHIPPED, rows)
    samples: dict[str, list[dict[str, Any]]] = {}
    once = [BASE, TRL_CHECKPOINTING, *(f"{KINDLING} without {name}" for name in WITHOUT)]
    turns = [arm for number in range(rounds) for arm in ([TRL, KINDLING] if number % 2 == 0 else [KINDLING, TRL])]
    for arm in turns + once:
        spec = Spec(arm, chosen, **_SETTINGS, judge=arm not in samples)
        samples.setdefault(arm, []).append(_run(spec))
        if arm != BASE:
            _console.print(f"{arm}: {_speed(samples[arm][-1]):.0f} tokens/s")
    Console(width=120).print(_table(samples))
    settings = {"rows": len(chosen) - _DEV_ROWS, "dev_rows": _DEV_ROWS, "rounds": rounds, **_SETTINGS}
    return conclude("train", settings, samples, goals_of(samples))


def rows_of(path: str, rows: int) -> list[tuple[str, str, bool]]:
    """Prompts and completions, evenly from a file, and whether they are held out.

    Raises:
        JobError: there are too few, or they are no such rows.
    """
    remedy = "give JSONL with instruction, output and maybe input"
    try:
        lines = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
        found = [("\n\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"]) for row in lines]
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise JobError("--data", path, f"no rows can be read there: {error!r}", remedy) from None
    step = _SETTINGS["batch_size"] * _SETTINGS["accumulation"]
    steps = min(rows, len(found) - _DEV_ROWS) // step
    if steps <= 0:
        raise JobError("--data", path, f"of {rows} rows, {len(found)} there, no step of {step} can be made", remedy)
    taken = steps * step + _DEV_ROWS
    chosen = found[:: len(found) // taken][:taken]
    return [(prompt, text, number >= steps * step) for number, (prompt, text) in enumerate(chosen)]


def goals_of(samples: dict[str, list[dict[str, Any]]]) -> list[Goal]:
    """What the samples come to, beside what they should."""
    ours, theirs = ([_speed(run) for run in samples[arm]] for arm in (KINDLING, TRL))
    loss = samples[KINDLING][0]["dev_loss"]["bf16"] / samples[TRL][0]["dev_loss"]["bf16"]  # both trained in it
    return [
        Goal("real tokens/s: kindling / trl", ratio(ours, theirs).median, 1.5),
        Goal("loss of held-out rows in bf16: kindling / trl", loss, 1.01, at_least=False),
    ]


def _speed(run: dict[str, Any]) -> float:
    return run["tokens"] / run["seconds"]


def _run(spec: Spec) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(spec), file)
        file.flush()
        command = [sys.executable, "-m", "pipelines.benchmarks.train.arm", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = " ".join(done.stderr.splitlines()[-1:])
        cause = f"it ended with {done.returncode}: {shorten(last)}"
        raise EngineError("bench train", spec.arm, cause, "give it more memory where it was killed for that")
    return json.loads(done.stdout.splitlines()[-1])


def _table(samples: dict[str, list[dict[str, Any]]]) -> Table:
    medians = {arm: statistics.median(map(_speed, runs)) for arm, runs in samples.items() if arm != BASE}
    table = Table("arm", "real tokens/s", "kindling over it", "loss of held-out rows in bf16", "in fp32")
    for arm, runs in samples.items():
        speeds = [f"{medians[arm]:.0f}", f"{medians[KINDLING] / medians[arm]:.2f}"] if arm in medians else ["", ""]
        table.add_row(arm, *speeds, *(f"{runs[0]['dev_loss'][name]:.4f}" for name in ("bf16", "fp32")))
    return table
