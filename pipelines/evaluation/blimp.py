"""The evaluation `blimp`: minimal pairs, paradigm by paradigm, and models beside the first one."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.blimp import PARADIGMS, compare
from eval.intervals import Difference
from pipelines.blimp import content_of, whole_paradigms
from pipelines.evaluation.blimp_results import BLIMP, ModelBlimp, read_blimp, write_blimp
from pipelines.evaluation.causal import Loaded, model_facts, spread_over_model
from pipelines.evaluation.models import failures_told
from pipelines.evaluation.record import read_result
from schemas.errors import EngineError
from schemas.evaluate import EvaluatedModel, EvaluateJob
from schemas.fingerprint import fingerprint, identity_of
from services.cluster import connected
from services.minimal_pairs import MinimalPair, margins
from services.store import ShardStore

_log = logging.getLogger("kindling")


@dataclass(frozen=True)
class Comparison:
    """Two models on the same pairs; `by` as `eval.blimp.compare` returns it."""

    first: str
    second: str
    by: dict[str, dict[str, Difference]]


@dataclass(frozen=True)
class BlimpReport:
    """What came of the evaluation."""

    models: list[ModelBlimp]
    comparisons: list[Comparison]


def evaluate_blimp(
    job: EvaluateJob,
    models: Mapping[str, tuple[EvaluatedModel, str]],
    store: ShardStore,
    stop_within: Callable[[], float | None],
    failures: dict[str, str],
) -> BlimpReport:
    """Does what is not done yet, and measures.

    Args:
        models: by name, each with its revision.
        failures: gets an entry for each model that could not be evaluated.

    Raises:
        KindlingError: the job, its pairs or the folder is at fault.
        StoppedError: a signal came; what is done is kept.
    """
    paradigms = whole_paradigms("blimp", job.blimp, PARADIGMS)
    pairs = content_of([pair for each in paradigms.values() for pair in each])
    identities = {
        name: identity_of({"blimp": {"pairs": pairs}, "model": model_facts(model, revision)})
        for name, (model, revision) in models.items()
    }
    left = [name for name, each in identities.items() if read_result(store, BLIMP, name, each) is None]
    if left:
        with connected(job.cluster.address):
            for name in left:
                with failures_told(failures, name):
                    part = f"results/{BLIMP}/{name}.{fingerprint(identities[name])[:16]}"
                    found = _margins(job, models[name][0], paradigms, store, part, stop_within)
                    write_blimp(store, name, paradigms, found, identities[name])
                    store.fs.rm(store.path(part), recursive=True)
    measured = [read_blimp(store, name) for name in identities if name not in failures]
    beside = [Comparison(measured[0].name, each.name, compare(measured[0].margins, each.margins, job.seed))
              for each in measured[1:]]  # fmt: skip
    return BlimpReport(measured, beside)


def _margins(
    job: EvaluateJob,
    model: EvaluatedModel,
    paradigms: Mapping[str, Sequence[MinimalPair]],
    store: ShardStore,
    part: str,
    stop_within: Callable[[], float | None],
) -> dict[str, np.ndarray]:
    """Margins by paradigm. Each paradigm that is done is kept in the folder `part`, so that a later start goes on."""
    found = dict(_kept(store, part, paradigms))
    left = [name for name in paradigms if name not in found]
    _log.info("%s: %d of %d paradigms to score", model.label, len(left), len(paradigms))
    units = [paradigms[name] for name in left]
    for number, each in spread_over_model(job, model, _score, units, stop_within):
        found[left[number]] = each
        store.write_text(f"{part}/{left[number]}.json", json.dumps(each.tolist()))
        _log.info("%s: %s, %d of %d", model.label, left[number], len(found), len(paradigms))
    return {name: found[name] for name in paradigms}


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
