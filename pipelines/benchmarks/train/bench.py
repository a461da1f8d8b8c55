"""`kindling bench train`: real tokens/s of training beside TRL's SFTTrainer, on the same rows and at the same loss.

Padding does not count. TRL has its defaults, except that gradient checkpointing is off: whoever uses TRL can switch it
off too. Its cost is measured once, and so is the gain of each change of Kindling, by switching it off alone.
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

from pipelines.benchmarks.report import Goal, alternate, conclude, ratio
from pipelines.benchmarks.train.arm import BASE, KINDLING, TRL, TRL_CHECKPOINTING, WITHOUT, Spec
from schemas.errors import EngineError, JobError
from schemas.text import shorten

SHIPPED = str(files("pipelines") / "recipes" / "prompts" / "alpaca_examples.jsonl")

_SETTINGS: dict[str, Any] = {"batch_size": 4, "accumulation": 4, "learning_rate": 1e-4}
_HELD_OUT_ROWS = 24
_MIN_SPEED_RATIO = 1.5
_MAX_LOSS_RATIO = 1.01

_console = Console(stderr=True)


def measure(data: str | None, rows: int, rounds: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: JSONL file with instruction, input and output; None: the few rows that Kindling ships.
        rows: largest number of rows to train on; each is used once.
        rounds: number of runs of TRL and of Kindling, in alternating order.
    """
    chosen = rows_of(data or SHIPPED, rows)
    samples: dict[str, list[dict[str, Any]]] = {}
    once = [BASE, TRL_CHECKPOINTING, *(f"{KINDLING} without {name}" for name in WITHOUT)]
    turns = [arm for round_ in range(rounds) for arm in alternate([TRL, KINDLING], round_)]
    for arm in turns + once:
        spec = Spec(arm, chosen, **_SETTINGS, measure_loss=arm not in samples)
        samples.setdefault(arm, []).append(_run(spec))
        if arm != BASE:
            _console.print(f"{arm}: {_speed(samples[arm][-1]):.0f} tokens/s")
    Console(width=120).print(_table(samples))
    settings = {"rows": len(chosen) - _HELD_OUT_ROWS, "dev_rows": _HELD_OUT_ROWS, "rounds": rounds, **_SETTINGS}
    return conclude("train", settings, samples, goals_of(samples))


def rows_of(path: str, rows: int) -> list[tuple[str, str, bool]]:
    """Chooses rows of a file at equal distances; returns prompt, completion, and whether the row is held out.

    Raises:
        JobError: the file has too few rows for one optimizer step, or cannot be read as such rows.
    """
    remedy = "give JSONL with instruction, output and maybe input"
    try:
        lines = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
        pairs = [("\n\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"]) for row in lines]
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise JobError("--data", path, f"the file cannot be read as rows to train on: {error!r}", remedy) from None
    rows_per_step = _SETTINGS["batch_size"] * _SETTINGS["accumulation"]
    trained_rows = min(rows, len(pairs) - _HELD_OUT_ROWS) // rows_per_step * rows_per_step
    if trained_rows <= 0:
        cause = (
            f"one optimizer step takes {rows_per_step} rows, with {_HELD_OUT_ROWS} held out; the file has {len(pairs)} "
            f"rows, and --rows allows {rows}"
        )
        raise JobError("--data", path, cause, "give a larger file, or raise --rows")
    count = trained_rows + _HELD_OUT_ROWS
    chosen = pairs[:: len(pairs) // count][:count]
    return [(prompt, text, number >= trained_rows) for number, (prompt, text) in enumerate(chosen)]


def goals_of(samples: dict[str, list[dict[str, Any]]]) -> list[Goal]:
    """Compares the samples with the goals."""
    speeds = {arm: [_speed(run) for run in samples[arm]] for arm in (KINDLING, TRL)}
    loss = samples[KINDLING][0]["dev_loss"]["bf16"] / samples[TRL][0]["dev_loss"]["bf16"]  # both trained in it
    return [
        Goal("real tokens/s: kindling / trl", ratio(speeds[KINDLING], speeds[TRL]).median, _MIN_SPEED_RATIO),
        Goal("loss of held-out rows in bf16: kindling / trl", loss, _MAX_LOSS_RATIO, at_least=False),
    ]


def _speed(run: dict[str, Any]) -> float:
    """Returns real tokens/s."""
    return run["tokens"] / run["seconds"]


def _run(spec: Spec) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(spec), file)
        file.flush()
        command = [sys.executable, "-m", "pipelines.benchmarks.train.arm", file.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last_line = " ".join(done.stderr.splitlines()[-1:])
        cause = f"its process ended with {done.returncode}: {shorten(last_line)}"
        raise EngineError("bench train", spec.arm, cause, "give it more memory where it was killed for that")
    return json.loads(done.stdout.splitlines()[-1])


def _table(samples: dict[str, list[dict[str, Any]]]) -> Table:
    medians = {arm: statistics.median(map(_speed, runs)) for arm, runs in samples.items() if arm != BASE}
    table = Table("arm", "real tokens/s", "kindling over it", "loss of held-out rows in bf16", "in fp32")
    for arm, runs in samples.items():
        speeds = [f"{medians[arm]:.0f}", f"{medians[KINDLING] / medians[arm]:.2f}"] if arm in medians else ["", ""]
        table.add_row(arm, *speeds, *(f"{runs[0]['dev_loss'][name]:.4f}" for name in ("bf16", "fp32")))
    return table
