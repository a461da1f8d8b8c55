"""The results of the evaluation `blimp`: each pair with its margin, and the figures of these."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eval.blimp import PARADIGMS, BlimpRates, rates_of, right
from pipelines.evaluation.record import result_path, write_result
from schemas.errors import RunError, shorten
from services.filesystem import write_atomic
from services.minimal_pairs import MinimalPair
from services.store import ShardStore, parquet_bytes

BLIMP = "blimp"

_SCHEMA = pa.schema(
    [
        ("paradigm", pa.string()),
        ("phenomenon", pa.string()),  # null of a paradigm that is not BLiMP's
        ("field", pa.string()),
        ("sentence_good", pa.string()),
        ("sentence_bad", pa.string()),
        ("margin", pa.float64()),  # by how much the good one is likelier, in nats
        ("right", pa.bool_()),  # margin >= 0
    ]
)


@dataclass(frozen=True, eq=False)
class ModelBlimp:
    """What became of the pairs of one model; `margins` by paradigm, of each of its pairs."""

    name: str
    rates: BlimpRates
    margins: dict[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self.rates)


def write_blimp(
    store: ShardStore,
    name: str,
    paradigms: Mapping[str, Sequence[MinimalPair]],
    margins: Mapping[str, np.ndarray],
    identity: Mapping[str, Any],
) -> None:
    """Writes what became of the pairs of a model: first pair by pair, then its figures."""
    rows = []
    for paradigm, pairs in paradigms.items():
        place = PARADIGMS.get(paradigm)
        for pair, margin, is_right in zip(pairs, margins[paradigm], right(margins[paradigm]), strict=True):
            rows.append(
                {
                    "paradigm": paradigm,
                    "phenomenon": place and place.phenomenon,
                    "field": place and place.field,
                    "sentence_good": pair.good,
                    "sentence_bad": pair.bad,
                    "margin": float(margin),
                    "right": bool(is_right),
                }
            )
    data = parquet_bytes(pa.Table.from_pylist(rows, _SCHEMA), _SCHEMA)
    write_atomic(store.fs, store.path(result_path(BLIMP, name, "parquet")), data)
    write_result(store, BLIMP, name, identity, figures=asdict(rates_of(margins)))


def read_blimp(store: ShardStore, name: str) -> ModelBlimp:
    """What `write_blimp` wrote.

    Raises:
        RunError: it cannot be read.
    """
    path = result_path(BLIMP, name, "parquet")
    try:
        table = store.read(path)
        paradigms, margins = np.array(table["paradigm"].to_pylist()), table["margin"].to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        remedy = f"move {result_path(BLIMP, name, 'json')} away to have both made again"
        raise RunError(store.path(path), None, f"cannot be read: {shorten(str(error))}", remedy) from None
    found = {paradigm: margins[paradigms == paradigm] for paradigm in dict.fromkeys(paradigms.tolist())}
    return ModelBlimp(name, rates_of(found), found)
