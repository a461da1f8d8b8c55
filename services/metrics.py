"""The Prometheus endpoint of a job: the one file that touches prometheus_client.

Every series carries the label `run`. Names follow Prometheus' conventions: base units, `_total` for counters.
"""

import threading
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

# From a short answer on a GPU to a long one on a busy CPU.
_SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Endpoint:
    """The series of a job, in a registry of its own so that two jobs of one process do not meet.

    Args:
        run: value of the label `run`.
    """

    def __init__(self, run: str) -> None:
        self.registry = CollectorRegistry()
        self.run = run
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def _make(self, kind: type, name: str, help_text: str, *labels: str, **options: object) -> Any:
        metric = kind(name, help_text, ["run", *labels], registry=self.registry, **options)
        return metric if labels else metric.labels(self.run)

    def serve(self, host: str, port: int) -> tuple[str, bool]:
        """Opens the endpoint.

        Returns:
            (its `host:port`, whether that is the port asked for). A port that is taken is replaced by a free one.

        Raises:
            OSError: the host is not an address of this machine.
        """
        try:
            self._server, self._thread = start_http_server(port, host, self.registry)
        except OSError:
            self._server, self._thread = start_http_server(0, host, self.registry)
        given = self._server.server_port
        return f"{host}:{given}", port in (0, given)

    def close(self) -> None:
        """Closes the endpoint."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


class JobMetrics(Endpoint):
    """The series of `augment`."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.rows = self._make(Counter, "kindling_rows_total", "Rows that reached a terminal state", "state")
        self.tokens = self._make(Counter, "kindling_tokens_total", "Tokens of finished rows", "kind")
        self.cached = self._make(
            Counter, "kindling_cached_prompt_tokens_total", "Prompt tokens found in the engines' prefix caches"
        )
        self.shards = self._make(Counter, "kindling_shards_committed_total", "Shards that are durable on disk")
        self.in_flight = self._make(Gauge, "kindling_requests_in_flight", "Rows that are with replicas now")
        self.seconds = self._make(
            Histogram, "kindling_request_seconds", "Seconds from handing a row to its engine to its last token",
            buckets=_SECONDS_BUCKETS,
        )  # fmt: skip
        self.replicas = self._make(Gauge, "kindling_replicas", "Replicas by state", "state")
        self.rejects = self._make(Counter, "kindling_rejects_total", "Rows that quality control refused", "reason")
        self.progress = self._make(
            Gauge, "kindling_progress_ratio", "Share of the run's rows that are finished, 0 to 1"
        )
        self.eta = self._make(Gauge, "kindling_eta_seconds", "Seconds until the last row, at the rate so far")
        self.goodput = self._make(
            Gauge, "kindling_goodput_tokens_per_second", "Output tokens of accepted rows a second, since this start"
        )


class TrainMetrics(Endpoint):
    """The series of `train`, each of one stage: `0-clm`."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.loss = self._make(
            Gauge, "kindling_train_loss",
            "Loss over the last logged steps, in nats: a token, or of a classifier a label", "stage",
        )  # fmt: skip
        self.held_out_loss = self._make(
            Gauge, "kindling_train_held_out_loss", "The same on held-out rows, at the last evaluation", "stage"
        )
        self.learning_rate = self._make(
            Gauge, "kindling_train_learning_rate", "Learning rate of the last logged step", "stage"
        )
        self.steps = self._make(
            Counter, "kindling_train_steps_total", "Optimizer steps taken, in all starts of the job", "stage"
        )
        self.planned_steps = self._make(
            Gauge, "kindling_train_planned_steps", "Optimizer steps of the whole stage, which may end sooner", "stage"
        )
        self.tokens = self._make(
            Counter, "kindling_train_tokens_total", "Tokens trained on in all starts, padding not counted", "stage"
        )
        self.tokens_per_second = self._make(
            Gauge, "kindling_train_tokens_per_second",
            "Tokens trained on a second, over the last logged steps, evaluations left out", "stage",
        )  # fmt: skip
        self.eta = self._make(
            Gauge, "kindling_train_eta_seconds",
            "Seconds until the stage's last step, at the rate of this start, evaluations included", "stage",
        )  # fmt: skip


class EvaluateMetrics(Endpoint):
    """The series of `evaluate`, each of one evaluation of one model; the runs of their answers have their own."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.examples = self._make(
            Counter, "kindling_evaluate_examples_total",
            "What a model was measured on in all starts: responses of sentiment, pairs of blimp, tasks of lm_eval, "
            "texts of logit_lens", "evaluation", "model",
        )  # fmt: skip
        self.planned = self._make(
            Gauge, "kindling_evaluate_planned_examples", "How many of those there are in all", "evaluation", "model"
        )
        self.failed = self._make(
            Gauge, "kindling_evaluate_failed_models", "Models that could not be evaluated", "evaluation"
        )
