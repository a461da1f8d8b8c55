"""The verb status."""

import json
import shutil
import sys
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="the run folder, or a training's: the job's output.path")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="again and again, until the run is complete or Ctrl-C")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output; with --watch one a line")]

# A file or a pipe takes lines of any length.
_UNCUT = 10_000


def status(run: Run, watch: Watch = False, as_json: Json = False) -> None:
    """Progress, goodput, ETA, replicas, rejects; from disk, and from the job's endpoint while it runs."""
    if watch:
        from pipelines.watching_status import watch as watch_run

        return watch_run(run, as_json)
    from pipelines.run_status import status as status_of
    from pipelines.status_page import now, page

    found = status_of(run)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNCUT
        print("\n".join(page(found, now(), width)))
