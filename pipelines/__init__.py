"""Top layer: the jobs a person submits, each a verb of `kindling` and a Python call. Imports all other layers.

The calls below are loaded when they are first used, so that `kindling --help` imports neither Ray nor Arrow.

cli/              the command line: `kindling VERB`, the same as `python -m pipelines VERB`
labelling/        the verb label
previewing/       the verb preview
augmentation/     the verb augment
run_status/       the verb status
corpora/          the verbs stats, compare, compose
publishing/       the verbs export, push; dataset and model cards
training/         the verb train
evaluation/       the verb evaluate
benchmarks/       the verb bench
verification.py   the verb verify
demonstration.py  the verb demo
pools.py          the verb pool
jobfile.py        reads a job file (YAML) with its `--set` overrides
run_folder.py     which job an output folder belongs to, and whether its run may be resumed
inputs/           input files as rows
recipes/          from an input row to its prompt, and from a response to the text that is kept
pages/            parts that all HTML pages share
stopping.py       stop signals: a job is asked to stop, and has some seconds left
"""

import importlib
from typing import Any

_CALLS = {
    "augment": "pipelines.augmentation.augment",
    "label": "pipelines.labelling.label",
    "preview": "pipelines.previewing.preview",
    "train": "pipelines.training.train",
    "push": "pipelines.publishing.hub",
    "train_all": "pipelines.training.on_ray",
    "evaluate": "pipelines.evaluation.evaluate",
    "demo": "pipelines.demonstration",
    "verify": "pipelines.verification",
    "status": "pipelines.run_status.status",
    "export": "pipelines.publishing.export",
    "compose": "pipelines.corpora.composition",
    "export_prompts": "pipelines.publishing.export_prompts",
    "stats": "pipelines.corpora.stats",
    "compare": "pipelines.corpora.comparison",
    "save_comparison": "pipelines.corpora.comparison_page",
    "start_pool": "pipelines.pools",
    "list_pools": "pipelines.pools",
    "stop_pool": "pipelines.pools",
}

__all__ = [
    "augment",
    "compare",
    "compose",
    "demo",
    "evaluate",
    "export",
    "export_prompts",
    "label",
    "list_pools",
    "preview",
    "push",
    "save_comparison",
    "start_pool",
    "stats",
    "status",
    "stop_pool",
    "train",
    "train_all",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_CALLS[name]), name)
