"""`kindling status --watch`: the page again and again, until the job has ended or Ctrl-C."""

import json
import time
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipelines.run_status.page import Status, current_time, render_page
from pipelines.run_status.status import status
from services.observability.streams import is_stdout_read

_PAGE_SECONDS = 2.0
# In a file, or in a terminal that cannot clear its screen, lines stay.
_LINE_SECONDS = 10.0
# Reading the status of a run with 100,000 shards, or on an object store, may take a second: no larger share than this.
_MAX_SHARE_OF_TIME = 0.1
# A job that was started just now takes seconds to its first trace in the run folder.
_START_SECONDS = 10.0


def watch(url: str, as_json: bool = False) -> None:
    """Shows the status of a run on standard output until its job has ended; Ctrl-C ends it, and the job goes on.

    The end of the reader of standard output ends it too.

    Args:
        as_json: print one JSON object a line.

    Raises:
        RunError: see `status`.
    """
    console = Console(highlight=False)
    try:
        if as_json or not console.is_terminal or console.is_dumb_terminal:
            _print_lines(url, as_json)
        else:
            _show_pages(url, console)
    except KeyboardInterrupt:
        pass


def _print_lines(url: str, as_json: bool) -> None:
    last_text, started = "", time.monotonic()
    while True:
        began = time.monotonic()
        current = status(url)
        text = json.dumps(current.as_json(), ensure_ascii=False) if as_json else current.line()
        if as_json or text != last_text:
            last_text = text
            print(text if as_json else f"{datetime.now():%H:%M:%S} {text}", flush=True)
        if _is_over(current, started) or not is_stdout_read():
            return
        _pause(began, _LINE_SECONDS)


def _show_pages(url: str, console: Console) -> None:
    current, started = status(url), time.monotonic()
    try:
        # In the alternate screen, so that the terminal shows its former content again afterwards.
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                live.update(_screen(current, console), refresh=True)
                if _is_over(current, started) or not is_stdout_read():
                    break
                _pause(began, _PAGE_SECONDS)
                current = status(url)
    finally:
        print("\n".join(render_page(current, current_time(), console.width)))


def _is_over(status: Status, started: float) -> bool:
    """Returns whether the job has ended; `started` is the time on the monotonic clock at which watching began."""
    if status.state in ("stopped", "failed"):
        return time.monotonic() - started > _START_SECONDS
    return status.state == "complete"


def _screen(current: Status, console: Console) -> Text:
    footer = f"{datetime.now():%H:%M:%S}  Ctrl-C ends this page, and the job goes on"
    lines = render_page(current, current_time(), console.width, console.height - 2)
    return Text("\n".join([*lines, "", footer]), no_wrap=True, overflow="crop")


def _pause(began: float, seconds: float) -> None:
    """Waits until the next read of the status, which began at `began` on the monotonic clock."""
    time.sleep(max(seconds, (time.monotonic() - began) / _MAX_SHARE_OF_TIME))
