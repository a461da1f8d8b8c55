"""Tasks of lm-evaluation-harness, by name or by their configuration. The only file that imports lm_eval."""

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
    """One figure of a task, of a group of tasks, or of a task in a group.

    Attributes:
        task: name of the task or group.
        metric: lm-eval's name of the metric, with its filter where that is not `none`: `acc`,
            `exact_match,strict-match`.
        value: value of the metric.
        stderr: standard error as lm-eval computes it; None where it computes none.
        n: number of documents; None for a group.
        shots: number of examples in each prompt; None for a group.
        version: version of the task.
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

    Args:
        tasks: names of lm-eval's tasks or groups, and configurations of tasks that the job defines itself.

    Raises:
        JobError: lm-eval has no task of that name, or a configuration asks for a metric that is not lm-eval's own (such
            a metric would be a program that is downloaded from the Hub).
    """
    known = _task_manager(True).all_tasks if any(isinstance(task, str) for task in tasks) else []
    metrics = _lm_eval().api.registry.METRIC_REGISTRY
    for task in tasks:
        if isinstance(task, str):
            if task not in known:
                close = difflib.get_close_matches(task, known, n=1)
                remedy = f"did you mean {close[0]}?" if close else "`lm_eval ls tasks` lists them"
                raise JobError(_TASKS, task, "lm-eval has no task or group of that name", remedy)
            continue
        for metric in task.get("metric_list") or ():
            name = metric.get("metric") if isinstance(metric, Mapping) else None
            if name not in metrics or metric.get("hf_evaluate"):
                remedy = f"name one of {', '.join(sorted(metrics))}"
                raise JobError(f"{_TASKS}.metric_list", name, "this is not one of lm-eval's own metrics", remedy)


def evaluate_task(
    model: Any, tokenizer: Any, task: str | Mapping[str, Any], limit: int | None, batch_size: int
) -> list[TaskScore]:
    """Evaluates a model on a task or group, and returns its figures in lm-eval's order.

    Args:
        model: causal language model of transformers; no chat template is applied.
        tokenizer: tokenizer of the model.
        task: name of a task or group, or the configuration of a task.
        limit: number of documents of each task; None takes all.
        batch_size: number of requests in one forward pass.

    Raises:
        EngineError: lm-eval cannot evaluate the task, for example because its data are not reachable.
    """
    output = _run_tasks(model, tokenizer, [task], limit, batch_size)
    return [
        TaskScore(
            task=name, metric=metric.removesuffix(",none"), value=float(value),
            stderr=_number(figures.get(_STDERR.join(_split(metric)))),
            n=output["n-samples"].get(name, {}).get("effective"), shots=output["n-shot"].get(name),
            version=str(output["versions"].get(name)),
        )
        for name, figures in output["results"].items()
        for metric, value in figures.items()
        if "," in metric and _STDERR not in metric and _number(value) is not None
    ]  # fmt: skip


def choice_log_likelihoods(
    model: Any, tokenizer: Any, tasks: Sequence[str | Mapping[str, Any]], limit: int | None, batch_size: int
) -> dict[str, np.ndarray]:
    """Evaluates a model on multiple-choice tasks, and returns lm-eval's log-likelihood of each choice.

    Args:
        model, tokenizer, limit, batch_size: arguments as for `evaluate_task`.
        tasks: names or configurations of the tasks.

    Returns:
        Task -> log-likelihoods, shape (documents, choices).

    Raises:
        EngineError: lm-eval cannot evaluate a task, for example because its data are not reachable.
    """
    samples = _run_tasks(model, tokenizer, tasks, limit, batch_size, samples=True)["samples"]
    return {name: _log_likelihoods(samples_of_task) for name, samples_of_task in samples.items()}


def _log_likelihoods(samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns the log-likelihoods of all samples of a task in the order of its documents."""
    in_order = sorted(samples, key=lambda sample: sample["doc_id"])
    return np.array([[float(likelihood) for likelihood, _ in sample["filtered_resps"]] for sample in in_order])


def blimp_task(paradigm: str, file: str) -> dict[str, Any]:
    """Returns the configuration of lm-eval's task `blimp_<paradigm>`, with a JSONL file in place of the Hub's data."""
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


def _run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str | Mapping[str, Any]],
    limit: int | None,
    batch_size: int,
    samples: bool = False,
) -> dict[str, Any]:
    """Runs lm-eval's evaluation, and returns its output.

    Args:
        samples: True adds the scores of each document to the output.
    """
    from services.models.diverged import refuse_diverged  # it imports torch, and a report reads scores without

    any_by_name = any(isinstance(task, str) for task in tasks)
    library = _lm_eval()

    # A token whose numbers are NaN spoils those of all later tokens, so the last position shows it.
    def refuse_diverged_logits(_: Any, __: Any, output: Any) -> None:
        if bool(output.logits[:, -1].isnan().any()):
            refuse_diverged(output.logits[:, -1], tokenizer.name_or_path, "logits")

    hook = model.register_forward_hook(refuse_diverged_logits)
    try:
        return library.simple_evaluate(
            model=library.models.huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=[task if isinstance(task, str) else dict(task) for task in tasks], limit=limit, log_samples=samples,
            task_manager=_task_manager(any_by_name),
        )  # fmt: skip
    except EngineError:
        raise
    except Exception as error:  # any class: the code of the task runs in there
        cause = f"lm-eval could not evaluate it: {shorten(next(iter(str(error).splitlines()), type(error).__name__))}"
        remedy = "make sure that its data are on this machine or can be downloaded, or leave the task out"
        names = ", ".join(task_name(task if isinstance(task, str) else dict(task)) for task in tasks)
        raise EngineError(_TASKS, names, cause, remedy) from None
    finally:
        hook.remove()


@functools.cache
def _lm_eval() -> Any:
    """Imports lm-eval, which takes seconds, and puts its templates into a sandbox."""
    import lm_eval.api.metrics
    import lm_eval.models.huggingface
    import lm_eval.tasks
    import lm_eval.utils

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # Templates may come from a job file. In the sandbox a template cannot reach Python objects it was not given.
    sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters.update(lm_eval.utils.env.filters)
    lm_eval.utils.env = sandbox
    return lm_eval


@functools.cache
def _task_manager(has_names: bool) -> Any:
    """Returns lm-eval's task manager. Names need its index of all tasks, which takes seconds; configurations do not."""
    return _lm_eval().tasks.TaskManager(include_defaults=has_names)


def _split(metric: str) -> tuple[str, str]:
    """Splits lm-eval's `acc,none` into name and filter: ("acc", ",none"). Its error is called `acc_stderr,none`."""
    name, _, filter_name = metric.partition(",")
    return name, f",{filter_name}"


def _number(value: Any) -> float | None:
    """Returns a number as float, or None: lm-eval writes "N/A" where it has no figure."""
    return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else None
