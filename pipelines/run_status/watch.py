"""`kindling status --watch`: the page again and again, until the run is complete or Ctrl-C."""

import json
import os
import sys
import time
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipelines.run_status.page import Status, line, now, page
from pipelines.run_status.status import status

_PAGE_SECONDS = 2.0
# Lines are kept, in a file or a terminal that cannot go back.
_LINE_SECONDS = 10.0
# A look may take a second where a run has 100,000 shards or lies on an object store: no more of the time than this.
_MOST_OF_THE_TIME = 0.1


def watch(url: str, as_json: bool = False) -> None:
    """Shows how far a run is until it is complete, on standard output; Ctrl-C ends that, and the run goes on.

    Args:
        as_json: one JSON object a line.

    Raises:
        RunError: see `status`.
    """
    console = Console(highlight=False)
    try:
        if as_json or not console.is_terminal or console.is_dumb_terminal:
            _tell_lines(url, as_json)
        else:
            _show_pages(url, console)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # whoever read has enough; Python is not to try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_lines(url: str, as_json: bool) -> None:
    told = ""
    while True:
        began = time.monotonic()
        found = status(url)
        text = json.dumps(found.as_json(), ensure_ascii=False) if as_json else line(found)
        if as_json or text != told:
            told = text
            print(text if as_json else f"{datetime.now():%H:%M:%S} {text}", flush=True)
        if found.complete:
            return
        _rest(began, _LINE_SECONDS)


def _show_pages(url: str, console: Console) -> None:
    found = status(url)
    try:
        # In the terminal's other screen, so that what was there before is there again after it.
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                live.update(_screen(found, console), refresh=True)
                if found.complete:
                    break
                _rest(began, _PAGE_SECONDS)
                found = status(url)
    finally:
        print("\n".join(page(found, now(), console.width)))


def _screen(found: Status, console: Console) -> Text:
    foot = f"{datetime.now():%H:%M:%S}  Ctrl-C ends this page, and the job goes on"
    lines = page(found, now(), console.width, console.height - 2)
    return Text("\n".join([*lines, "", foot]), no_wrap=True, overflow="crop")


def _rest(began: float, seconds: float) -> None:
    time.sleep(max(seconds, (time.monotonic() - began) / _MOST_OF_THE_TIME))
