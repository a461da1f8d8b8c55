"""Ray actors that load a model once and then work on many items, each actor on one item at a time.

Used by evaluations, which score many texts with one model. Generation has actors of its own: see replica.py.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from schemas.errors import EngineError, KindlingError, StoppedError
from schemas.job import Cluster, Model
from schemas.text import shorten
from services.cluster import HeadWatch
from services.replicas.placement import replica_spec

Loaded = TypeVar("Loaded")
Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger("kindling")

# Ray starts an actor whose process died again, and gives it its item again: the machine may have run out of memory
# only for a moment.
_MAX_RESTARTS = 2
_POLL_SECONDS = 0.5
# The job's own engines have released their GPUs within this time. GPUs that are still taken belong to others.
_GPU_RELEASE_SECONDS = 10.0


class _Worker(Generic[Loaded]):
    """The actor around one loaded model.

    It loads with its first item, not when it is created, so that an error of the model is raised as an error of that
    item and reaches the driver with its cause.
    """

    def __init__(self, load: Callable[[str, int], Loaded], device: str, cores: int) -> None:
        self._load, self._device, self._cores = load, device, cores
        self._loaded: Loaded | None = None

    def run(self, work: Callable[[Loaded, Item], Result], item: Item) -> Result:
        if self._loaded is None:
            self._loaded = self._load(self._device, self._cores)
        return work(self._loaded, item)


def run_on_actors(
    load: Callable[[str, int], Loaded],
    work: Callable[[Loaded, Item], Result],
    items: Sequence[Item],
    cluster: Cluster,
    stop_within: Callable[[], float | None],
) -> Iterator[tuple[int, Result]]:
    """Runs `work` on each item, on as many actors as the job has replicas.

    Must be used inside `services.cluster.connect_to_ray`.

    Args:
        load: loads what `work` needs, once in each actor. Its arguments are the device ("cuda" where enough GPUs are
            free, else "cpu") and the number of cores that the actor may compute on.
        work: makes a result of what was loaded and one item.
        items: inputs of `work`.
        cluster: number of actors, and their GPUs and cores.
        stop_within: None until a stop signal came, then the seconds left.

    Yields:
        (index of the item, its result), in the order in which items finish.

    Raises:
        KindlingError: the first error of this kind that an actor raised.
        StoppedError: a stop signal came, actors keep dying, or the cluster is gone.
    """
    spec, size = replica_spec(Model(), {}, cluster, warn=False), min(cluster.replicas, len(items))
    on_gpu = bool(spec.gpus) and _wait_for_gpus(size)
    if spec.gpus and not on_gpu:
        _log.warning(
            "%d GPUs are not free in the cluster (it has %g): this runs on CPU cores, and takes longer. For GPUs, end "
            "other jobs and warm pools (`kindling pool list`)", size, ray.cluster_resources().get("GPU", 0),
        )  # fmt: skip
    # No CPUs are requested from Ray: a warm pool may hold all of them while it is idle, and Ray would wait for its end.
    actor_class: Any = ray.remote(_Worker).options(
        num_cpus=0, num_gpus=int(on_gpu), scheduling_strategy="SPREAD", max_restarts=_MAX_RESTARTS,
        max_task_retries=_MAX_RESTARTS,
    )  # fmt: skip
    device = "cuda" if on_gpu else "cpu"
    actors: list[ActorHandle[Any]] = [actor_class.remote(load, device, spec.cpus) for _ in range(size)]
    queue, idle = deque(enumerate(items)), deque(actors)
    running: dict[ObjectRef[Any], tuple[int, ActorHandle[Any]]] = {}
    head_watch = HeadWatch()
    try:
        while queue or running:
            while queue and idle:
                index, item = queue.popleft()
                worker = idle.popleft()
                running[worker.run.remote(work, item)] = (index, worker)
            finished, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
            head_watch.check(has_answers=True)  # an item may take hours, so silence says nothing
            if stop_within() is not None:
                raise StoppedError("", None, "by a signal", "the same command resumes")
            for ref in finished:
                index, worker = running.pop(ref)
                yield index, _result(ref)
                idle.append(worker)
    finally:
        for worker in actors:
            ray.kill(worker)


def _wait_for_gpus(number: int) -> bool:
    """Returns whether the cluster has so many free GPUs, at once or after engines that just ended release theirs."""
    end = time.monotonic() + _GPU_RELEASE_SECONDS
    while ray.available_resources().get("GPU", 0) < number:
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _result(ref: ObjectRef[Any]) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, KindlingError):
            raise error.cause from None
        raise EngineError(
            "evaluate", None, f"{type(error.cause).__name__}: {shorten(str(error.cause))}",
            "this is a fault of Kindling's own; please report it with the log in Ray's session folder",
        ) from error  # fmt: skip
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        remedy = "memory is the commonest reason; finished items are kept, and the same command resumes"
        raise StoppedError("cluster", None, f"an actor keeps dying: {shorten(lines[-1])}", remedy) from None
