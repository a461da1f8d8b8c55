"""Replicas that stay up between the runs of one process: the next run of the same model need not start its engines."""

from typing import Any

from services.cluster import is_head_reachable
from services.replicas.placement import end_replicas


class KeptReplicas:
    """Replicas that one pool leaves to the next; all these pools must have the same model and engine arguments.

    Must be used as a context manager, inside `services.cluster.connect_to_ray`: the block's end ends the replicas.
    """

    def __init__(self) -> None:
        self._actors: list[Any] = []

    def take(self) -> list[Any]:
        """Returns the replicas that were left here; they belong to the caller from now on."""
        actors, self._actors = self._actors, []
        return actors

    def leave(self, actors: list[Any]) -> None:
        """Leaves replicas, whose engines are up and have no rows, to the next pool."""
        self._actors += actors

    def __enter__(self) -> "KeptReplicas":
        return self

    def __exit__(self, *error: object) -> None:
        if (actors := self.take()) and is_head_reachable():
            end_replicas(actors)
