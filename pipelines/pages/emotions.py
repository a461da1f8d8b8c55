"""Heat maps of emotions asked for against emotions expressed, for `heat` of plots.html.jinja."""

from collections.abc import Mapping
from typing import Any

from schemas.emotions import EMOTIONS, NEGATIVE, NEUTRAL, POSITIVE

EMOTION_ORDER = [emotion for group in (POSITIVE, NEUTRAL, NEGATIVE) for emotion in EMOTIONS if emotion in group]
"""all emotions; those of one group stand beside each other, so that the groups are squares on the diagonal"""
NO_EMOTION = ""
"""emotion asked for by texts of which none is known, and expressed by a text without a word"""


def heat_rows(matrix: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Makes the rows of a heat map.

    Args:
        matrix: number of texts by emotion asked for, and by emotion expressed.
    """
    return [_heat_row(asked, matrix[asked]) for asked in (*EMOTION_ORDER, NO_EMOTION) if asked in matrix]


def _heat_row(asked: str, expressed: Mapping[str, int]) -> dict[str, Any]:
    texts = sum(expressed.values())
    cells = [
        {
            "share": expressed.get(emotion, 0) / texts,
            "text": str(expressed.get(emotion, "")),
            "title": f"asked for {asked or 'not known'}, expressed {emotion}: {expressed.get(emotion, 0)} of {texts}",
            "marked": emotion == asked,
        }
        for emotion in EMOTION_ORDER
    ]
    return {"label": asked or "(not known)", "cells": cells, "total": texts}
