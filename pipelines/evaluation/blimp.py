"""The evaluation `blimp`: minimal pairs, paradigm by paradigm, and comparisons with the first model."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from eval.blimp import PARADIGMS
from pipelines.evaluation.blimp_results import BLIMP, BlimpReport, compare_models, read_blimp, write_blimp
from pipelines.evaluation.session import Evaluation, Loaded, Session, model_facts, spread_over_model
from pipelines.inputs.minimal_pairs import identify_pairs, load_paradigms
from schemas.evaluate import EvaluateJob
from schemas.fingerprint import fingerprint, identity_of
from services.models.minimal_pairs import MinimalPair, margins
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")


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
        write_blimp(store, name, paradigms, _margins(session, name, paradigms, part), identities[name])
        store.fs.rm(store.path(part), recursive=True)

    measured = [read_blimp(store, name) for name in session.measure_missing(BLIMP, identities, measure)]
    return BlimpReport(measured, compare_models(measured, job.seed))


def _margins(
    session: Session, name: str, paradigms: Mapping[str, Sequence[MinimalPair]], part: str
) -> dict[str, np.ndarray]:
    """Margins by paradigm, each an array of shape (pairs,).

    Args:
        part: folder, below that of the evaluation, in which each finished paradigm is kept for a later start.
    """
    store, sizes = session.store, {paradigm: len(pairs) for paradigm, pairs in paradigms.items()}
    margins_of = dict(_kept_margins(store, part, paradigms))
    left = [paradigm for paradigm in paradigms if paradigm not in margins_of]
    _log.info("%s: %d of %d paradigms to score", name, len(left), len(paradigms))
    items, done = [paradigms[paradigm] for paradigm in left], sum(sizes[paradigm] for paradigm in margins_of)
    with session.progress.show(BLIMP, "pairs", {name: sum(sizes.values())}, {name: done}) as advance:
        for number, scored in spread_over_model(session, name, _score, items):
            margins_of[left[number]] = scored
            store.write_text(f"{part}/{left[number]}.json", json.dumps(scored.tolist()))
            advance(name, len(scored))
    return {paradigm: margins_of[paradigm] for paradigm in paradigms}


def _kept_margins(store: ShardStore, part: str, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        try:
            yield name, np.array(json.loads(store.fs.cat_file(store.path(f"{part}/{name}.json"))), dtype=np.float64)
        except (FileNotFoundError, ValueError):
            continue


def _score(loaded: Loaded, pairs: Sequence[MinimalPair]) -> np.ndarray:
    return margins(*loaded, pairs)


EVALUATION = Evaluation("blimp", evaluate_blimp, check_blimp)
