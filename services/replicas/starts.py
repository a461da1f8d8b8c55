"""Phases of the starts of replicas, asked of the replicas themselves while their engines start."""

from typing import Any

import ray
from ray import ObjectRef

from services.observability.start_phases import IMPORTING, LOADING, WARMING_UP, Phase, engine_phase

_ORDER = (IMPORTING, LOADING, WARMING_UP)


class ReplicaStarts:
    """The starts of some replicas.

    Args:
        first: phase in which a replica is created, or found.
        on_gpu: whether their engines compute on GPUs.
    """

    def __init__(self, first: Phase, on_gpu: bool) -> None:
        self._first, self._on_gpu = first, on_gpu
        self._calls: dict[ObjectRef[Any], Any] = {}
        self._furthest = -1

    def add(self, actor: Any) -> None:
        """Follows the start of a replica that was just created."""
        self.latest()
        if not self._calls:  # all others are up: this one replaces a dead replica
            self._furthest = -1
        self._calls[actor.start_phase.remote("")] = actor

    def latest(self) -> Phase:
        """Returns the phase of the replica whose start is most advanced; cheap to call often."""
        answered, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0) if self._calls else ([], [])
        for ref in answered:
            actor = self._calls.pop(ref)
            try:
                name = ray.get(ref)
            except ray.exceptions.RayError:  # it died, which its other calls report
                continue
            if name:
                self._furthest = max(self._furthest, _ORDER.index(name))
                self._calls[actor.start_phase.remote(name)] = actor
        return self._first if self._furthest < 0 else engine_phase(_ORDER[self._furthest], self._on_gpu)
