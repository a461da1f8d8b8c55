"""Plain text: a row in each line, in the column `text`."""

from pipelines.inputs.lines import LineSource
from pipelines.inputs.sources import NOT_UTF8, InputRow


class TextSource(LineSource):
    """A file of UTF-8 text with a row in each line. Blank lines are not rows."""

    format = "text"
    endings = (".txt", ".text", ".train")  # .train: the files of BabyLM

    def columns(self) -> list[str]:
        """Returns the one column that text has."""
        return ["text"]

    def _parse(self, line: bytes) -> InputRow:
        try:
            return InputRow({"text": line.decode("utf-8").rstrip("\r\n")})
        except UnicodeDecodeError:
            return InputRow(None, f"the line is not {NOT_UTF8}")
