"""The evaluation `logit_lens`: what each model would say next after each of its layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from eval.logit_lens import Lens, logit_lens
from pipelines.evaluation.causal import Loaded, model_facts, spread_over_model
from pipelines.evaluation.lens_page import save_lens_pages
from pipelines.evaluation.lens_table import decode_lenses, encode_lenses
from pipelines.evaluation.models import failures_told
from pipelines.evaluation.record import read_result, result_path, write_result
from pipelines.evaluation.tables import Table
from pipelines.printable import printable
from schemas.evaluate import EvaluatedModel, EvaluateJob
from schemas.fingerprint import identity_of
from services.cluster import connected
from services.filesystem import write_atomic
from services.store import ShardStore

LENS = "logit_lens"


@dataclass(frozen=True)
class LensReport:
    """What came of the evaluation: the lenses of each model, one for each text."""

    models: dict[str, list[Lens]]

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Plain values: of each model and text, where each position's last word is settled; the rest is a table."""
        return {
            name: [
                {"text": lens.text, "layers": len(lens.top) - 1, "settles_at": lens.settles_at.tolist()}
                for lens in lenses
            ]
            for name, lenses in self.models.items()
        }


def evaluate_logit_lens(
    job: EvaluateJob,
    models: Mapping[str, tuple[EvaluatedModel, str]],
    store: ShardStore,
    stop_within: Callable[[], float | None],
    failures: dict[str, str],
) -> LensReport:
    """Does what is not done yet, and draws the models beside each other.

    Args:
        models: by name, each with its revision.
        failures: gets an entry for each model that could not be evaluated.

    Raises:
        KindlingError: the job, a text of it, or the folder is at fault.
        StoppedError: a signal came; what is done is kept.
    """
    texts = job.logit_lens.texts
    identities = {
        name: identity_of({LENS: {"texts": texts}, "model": model_facts(model, revision)})
        for name, (model, revision) in models.items()
    }
    left = [name for name, each in identities.items() if read_result(store, LENS, name, each) is None]
    if left:
        with connected(job.cluster.address):
            for name in left:
                with failures_told(failures, name):
                    lenses = dict(spread_over_model(job, models[name][0], _read, texts, stop_within))
                    table = encode_lenses([lenses[number] for number in range(len(texts))])
                    write_atomic(store.fs, store.path(result_path(LENS, name, "parquet")), table)
                    write_result(store, LENS, name, identities[name])
    found = {name: _lenses(store, name) for name in identities if name not in failures}
    if found:
        save_lens_pages(f"{job.output.path.rstrip('/')}/{LENS}", found)
    return LensReport(found)


def lens_tables(report: LensReport) -> list[Table]:
    """One table: how early the models know what they say."""
    rows = [
        [name, printable(lens.text), f"{np.median(lens.settles_at):g} of {len(lens.top) - 1}"]
        for name, lenses in report.models.items()
        for lens in lenses
    ]
    note = (
        "The layer from which on the likeliest next token stays, median over positions. logit_lens/ has the pictures."
    )
    return [Table("Logit lens", ["Model", "Text", "Settled from layer"], rows, note)] if rows else []


def _read(loaded: Loaded, text: str) -> Lens:
    return logit_lens(*loaded, text)


def _lenses(store: ShardStore, name: str) -> list[Lens]:
    with store.fs.open(store.path(result_path(LENS, name, "parquet")), "rb") as file:
        return decode_lenses(pq.read_table(file))
