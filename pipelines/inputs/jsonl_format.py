"""JSON Lines: a JSON object in each line."""

import json
from itertools import islice

from pipelines.inputs.lines import LineSource
from pipelines.inputs.sources import PROBED_ROWS, InputRow, object_row


class JsonlSource(LineSource):
    """A file with a JSON object in each line. Blank lines are not rows."""

    format = "jsonl"
    endings = (".jsonl", ".ndjson")

    def columns(self) -> list[str]:
        """Returns the keys of the first rows; later rows may have more."""
        probed = [self._row(line).values or {} for line in islice(self._lines(), PROBED_ROWS)]
        return list(dict.fromkeys(key for values in probed for key in values))

    def _parse(self, line: bytes) -> InputRow:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            return InputRow(None, f"the line is not JSON: {error}")
        return object_row("the line", values)
