"""`kindling check`: what can be known of a job before an engine starts. Nothing is written, and nothing generated."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.augmentation.budget import Spent, list_spent_on_disk
from pipelines.checking.findings import CheckedJob, Finding, answers, fault_of, format_bytes, list_gpus
from pipelines.jobfile import as_job
from pipelines.previewing.rendering import render_job
from pipelines.previewing.rows import Population
from schemas.augment import AugmentJob
from schemas.errors import EngineError, JobError
from schemas.job import Model
from schemas.text import format_amount, plural
from services.models.checkpoints import locate
from services.observability.start_phases import engine_start
from services.storage.filesystem import is_local
from services.storage.store import ShardStore

# So many rendered prompts take some seconds. The shares of a larger input are those of a random sample of it.
REFUSED_ROWS = "rows"
"""topic of the finding about rows that would be refused"""
_MAX_RENDERED = 20_000
_WARNED_SHARE = 0.1
# English text has about four characters in a token of today's models; other languages and code have fewer.
_CHARACTERS_PER_TOKEN = 4
_MIN_DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the engine would get it.

    Attributes:
        number: number of its input row, counted over all sources.
        messages: messages with role and content.
    """

    number: int
    source: str
    row_index: int
    variant: str
    messages: list[dict[str, Any]]


@dataclass(frozen=True)
class Check(CheckedJob):
    """Facts about a job that need no engine.

    Attributes:
        job: name of the job.
        rows_left, rows_done: outputs without and with a final state in the run folder.
        looked_at: number of outputs whose prompts were rendered: all that are left, or a random sample of them.
        refused: number of these that would be refused before they are generated, by reason.
        prompts: some of the others.
        findings: state of the model, the devices, the output folder and the ports.
    """

    job: str
    rows_left: int
    rows_done: int
    looked_at: int
    refused: dict[str, int]
    prompts: list[RenderedPrompt]
    findings: list[Finding]


def check(
    job: AugmentJob | Mapping[str, Any] | str | Path, rows: int = 3, seed: int = 0, extend: bool = False
) -> Check:
    """Checks a job of `augment`: its keys, its input, its prompts, its model, its folder and this machine.

    Args:
        job: a job, the same as a dict, or the path of a job file.
        rows: number of prompts to return.
        seed: seed by which they are drawn.
        extend: accepts an input that has more rows at its end than the run began with.

    Raises:
        JobError: the job, its input, or its settings are wrong.
        RunError: the run folder cannot be read, or holds the run of another job.
        EngineError: the classifier of the job cannot be loaded.
    """
    if rows < 0:
        raise JobError("-n", rows, "a number of prompts is not negative", "give 0 or more")
    job = as_job(job)
    rendered = render_job(job, seed, extend, _MAX_RENDERED)
    findings = [find_model(job.model), _devices(job), *find_folder(job.output.path), *_port(job)]
    population = rendered.population
    if population is None:
        findings.append(Finding(REFUSED_ROWS, "ok", "the run is complete: no row is left"))
        return Check(job.name, 0, rendered.run.outputs, 0, {}, [], findings)
    refused = population.refusals()
    findings += [
        _refusals(len(population.rendered), refused),
        *_lengths(job, population),
        *(_budget(part, job.max_row_tokens, population) for part in list_spent_on_disk(job, rendered.run)),
    ]
    prompts = [
        RenderedPrompt(row.number, row.work.source, row.work.row_index, row.work.variant, rendered.messages(row))
        for row in population.draw(rows, seed)
    ]
    return Check(
        job.name, population.rows_left, population.rows_done, len(population.rendered), refused, prompts, findings
    )


def _refusals(looked_at: int, reasons: Mapping[str, int]) -> Finding:
    refused = sum(reasons.values())
    text = f"{refused:,} of {looked_at:,} that were looked at would be refused before they are generated"
    if refused == looked_at:
        return Finding(
            REFUSED_ROWS, "fault", text, "the reasons are below: correct the prompt, input.columns or the input"
        )
    if refused > looked_at * _WARNED_SHARE:
        return Finding(REFUSED_ROWS, "warning", text, f"are they meant? Most often: {next(iter(reasons))}")
    return Finding(REFUSED_ROWS, "ok", text)


