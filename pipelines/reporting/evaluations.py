"""Results of all evaluations of a report: models that were measured in the same way stand side by side.

Invariant: within a report a name stands for one model. Two models of one name are refused, since a figure of one would
stand for the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from eval.lm_eval_harness import TaskScore
from eval.sentiment import PAPER_GROUPS
from pipelines.evaluation.blimp_results import BLIMP, ModelBlimp, read_blimp
from pipelines.evaluation.emobench_results import EMOBENCH, ModelEmoBench, read_emobench
from pipelines.evaluation.lm_eval_results import LM_EVAL, LmEvalReport
from pipelines.evaluation.sentiment_results import SENTIMENT, ModelSentiment, read_sentiment
from pipelines.reporting.folders import ReportRun, read_json
from pipelines.reporting.trainings import data_of, run_at, start_of, trainings_of
from schemas.errors import RunError
from schemas.evaluate import EvaluatedModel, EvaluateJob, result_path, task_name, task_result
from services.storage.store import ShardStore

_Measured = TypeVar("_Measured", ModelSentiment, ModelBlimp, ModelEmoBench)
_GROUPS = "sentiment.groups."
# Parts of an identity that say which model was measured, or that change no figure.
_OF_THE_MODEL = ("model.", "engine.", "responses")
_PLACES = ("model.id", "model.path", "model.revision", "model.trust_remote_code")


@dataclass(frozen=True)
class Setting(Generic[_Measured]):
    """Models that were measured in one way: on the same prompts, pairs or items, with the same classifier and sampling.

    Attributes:
        facts: everything that the figures depend on, but the models.
        models: measured models by name, in the order of the evaluations.
        bases: for each other model the name of the one that it is compared with.
        runs: evaluation that each model's result lies in.
        seed: seed of the comparisons.
    """

    facts: dict[str, Any]
    seed: int
    models: dict[str, _Measured] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    runs: dict[str, ReportRun] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, list[str]]:
        """Groups of emotions."""
        return _groups(self.facts)


@dataclass(frozen=True)
class Evaluations:
    """All results of a report.

    Attributes:
        sentiment, blimp: settings in which models were measured; the first one is that of the paper's questions.
        emobench: settings in which models were measured by EmoBench.
        lm_eval: scores of lm-eval's tasks, by the evaluation's name.
        models: job's entry of each evaluated model, by name.
        data: data that each trained model was trained on, in a few words.
        missing: a line for each result that is not there.
    """

    sentiment: list[Setting[ModelSentiment]]
    blimp: list[Setting[ModelBlimp]]
    emobench: list[Setting[ModelEmoBench]]
    lm_eval: dict[str, LmEvalReport]
    models: dict[str, EvaluatedModel]
    data: dict[str, str]
    missing: list[str]

    @property
    def students(self) -> list[str]:
        """Names of the models that are compared with another one."""
        settings: list[Setting[Any]] = [*self.sentiment, *self.blimp, *self.emobench]
        return list(dict.fromkeys(name for setting in settings for name in setting.bases))

    def label(self, setting: Setting[Any]) -> str:
        """Names what a setting has of its own among those of its evaluation; "" where it is the only one."""
        kinds: list[Sequence[Setting[Any]]] = [self.sentiment, self.blimp, self.emobench]
        others = next(kind for kind in kinds if any(each is setting for each in kind))
        keys = {key for other in others for key in {**other.facts, **setting.facts}
                if other.facts.get(key) != setting.facts.get(key)}  # fmt: skip
        # The classifier alone is named where it is another one: responses that are scored again have no sampling.
        keys = {key for key in keys if ".classifier." in key} or keys
        # A scoring has prompts of its own.
        keys = {key for key in keys if key.endswith(".scoring")} or keys
        keys = {key for key in keys if not key.endswith(".found")} or keys
        return ", ".join(f"{key.partition('.')[2] or key} {setting.facts.get(key)}" for key in sorted(keys))


def read_evaluations(runs: Sequence[ReportRun]) -> Evaluations:
    """Reads the results of the evaluations among some runs.

    Raises:
        RunError: a record or a result is damaged, or two models have the same name.
    """
    jobs = {run.name: _job(run) for run in runs if run.kind == "evaluate"}
    evaluated = [run for run in runs if run.kind == "evaluate"]
    models: dict[str, EvaluatedModel] = {}
    for job in jobs.values():
        for model in job.models:
            models.setdefault(model.label, model)
    known: dict[tuple[str, ...], tuple[dict[str, Any], str]] = {}
    missing: list[str] = []
    sentiment = _settings(evaluated, jobs, SENTIMENT, _read_sentiment, known, missing)
    blimp = _settings(evaluated, jobs, BLIMP, lambda store, name, facts: read_blimp(store, name), known, missing)
    emobench = _settings(evaluated, jobs, EMOBENCH, _read_emobench, known, missing)
    settings: list[Setting[Any]] = [*sentiment, *blimp, *emobench]
    for setting in settings:
        _set_bases(setting, jobs, models, runs)
    data = {name: text for name, model in models.items() if (text := data_of(model.path or model.id, runs))}
    lm_eval = {run.name: _lm_eval(run, jobs[run.name], missing) for run in evaluated if jobs[run.name].lm_eval}
    return Evaluations(sentiment, blimp, emobench, lm_eval, models, data, missing)


def _job(run: ReportRun) -> EvaluateJob:
    try:
        return EvaluateJob.model_validate(run.job)
    except ValidationError:
        cause = "it is of another version"
        raise RunError(run.record_path, None, cause, "make the report with the version that wrote it") from None


def _settings(
    runs: Sequence[ReportRun],
    jobs: Mapping[str, EvaluateJob],
    evaluation: str,
    read: Callable[[ShardStore, str, dict[str, Any]], _Measured],
    known: dict[tuple[str, ...], tuple[dict[str, Any], str]],
    missing: list[str],
) -> list[Setting[_Measured]]:
    """Reads the results of one evaluation from all runs.

    Args:
        known: content of each model, or of responses that are scored again, and the path of the result that has it, by
            the model's name and what the content has; it grows.
        missing: receives a line for each result that is not there.
    """
    settings: list[Setting[_Measured]] = []
    for run, name, path, result in _results(runs, jobs, evaluation, missing):
        identity = result["identity"]
        content: dict[str, Any] = _content(identity)
        first, first_path = known.setdefault((name, *content), (content, path))
        facts = {key: value for key, value in identity.items() if key and not key.startswith(_OF_THE_MODEL)}
        setting = next((each for each in settings if each.facts == facts), None)
        if setting is None:
            setting = Setting(facts, jobs[run.name].seed)
            settings.append(setting)
        if first != content:
            cause = f"the model {name} of this result is another one than that of {first_path}"
            remedy = "report on one of the two evaluations, or evaluate one model under another `name`"
            raise RunError(path, None, cause, remedy)
        if name not in setting.models:
            try:
                setting.models[name] = read(run.store, name, identity)
            except (KeyError, TypeError, ValueError) as error:
                table = run.store.path(result_path(evaluation, name, "parquet"))
                remedy = "evaluate this model again: move the result's .json away and run the same job"
                raise RunError(table, None, f"damaged: it is no table of {evaluation} ({error})", remedy) from None
            setting.runs[name] = run
    return settings


def _lm_eval(run: ReportRun, job: EvaluateJob, missing: list[str]) -> LmEvalReport:
    """Reads the scores of lm-eval's tasks from one run; `missing` receives a line for each that is not there."""
    scores: dict[str, dict[str, list[TaskScore]]] = {name: {} for name in job.model_labels}
    tasks = job.lm_eval.tasks if job.lm_eval and LM_EVAL in job.evaluations else []
    for name in scores:
        for task in map(task_name, tasks):
            path = run.store.path(result_path(LM_EVAL, task_result(name, task)))
            if not run.store.fs.exists(path):
                missing.append(f"{LM_EVAL} {task} of {name} in {run.name} is not there")
                continue
            try:
                listed = read_json(path, run.store, "a result of an evaluation")["scores"]
                scores[name][task] = [TaskScore(**score) for score in listed]
            except (KeyError, TypeError) as error:
                remedy = "move it away, and run the same `kindling evaluate` again"
                raise RunError(path, None, f"damaged: it is no result of {LM_EVAL} ({error})", remedy) from None
    return LmEvalReport(scores)


