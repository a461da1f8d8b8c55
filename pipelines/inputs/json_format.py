"""JSON: one list of objects in a file, as Alpaca comes."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipelines.inputs.sources import PROBED_ROWS, FileSource, InputRow, Skip, object_row, refuse_wide_text, skip_items
from schemas.errors import JobError

MAX_JSON_BYTES = 128 << 20
"""largest JSON file that is read, decompressed: several times Alpaca; its Python objects need several times as much"""


class JsonSource(FileSource):
    """A file with one JSON list of objects. It has no lines to read one by one, so the whole list is held in memory."""

    format = "json"
    endings = (".json",)
    is_read_from_folders = False  # in a folder, a .json file mostly describes the data (dataset_info.json)

    def count(self) -> int:
        """Returns the number of items in the list."""
        return len(self._items())

    def columns(self) -> list[str]:
        """Returns the keys of the first items; later items may have more."""
        probed = (item for item in self._items()[:PROBED_ROWS] if isinstance(item, dict))
        return list(dict.fromkeys(key for item in probed for key in item))

    def has_late_column(self, column: str) -> bool:
        """Returns whether an item after the first ones has a key that they lack."""
        return any(column in item for item in self._items()[PROBED_ROWS:] if isinstance(item, dict))

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows; see `Source.rows`."""
        return map(partial(object_row, "the item"), skip_items(self._items(), skip))

    def document(self) -> Any:
        """Returns the content of the file, whatever JSON it holds.

        Raises:
            JobError: the file is too large, empty or no JSON.
        """
        with self.open() as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            cause = f"a JSON list is read whole, and this one is larger than {MAX_JSON_BYTES >> 20} MiB"
            remedy = "write it as JSONL, an object in each line, which is read row by row"
            raise JobError("input.path", self.name, cause, remedy)
        refuse_wide_text("input.path", self.name, data)
        text = data.decode("utf-8-sig")
        if not text.strip():
            raise JobError("input.path", self.name, "the file is empty", "name a file with rows")
        remedy = "if it has an object in each line, rename it to .jsonl or set input.format to jsonl; else repair it"
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise JobError("input.path", self.name, f"not valid JSON: {error}", remedy) from None

    def _items(self) -> list[Any]:
        items = self.document()
        if isinstance(items, list):
            return items
        held = "one JSON object" if isinstance(items, dict) else f"a JSON {type(items).__name__}"
        remedy = "write its rows as a list, or an object in each line of a .jsonl file"
        raise JobError("input.path", self.name, f"it holds {held}, not a list of objects", remedy)