def _lengths(job: AugmentJob, population: Population) -> list[Finding]:
    characters = max((row.characters for row in population.generated_rows()), default=0)
    if not characters:
        return []
    tokens = characters // _CHARACTERS_PER_TOKEN
    text = f"the longest has {characters:,} characters, about {tokens:,} tokens; outputs have up to {job.max_tokens:,}"
    bound = job.engine.get("max_model_len")
    if isinstance(bound, int) and tokens + job.max_tokens > bound:
        remedy = "raise engine.max_model_len, or lower sampling.max_tokens: a prompt that does not fit is an error"
        return [Finding("prompts", "warning", f"{text}: together more than engine.max_model_len = {bound:,}", remedy)]
    return [Finding("prompts", "ok", text)]


def _budget(part: Spent, longest: int, population: Population) -> Finding:
    """Compares what is left of a limit with a forecast: by the rows that are done, or by `max_tokens`."""
    left = f"{part.amount(part.left)} are left of {part.key} = {format_amount(part.limit)}"
    remedy = f"raise {part.key}, or let the job stop there: finished rows are kept, and it resumes with a higher one"
    if population.rows_done and part.used:
        needed = part.used / population.rows_done * population.rows_left
        text = f"{left}; the rows that are left take about {format_amount(needed)}, if they are like the others"
        return Finding("budget", "warning", text, remedy) if needed > part.left else Finding("budget", "ok", text)
    if part.key != "budget.tokens":
        return Finding("budget", "ok", f"{left}; `kindling preview` forecasts what the rows take")
    needed = population.rows_to_generate * longest
    text = f"{left}; the rows that are left take at most {format_amount(needed)}, at {longest:,} for each"
    if needed <= part.left:
        return Finding("budget", "ok", text)
    text += f". {int(part.left // longest):,} rows fit in any case; `kindling preview` forecasts what they take"
    return Finding("budget", "warning", text, remedy)


def find_model(model: Model) -> Finding:
    """Finds the model of a job; of one on the Hub its config.json is fetched, and no weights."""
    if model.id == "fake":
        return Finding("model", "ok", "fake: a simulated engine, for tests")
    if model.id == "embedded":
        return Finding("model", "ok", "embedded: comes with the packages")
    try:
        place, revision = locate(model)
    except EngineError as error:
        return fault_of("model", error)
    return Finding("model", "ok", f"{place}, revision {revision[:12]}")


def _devices(job: AugmentJob) -> Finding:
    """Compares the devices that the job asks for with those of this machine."""
    address = job.cluster.address or os.environ.get("RAY_ADDRESS")
    replicas = plural(job.cluster.replicas, "replica")
    if address:
        return Finding("devices", "ok", f"{replicas} on the Ray cluster at {address}, which is not asked here")
    gpus, asked = list_gpus(), (job.cluster.gpus_per_replica or 0) * job.cluster.replicas
    if asked > len(gpus):
        remedy = "leave cluster.gpus_per_replica out to run on the CPU, or name a cluster in cluster.address"
        return Finding("devices", "fault", f"{replicas} want {asked:g} GPUs, and {len(gpus)} are here", remedy)
    where = plural(len(gpus), "GPU") if gpus else "the CPU"
    return Finding("devices", "ok", f"{replicas} on {where} of this machine; {engine_start(bool(gpus))}")


def find_folder(path: str) -> list[Finding]:
    """Finds out whether an output folder can be written, and has room; nothing of one on an object store."""
    store = ShardStore(path)
    if not is_local(store.fs):
        return []
    root = Path(store.root).absolute()
    parent = next(folder for folder in (root, *root.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return [Finding("output", "fault", f"{parent} cannot be written", "name another output.path")]
    free = shutil.disk_usage(parent).free
    text = f"{path}: {'there already' if root.exists() else 'new'}; {format_bytes(free)} are free"
    if free < _MIN_DISK_BYTES:
        return [Finding("output", "warning", text, "make room, or name another output.path")]
    return [Finding("output", "ok", text)]


def _port(job: AugmentJob) -> list[Finding]:
    port = job.metrics.port
    if not port or not answers(job.metrics.host, port):
        return []
    return [Finding("metrics", "ok", f"port {port} is in use: the job takes another free one, and says which")]
