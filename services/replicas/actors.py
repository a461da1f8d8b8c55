"""Ray actors that load a model once and then work through units, each as soon as an actor is free."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import ray

from schemas.errors import EngineError, KindlingError, StoppedError
from schemas.job import Cluster, Model
from schemas.text import shorten
from services.replicas.placement import replica_spec

Loaded = TypeVar("Loaded")
Unit = TypeVar("Unit")
Done = TypeVar("Done")

# An actor whose process died is started again, and its unit with it: the machine may have run out of memory for once.
_RESTARTS = 2
_LOOK_SECONDS = 0.5
# Engines of the job itself have ended by then; others hold their GPUs for longer.
_FREE_SECONDS = 10.0


class _Worker(Generic[Loaded]):
    """The actor. Loads with its first unit, so that what is wrong with the model is told as an error of that unit."""

    def __init__(self, load: Callable[[str, int], Loaded], device: str, cores: int) -> None:
        self._load, self._device, self._cores, self._loaded = load, device, cores, None

    def do(self, work: Callable[[Loaded, Unit], Done], unit: Unit) -> Done:
        if self._loaded is None:
            self._loaded = self._load(self._device, self._cores)
        return work(self._loaded, unit)


def spread(
    load: Callable[[str, int], Loaded],
    work: Callable[[Loaded, Unit], Done],
    units: Sequence[Unit],
    cluster: Cluster,
    stop_within: Callable[[], float | None],
) -> Iterator[tuple[int, Done]]:
    """Works through units on as many actors as the job has replicas; results as they come, each with its unit's number.

    Must be used inside `services.cluster.connect_to_ray`.

    Args:
        load: makes what `work` needs, once in each actor; is told the device, cuda where GPUs are free or cpu, and how
            many cores the actor may compute on.
        stop_within: None until a signal asks for an end.

    Raises:
        KindlingError: the first that an actor raised.
        StoppedError: a signal came, or actors keep dying.
    """
    spec, size = replica_spec(Model(), {}, cluster, warn=False), min(cluster.replicas, len(units))
    on_gpu = bool(spec.gpus) and _gpus_come_free(size)
    # A warm pool may hold all cores without using them now, so none are asked of Ray: it would wait for the pool's end.
    actor = ray.remote(_Worker).options(
        num_cpus=0, num_gpus=int(on_gpu), scheduling_strategy="SPREAD", max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
    )  # fmt: skip
    actors = [actor.remote(load, "cuda" if on_gpu else "cpu", spec.cpus) for _ in range(size)]
    left, idle, pending = deque(enumerate(units)), deque(actors), {}
    try:
        while left or pending:
            while left and idle:
                number, unit = left.popleft()
                worker = idle.popleft()
                pending[worker.do.remote(work, unit)] = (number, worker)
            ready, _ = ray.wait(list(pending), timeout=_LOOK_SECONDS)
            if stop_within() is not None:
                raise StoppedError("", None, "by a signal", "the same command resumes")
            for ref in ready:
                number, worker = pending.pop(ref)
                yield number, _result(ref)
                idle.append(worker)
    finally:
        for worker in actors:
            ray.kill(worker)


def _gpus_come_free(number: int) -> bool:
    """Whether the cluster has so many; those of engines that were just ended take a moment."""
    end = time.monotonic() + _FREE_SECONDS
    while ray.available_resources().get("GPU", 0) < number:
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _result(ref: ray.ObjectRef) -> Any:
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
        remedy = "memory is the commonest reason; what is done is kept, and the same command resumes"
        raise StoppedError("cluster", None, f"an actor keeps dying: {shorten(lines[-1])}", remedy) from None
