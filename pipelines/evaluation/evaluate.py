"""`kindling evaluate`: models, or responses that exist already, go through evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.evaluation import blimp, lm_eval, logit_lens, preference, sentiment
from pipelines.evaluation.models import locate_models
from pipelines.evaluation.progress import EvaluationProgress
from pipelines.evaluation.record import read_record, recorded, write_record
from pipelines.evaluation.session import Evaluation, Report, Session
from pipelines.evaluation.tables import Table, markdown
from pipelines.jobfile import as_job
from pipelines.pages.markdown import code, escaped
from pipelines.stopping import stop_signals
from schemas.evaluate import EvaluateJob
from services.observability.endpoint import serve_metrics
from services.observability.series import EvaluateMetrics
from services.storage.store import ShardStore

EVALUATIONS: tuple[Evaluation, ...] = (
    sentiment.EVALUATION,
    preference.EVALUATION,
    blimp.EVALUATION,
    lm_eval.EVALUATION,
    logit_lens.EVALUATION,
)
"""all kinds of evaluation, in the order in which they run and stand on the page"""


@dataclass(frozen=True)
class EvaluationReport:
    """Outcome of an evaluate job.

    Attributes:
        run: the folder.
        reports: the report of each evaluation that the job asks for, by its name; `report.blimp` is
            `report.reports["blimp"]`.
        failures: the first error of each model that could not be evaluated, by the model's name.
    """

    run: str
    name: str
    reports: dict[str, Any]
    failures: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        """The report of an evaluation; None where the job does not ask for it."""
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
        }

    def tables(self) -> list[Table]:
        """Tables of all evaluations, in the order of the page."""
        return [table for report in self.reports.values() for table in report.tables()]


def evaluate(job: EvaluateJob | Mapping[str, Any] | str | Path) -> EvaluationReport:
    """Evaluates, or goes on where an earlier start stopped; finished results are not made again.

    A model that cannot be loaded, or that responds to no prompt of an emotion, is named among the failures of the
    report; the other models are evaluated.

    Args:
        job: a job, the same as a dict, or the path of a job file.

    Raises:
        KindlingError: the job, its data, its classifier or the folder is at fault.
        StoppedError: a signal came; the same call goes on.
    """
    job = as_job(job, EvaluateJob)
    store = ShardStore(job.output.path)
    evaluations = [evaluation for evaluation in EVALUATIONS if evaluation.name in job.evaluations]
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
        for evaluation in evaluations:
            # Failures of its own: a model that fails in one evaluation may do in another.
            session = Session(job, models, store, stop_within, EvaluationProgress(metrics), {})
            reports[evaluation.name] = evaluation.evaluate(session)
            failures = session.failures | failures
            metrics.failed.labels(job.name, evaluation.name).set(len(session.failures))
        report = EvaluationReport(store.url, job.name, reports, failures)
        write_record(store, job, failures, **metrics.final_entries(read_record(store) or {}))
        store.write_text("README.md", _page(report))
    return report


def _page(report: EvaluationReport) -> str:
    failed = [f"- {code(name)} could not be evaluated: {escaped(error)}" for name, error in report.failures.items()]
    what = "What each figure is of, and was made with: `results/`; the job: `evaluate.json`."
    return "\n".join([f"# {report.name}", "", what, "", *failed, "", markdown(report.tables())])
