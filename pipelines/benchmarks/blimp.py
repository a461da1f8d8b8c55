"""`kindling bench blimp`: three paradigms of BLiMP beside lm-eval's `hf` backend, same model, same cores, one process.

Both have their model loaded when the clock starts; both read the files, tokenize, score and count. lm-eval's best batch
size is looked for first, on a part of the pairs. Then rounds in alternating order, in bfloat16, and one in float32.

    speed       pairs/s of both, in bfloat16
    decisions   in float32 every pair is decided alike; in bfloat16, where a close one may go either way, flips are
                counted, between the two and of each from its own float32; and ties, of which lm-eval has some because
                it sums in bfloat16
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from eval.blimp import blimp_rates, correct_pairs
from eval.lm_eval_harness import blimp_task, choice_log_likelihoods
from pipelines.benchmarks.report import Goal, Ratio, conclude, ratio
from pipelines.inputs.minimal_pairs import whole_paradigms
from schemas.job import Model
from schemas.minimal_pairs import MinimalPairs
from services.models.causal_lm import load_causal_model
from services.models.minimal_pairs import margins

PARADIGMS = ["adjunct_island", "anaphor_gender_agreement", "npi_present_1"]
_BATCH_SIZES = [1, 32, 128]
# Of each paradigm, on which lm-eval's batch size is chosen.
_GRID_PAIRS = 100
_DTYPES = ["bfloat16", "float32"]
_GOAL = 1.5

_console = Console(stderr=True)

Margins = dict[str, np.ndarray]
"""by paradigm, of each pair"""


def measure(data: str, rounds: int) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        data: folder with BLiMP's files.
        rounds: in bfloat16.
    """
    model, tokenizer = _load("bfloat16")
    _kindling(model, tokenizer, data)  # what is done once, such as reading files into caches, is done before any clock
    grid = {str(size): _lm_eval(model, tokenizer, data, size, _GRID_PAIRS) for size in _BATCH_SIZES}
    best = min(_BATCH_SIZES, key=lambda size: grid[str(size)][0])
    arms = {
        "lm_eval": lambda: _lm_eval(model, tokenizer, data, best),
        "kindling": lambda: _kindling(model, tokenizer, data),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, Margins] = {}
    for round_ in range(rounds):
        for name in list(arms) if round_ % 2 == 0 else list(arms)[::-1]:
            taken, found[name] = arms[name]()
            seconds[name].append(taken)
            _console.print(f"{name}: {taken:.1f} s")
    model, tokenizer = _load("float32")
    exact_seconds, exact = {}, {}
    for name, run in arms.items():
        exact_seconds[name], exact[name] = run()
        _console.print(f"{name}, float32: {exact_seconds[name]:.1f} s")
    pairs = sum(map(len, exact["kindling"].values()))
    samples = {
        "pairs": pairs,
        "grid_seconds": {size: taken for size, (taken, _) in grid.items()},
        "grid_flips": {size: _flips(each, grid[str(best)][1]) for size, (_, each) in grid.items()},
        "seconds": seconds,
        "float32_seconds": exact_seconds,
        "accuracy": {f"{name}, {dtype}": {p: r.rate for p, r in blimp_rates(each[name]).by_paradigm.items()}
                     for dtype, each in (("bfloat16", found), ("float32", exact)) for name in arms},
        "flips": {
            "float32: kindling from lm_eval": _flips(exact["kindling"], exact["lm_eval"]),
            "bfloat16: kindling from lm_eval": _flips(found["kindling"], found["lm_eval"]),
            "lm_eval: bfloat16 from float32": _flips(found["lm_eval"], exact["lm_eval"]),
            "kindling: bfloat16 from float32": _flips(found["kindling"], exact["kindling"]),
        },
        "ties": {f"{name}, {dtype}": blimp_rates(each[name]).ties
                 for dtype, each in (("bfloat16", found), ("float32", exact)) for name in arms},
    }  # fmt: skip
    _print_tables(samples)
    settings = {
        "paradigms": PARADIGMS, "rounds": rounds, "grid_pairs": _GRID_PAIRS, "batch_size": best,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    return conclude("blimp", settings, samples, goals_of(samples, best))


def goals_of(samples: Mapping[str, Any], batch_size: int) -> list[Goal]:
    """What the samples come to, beside what they should."""
    flips = samples["flips"]["float32: kindling from lm_eval"]
    return [
        Goal(f"speed: kindling / lm-eval with batches of {batch_size}, bfloat16", _speed(samples).median, _GOAL),
        Goal("float32: pairs decided otherwise than by lm-eval", flips, 0, at_least=False),
    ]


def _speed(samples: Mapping[str, Any]) -> Ratio:
    return ratio(samples["seconds"]["lm_eval"], samples["seconds"]["kindling"])


def _load(dtype: str) -> tuple[torch.nn.Module, Any]:
    return load_causal_model(Model(id="embedded", dtype=dtype))


def _kindling(model: torch.nn.Module, tokenizer: Any, data: str) -> tuple[float, Margins]:
    began = time.monotonic()
    paradigms = whole_paradigms("data", MinimalPairs(path=data, paradigms=PARADIGMS), ())
    found = {name: margins(model, tokenizer, pairs) for name, pairs in paradigms.items()}
    blimp_rates(found)
    return time.monotonic() - began, found


def _lm_eval(
    model: torch.nn.Module, tokenizer: Any, data: str, batch_size: int, limit: int | None = None
) -> tuple[float, Margins]:
    tasks = [blimp_task(name, str(Path(data) / f"{name}.jsonl")) for name in PARADIGMS]
    began = time.monotonic()
    found = choice_log_likelihoods(model, tokenizer, tasks, limit, batch_size)
    taken = time.monotonic() - began
    _console.print(f"lm_eval, batches of {batch_size}: {taken:.1f} s")
    return taken, {name.removeprefix("blimp_"): each[:, 0] - each[:, 1] for name, each in found.items()}


def _flips(one: Margins, other: Margins) -> int:
    return sum(int((correct_pairs(one[name]) != correct_pairs(other[name])).sum()) for name in PARADIGMS)


def _print_tables(samples: Mapping[str, Any]) -> None:
    pairs, console = samples["pairs"], Console(width=120)
    table = Table("arm", "pairs/s, bfloat16", "pairs/s, float32", "kindling / arm, bfloat16")
    for name, taken in samples["seconds"].items():
        exact = samples["float32_seconds"][name]
        beside = str(_speed(samples)) if name == "lm_eval" else ""
        table.add_row(name, f"{pairs / statistics.median(taken):.0f}", f"{pairs / exact:.0f}", beside)
    console.print(table)
    table = Table("accuracy", *PARADIGMS, "ties")
    for name, rates in samples["accuracy"].items():
        table.add_row(name, *(f"{rates[paradigm]:.3f}" for paradigm in PARADIGMS), str(samples["ties"][name]))
    console.print(table)
    table = Table("flips", f"of {pairs} pairs")
    for name, count in samples["flips"].items():
        table.add_row(name, str(count))
    console.print(table)
