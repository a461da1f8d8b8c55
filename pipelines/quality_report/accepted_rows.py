"""`kindling quality FILE --rules RULES --accepted FILE`: the rows of a file that the rules accept, as JSONL."""

import json
from collections.abc import Sequence

from pipelines.corpora.rows import is_run
from pipelines.quality_control.quality_rules import QualityRules
from pipelines.quality_report.judged_rows import JudgedRow
from pipelines.run_folder import refuse_existing, write_errors
from schemas.errors import JobError
from schemas.rows import ACCEPTED
from services.storage.filesystem import resolve, write_atomic

_OPTION = "--accepted"


class AcceptedRows:
    """Rows that rules accept. They are held in memory, and written as a whole at the end.

    Args:
        to: the new file, a local path or a URL.
        corpora: names of the corpora that are judged.
        rules: rules that judge them.

    Raises:
        JobError: there are no rules; or the rows are those of a run, or of several corpora.
        RunError: the file exists already.
    """

    def __init__(self, to: str, corpora: Sequence[str], rules: QualityRules | None) -> None:
        if rules is None:
            raise JobError(_OPTION, to, "no rule says which rows to accept", "add --rules: `all`, or a job file")
        if len(corpora) > 1:
            raise JobError(_OPTION, to, "the columns of several corpora differ", "name one file, folder or glob")
        if is_run(corpora[0]):
            remedy = "`kindling export` writes the accepted rows of a run"
            raise JobError(_OPTION, to, f"{corpora[0]} is a run, which has accepted rows of its own", remedy)
        refuse_existing(to, _OPTION)
        self._to = to
        self._lines: list[str] = []

    def add(self, row: JudgedRow) -> None:
        """Keeps a row if it is accepted."""
        if row.state == ACCEPTED:
            self._lines.append(json.dumps(row.values, ensure_ascii=False) + "\n")

    def write(self) -> None:
        """Writes the file.

        Raises:
            RunError: it cannot be written.
        """
        fs, path = resolve(self._to, _OPTION)
        with write_errors(self._to, _OPTION):
            write_atomic(fs, path, "".join(self._lines).encode())
