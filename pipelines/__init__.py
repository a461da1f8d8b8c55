"""Top floor: the jobs a person submits, each a plain Python call and a verb of `kindling`.

    cli.py                `kindling VERB`, the same as `python -m pipelines VERB`
    cli_bench.py          its verb bench
    cli_corpora.py        the verbs stats and compare
    cli_preview.py        the verb preview
    cli_status.py         the verb status
    cli_logs.py           the options of verbs that log
    cli_training.py       the verb train
    cli_evaluation.py     the verb evaluate
    jobfile.py            reads a job file and its --set overrides
    strict_yaml.py        the YAML that it is written in, within bounds
    inputs.py             the input of a job as one sequence of rows
    input_files.py        the files that it names
    sources.py            the formats it comes in
    lines.py              lines and CSV records, within bounds
    recipes/              from a row to its prompt
    plan.py               run.json: a new run or a resumed one, and the rows that are left
    labelling/            label
    augmentation.py       augment
    previewing/           preview
    stopping.py           how a job is told to end, and how long it has
    pools.py              pool start, list, stop
    benchmarks/           bench throughput, scale, chaos, determinism, classifier, train, blimp, watched
    demonstration.py      demo
    verification.py       verify
    run_status.py         status
    run_history.py        how fast a run goes, from its files
    live_status.py        what the endpoint of a running job adds
    other_status.py       how far a training or a labelling is
    evaluation_status.py  how far an evaluation is
    status_page.py        the page
    watching_status.py    status --watch
    dataset_export.py     export
    composition.py        compose
    corpus_parts.py       the parts of a corpus as documents
    word_budget.py        how many words of each part, and which documents
    prompt_export.py      export --format prompts
    fitting_emotions.py   an emotion for each row that fits it
    near_duplicates.py    texts that say almost the same as an earlier one
    training.py           train
    training_on_ray.py    several trainings at once, on Ray
    training_task.py      one of them: a Ray task
    classifier_training.py  an emotion classifier
    language_training.py  a language model through its stages
    training_stage.py     one of these
    stage_report.py       what came of it
    training_folder.py    the folder and record
    training_rows.py      what it is trained on, and what is held out
    blimp.py              minimal pairs that say whether a model keeps its grammar
    labelled_texts.py     texts with their emotions, to train a classifier on
    model_card.py         the model card
    publishing.py         push
    evaluation/           evaluate
    corpora.py            what stats and compare read: runs, and files of others
    corpus_stats.py       stats
    tally.py              its counts, in bounded memory
    stats_page.py         its tables
    comparison.py         compare
    comparison_page.py    its pages: terminal, Markdown, HTML
    endpoint.py           the Prometheus endpoint of a job
    printable.py          texts from data and models as a terminal or a page may show them
    pace.py               how fast rows are finished, and how long the rest takes
    progress.py           counting, the progress bar, log lines
    card.py               the dataset cards

The calls are made available lazily, so that `kindling --help` imports neither Ray nor Arrow.
"""

import importlib
from typing import Any

_CALLS = {
    "augment": "pipelines.augmentation",
    "label": "pipelines.labelling.label",
    "preview": "pipelines.previewing.preview",
    "train": "pipelines.training",
    "push": "pipelines.publishing",
    "train_all": "pipelines.training_on_ray",
    "evaluate": "pipelines.evaluation.job",
    "demo": "pipelines.demonstration",
    "verify": "pipelines.verification",
    "status": "pipelines.run_status",
    "export": "pipelines.dataset_export",
    "compose": "pipelines.composition",
    "export_prompts": "pipelines.prompt_export",
    "stats": "pipelines.corpus_stats",
    "compare": "pipelines.comparison",
    "save_comparison": "pipelines.comparison_page",
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
