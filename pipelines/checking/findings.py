"""Findings about a machine or a job, and the questions that `doctor` and `check` both ask."""

import socket
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.result import Result
from schemas.errors import KindlingError
from schemas.text import shorten

_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """One fact about a machine or a job.

    Attributes:
        topic: what it is about.
        state: `fault` where the job (any job, on a machine's page) cannot run; `warning` where it may fail or be slow.
        text: the fact.
        remedy: what to do; empty where nothing is wrong.
    """

    topic: str
    state: Literal["ok", "warning", "fault"]
    text: str
    remedy: str = ""


def fault_of(topic: str, error: KindlingError) -> Finding:
    """Makes the finding of an error."""
    head, _, _ = str(error).partition("\n  remedy: ")
    return Finding(topic, "fault", head, error.remedy)


class CheckedJob(Result):
    """Base of the facts about a job, which are dataclasses with its findings."""

    findings: list[Finding]

    @property
    def can_start(self) -> bool:
        """True where nothing that was looked at keeps the job from its work."""
        return not any(finding.state == "fault" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values, for `--json`."""
        return {**super().as_json(), "can_start": self.can_start}


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yields a line for each finding, and one for its remedy."""
    for finding in findings:
        yield f"{finding.state:8} {finding.topic:11} {finding.text}"
        if finding.remedy:
            yield f"{'':20} remedy: {finding.remedy}"


def list_gpus() -> list[str]:
    """Returns name and memory of each NVIDIA GPU, from the driver's own program: torch takes seconds to import."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [shorten(line.strip()) for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def answers(host: str, port: int) -> bool:
    """Returns whether a program listens at an address."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def format_bytes(number: int) -> str:
    """Formats a number of bytes as `1.5 GiB`."""
    return f"{number / (1 << 30):.1f} GiB"
