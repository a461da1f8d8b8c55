"""The page of `kindling check`: findings, reasons of refused rows, and prompts."""

from collections.abc import Iterator

from pipelines.checking.check import REFUSED_ROWS, Check
from pipelines.checking.findings import finding_lines
from schemas.text import plural, printable, shorten

_MAX_REASONS = 8


def check_lines(check: Check) -> Iterator[str]:
    """Yields the lines of the page."""
    done = f", and {check.rows_done:,} are done" if check.rows_done else ""
    yield f"{check.job}: {plural(check.rows_left, 'row')} left{done}"
    for prompt in check.prompts:
        variant = f", {prompt.variant}" if prompt.variant != "default" else ""
        yield ""
        yield printable(f"--- row {prompt.number}: {prompt.source}, row {prompt.row_index}{variant}")
        for message in prompt.messages:
            role = f"{message['role']}: " if len(prompt.messages) > 1 else ""
            yield printable(f"{role}{message['content']}")
    yield ""
    for finding in check.findings:
        yield from map(printable, finding_lines([finding]))
        if finding.topic == REFUSED_ROWS:
            for reason, rows in list(check.refused.items())[:_MAX_REASONS]:
                yield printable(f"{'':20} {rows:,} of {check.looked_at:,}: {shorten(reason)}")
