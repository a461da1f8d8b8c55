"""Top layer: the jobs a person submits, each a verb of `kindling` and a Python call. Imports all other layers.

`dir(pipelines)` lists the calls and the errors that they raise. Each is loaded when it is first used, so that
`kindling --help` imports neither Ray nor Arrow.

checking/         the verbs doctor, init, schema, check: what can be known before a job starts
cli/              the command line: `kindling VERB`, the same as `python -m pipelines VERB`
labelling/        the verb label
previewing/       the verb preview
augmentation/     the verb augment
replaying/        the verb replay
quality_control/  rules that reject texts
quality_report/   the verb quality
run_status/       the verbs status, runs
corpora/          the verbs stats, compare, compose
reviewing/        the verb review
deduplication/    the verb dedup
publishing/       the verbs export, push; dataset and model cards
training/         the verb train
evaluation/       the verb evaluate
study/            the verb reproduce
reporting/        the verb report
benchmarks/       the verb bench
verification.py   the verb verify
verdict.py        its result
demonstration.py  the verb demo
pools.py          the verb pool
jobfile.py        reads a job file (YAML) with its `--set` overrides
run_folder.py     which job an output folder belongs to, and whether its run may be resumed
inputs/           input files as rows
recipes/          from an input row to its prompt, and from a response to the text that is kept
pages/            parts that all HTML pages and cards share
result.py         results of calls: a table in a notebook, and the data behind it
stopping.py       stop signals: a job is asked to stop, and has some seconds left
"""

import importlib
from typing import Any

_CALLS = {
    "augment": "pipelines.augmentation.augment",
    "check": "pipelines.checking.check",
    "label": "pipelines.labelling.label",
    "preview": "pipelines.previewing.preview",
    "replay": "pipelines.replaying.replay",
    "train": "pipelines.training.train",
    "push": "pipelines.publishing.hub",
    "train_all": "pipelines.training.on_ray",
    "evaluate": "pipelines.evaluation.evaluate",
    "reproduce": "pipelines.study.reproduce",
    "demo": "pipelines.demonstration",
    "doctor": "pipelines.checking.doctor",
    "verify": "pipelines.verification",
    "runs": "pipelines.run_status.listing",
    "status": "pipelines.run_status.status",
    "dedup": "pipelines.deduplication.dedup",
    "export": "pipelines.publishing.export",
    "review": "pipelines.reviewing.review",
    "tally_review": "pipelines.reviewing.tally",
    "compose": "pipelines.corpora.composition",
    "export_prompts": "pipelines.publishing.export_prompts",
    "stats": "pipelines.corpora.stats",
    "quality": "pipelines.quality_report.report",
    "save_quality": "pipelines.quality_report.html_page",
    "compare": "pipelines.corpora.comparison",
    "save_comparison": "pipelines.corpora.comparison_page",
    "report": "pipelines.reporting.report",
    "save_report": "pipelines.reporting.html_page",
    "start_pool": "pipelines.pools",
    "list_pools": "pipelines.pools",
    "stop_pool": "pipelines.pools",
}

_ERRORS = ("EngineError", "JobError", "KindlingError", "RunError", "StoppedError")

__all__ = [*_CALLS, *_ERRORS]


def __getattr__(name: str) -> Any:
    module = "schemas.errors" if name in _ERRORS else _CALLS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
