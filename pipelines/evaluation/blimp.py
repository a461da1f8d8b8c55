"""The evaluation `blimp`: minimal pairs, paradigm by paradigm, and models beside the first one."""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from eval.blimp import PARADIGMS, compare_blimp
from pipelines.evaluation.blimp_results import BLIMP, BlimpReport, read_blimp, write_blimp
from pipelines.evaluation.session import Comparison, Evaluation, Loaded, Session, model_facts, spread_over_model
from pipelines.inputs.minimal_pairs import content_of, whole_paradigms
from schemas.errors import EngineError
from schemas.evaluate import EvaluateJob
from schemas.fingerprint import fingerprint, identity_of
from services.models.minimal_pairs import MinimalPair, margins
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")


def check_blimp(job: EvaluateJob) -> None:
    """Finds before anything runs what is wrong with the pairs.

    Raises:
        JobError: so it is.
    """
    whole_paradigms("blimp", job.blimp, PARADIGMS)


def evaluate_blimp(session: Session) -> BlimpReport:
    """Does what is not done yet, and measures.

    Raises:
        KindlingError: the job, its pairs or the folder is at fault.
        StoppedError: a signal came; what is done is kept.
    """
    job, store = session.job, session.store
    paradigms = whole_paradigms("blimp", job.blimp, PARADIGMS)
    pairs = content_of([pair for each in paradigms.values() for pair in each])
    identities = {
        name: identity_of({"blimp": {"pairs": pairs}, "model": model_facts(model, revision)})
        for name, (model, revision) in session.models.items()
    }

    def measure(name: str) -> None:
        part = f"results/{BLIMP}/{name}.{fingerprint(identities[name])[:16]}"
        write_blimp(store, name, paradigms, _margins(session, name, paradigms, part), identities[name])
        store.fs.rm(store.path(part), recursive=True)

    measured = [read_blimp(store, name) for name in session.measured(BLIMP, identities, measure)]
    beside = [Comparison(measured[0].name, each.name, compare_blimp(measured[0].margins, each.margins, job.seed))
              for each in measured[1:]]  # fmt: skip
    return BlimpReport(measured, beside)


def _margins(
    session: Session, name: str, paradigms: Mapping[str, Sequence[MinimalPair]], part: str
) -> dict[str, np.ndarray]:
    """Margins by paradigm. Each paradigm that is done is kept in the folder `part`, so that a later start goes on."""
    store, sizes = session.store, {paradigm: len(pairs) for paradigm, pairs in paradigms.items()}
    found = dict(_kept(store, part, paradigms))
    left = [paradigm for paradigm in paradigms if paradigm not in found]
    _log.info("%s: %d of %d paradigms to score", name, len(left), len(paradigms))
    units, done = [paradigms[paradigm] for paradigm in left], sum(sizes[paradigm] for paradigm in found)
    with session.progress.shown(BLIMP, "pairs", {name: sum(sizes.values())}, {name: done}) as advance:
        for number, each in spread_over_model(session, name, _score, units):
            found[left[number]] = each
            store.write_text(f"{part}/{left[number]}.json", json.dumps(each.tolist()))
            advance(name, len(each))
    return {paradigm: found[paradigm] for paradigm in paradigms}


def _kept(store: ShardStore, part: str, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
        try:
            yield name, np.array(json.loads(store.fs.cat_file(store.path(f"{part}/{name}.json"))), dtype=np.float64)
        except (FileNotFoundError, ValueError):
            continue


def _score(loaded: Loaded, pairs: Sequence[MinimalPair]) -> np.ndarray:
    found = margins(*loaded, pairs)
    if not math.isfinite(found.sum()):
        cause = f"some of its log-likelihoods of {pairs[0].paradigm} are no numbers"
        raise EngineError("models", loaded[1].name_or_path, cause, "evaluate it in another dtype, or train it again")
    return found


EVALUATION = Evaluation("blimp", evaluate_blimp, check_blimp)
