"""JSON Lines: a JSON object in each line."""

import json
import re
from itertools import islice

from pipelines.inputs.lines import LineSource
from pipelines.inputs.sources import NOT_UTF8, PROBED_ROWS, InputRow, object_row
from schemas.errors import JobError

_LIST_OF_OBJECTS = re.compile(rb"\s*\[\s*(?:\{|$)")


class JsonlSource(LineSource):
    """A file with a JSON object in each line. Blank lines are not rows."""

    format = "jsonl"
    endings = (".jsonl", ".ndjson")

    def columns(self) -> list[str]:
        """Returns the keys of the first rows; later rows may have more.

        Raises:
            JobError: the file has lines, and none is a JSON object.
        """
        names: dict[str, None] = {}
        first, fault, has_object = b"", "", False
        for number, line in enumerate(self._lines()):
            if number >= PROBED_ROWS and has_object:
                break
            row = self._row(line)
            if number == 0:
                first, fault = line or b"", row.fault
            if row.values is not None:
                has_object = True
                names.update(dict.fromkeys(row.values))
        # Of a list with its items in lines of their own, the last one is an object.
        if _LIST_OF_OBJECTS.match(first) or (fault and not has_object):
            raise JobError("input.path", self.name, *_describe(first, fault))
        return list(names)

    def has_late_column(self, column: str) -> bool:
        """Returns whether a row after the first ones has a key that they lack."""
        later = islice(self._lines(), PROBED_ROWS, None)
        return any(column in (self._row(line).values or {}) for line in later)

    def _parse(self, line: bytes) -> InputRow:
        try:
            values = json.loads(line)
        except UnicodeDecodeError:
            return InputRow(None, f"the line is not {NOT_UTF8}")
        except (ValueError, RecursionError) as error:
            return InputRow(None, f"the line is not JSON: {error}")
        return object_row("the line", values)


def _describe(line: bytes, fault: str) -> tuple[str, str]:
    """Returns what a file holds in place of JSON objects, judged by its first line, and the remedy."""
    line = line.strip()
    if line.startswith(b"["):
        remedy = "if it is one list of objects, rename it to .json or set input.format to json"
        return "it holds a JSON list, not a JSON object in each line", remedy
    if re.match(rb"\{\s*'", line):
        return "its lines are Python dicts (single quotes), not JSON", "write them with json.dumps"
    if line.startswith(b"{") and not line.endswith((b"}", b"},")):
        return "its objects go over several lines", "write each object in one line, as `jq -c .` does"
    return f"none of its lines is a JSON object; the first: {fault}", "write a JSON object in each line"
