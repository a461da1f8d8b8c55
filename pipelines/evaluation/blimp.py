"""The evaluation `blimp`: minimal pairs, paradigm by paradigm, and comparisons with the first model."""

from collections.abc import Sequence

import numpy as np

from eval.blimp import PARADIGMS
from pipelines.evaluation.blimp_results import BLIMP, BlimpReport, compare_models, read_blimp, write_blimp
from pipelines.evaluation.parts import score_parts
from pipelines.evaluation.session import Evaluation, Loaded, Session, model_facts
from pipelines.inputs.minimal_pairs import identify_pairs, load_paradigms
from schemas.evaluate import EvaluateJob
from schemas.fingerprint import fingerprint, identity_of
from services.models.minimal_pairs import MinimalPair, margins


def check_blimp(job: EvaluateJob) -> None:
    """Checks the section before any evaluation runs.

    Raises:
        JobError: the pairs cannot be read, or a paradigm is unknown or not whole.
    """
    load_paradigms("blimp", job.blimp, PARADIGMS, job.blimp.pairs_per_paradigm)


def evaluate_blimp(session: Session) -> BlimpReport:
    """Scores the pairs by each model; finished results are read.

    Raises:
        KindlingError: the job, its pairs or the folder is at fault.
        StoppedError: a signal came; finished results are kept.
    """
    job, store = session.job, session.store
    paradigms = load_paradigms("blimp", job.blimp, PARADIGMS, job.blimp.pairs_per_paradigm)
    pairs = identify_pairs([pair for paradigm in paradigms.values() for pair in paradigm])
    identities = {
        name: identity_of({"blimp": {"pairs": pairs}, "model": model_facts(model, revision)})
        for name, (model, revision) in session.models.items()
    }

    def measure(name: str) -> None:
        part = f"results/{BLIMP}/{name}.{fingerprint(identities[name])[:16]}"
        scores = score_parts(session, BLIMP, name, paradigms, _score, part, ("pairs", "paradigms"))
        margins_of = {paradigm: np.array(its, dtype=np.float64) for paradigm, its in scores.items()}
        write_blimp(store, name, paradigms, margins_of, identities[name])
        store.fs.rm(store.path(part), recursive=True)

    measured = [read_blimp(store, name) for name in session.measure_missing(BLIMP, identities, measure)]
    return BlimpReport(measured, compare_models(measured, job.seed))


def _score(loaded: Loaded, pairs: Sequence[MinimalPair]) -> list[float]:
    scores: list[float] = margins(*loaded, pairs).tolist()
    return scores


EVALUATION = Evaluation("blimp", evaluate_blimp, check_blimp)
