"""Origin of each run: fingerprint, model, versions, machine, time, tokens, cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.pages.tables import Table
from pipelines.reporting.folders import ReportRun, ReportSources
from pipelines.run_status.augment import RunStatus
from schemas.text import clock, shorten
from services.storage.shard_index import read_index

_FINGERPRINT_CHARACTERS = 12


@dataclass(frozen=True)
class Lineage:
    """Origin of the runs of a report.

    Attributes:
        table: a line for each run.
        versions: versions of Python and of packages, by package; several where runs differ.
        machine: processors, memory and GPUs, as the study's record has them.
        command: command that runs all again; "" where no study has it.
        files: text of the study file, or the job of each run as YAML, by name.
    """

    table: Table
    versions: dict[str, str]
    machine: dict[str, str]
    command: str
    files: dict[str, str]


def read_lineage(sources: ReportSources) -> Lineage:
    """Reads how the runs were made.

    Raises:
        RunError: a file of a run is damaged.
    """
    study = sources.study
    price = study.price_per_hour if study else None
    needs = {name: job.needs for name, job in study.jobs.items()} if study else {}
    header = ["Run", "Job", "State", "Made from", "Fingerprint", "Begun", "Time", "Tokens", "Cost"]
    rows = [_line(run, needs.get(run.name, []), price) for run in sources.runs]
    rows += [[name, study.jobs[name].kind if study else "", state, *(["-"] * 6)]
             for name, state in sources.not_begun.items()]  # fmt: skip
    note = "Tokens: prompts and outputs of an augmentation, with all tries; tokens that a training read. "
    note += "Cost: time at the price of an hour, where the study or the job has one."
    machine = {name: shorten(str(value), 120) for name, value in (study.machine if study else {}).items()}
    files = {"study file": study.file} if study else {run.name: _job_text(run) for run in sources.runs}
    versions = _versions([*(run.record for run in sources.runs), *([study.model_dump()] if study else [])])
    command = study.command if study else ""
    return Lineage(Table("The runs", header, rows, note), versions, machine, command, files)


def _line(run: ReportRun, needs: Sequence[str], price: float | None) -> list[str]:
    record = run.record
    state = run.status.state_text() if run.status else "complete"
    seconds, tokens, cost = _seconds(run), _tokens(run), None
    if price is not None and seconds is not None:
        cost = seconds / 3600 * price
    elif isinstance(run.status, RunStatus):
        cost = run.status.cost
    fingerprint = str(record.get("fingerprint", ""))[:_FINGERPRINT_CHARACTERS]
    begun = str(record.get("created_at") or record.get("written_at") or "-")
    made_from = ", ".join(needs) or _source(run)
    return [
        run.name, run.kind, state, made_from, fingerprint or "-", begun,
        "-" if seconds is None else clock(seconds), "-" if tokens is None else f"{tokens:,}",
        "-" if cost is None else f"{cost:,.2f}",
    ]  # fmt: skip


def _source(run: ReportRun) -> str:
    """Inputs and model of a run that is part of no study."""
    job = run.job
    model = (job.get("model") or {}).get("id") or ""
    given = job.get("responses") or []
    listed = [*(job.get("models") or []), *(given if isinstance(given, list) else [given])]
    models = [each.get("path") or each.get("id") for each in listed]
    places = [(job.get("input") or {}).get("path") or (job.get("input") or {}).get("dataset"), *models]
    parts = [job.get("parts") or {}, *(stage.get("parts") or {} for stage in job.get("stages") or [])]
    places += [part.get("run") or (part.get("input") or {}).get("path") for each in parts for part in each.values()]
    return shorten(", ".join(dict.fromkeys(str(place) for place in [*places, model] if place)), 160) or "-"


def _seconds(run: ReportRun) -> float | None:
    if run.seconds:
        return run.seconds
    if isinstance(run.status, RunStatus):
        return run.status.active_seconds
    if run.kind == "train":
        return sum(stage.get("seconds") or 0.0 for stage in run.record.get("stages") or []) or None
    return None


def _tokens(run: ReportRun) -> int | None:
    if run.kind == "augment" and (record := run.store.read_run()):
        totals = read_index(run.store, record).totals()
        return totals.prompt_tokens + totals.output_tokens
    if run.kind == "train":
        metrics: dict[str, Any] = run.record.get("last_metrics") or {}
        tokens = sum(value for name, value in metrics.items() if name.startswith("kindling_train_tokens_total"))
        return int(tokens) or None
    return None


def _versions(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    seen: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in (record.get("versions") or {}).items():
            seen.setdefault(str(name), {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in seen.items()}


def _job_text(run: ReportRun) -> str:
    return f"# kindling {run.kind} JOB.yaml\n{yaml.safe_dump(run.job, sort_keys=False, allow_unicode=True)}"
