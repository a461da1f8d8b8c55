"""The evaluation `emobench`: EmoBench's multiple choice, category by category, and comparisons with the first model."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from eval.emobench import Item, Scoring, join_orders, prompts_of
from pipelines.evaluation.emobench_results import (
    EMOBENCH,
    EmoBenchReport,
    compare_models,
    read_emobench,
    write_emobench,
)
from pipelines.evaluation.parts import score_parts
from pipelines.evaluation.session import Evaluation, Loaded, Session, model_facts
from pipelines.inputs.emobench import identify_items, read_items
from schemas.evaluate import EmoBench, EvaluateJob
from schemas.fingerprint import fingerprint, identity_of
from services.models.continuations import OptionsQuestion, option_log_likelihoods


def check_emobench(job: EvaluateJob) -> None:
    """Checks the section before any evaluation runs.

    Raises:
        JobError: the items cannot be read.
    """
    read_items(_section(job))


def evaluate_emobench(session: Session) -> EmoBenchReport:
    """Scores the options by each model; finished results are read.

    Raises:
        KindlingError: the job, its items or the folder is at fault.
        StoppedError: a signal came; finished results are kept.
    """
    section, store = _section(session.job), session.store
    items, scoring = read_items(section), section.scoring
    asked = {"items": identify_items(items, scoring), "scoring": scoring}
    identities = {
        name: identity_of({EMOBENCH: asked, "model": model_facts(model, revision)})
        for name, (model, revision) in session.models.items()
    }

    def measure(name: str) -> None:
        part = f"results/{EMOBENCH}/{name}.{fingerprint(identities[name])[:16]}"
        score = partial(_score, scoring)
        scores = score_parts(session, EMOBENCH, name, items, score, part, ("items", "categories"))
        write_emobench(store, name, items, scores, scoring, identities[name])
        store.fs.rm(store.path(part), recursive=True)

    measured = [read_emobench(store, name, scoring) for name in session.measure_missing(EMOBENCH, identities, measure)]
    return EmoBenchReport(scoring, measured, compare_models(measured, session.job.seed))


def _section(job: EvaluateJob) -> EmoBench:
    if job.emobench is None:  # EvaluateJob refuses a job that asks for emobench without its section
        raise ValueError("the job has no section emobench")
    return job.emobench


def _score(scoring: Scoring, loaded: Loaded, items: Sequence[Item]) -> list[list[list[float]]]:
    """Returns for each item, and for each of its questions, the log-likelihoods of the options."""
    prompts = {
        (number, question): [OptionsQuestion(*prompt) for prompt in prompts_of(item.scenario, question, scoring)]
        for number, item in enumerate(items)
        for question in item.questions
    }
    scores = iter(option_log_likelihoods(*loaded, [prompt for each in prompts.values() for prompt in each]))
    joined: list[list[list[float]]] = [[] for _ in items]
    for (number, question), each in prompts.items():
        of_prompts: list[np.ndarray] = [next(scores) for _ in each]
        joined[number].append(join_orders(question, of_prompts, scoring).tolist())
    return joined


EVALUATION = Evaluation("emobench", evaluate_emobench, check_emobench)
