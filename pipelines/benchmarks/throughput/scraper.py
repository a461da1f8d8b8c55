"""Reads the metrics of a run once a second: `python -m pipelines.benchmarks.throughput.scraper RUN_FOLDER`.

That is fifteen times as often as the Prometheus of deploy/monitoring does. It never ends by itself.
"""

import contextlib
import json
import sys
import time
import urllib.request
from pathlib import Path


def main() -> None:
    """Reads until the process is killed; a run that has no endpoint yet, or no longer, is asked again."""
    record = Path(sys.argv[1]) / "run.json"
    while True:
        time.sleep(1)
        with contextlib.suppress(OSError, ValueError):
            address = json.loads(record.read_text(encoding="utf-8"))["metrics"]
            urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read()


if __name__ == "__main__":
    main()
