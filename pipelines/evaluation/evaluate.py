"""`kindling evaluate`: models, or responses that exist already, go through evaluations."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.evaluation import blimp, emobench, lm_eval, logit_lens, preference, sentiment
from pipelines.evaluation.examples import example_lines
from pipelines.evaluation.generation import generate_responses
from pipelines.evaluation.models import locate_models
from pipelines.evaluation.progress import EvaluationProgress
from pipelines.evaluation.record import recorded, write_record
from pipelines.evaluation.reports import Report
from pipelines.evaluation.session import Evaluation, Session
from pipelines.jobfile import as_job
from pipelines.pages.markdown import code, escaped
from pipelines.pages.tables import Table, html_tables, markdown
from pipelines.result import Result, flat
from pipelines.run_folder import read_record
from pipelines.stopping import stop_signals
from schemas.errors import JobError
from schemas.evaluate import EvaluateJob
from services.cluster import connect_to_ray
from services.observability.endpoint import serve_metrics
from services.observability.series import EvaluateMetrics
from services.storage.store import ShardStore

EVALUATIONS: tuple[Evaluation, ...] = (
    sentiment.EVALUATION,
    preference.EVALUATION,
    blimp.EVALUATION,
    emobench.EVALUATION,
    lm_eval.EVALUATION,
    logit_lens.EVALUATION,
)
"""all kinds of evaluation, in the order in which they run and stand on the page"""


@dataclass(frozen=True)
class EvaluationReport(Result):
    """Outcome of an evaluate job.

    Attributes:
        run: the folder.
        reports: the report of each evaluation that the job asks for, by its name; `report.blimp` is
            `report.reports["blimp"]`.
        failures: the first error of each model that could not be evaluated, by the model's name.
        left_out: names of the evaluations of the job that `only` left out and that are not done.
    """

    run: str
    name: str
    reports: dict[str, Any]
    failures: dict[str, str]
    left_out: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        """The report of an evaluation; None where the job does not ask for it, or `only` left it out."""
        if name not in {evaluation.name for evaluation in EVALUATIONS}:
            raise AttributeError(f"there is no evaluation {name!r}")
        return self.reports.get(name)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        models: dict[str, dict[str, Any]] = {}
        comparisons: dict[str, list[dict[str, Any]]] = {}
        for kind, report in self.reports.items():
            for name, figures in report.models_as_json().items():
                models.setdefault(name, {})[kind] = figures
            if (compared := report.comparisons_as_json()) is not None:
                comparisons[kind] = compared
        answers = self.reports.get("preference")
        return {
            "run": self.run,
            "name": self.name,
            "models": models,
            "comparisons": comparisons,
            "preference": answers.as_json() if answers else None,
            "failures": self.failures,
            "left_out": list(self.left_out),
        }

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each figure of each model in each evaluation."""
        return [
            {"model": model, "evaluation": evaluation, "figure": figure, "value": value}
            for model, evaluations in self.as_json()["models"].items()
            for evaluation, figures in evaluations.items()
            for figure, value in flat(figures).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]

    def _repr_html_(self) -> str:
        return html_tables(self.tables())

    def tables(self) -> list[Table]:
        """Tables of all evaluations, in the order of the page."""
        return [table for report in self.reports.values() for table in report.tables()]


def evaluate(job: EvaluateJob | Mapping[str, Any] | str | Path, only: Sequence[str] | None = None) -> EvaluationReport:
    """Evaluates, or goes on where an earlier start stopped; finished results are not made again.

    A model that cannot be loaded, or that responds to no prompt of an emotion, is named among the failures of the
    report; the other models are evaluated.

    Args:
        job: a job, the same as a dict, or the path of a job file.
        only: names of evaluations of the job: the others are read where they are done, and left out where not.

    Raises:
        KindlingError: `only` names an evaluation that the job does not have; or the job, its data, its classifier or
            the folder is at fault.
        StoppedError: a signal came; the same call goes on.
    """
    job = as_job(job, EvaluateJob)
    store = ShardStore(job.output.path)
    evaluations = _chosen(job, store, only)
    for evaluation in evaluations:  # all of them first: no fault of the third shows after the hours of the first two
        evaluation.check(job)
    metrics, failures = EvaluateMetrics(job.name), dict[str, str]()
    with (
        serve_metrics(metrics, job.metrics) as address,
        recorded(store, job, address, metrics),
        stop_signals(job.cluster.grace_seconds) as stop_within,
    ):
        models = locate_models(job, failures)
        reports: dict[str, Report] = {}
        progress = EvaluationProgress(metrics)
        # Failures of its own: a model that fails in one evaluation may do in another.
        sessions = {each.name: Session(job, models, store, stop_within, progress, {}) for each in evaluations}
        unanswered = {
            each.name: asked for each in evaluations if (asked := each.unanswered(sessions[each.name])).models
        }
        with connect_to_ray(job.cluster.address) if unanswered else nullcontext():
            # One model at a time has the machine, and the classifiers have it after them.
            generate_responses(sessions, unanswered, metrics, address)
            for evaluation in evaluations:
                session = sessions[evaluation.name]
                reports[evaluation.name] = evaluation.evaluate(session)
                failures = session.failures | failures
                metrics.failed.labels(job.name, evaluation.name).set(len(session.failures))
        left_out = [name for name in job.evaluations if name not in reports]
        report = EvaluationReport(store.url, job.name, reports, failures, left_out)
        write_record(store, job, failures, **metrics.final_entries(read_record(store, "evaluate") or {}))
        store.write_text("README.md", _page(report))
    return report


def _chosen(job: EvaluateJob, store: ShardStore, only: Sequence[str] | None) -> list[Evaluation]:
    """Returns the evaluations of the job that run, or that are done and read for the page."""
    if unknown := [name for name in only or () if name not in job.evaluations]:
        remedy = f"name some of those in `evaluations` of the job: {', '.join(job.evaluations)}"
        raise JobError("--only", unknown[0], "the job has no such evaluation", remedy)
    asked = [evaluation for evaluation in EVALUATIONS if evaluation.name in job.evaluations]
    return [each for each in asked if not only or each.name in only or _is_done(job, store, each.name)]


def _is_done(job: EvaluateJob, store: ShardStore, evaluation: str) -> bool:
    files = getattr(job, evaluation).result_files(evaluation, job.model_labels)
    return all(store.fs.exists(store.path(path)) for paths in files.values() for path in paths)


def _page(report: EvaluationReport) -> str:
    failed = [f"- {code(name)} could not be evaluated: {escaped(error)}" for name, error in report.failures.items()]
    left_out = [f"Not run yet, since `--only` left them out: {', '.join(report.left_out)}.", ""]
    examples = [line for name, each in report.reports.items() for line in example_lines(name, each.examples())]
    what = "What each figure is of, and was made with: `results/`; the job: `evaluate.json`."
    return "\n".join(
        [f"# {report.name}", "", what, "", *failed, "", *(left_out if report.left_out else []),
         markdown(report.tables()), *examples]
    )  # fmt: skip
