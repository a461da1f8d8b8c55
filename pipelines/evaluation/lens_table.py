"""What the logit lens found as a table: one row for each text, layer and position, in that order."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from eval.logit_lens import Lens
from services.store import parquet_bytes

LENS_SCHEMA = pa.schema(
    [
        ("text_index", pa.int32()),
        ("text", pa.string()),
        ("layer", pa.int32()),  # 0 is the embeddings, the last one the model's output
        ("position", pa.int32()),
        ("token_id", pa.int32()),  # what the model reads there
        ("token", pa.string()),
        ("top_id", pa.int32()),  # what it would say next
        ("top", pa.string()),
        ("probability", pa.float32()),
        ("final_probability", pa.float32()),  # of what the last layer says
        ("entropy_bits", pa.float32()),
    ]
)


def encode_lenses(lenses: Sequence[Lens]) -> bytes:
    """One model's lenses as a Parquet file: one row for each text, layer and position, in that order."""
    return parquet_bytes(pa.concat_tables(_table(*each) for each in enumerate(lenses)), LENS_SCHEMA)


def decode_lenses(table: pa.Table) -> list[Lens]:
    """The lenses of a table in the order of `encode_lenses`."""
    texts = table["text_index"].to_numpy()
    starts = np.flatnonzero(np.diff(texts, prepend=-1)).tolist()
    return [
        _lens(table.slice(start, end - start)) for start, end in zip(starts, [*starts[1:], len(texts)], strict=True)
    ]


def _table(index: int, lens: Lens) -> pa.Table:
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


def _lens(table: pa.Table) -> Lens:
    positions = table["position"].to_numpy().max() + 1

    def layers(column: str) -> np.ndarray:
        return table[column].to_numpy().reshape(-1, positions)

    return Lens(
        text=table["text"][0].as_py(), token_ids=layers("token_id")[0], tokens=layers("token")[0].tolist(),
        top_ids=layers("top_id"), top=layers("top").tolist(), probability=layers("probability"),
        final_probability=layers("final_probability"), entropy=layers("entropy_bits"),
    )  # fmt: skip
