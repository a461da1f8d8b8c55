"""The training behind an evaluated model: what it began from, and the data that it was trained on."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.reporting.folders import ReportRun
from schemas.text import shorten

# Stages of a training lie in this folder of its run.
_STAGES = "/stages/"
_KINDS = ("train", "augment", "compose", "label")


def run_at(path: str | None, runs: Sequence[ReportRun], kinds: Sequence[str] = _KINDS) -> ReportRun | None:
    """Finds the run that a path of a job leads to.

    A report may be made where the folders lie elsewhere, so a run whose folder has the same name is taken, where it is
    the only one.
    """
    if not path:
        return None
    folder = path.rstrip("/").split(_STAGES)[0].removesuffix("/data")
    there = [run for run in runs if run.kind in kinds]
    same = [run for run in there if os.path.abspath(run.store.url) == os.path.abspath(os.path.expanduser(folder))]
    same = same or [run for run in there if os.path.basename(run.store.root) == os.path.basename(folder)]
    return same[0] if len(same) == 1 else None


def trainings_of(path: str | None, runs: Sequence[ReportRun]) -> list[ReportRun]:
    """Lists the trainings that made a model, the first one first; empty where none of the runs did."""
    trainings: list[ReportRun] = []
    run = run_at(path, runs, ["train"])
    while run is not None and run not in trainings:
        trainings.insert(0, run)
        run = run_at(start_of(run), runs, ["train"])
    return trainings


def start_of(training: ReportRun) -> str | None:
    """Id or path of the model that a training began from; None for a new model."""
    model = training.job.get("model") or {}
    return None if model.get("from_config") else model.get("id") or model.get("path")


def data_of(path: str | None, runs: Sequence[ReportRun]) -> str:
    """Describes the data of a model in a few words: `clm: stories; sft: rewrites`; "" where it is not known."""
    return "; ".join(text for run in trainings_of(path, runs) for text in _stages(run, runs, path or ""))


def _stages(training: ReportRun, runs: Sequence[ReportRun], path: str) -> Iterator[str]:
    folder = path.rstrip("/").split(_STAGES)
    for number, stage in enumerate(training.job.get("stages", ())):
        parts = stage.get("parts") or {}
        names = [_part_name(name, part, runs) for name, part in parts.items()] or [_files(stage.get("data"))]
        yield f"{stage.get('kind', '?')}: {', '.join(names)}"
        if len(folder) > 1 and folder[1].startswith(f"{number}-"):
            return  # the model is that of this stage


def _part_name(name: str, part: dict[str, Any], runs: Sequence[ReportRun]) -> str:
    run = run_at(part.get("run") or (part.get("input") or {}).get("path"), runs)
    return run.name if run else shorten(name, 60)


def _files(data: Any) -> str:
    return shorten(data if isinstance(data, str) else "its files", 60)
