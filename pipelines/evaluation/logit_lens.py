"""The evaluation `logit_lens`: the next token that each layer of a model would predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.logit_lens import LensReading, logit_lens
from pipelines.evaluation.logit_lens_page import save_lens_pages
from pipelines.evaluation.record import write_result
from pipelines.evaluation.reports import Report
from pipelines.evaluation.session import Evaluation, Loaded, Session, model_facts, spread_over_model
from pipelines.pages.tables import Table
from schemas.evaluate import result_path
from schemas.fingerprint import identity_of
from schemas.text import printable
from services.storage.filesystem import write_atomic
from services.storage.store import ShardStore, parquet_bytes

LENS = "logit_lens"


LENS_SCHEMA = pa.schema(
    [
        ("text_index", pa.int32()),
        ("text", pa.string()),
        ("layer", pa.int32()),  # 0 is the embeddings, the last one the model's output
        ("position", pa.int32()),
        ("token_id", pa.int32()),  # the token at this position
        ("token", pa.string()),
        ("top_id", pa.int32()),  # the likeliest next token
        ("top", pa.string()),
        ("probability", pa.float32()),
        ("final_probability", pa.float32()),  # probability of the last layer's likeliest token
        ("entropy_bits", pa.float32()),
    ]
)


@dataclass(frozen=True)
class LensReport(Report):
    """Outcome of the evaluation `logit_lens`: the readings of each model, one for each text."""

    models: dict[str, list[LensReading]]

    def tables(self) -> list[Table]:
        """One table: the layer from which on the models predict their final word."""
        return lens_tables(self)

    def models_as_json(self) -> dict[str, Any]:
        """For each model and text, the layer from which on each position's final word is predicted."""
        return {
            name: [
                {"text": lens.text, "layers": len(lens.top) - 1, "settles_at": lens.settles_at.tolist()}
                for lens in lenses
            ]
            for name, lenses in self.models.items()
        }


def evaluate_logit_lens(session: Session) -> LensReport:
    """Reads the texts with each model, and draws the models beside each other; finished results are read.

    Raises:
        KindlingError: the job, a text of it, or the folder is at fault.
        StoppedError: a signal came; finished results are kept.
    """
    store, texts = session.store, session.job.logit_lens.texts
    identities = {
        name: identity_of({LENS: {"texts": texts}, "model": model_facts(model, revision)})
        for name, (model, revision) in session.models.items()
    }

    def measure(name: str) -> None:
        lenses = {}
        with session.progress.show(LENS, "texts", {name: len(texts)}) as advance:
            for number, lens in spread_over_model(session, name, _read, texts):
                lenses[number] = lens
                advance(name, 1)
        table = encode_lenses([lenses[number] for number in range(len(texts))])
        write_atomic(store.fs, store.path(result_path(LENS, name, "parquet")), table)
        write_result(store, LENS, name, identities[name])

    readings = {name: _read_lenses(store, name) for name in session.measure_missing(LENS, identities, measure)}
    if readings:
        save_lens_pages(f"{session.job.output.path.rstrip('/')}/{LENS}", readings)
    return LensReport(readings)


def lens_tables(report: LensReport) -> list[Table]:
    """One table: from which layer on the likeliest next token stays the same."""
    rows = [
        [name, printable(lens.text), f"{np.median(lens.settles_at):g} of {len(lens.top) - 1}"]
        for name, lenses in report.models.items()
        for lens in lenses
    ]
    note = (
        "The layer from which on the likeliest next token stays, median over positions. logit_lens/ has the pictures."
    )
    return [Table("Logit lens", ["Model", "Text", "Settled from layer"], rows, note)] if rows else []


def _read(loaded: Loaded, text: str) -> LensReading:
    return logit_lens(*loaded, text)


def _read_lenses(store: ShardStore, name: str) -> list[LensReading]:
    with store.fs.open(store.path(result_path(LENS, name, "parquet")), "rb") as file:
        return decode_lenses(pq.read_table(file))


def encode_lenses(lenses: Sequence[LensReading]) -> bytes:
    """Readings of one model as a Parquet file: one row for each text, layer and position, in that order."""
    return parquet_bytes(pa.concat_tables(_table(index, lens) for index, lens in enumerate(lenses)), LENS_SCHEMA)


def decode_lenses(table: pa.Table) -> list[LensReading]:
    """Readings from a table in the order of `encode_lenses`."""
    texts = table["text_index"].to_numpy()
    starts = np.flatnonzero(np.diff(texts, prepend=-1)).tolist()
    return [
        _lens(table.slice(start, end - start)) for start, end in zip(starts, [*starts[1:], len(texts)], strict=True)
    ]


def _table(index: int, lens: LensReading) -> pa.Table:
    layers, positions = lens.top_ids.shape
    columns = {
        "text_index": np.full(layers * positions, index),
        "text": [lens.text] * (layers * positions),
        "layer": np.repeat(np.arange(layers), positions),
        "position": np.tile(np.arange(positions), layers),
        "token_id": np.tile(lens.token_ids, layers),
        "token": lens.tokens * layers,
        "top_id": lens.top_ids.ravel(),
        "top": [token for layer in lens.top for token in layer],
        "probability": lens.probability.ravel(),
        "final_probability": lens.final_probability.ravel(),
        "entropy_bits": lens.entropy.ravel(),
    }
    return pa.table(columns, schema=LENS_SCHEMA)


def _lens(table: pa.Table) -> LensReading:
    positions = table["position"].to_numpy().max() + 1

    def layers(column: str) -> np.ndarray:
        return table[column].to_numpy().reshape(-1, positions)

    return LensReading(
        text=table["text"][0].as_py(), token_ids=layers("token_id")[0], tokens=layers("token")[0].tolist(),
        top_ids=layers("top_id"), top=layers("top").tolist(), probability=layers("probability"),
        final_probability=layers("final_probability"), entropy=layers("entropy_bits"),
    )  # fmt: skip


EVALUATION = Evaluation("logit_lens", evaluate_logit_lens)
