"""How far an evaluation is: a bar on a terminal, a line a minute in a log, and Prometheus' series."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from services.observability.series import EvaluateMetrics
from services.observability.terminal import LINE_SECONDS, Bar

_log = logging.getLogger("kindling")


class Progress:
    """Counts what each model is measured on.

    Args:
        metrics: the job's series.
    """

    def __init__(self, metrics: EvaluateMetrics) -> None:
        self._metrics = metrics

    @contextmanager
    def shown(
        self, evaluation: str, what: str, totals: Mapping[str, int], done: Mapping[str, int] | None = None
    ) -> Iterator[Callable[[str, int], None]]:
        """Inside the block the progress of some models is shown; yields what tells that so many more of one are done.

        Args:
            what: is counted, in the plural: `responses`.
            totals: by model.
            done: by model, in earlier starts; none where it is missing.
        """
        run, there = self._metrics.run, {name: (done or {}).get(name, 0) for name in totals}
        total, told_at = sum(totals.values()), time.monotonic()
        for name, number in totals.items():
            self._metrics.planned.labels(run, evaluation, name).set(number)
            self._metrics.examples.labels(run, evaluation, name).inc(there[name])
        title = f"{evaluation} of {', '.join(totals)}"
        with Bar(f"{title}: {what}", total) as bar:
            bar.update(completed=sum(there.values()))

            def advance(name: str, number: int) -> None:
                nonlocal told_at
                there[name] += number
                self._metrics.examples.labels(run, evaluation, name).inc(number)
                bar.update(completed=sum(there.values()))
                if not bar.shown and time.monotonic() - told_at > LINE_SECONDS:
                    told_at = time.monotonic()
                    _log.info("%s: %d of %d %s", title, sum(there.values()), total, what)

            yield advance
