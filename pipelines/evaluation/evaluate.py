"""`kindling evaluate`: models, or responses that are there already, through evaluations."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.evaluation.blimp import check_blimp, evaluate_blimp
from pipelines.evaluation.blimp_results import BlimpReport, blimp_tables
from pipelines.evaluation.lm_eval import LmEvalReport, check_lm_eval, evaluate_lm_eval, lm_eval_tables
from pipelines.evaluation.logit_lens import LensReport, evaluate_logit_lens, lens_tables
from pipelines.evaluation.models import located
from pipelines.evaluation.preference import PreferenceReport, check_preference, evaluate_preference, preference_tables
from pipelines.evaluation.progress import Progress
from pipelines.evaluation.record import read_record, recorded, write_record
from pipelines.evaluation.sentiment import check_sentiment, evaluate_sentiment
from pipelines.evaluation.sentiment_results import SentimentReport, sentiment_tables
from pipelines.evaluation.session import Session
from pipelines.evaluation.tables import Table, markdown
from pipelines.jobfile import as_job
from pipelines.stopping import stop_signals
from schemas.evaluate import EvaluateJob
from services.observability.endpoint import serve_metrics
from services.observability.series import EvaluateMetrics
from services.storage.store import ShardStore

_CHECKS: dict[str, Callable[[EvaluateJob], None]] = {
    "sentiment": check_sentiment,
    "preference": check_preference,
    "blimp": check_blimp,
    "lm_eval": check_lm_eval,
}
"""so that no fault of the third evaluation is found after the hours of the first two"""

_EVALUATIONS: dict[str, Callable[[Session], Any]] = {
    "sentiment": evaluate_sentiment,
    "preference": evaluate_preference,
    "blimp": evaluate_blimp,
    "lm_eval": evaluate_lm_eval,
    "logit_lens": evaluate_logit_lens,
}
"""in the order in which they run"""


@dataclass(frozen=True)
class EvaluationReport:
    """What came of an evaluation.

    Attributes:
        run: the folder.
        sentiment, preference, blimp, lm_eval, logit_lens: None where it was not asked for.
        failures: the error of each model that could not be evaluated, by its name; its first one.
    """

    run: str
    name: str
    sentiment: SentimentReport | None
    blimp: BlimpReport | None
    lm_eval: LmEvalReport | None
    preference: PreferenceReport | None
    logit_lens: LensReport | None
    failures: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        models: dict[str, dict[str, Any]] = {}
        comparisons = {}
        for kind, found in (("sentiment", self.sentiment), ("blimp", self.blimp)):
            for model in found.models if found else ():
                models.setdefault(model.name, {})[kind] = model.as_json()
            if found:
                comparisons[kind] = [asdict(each) for each in found.comparisons]
        for name, tasks in self.lm_eval.models.items() if self.lm_eval else ():
            plain = {task: [asdict(score) for score in scores] for task, scores in tasks.items()}
            models.setdefault(name, {})["lm_eval"] = plain
        for name, plain in self.logit_lens.as_json().items() if self.logit_lens else ():
            models.setdefault(name, {})["logit_lens"] = plain
        return {
            "run": self.run,
            "name": self.name,
            "models": models,
            "comparisons": comparisons,
            "preference": self.preference.as_json() if self.preference else None,
            "failures": self.failures,
        }

    def tables(self) -> list[Table]:
        """In the order of the page."""
        return [
            *(sentiment_tables(self.sentiment) if self.sentiment else ()),
            *(preference_tables(self.preference.found) if self.preference and self.preference.found else ()),
            *(blimp_tables(self.blimp) if self.blimp else ()),
            *(lm_eval_tables(self.lm_eval) if self.lm_eval else ()),
            *(lens_tables(self.logit_lens) if self.logit_lens else ()),
        ]


def evaluate(job: EvaluateJob | Mapping[str, Any] | str | Path) -> EvaluationReport:
    """Evaluates, or goes on where it was stopped; what is done is not done again.

    A model that cannot be loaded, or that answers no prompt of an emotion, is told of in the report; the others are
    evaluated.

    Args:
        job: a job, the same as a dict, or the path of a job file.

    Raises:
        KindlingError: the job, its data, its classifier or the folder is at fault.
        StoppedError: a signal came; the same call goes on.
    """
    job = as_job(job, EvaluateJob)
    store = ShardStore(job.output.path)
    for kind in job.evaluations:
        if kind in _CHECKS:
            _CHECKS[kind](job)
    metrics, failures = EvaluateMetrics(job.name), {}
    with (
        serve_metrics(metrics, job.metrics) as address,
        recorded(store, job, address, metrics),
        stop_signals(job.cluster.grace_seconds) as stop_within,
    ):
        models = located(job, failures)
        found = {}
        for kind in (each for each in _EVALUATIONS if each in job.evaluations):
            # Its own failures: what fails in one evaluation may do in another.
            session = Session(job, models, store, stop_within, Progress(metrics), {})
            found[kind] = _EVALUATIONS[kind](session)
            failures = session.failures | failures
            metrics.failed.labels(job.name, kind).set(len(session.failures))
        report = EvaluationReport(
            store.url, job.name, **{kind: found.get(kind) for kind in _EVALUATIONS}, failures=failures
        )
        write_record(store, job, failures, **metrics.final_entries(read_record(store) or {}))
        store.write_text("README.md", _page(report))
    return report


def _page(report: EvaluationReport) -> str:
    failed = [f"- `{name}` could not be evaluated: {error}" for name, error in report.failures.items()]
    what = "What each figure is of, and was made with: `results/`; the job: `evaluate.json`."
    return "\n".join([f"# {report.name}", "", what, "", *failed, "", markdown(report.tables())])
