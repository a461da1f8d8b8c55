"""lm-evaluation-harness: its tasks, by name or by their configuration. The one file that touches lm_eval."""

import difflib
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from schemas.errors import EngineError, JobError
from schemas.evaluate import task_name
from schemas.text import shorten

_TASKS = "lm_eval.tasks"
_STDERR = "_stderr"


@dataclass(frozen=True)
class TaskScore:
    """One figure of a task or of a task in it.

    Attributes:
        metric: as lm-eval names it, with its filter where that is not `none`: `acc`, `exact_match,strict-match`.
        stderr: its standard error as lm-eval gives it; None where it gives none.
        n: documents; None of a group.
        version: of the task.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int | None
    shots: int | None
    version: str


def refuse_unknown_tasks(tasks: Sequence[str | Mapping[str, Any]]) -> None:
    """Refuses tasks that lm-eval does not know, before anything is loaded.

    Raises:
        JobError: there is one, or a task of a job's own asks for a metric that is none of lm-eval's: those would be
            programs from the Hub.
    """
    known = _known(True).all_tasks if any(isinstance(task, str) for task in tasks) else []
    metrics = _lm_eval().api.registry.METRIC_REGISTRY
    for task in tasks:
        if isinstance(task, str):
            if task not in known:
                close = difflib.get_close_matches(task, known, n=1)
                remedy = f"did you mean {close[0]}?" if close else "`lm_eval ls tasks` lists them"
                raise JobError(_TASKS, task, "lm-eval has no task or group of that name", remedy)
            continue
        for each in task.get("metric_list") or ():
            name = each.get("metric") if isinstance(each, Mapping) else None
            if name not in metrics or each.get("hf_evaluate"):
                remedy = f"its metrics are {', '.join(sorted(metrics))}"
                raise JobError(f"{_TASKS}.metric_list", name, "this is none of lm-eval's own metrics", remedy)


def evaluate_task(
    model: Any, tokenizer: Any, task: str | Mapping[str, Any], limit: int | None, batch_size: int
) -> list[TaskScore]:
    """The figures of a task or group, in lm-eval's order.

    Args:
        model: a causal one of transformers; no chat template is applied.
        limit: documents of each task; None takes all.

    Raises:
        EngineError: lm-eval cannot evaluate it: its data cannot be had, say.
    """
    found = _evaluated(model, tokenizer, [task], limit, batch_size)
    return [
        TaskScore(
            task=name, metric=metric.removesuffix(",none"), value=float(value),
            stderr=_number(figures.get(_STDERR.join(_split(metric)))),
            n=found["n-samples"].get(name, {}).get("effective"), shots=found["n-shot"].get(name),
            version=str(found["versions"].get(name)),
        )
        for name, figures in found["results"].items()
        for metric, value in figures.items()
        if "," in metric and _STDERR not in metric and _number(value) is not None
    ]  # fmt: skip


def choice_log_likelihoods(
    model: Any, tokenizer: Any, tasks: Sequence[str | Mapping[str, Any]], limit: int | None, batch_size: int
) -> dict[str, np.ndarray]:
    """What lm-eval finds for each choice of each document: by task, log-likelihoods of shape (documents, choices).

    Raises:
        EngineError: as `evaluate_task`.
    """
    samples = _evaluated(model, tokenizer, tasks, limit, batch_size, samples=True)["samples"]
    return {
        name: np.array([[float(likelihood) for likelihood, _ in sample["filtered_resps"]]
                        for sample in sorted(each, key=lambda sample: sample["doc_id"])])
        for name, each in samples.items()
    }  # fmt: skip


def blimp_task(paradigm: str, file: str) -> dict[str, Any]:
    """A paradigm of BLiMP as lm-eval defines it, but for its data, which are a JSONL file; named `blimp_<paradigm>`."""
    return {
        "task": f"blimp_{paradigm}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": file}},
        "validation_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _evaluated(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str | Mapping[str, Any]],
    limit: int | None,
    batch_size: int,
    samples: bool = False,
) -> dict[str, Any]:
    named = any(isinstance(task, str) for task in tasks)
    library = _lm_eval()
    try:
        return library.simple_evaluate(
            model=library.models.huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=[task if isinstance(task, str) else dict(task) for task in tasks], limit=limit, log_samples=samples,
            task_manager=_known(named),
        )  # fmt: skip
    except Exception as error:  # of whatever class: the task's own code runs in there
        cause = f"lm-eval could not evaluate it: {shorten(next(iter(str(error).splitlines()), type(error).__name__))}"
        remedy = "see that its data are on this machine or can be had, or leave the task out"
        raise EngineError(_TASKS, ", ".join(map(task_name, tasks)), cause, remedy) from None


@functools.cache
def _lm_eval() -> Any:
    """The library, which takes seconds to import."""
    import lm_eval.api.metrics
    import lm_eval.models.huggingface
    import lm_eval.tasks
    import lm_eval.utils

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # Templates come from job files too, and a template must not reach what it was not given.
    sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters.update(lm_eval.utils.env.filters)
    lm_eval.utils.env = sandbox
    return lm_eval


@functools.cache
def _known(by_name: bool) -> Any:
    """A name needs lm-eval's index of all its tasks, which takes seconds to make; a task of a job's own does not."""
    return _lm_eval().tasks.TaskManager(include_defaults=by_name)


def _split(metric: str) -> tuple[str, str]:
    name, _, filtered = metric.partition(",")
    return name, f",{filtered}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else None
