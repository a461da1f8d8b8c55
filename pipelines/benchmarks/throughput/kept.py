"""The runs of a bench, each kept in a file as soon as it is done, so that a bench that was stopped goes on."""

import json
from pathlib import Path
from typing import Any

from pipelines.benchmarks.throughput.worker import Samples
from schemas.errors import JobError


class KeptRuns:
    """Runs by workload, arm and round.

    Args:
        path: JSON Lines file: the bench's settings, and then a line for each run. None keeps nothing.
        settings: everything that two runs must share to be compared.

    Raises:
        JobError: the file cannot be read, or its runs were made with other settings.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path = path
        self._runs: dict[tuple[str, str, int], dict[str, Any]] = {}
        if path and path.exists():
            self._read(path, settings)
        elif path:
            self._append({"settings": settings})

    def __contains__(self, run: tuple[str, str, int]) -> bool:
        """Tells whether the run of this workload, arm and round is there."""
        return run in self._runs

    def add(self, workload: str, arm: str, round_: int, figures: dict[str, Any]) -> None:
        """Keeps a run."""
        self._runs[workload, arm, round_] = figures
        self._append({"workload": workload, "arm": arm, "round": round_, "figures": figures})

    def samples(self) -> Samples:
        """Returns the runs of all rounds that are whole, in the order of the rounds, by workload and arm.

        A round of a workload is whole where each arm that was run on this workload has it.
        """
        samples: Samples = {}
        arms = {workload: [arm for name, arm, _ in self._runs if name == workload] for workload, *_ in self._runs}
        for workload, named in arms.items():
            kinds = list(dict.fromkeys(named))
            rounds = sorted({round_ for name, _, round_ in self._runs if name == workload})
            whole = [round_ for round_ in rounds if all((workload, arm, round_) in self._runs for arm in kinds)]
            if whole:
                samples[workload] = {arm: [self._runs[workload, arm, round_] for round_ in whole] for arm in kinds}
        return samples

    def _read(self, path: Path, settings: dict[str, Any]) -> None:
        remedy = "name another file, or move this one away"
        try:
            first, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            kept = first["settings"]
            self._runs = {(line["workload"], line["arm"], line["round"]): line["figures"] for line in lines}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JobError("--keep", str(path), f"it does not hold the runs of a bench: {error}", remedy) from None
        if other := [key for key in settings if kept.get(key) != json.loads(json.dumps(settings[key]))]:
            cause = f"its runs were made with other settings: {', '.join(other)}"
            raise JobError("--keep", str(path), cause, remedy)

    def _append(self, line: dict[str, Any]) -> None:
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
