"""Results of calls: a table in a notebook, and the data behind it."""

import html
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from schemas.text import shorten

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

# A notebook shows the beginning of a long table; `to_polars` has all of it.
_MAX_SHOWN_ROWS = 50
_MAX_SHOWN_CHARACTERS = 300


class Result:
    """Base of the results, which are dataclasses; a notebook shows each as a table."""

    def as_json(self) -> dict[str, Any]:
        """Returns plain values, which `--json` prints."""
        return asdict(self)  # type: ignore[call-overload]

    def records(self) -> list[dict[str, Any]]:
        """Returns the rows of the table; by default one row, of all values."""
        return [flat(self.as_json())]

    def to_polars(self) -> "pl.DataFrame":
        """Returns the rows of the table as a polars data frame."""
        import polars as pl

        return pl.from_dicts(self.records(), infer_schema_length=None, strict=False)

    def _repr_html_(self) -> str:
        records = self.records()
        names = dict.fromkeys(name for record in records for name in record)
        beginning = records[:_MAX_SHOWN_ROWS]
        shown = html_table([(name, [record.get(name) for record in beginning]) for name in names])
        more = len(records) - _MAX_SHOWN_ROWS
        return f"{shown}<p>and {more} rows more: to_polars() has all</p>" if more > 0 else shown


def html_table(columns: list[tuple[str, list[Any]]]) -> str:
    """Makes an HTML table of columns, each a name and its values; one row is shown as a list of names and values."""
    if all(len(values) == 1 for _, values in columns):
        rows = [f"<tr><th>{_cell(name)}</th><td>{_cell(values[0])}</td></tr>" for name, values in columns]
        return f"<table>{''.join(rows)}</table>"
    head = "".join(f"<th>{_cell(name)}</th>" for name, _ in columns)
    lines = zip(*(values for _, values in columns), strict=True)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in line)}</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dicts under their joined keys: `{"rows.accepted": 3}`."""
    values: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        values.update(flat(inner, f"{name}.") if isinstance(inner, dict) else {name: inner})
    return values


def rows_of_run(url: str, schema: "pa.Schema") -> "pl.DataFrame":
    """Reads the committed rows of a run, accepted or kept, in input order.

    Args:
        url: the run folder.
        schema: columns of the rows.

    Raises:
        RunError: the folder cannot be read.
    """
    import polars as pl
    import pyarrow as pa

    from services.storage.store import ShardStore

    frame = pl.from_arrow(pa.Table.from_batches(ShardStore(url).read_rows(), schema))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        value = f"{value:,.4g}" if abs(value) < 1 else f"{value:,.2f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    elif isinstance(value, list | tuple):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return html.escape(shorten(str(value), _MAX_SHOWN_CHARACTERS))
