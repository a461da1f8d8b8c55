"""The evaluation `logit_lens`: what each model would say next after each of its layers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from eval.logit_lens import Lens, logit_lens
from pipelines.evaluation.causal import Loaded, model_facts, spread_over_model
from pipelines.evaluation.lens_page import save_lens_pages
from pipelines.evaluation.lens_table import decode_lenses, encode_lenses
from pipelines.evaluation.record import result_path, write_result
from pipelines.evaluation.session import Session
from pipelines.evaluation.tables import Table
from pipelines.printable import printable
from schemas.fingerprint import identity_of
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


def evaluate_logit_lens(session: Session) -> LensReport:
    """Does what is not done yet, and draws the models beside each other.

    Raises:
        KindlingError: the job, a text of it, or the folder is at fault.
        StoppedError: a signal came; what is done is kept.
    """
    store, texts = session.store, session.job.logit_lens.texts
    identities = {
        name: identity_of({LENS: {"texts": texts}, "model": model_facts(model, revision)})
        for name, (model, revision) in session.models.items()
    }

    def measure(name: str) -> None:
        lenses = {}
        with session.progress.shown(LENS, "texts", {name: len(texts)}) as advance:
            for number, lens in spread_over_model(session, name, _read, texts):
                lenses[number] = lens
                advance(name, 1)
        table = encode_lenses([lenses[number] for number in range(len(texts))])
        write_atomic(store.fs, store.path(result_path(LENS, name, "parquet")), table)
        write_result(store, LENS, name, identities[name])

    found = {name: _lenses(store, name) for name in session.measured(LENS, identities, measure)}
    if found:
        save_lens_pages(f"{session.job.output.path.rstrip('/')}/{LENS}", found)
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
