"""Progress of an evaluation: a bar on a terminal, a line a minute in a log, and Prometheus metrics."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from services.observability.series import EvaluateMetrics
from services.observability.start_phases import MODEL
from services.observability.terminal import LINE_SECONDS, Bar

_log = logging.getLogger("kindling")


class EvaluationProgress:
    """Counts the examples that each model was measured on.

    Args:
        metrics: metrics of the job.
    """

    def __init__(self, metrics: EvaluateMetrics) -> None:
        self._metrics = metrics

    @contextmanager
    def show(
        self, evaluation: str, what: str, totals: Mapping[str, int], done: Mapping[str, int] | None = None
    ) -> Iterator[Callable[[str, int], None]]:
        """Inside the block the progress of some models is shown.

        Args:
            evaluation: name of the evaluation.
            what: noun for the examples, in the plural: `responses`.
            totals: number of examples by model.
            done: number of examples that earlier starts did, by model.

        Yields:
            a function to call with the name of a model and the number of examples just done.
        """
        run, finished = self._metrics.run, {name: (done or {}).get(name, 0) for name in totals}
        total, logged_at = sum(totals.values()), time.monotonic()
        for name, number in totals.items():
            self._metrics.planned.labels(run, evaluation, name).set(number)
            self._metrics.examples.labels(run, evaluation, name).inc(finished[name])
        title = f"{evaluation} of {', '.join(totals)}"
        with Bar(f"{title}: {what}", total) as bar:
            bar.update(completed=sum(finished.values()))
            bar.show_phase(replace(MODEL, name=f"{title}: {MODEL.name}"))

            def advance(name: str, number: int) -> None:
                nonlocal logged_at
                finished[name] += number
                self._metrics.examples.labels(run, evaluation, name).inc(number)
                bar.update(completed=sum(finished.values()), description=f"{title}: {what}")
                if not bar.shown and time.monotonic() - logged_at > LINE_SECONDS:
                    logged_at = time.monotonic()
                    _log.info("%s: %d of %d %s", title, sum(finished.values()), total, what)

            yield advance
