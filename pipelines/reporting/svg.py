"""Draws a figure as SVG, for a page whose style gives it its colours, light or dark.

Invariant: texts of a figure, which come from data and job files, are shown as plain text: matplotlib escapes markup,
and reads no formula in them.
"""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from pipelines.reporting.charts import Chart, LineChart, Mark, RowChart
from schemas.text import shorten

# Colours that matplotlib writes, and what the page's style puts in their place.
_TEXT, _LINE, _BASE = "#0a0b00", "#0a0b01", "#0a0b02"
_SERIES = [f"#0a0c{number:02x}" for number in range(8)]
_STYLE_OF = {_TEXT: "currentColor", _LINE: "var(--line)", _BASE: "var(--base)"} | {
    color: f"var(--s{number})" for number, color in enumerate(_SERIES)
}
_MARKERS = "sD^vPXpd"
# A narrow picture is readable on a phone, and fits beside another on a desk.
_WIDTH, _FONT = 5.4, 9  # inches, points
_ROW, _SERIES_ROW = 0.16, 0.12  # height of a row, and of each series in it, in inches
_MAX_NAME = 34


def draw(chart: Chart) -> str:
    """Draws a figure; returns the element `<svg>`."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "font.family": "sans-serif", "font.size": _FONT, "text.parse_math": False,
        "svg.hashsalt": chart.title, "axes.spines.top": False, "axes.spines.right": False, "axes.unicode_minus": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"), _TEXT),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), _LINE),
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        if isinstance(chart, LineChart):
            _draw_lines(figure, axes, chart)
        else:
            _draw_rows(figure, axes, chart)
        if len(chart.series) > 1 or isinstance(chart, LineChart):
            columns = 1 if len(chart.series) > 3 else 2
            figure.legend(loc="outside upper left", frameon=False, ncols=columns, fontsize=_FONT - 1)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(buffer.getvalue(), chart.title)


def _look(name: str, chart: RowChart) -> tuple[str, str]:
    """Colour and marker of a series, the same in all figures of a report."""
    if name in chart.bases:
        return _BASE, "o"
    order = [*chart.students, *(each for each in chart.series if each not in chart.students)]
    number = order.index(name)
    return _SERIES[number % len(_SERIES)], _MARKERS[number % len(_MARKERS)]


def _draw_rows(figure: Any, axes: Any, chart: RowChart) -> None:
    count = len(chart.series)
    legend = 0.2 * (count if count > 3 else (count + 1) // 2)
    figure.set_size_inches(_WIDTH, 0.75 + legend + len(chart.rows) * (_ROW + _SERIES_ROW * count))
    step = 0.8 / count
    for number, (name, marks) in enumerate(chart.series.items()):
        at = [(row + (number - (count - 1) / 2) * step, mark) for row, mark in enumerate(marks) if mark]
        _draw_marks(axes, at, chart.style, step, _look(name, chart), _name(name))
    axes.set_yticks(range(len(chart.rows)), [_name(row) for row in chart.rows])
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    axes.set_xlabel(chart.unit)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    if chart.style == "changes":
        axes.axvline(0, color=_TEXT, linewidth=0.8)
    else:
        axes.set_xlim(left=0 if chart.style == "bars" else -3)


def _draw_marks(
    axes: Any, marks: Sequence[tuple[float, Mark]], style: str, height: float, look: tuple[str, str], name: str
) -> None:
    color, marker = look
    places, values = [at for at, _ in marks], [mark.value for _, mark in marks]
    low = [0.0 if mark.low is None else max(mark.value - mark.low, 0.0) for _, mark in marks]
    high = [0.0 if mark.high is None else max(mark.high - mark.value, 0.0) for _, mark in marks]
    if style == "bars":
        axes.barh(places, values, height=0.9 * height, color=color, label=name)
        axes.errorbar(values, places, xerr=[low, high], fmt="none", ecolor=_TEXT, elinewidth=0.9, capsize=2)
    else:
        axes.errorbar(
            values, places, xerr=[low, high], fmt=marker, color=color, markersize=4, elinewidth=1.2, label=name
        )  # fmt: skip


def _draw_lines(figure: Any, axes: Any, chart: LineChart) -> None:
    runs = list(dict.fromkeys(curve.run for curve in chart.series.values()))
    figure.set_size_inches(_WIDTH, 2.6 + 0.2 * len(runs))
    for name, curve in chart.series.items():
        points = {"marker": "o", "markersize": 3} if len(curve.points) < 40 and not curve.is_faint else {}
        across, values = zip(*curve.points, strict=True)
        style = {"linestyle": ":", "linewidth": 0.9, "label": "_"} if curve.is_faint else {"label": _name(name)}
        axes.plot(across, values, color=_SERIES[runs.index(curve.run) % len(_SERIES)], **style, **points)
    axes.set_xlabel(chart.across)
    axes.set_ylabel(chart.unit)
    axes.grid(linewidth=0.6)


def _name(text: str) -> str:
    return shorten(text, _MAX_NAME)


def _themed(svg: str, title: str) -> str:
    """Takes the element from the file, with colours of the page's style and without ids that nothing refers to.

    Several figures stand on one page, where an id may be there once.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r"<style[^>]*>.*?</style>", "", element, flags=re.DOTALL)
    used = set(re.findall(r'#([^")]+)[")]', element))
    element = re.sub(r' id="([^"]+)"', lambda match: match.group() if match.group(1) in used else "", element)
    for color, style in _STYLE_OF.items():
        element = element.replace(color, style)
    return element.replace("<svg ", f'<svg role="img" aria-label="{escape(shorten(title))}" ', 1)
