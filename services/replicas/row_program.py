"""The program of a row: all that a replica does with a row between its arrival and its record.

Invariant: a program returns one record for its row, or raises; it keeps nothing between rows. So a row whose replica
dies runs again from its beginning, with the same seeds.

A program has at most one request with the engine at a time, so rows in flight are requests in flight. Its next request
follows at once, beside the engine, while the beginning of its prompt may still be in the KV cache.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from schemas.rows import WorkRow
from services.engines.engine import Generation, ShouldStop

if TYPE_CHECKING:
    from services.replicas.row_records import VariantSettings


class Generate(Protocol):
    """Sends one request of a row to the engine."""

    async def __call__(
        self,
        messages: list[dict[str, str]],
        sampling: dict[str, Any],
        seed: int,
        should_stop: ShouldStop | None = None,
    ) -> Generation:
        """Returns the response.

        Args:
            messages: the conversation.
            sampling: keys of `schemas.job.Sampling`.
            seed: seed of this request.
            should_stop: ends the request early; None for never.

        Raises:
            RowError: this request cannot be served; others can.
            EngineDeadError: the engine died.
        """
        ...


class RowProgram(Protocol):
    """Runs rows that take several generations or tries; pickled to every replica.

    The program in `pipelines.quality_control` implements it.
    """

    def samplings(self, settings: "VariantSettings") -> Sequence[dict[str, Any]]:
        """Returns the sampling of each request that rows of a variant may send, which the engine checks in advance."""
        ...

    async def run(self, row: WorkRow, settings: "VariantSettings", generate: Generate) -> dict[str, Any]:
        """Runs one row.

        Args:
            row: the row; its values could be read, and nothing refused it in advance.
            settings: settings of its variant.
            generate: sends a request to the engine.

        Returns:
            A record with the columns of `settings.schema`.

        Raises:
            RowError: the row cannot be generated.
            RowRejection: a rule of the recipe rejects the row before anything is generated.
            EngineDeadError: the engine died.
        """
        ...
