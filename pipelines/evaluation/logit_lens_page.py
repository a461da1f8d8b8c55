"""Readings of the logit lens as an HTML page and as PNG pictures: for each text, the models beside each other.

Invariant: texts and tokens, which come from data and models, are shown as plain text: no markup of theirs reaches the
page, which has no script and loads nothing, and no formula of theirs reaches the picture.
"""

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.logit_lens import LensReading
from pipelines.pages.html import render_html
from services.storage.filesystem import resolve, write_atomic

# Signs for characters that a reader would not see.
_BREAKS = str.maketrans({"\n": "↵", "\t": "⇥"})
_SPACE = "␣"
# Colour of probability 1, and white is 0; black text is readable on both. The page uses the same colour.
_CERTAIN_COLOR = "#5b9bf0"
_FONT_SIZE = 7  # points
_CHARACTER, _ROW = 0.07, 0.17  # width of a character and height of a row, in inches
# Longer tokens are cut in the picture; the page shows them whole.
_MAX_TOKEN_CHARACTERS = 14
# Models stand one below the other where their pictures together would be wider than this, in inches.
_MAX_WIDTH = 30


def save_lens_pages(folder: str, models: Mapping[str, Sequence[LensReading]]) -> None:
    """Writes logit_lens.html, with every text, and logit_lens-N.png for each text, into a folder.

    Args:
        models: readings of each model, one for each text, by the name to be shown.
    """
    fs, path = resolve(folder, "output.path")
    write_atomic(fs, os.path.join(path, "logit_lens.html"), html_page(models).encode())
    for number, panels in enumerate(_by_text(models).values()):
        write_atomic(fs, os.path.join(path, f"logit_lens-{number}.png"), png_picture(panels))


def html_page(models: Mapping[str, Sequence[LensReading]]) -> str:
    """HTML page that needs no other file: a heading for each text, and below it the models beside each other."""
    texts = [
        {"text": _printable(text), "panels": [_panel(name, lens) for name, lens in panels.items()]}
        for text, panels in _by_text(models).items()
    ]
    name = _printable(f"Logit lens of {', '.join(models)}")
    return render_html("pipelines.evaluation", "logit_lens.html.jinja", name=name, texts=texts, sure=_CERTAIN_COLOR)


def png_picture(panels: Mapping[str, LensReading]) -> bytes:
    """PNG picture of one text: the models beside each other, each with its own tokens."""
    from matplotlib.figure import Figure

    edges = [_column_edges(lens) for lens in panels.values()]
    widths, heights = [columns[-1] for columns in edges], [_ROW * len(lens.top) for lens in panels.values()]
    # One inch more each way: for layer names at the side, model names above, tokens and the scale below.
    beside = sum(widths) <= _MAX_WIDTH
    if beside:
        figure = Figure(figsize=(sum(widths) + len(widths), max(heights) + 1), layout="constrained")
        axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    else:
        figure = Figure(figsize=(max(widths) + 1, sum(heights) + len(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, across, (name, lens) in zip(axes, edges, panels.items(), strict=True):
        mesh = _draw(axis, across, lens)
        axis.set_title(_printable(name), fontsize=_FONT_SIZE + 3, parse_math=False)
    bar = figure.colorbar(mesh, ax=list(axes), location="bottom", shrink=min(4 / figure.get_figwidth(), 1), aspect=40)
    bar.set_label("probability of the likeliest next token; bold: already the token of the output", fontsize=_FONT_SIZE)
    bar.ax.tick_params(labelsize=_FONT_SIZE)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks become boxes in the picture; the page shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _column_edges(lens: LensReading) -> np.ndarray:
    """Edges of the columns, in inches, so that each column has room for its longest token."""
    rows = [_row(lens.tokens, lens.token_ids), *map(_row, lens.top, lens.top_ids)]
    longest = [max(len(_cut(token)) for token in column) for column in zip(*rows, strict=True)]
    return np.cumsum([0, *(_CHARACTER * (1 + max(length, 2)) for length in longest)])


def _draw(axis: Any, edges: np.ndarray, lens: LensReading) -> Any:
    """Draws the reading of one model, the embeddings at the bottom."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("sure", ["white", _CERTAIN_COLOR])
    rows = _ROW * np.arange(len(lens.top) + 1)
    mesh = axis.pcolormesh(edges, rows, lens.probability, cmap=colours, vmin=0, vmax=1, edgecolors="white")
    axis.set_aspect("equal", anchor="S")
    axis.set_frame_on(False)
    axis.tick_params(length=0)
    across, up = (edges[:-1] + edges[1:]) / 2, (rows[:-1] + rows[1:]) / 2
    axis.set_yticks(up, _layer_names(lens), fontsize=_FONT_SIZE)
    axis.set_xticks(across, map(_cut, _row(lens.tokens, lens.token_ids)), fontsize=_FONT_SIZE, parse_math=False)
    for layer, (top, ids) in enumerate(zip(lens.top, lens.top_ids, strict=True)):
        for position, token in enumerate(_row(top, ids)):
            weight = "bold" if lens.settled[layer, position] else "normal"
            axis.text(
                across[position], up[layer], _cut(token), ha="center", va="center", fontsize=_FONT_SIZE,
                fontweight=weight, parse_math=False,
            )  # fmt: skip
    return mesh


def _by_text(models: Mapping[str, Sequence[LensReading]]) -> dict[str, dict[str, LensReading]]:
    """Readings of each text, by model; a model that refused a text, such as a too long one, is left out."""
    texts: dict[str, dict[str, LensReading]] = {}
    for name, lenses in models.items():
        for lens in lenses:
            texts.setdefault(lens.text, {})[name] = lens
    return texts


def _panel(name: str, lens: LensReading) -> dict[str, Any]:
    """Values that the page shows of one model, the last layer first."""
    tokens = _row(lens.tokens, lens.token_ids)
    final = _row(lens.top[-1], lens.top_ids[-1])
    rows: list[dict[str, Any]] = []
    for layer, label in enumerate(_layer_names(lens)):
        cells = [
            {
                "token": token,
                "settled": bool(lens.settled[layer, at]),
                "percent": f"{lens.probability[layer, at]:.1%}",
                "title": f"layer {label}, after {tokens[at]}\n{token}: {lens.probability[layer, at]:.2%}\n"
                f"{final[at]}, the output: {lens.final_probability[layer, at]:.2%}\n"
                f"entropy {lens.entropy[layer, at]:.2f} bits",
            }
            for at, token in enumerate(_row(lens.top[layer], lens.top_ids[layer]))
        ]
        rows.insert(0, {"label": label, "cells": cells})
    return {"name": _printable(name), "tokens": tokens, "rows": rows}


def _layer_names(lens: LensReading) -> list[str]:
    return ["embeddings", *(str(layer) for layer in range(1, len(lens.top)))]


def _row(tokens: Sequence[str], ids: np.ndarray) -> list[str]:
    """Readable tokens; a token without a text, such as padding of the vocabulary, is shown by its number."""
    return [_readable(token) or f"[{number}]" for token, number in zip(tokens, ids, strict=True)]


def _readable(token: str) -> str:
    return _printable(token.replace(" ", _SPACE))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text.translate(_BREAKS))


def _cut(token: str) -> str:
    return token if len(token) <= _MAX_TOKEN_CHARACTERS else f"{token[: _MAX_TOKEN_CHARACTERS - 1]}…"