def _results(
    runs: Sequence[ReportRun], jobs: Mapping[str, EvaluateJob], evaluation: str, missing: list[str]
) -> Iterator[tuple[ReportRun, str, str, dict[str, Any]]]:
    """Yields (run, name of a model, path of its result, the result)."""
    for run in runs:
        for name in jobs[run.name].model_labels if evaluation in jobs[run.name].evaluations else ():
            path = run.store.path(result_path(evaluation, name))
            if not run.store.fs.exists(path):
                missing.append(f"{evaluation} of {name} in {run.name} is not there")
                continue
            result = read_json(path, run.store, "a result of an evaluation")
            if not isinstance(result.get("identity"), dict):
                remedy = "move it away, and run the same `kindling evaluate` again"
                raise RunError(path, None, "damaged: it is no result of an evaluation", remedy)
            yield run, name, path, result


def _content(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that tells a model from another one; its place does not."""
    names = [name for name in identity if name.startswith("model.") and name not in _PLACES]
    return {name: identity[name] for name in (*names, "responses") if name in identity}


def _read_sentiment(store: ShardStore, name: str, facts: dict[str, Any]) -> ModelSentiment:
    return read_sentiment(store, name, _groups(facts))


def _read_emobench(store: ShardStore, name: str, facts: dict[str, Any]) -> ModelEmoBench:
    return read_emobench(store, name, facts[f"{EMOBENCH}.scoring"])


def _groups(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Groups of emotions, those of the paper in its order."""
    groups = {key.removeprefix(_GROUPS): emotions for key, emotions in facts.items() if key.startswith(_GROUPS)}
    return {group: groups[group] for group in (*PAPER_GROUPS, *groups) if group in groups}


def _set_bases(
    setting: Setting[Any],
    jobs: Mapping[str, EvaluateJob],
    models: Mapping[str, EvaluatedModel],
    runs: Sequence[ReportRun],
) -> None:
    """Chooses the model that each other one is compared with.

    It is the one that its training began from, where that was measured too; else the first one of its evaluation.
    """
    for name in setting.models:
        first = next(label for label in jobs[setting.runs[name].name].model_labels if label in setting.models)
        base = _root(name, setting, models, runs) or first
        if base != name:
            setting.bases[name] = base


def _root(
    name: str, setting: Setting[Any], models: Mapping[str, EvaluatedModel], runs: Sequence[ReportRun]
) -> str | None:
    """Returns the name of the measured model that the trainings of a model began from; itself for a model that none of
    the runs trained; None where it is not known."""
    model = models.get(name)
    trainings = trainings_of(model.path or model.id, runs) if model else []
    if not trainings:
        return None
    start = start_of(trainings[0])
    for other in setting.models:
        there = models.get(other)
        place = there and (there.path or there.id)
        if start is not None and place == start and run_at(place, runs, ["train"]) is None:
            return other
    return None
