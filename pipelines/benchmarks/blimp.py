"""`kindling bench blimp`: three paradigms of BLiMP beside lm-eval's `hf` backend, same model, same cores, one process.

The model is loaded when the clock starts. Both arms read the files, tokenize, score and count. lm-eval's best batch
size is searched first, on a part of the pairs. Then come rounds in alternating order in bfloat16, and one in float32.

    speed       pairs/s of both arms, in bfloat16
    decisions   in float32 both arms decide every pair alike. In bfloat16 a close pair may go either way: flips are
                counted, between the arms, and of each arm from its own float32
    ties        pairs whose sentences score alike; lm-eval has some because it sums in bfloat16
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from eval.blimp import blimp_rates, correct_pairs
from eval.lm_eval_harness import blimp_task, choice_log_likelihoods
from pipelines.benchmarks.report import Goal, Ratio, alternate, conclude, ratio
from pipelines.inputs.minimal_pairs import load_paradigms
from schemas.job import Model
from schemas.minimal_pairs import MinimalPairs
from services.models.causal_lm import load_causal_model
from services.models.minimal_pairs import margins

PARADIGMS = ["adjunct_island", "anaphor_gender_agreement", "npi_present_1"]
_BATCH_SIZES = [1, 32, 128]
# Of each paradigm, on which lm-eval's batch size is chosen.
_GRID_PAIRS = 100
_MIN_SPEED_RATIO = 1.5

_console = Console(stderr=True)

Margins = dict[str, np.ndarray]
"""by paradigm: log-likelihood of the good sentence minus that of the bad one, shape (pairs,)"""


def measure(data: str, rounds: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: folder with BLiMP's files.
        rounds: number of runs of each arm in bfloat16.
    """
    loaded = _load("bfloat16")
    _kindling(*loaded, data)  # files are read into caches before any clock starts
    grid: dict[int, tuple[float, Margins]] = {}
    for size in _BATCH_SIZES:
        grid[size] = _lm_eval(*loaded, data, size, _GRID_PAIRS)
        _console.print(f"lm_eval, batches of {size}: {grid[size][0]:.1f} s")
    batch_size = min(grid, key=lambda size: grid[size][0])
    arms = {
        "lm_eval": lambda model, tokenizer: _lm_eval(model, tokenizer, data, batch_size),
        "kindling": lambda model, tokenizer: _kindling(model, tokenizer, data),
    }
    seconds, rough = _run_arms(arms, *loaded, rounds)
    exact_seconds, exact = _run_arms(arms, *_load("float32"), 1)
    rates = {
        f"{name}, {dtype}": blimp_rates(margins_of_arm[name])
        for dtype, margins_of_arm in (("bfloat16", rough), ("float32", exact))
        for name in arms
    }
    samples = {
        "pairs": sum(map(len, exact["kindling"].values())),
        "grid_seconds": {str(size): size_seconds for size, (size_seconds, _) in grid.items()},
        "grid_flips": {str(size): _flips(found, grid[batch_size][1]) for size, (_, found) in grid.items()},
        "seconds": seconds,
        "float32_seconds": {name: run_seconds for name, (run_seconds,) in exact_seconds.items()},
        "accuracy": {
            name: {paradigm: rate.rate for paradigm, rate in arm_rates.by_paradigm.items()}
            for name, arm_rates in rates.items()
        },
        "flips": {
            "float32: kindling from lm_eval": _flips(exact["kindling"], exact["lm_eval"]),
            "bfloat16: kindling from lm_eval": _flips(rough["kindling"], rough["lm_eval"]),
            "lm_eval: bfloat16 from float32": _flips(rough["lm_eval"], exact["lm_eval"]),
            "kindling: bfloat16 from float32": _flips(rough["kindling"], exact["kindling"]),
        },
        "ties": {name: arm_rates.ties for name, arm_rates in rates.items()},
    }
    _print_tables(samples)
    settings = {
        "paradigms": PARADIGMS, "rounds": rounds, "grid_pairs": _GRID_PAIRS, "batch_size": batch_size,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    return conclude("blimp", settings, samples, goals_of(samples, batch_size))


def goals_of(samples: Mapping[str, Any], batch_size: int) -> list[Goal]:
    """Compares the samples with the goals."""
    flips = samples["flips"]["float32: kindling from lm_eval"]
    speed = f"speed: kindling / lm-eval with batches of {batch_size}, bfloat16"
    return [
        Goal(speed, _speed(samples).median, _MIN_SPEED_RATIO),
        Goal("float32: pairs decided otherwise than by lm-eval", flips, 0, at_least=False),
    ]


def _speed(samples: Mapping[str, Any]) -> Ratio:
    """Returns how many times as fast Kindling is: lm-eval's seconds over its own."""
    return ratio(samples["seconds"]["lm_eval"], samples["seconds"]["kindling"])


def _run_arms(
    arms: dict[str, Callable[[torch.nn.Module, Any], tuple[float, Margins]]],
    model: torch.nn.Module,
    tokenizer: Any,
    rounds: int,
) -> tuple[dict[str, list[float]], dict[str, Margins]]:
    """Runs the arms in alternating order; returns the seconds of each run and the margins of the last one."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    margins_of_arm: dict[str, Margins] = {}
    for round_ in range(rounds):
        for name in alternate(list(arms), round_):
            run_seconds, margins_of_arm[name] = arms[name](model, tokenizer)
            seconds[name].append(run_seconds)
            _console.print(f"{name}: {run_seconds:.1f} s")
    return seconds, margins_of_arm


def _load(dtype: str) -> tuple[torch.nn.Module, Any]:
    return load_causal_model(Model(id="embedded", dtype=dtype))


def _kindling(model: torch.nn.Module, tokenizer: Any, data: str) -> tuple[float, Margins]:
    """Scores all pairs with Kindling; returns the seconds and the margins."""
    began = time.monotonic()
    paradigms = load_paradigms("data", MinimalPairs(path=data, paradigms=PARADIGMS), ())
    margins_by_paradigm = {name: margins(model, tokenizer, pairs) for name, pairs in paradigms.items()}
    blimp_rates(margins_by_paradigm)  # lm-eval counts too
    return time.monotonic() - began, margins_by_paradigm


def _lm_eval(
    model: torch.nn.Module, tokenizer: Any, data: str, batch_size: int, limit: int | None = None
) -> tuple[float, Margins]:
    """Scores pairs with lm-eval (the first `limit` of each paradigm); returns the seconds and the margins."""
    tasks = [blimp_task(name, str(Path(data) / f"{name}.jsonl")) for name in PARADIGMS]
    began = time.monotonic()
    log_likelihoods = choice_log_likelihoods(model, tokenizer, tasks, limit, batch_size)
    seconds = time.monotonic() - began
    return seconds, {name.removeprefix("blimp_"): good_bad[:, 0] - good_bad[:, 1]
                     for name, good_bad in log_likelihoods.items()}  # fmt: skip


def _flips(one: Margins, other: Margins) -> int:
    """Counts the pairs that are decided differently."""
    return sum(int((correct_pairs(one[name]) != correct_pairs(other[name])).sum()) for name in PARADIGMS)


def _print_tables(samples: Mapping[str, Any]) -> None:
    pairs, console = samples["pairs"], Console(width=120)
    table = Table("arm", "pairs/s, bfloat16", "pairs/s, float32", "kindling / arm, bfloat16")
    for name, seconds in samples["seconds"].items():
        exact_seconds = samples["float32_seconds"][name]
        speed = str(_speed(samples)) if name == "lm_eval" else ""
        table.add_row(name, f"{pairs / statistics.median(seconds):.0f}", f"{pairs / exact_seconds:.0f}", speed)
    console.print(table)
    table = Table("accuracy", *PARADIGMS, "ties")
    for name, rates in samples["accuracy"].items():
        table.add_row(name, *(f"{rates[paradigm]:.3f}" for paradigm in PARADIGMS), str(samples["ties"][name]))
    console.print(table)
    table = Table("flips", f"of {pairs} pairs")
    for name, count in samples["flips"].items():
        table.add_row(name, str(count))
    console.print(table)
