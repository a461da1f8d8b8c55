"""The wait of a job for GPUs and CPU cores of the cluster: explained, and bounded by `wait_minutes`.

Invariant: a job none of whose actors or tasks gets its resources ends, and says what it asks for and what there is.
"""

import logging
import time
from collections import Counter

import ray

from schemas.errors import EngineError, JobError, KindlingError, StoppedError
from schemas.job import Model
from services.cluster import is_own_cluster
from services.models.checkpoints import require_model

_log = logging.getLogger("kindling")


def node_resources() -> list[dict[str, float]]:
    """Returns the resources of each node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


class ResourceWait:
    """The wait for the resources of one actor or task.

    Args:
        key: key of the job that asks for them; it is named in errors.
        gpus: GPUs of each actor or task.
        cpus: CPU cores of each.
        minutes: longest time to wait; None waits without an end.
        model: model of the job. A model that this machine lacks is named too: it may be missing everywhere.
    """

    def __init__(self, key: str, gpus: float, cpus: int, minutes: float | None, model: Model | None = None) -> None:
        self.gpus, self.cpus = gpus, cpus
        self._key, self._minutes, self._model = key, minutes, model
        self._minutes_key = f"{'resources' if key.startswith('resources.') else 'cluster'}.wait_minutes"
        self._since: float | None = None
        self._had_resources = False

    @property
    def request(self) -> str:
        """The resources in words: `1 GPU and 2 CPUs`."""
        return _resources(self.gpus, self.cpus, "")

    def fits(self) -> bool:
        """Returns whether any node has the resources, if nothing else runs on it."""
        return any(node.get("GPU", 0) >= self.gpus and node.get("CPU", 0) >= self.cpus for node in node_resources())

    def begin(self, asker: str) -> bool:
        """Warns where no node is large enough, and the job waits for one. Returns whether one is.

        Args:
            asker: job that asks, for the log.

        Raises:
            JobError: no node is large enough, and none can join: Ray runs on this machine for this job alone.
        """
        if self.fits():
            return True
        if is_own_cluster():
            lower = f"leave {self._key} out to run on the CPU" if self._lacks_gpus() else f"lower {self._key}"
            remedy = f"{lower}, or run the job on a cluster that has such a node"
            raise JobError(self._key, None, f"{self._facts()}: no node is large enough", remedy)
        _log.warning(
            "%s: %s: no node is large enough. It waits for one%s%s. Stop it, or add a node of that size", asker,
            self._facts(), "" if self._minutes is None else f" up to {self._minutes:g} minutes ({self._minutes_key})",
            self._model_fault(),
        )  # fmt: skip
        return False

    def check(self, waits: bool) -> None:
        """Ends the job where it has waited for too long.

        Args:
            waits: whether no actor or task has its resources at this moment.

        Raises:
            EngineError: no node is large enough, and none joined in time.
            StoppedError: others hold the resources, or a node that had them is gone.
        """
        if not waits:
            self._since, self._had_resources = None, True
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if self._minutes is not None and now - self._since > self._minutes * 60:
            raise self._error()

    def _error(self) -> KindlingError:
        waited = f"waited {self._minutes:g} minutes ({self._minutes_key}): {self._facts()}"
        if self.fits():
            cause = f"{waited}; other jobs or warm pools hold them"
            return StoppedError(self._key, None, cause, "the same command resumes; `kindling pool list` lists pools")
        if self._had_resources:
            remedy = "add a node; finished rows are kept, and the same command resumes"
            return StoppedError(self._key, None, f"{waited}: no node is large enough any more", remedy)
        cause = f"{waited}: no node is large enough{self._model_fault()}"
        return EngineError(self._key, None, cause, f"add such a node, or lower {self._key}")

    def _lacks_gpus(self) -> bool:
        return bool(self.gpus) and not any(node.get("GPU") for node in node_resources())

    def _facts(self) -> str:
        counts = Counter((node.get("GPU", 0), node.get("CPU", 0)) for node in node_resources())
        nodes = [
            f"{number} node{'s' * (number > 1)} with {_resources(gpus, cpus)}"
            for (gpus, cpus), number in counts.most_common()
        ]
        free = ray.available_resources()
        left = _resources(free.get("GPU", 0), free.get("CPU", 0))
        return f"{self.request} requested, and the cluster has {', '.join(nodes) or 'no node'} ({left} free)"

    def _model_fault(self) -> str:
        try:
            if self._model is not None:
                require_model(self._model)
        except EngineError as error:
            return f". Besides, this machine lacks {error.key} = {error.value}: {error.cause}"
        return ""


def _resources(gpus: float, cpus: float, no_gpu: str = " and no GPU") -> str:
    cores = f"{cpus:g} CPU{'s' * (cpus != 1)}"
    if not gpus:
        return cores + no_gpu
    cards = f"{gpus:g} GPU{'s' * (gpus != 1)}"
    return f"{cards} and {cores}" if cpus else cards
