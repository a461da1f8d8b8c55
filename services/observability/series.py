"""The Prometheus metrics of each verb: `augment`, `train` and `evaluate`.

Names follow Prometheus' conventions: base units, `_total` for counters. Every series has the labels `run` and `start`.
"""

from collections.abc import Callable

from schemas.run import REPLICA_SECONDS
from services.observability.metrics import Endpoint, ReplicaCollector, ReplicaStatus

# From a short answer on a GPU to a long one on a busy CPU.
_REQUEST_SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class AugmentMetrics(Endpoint):
    """Metrics of `augment`. Counters begin with the totals of earlier starts, so that they equal the shards."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.rows = self._counter(
            "kindling_rows_total", "Finished rows by state: accepted, rejected by quality control, or error", "state"
        )
        self.tokens = self._counter(
            "kindling_tokens_total", "Tokens of finished rows in any state, by kind: prompt or output", "kind"
        )
        self.accepted_tokens = self._counter(
            "kindling_accepted_output_tokens_total",
            "Output tokens of accepted rows; their rate over a time span is the goodput of that span",
        )
        self.cached_prompt_tokens = self._counter(
            "kindling_cached_prompt_tokens_total",
            "Prompt tokens that the engines took from their prefix caches instead of computing them",
        )
        self.tries = self._counter(
            "kindling_tries_total", "Tries of rows that were not the last one, by the rule that rejected them", "reason"
        )
        self.rejects = self._counter(
            "kindling_rejects_total", "Rows that quality control rejected, by the rule that rejected them", "reason"
        )
        self.errors = self._counter(
            "kindling_errors_total", "Rows that failed, by the reason with N in place of numbers", "reason"
        )
        self.cut_off = self._counter(
            "kindling_cut_off_rows_total",
            "Accepted rows whose text was cut off by max_tokens or by the model's limit",
        )
        self.shards = self._counter("kindling_shards_committed_total", "Shards that are committed, and so durable")
        self.progress = self._gauge("kindling_progress_ratio", "Share of the run's rows that are finished, 0 to 1")
        self.eta = self._gauge(
            "kindling_eta_seconds",
            "Seconds to the last row at the rate of the last ten minutes; NaN while there is no rate",
            starts_unknown=True,
        )
        self.eta_bound = self._gauge(
            "kindling_eta_bound_seconds",
            "Bounds of the 90% interval of kindling_eta_seconds, from the rates of the last ten minutes",
            "bound",
        )
        self.goodput = self._gauge(
            "kindling_goodput_tokens_per_second",
            "Output tokens of accepted rows per second, mean since the first engine of this start was ready",
        )
        self.goodput_last_minute = self._gauge(
            "kindling_goodput_last_minute_tokens_per_second",
            "Output tokens of accepted rows per second, over the last minute",
        )
        self.free_bytes = self._gauge(
            "kindling_output_free_bytes",
            "Free bytes on the disk of the run folder; NaN if the run folder is not on a local disk",
            starts_unknown=True,
        )
        self._add_engine_metrics()

    def _add_engine_metrics(self) -> None:
        """Adds the metrics of requests, replicas and their cost."""
        self.in_flight = self._gauge("kindling_requests_in_flight", "Rows that are with replicas now")
        self.request_seconds = self._histogram(
            "kindling_request_seconds",
            "Seconds from handing a row to its engine to its last token, in this start",
            _REQUEST_SECONDS_BUCKETS,
        )
        self.kv_cache_usage = self._gauge(
            "kindling_kv_cache_usage_ratio",
            "Share of the KV cache that running requests take, 0 to 1, mean over serving replicas",
            starts_unknown=True,
        )
        self.replicas = self._gauge("kindling_replicas", "Replicas by state: starting or serving", "state")
        self.restarts = self._counter(
            "kindling_replica_restarts_total", "Replicas that replaced dead ones, in this start"
        )
        self.replica_seconds = self._counter(
            REPLICA_SECONDS,
            "Seconds of all replicas in all starts, summed, engine start-up included; of a killed start up to its last "
            "minute",
        )
        self.price = self._gauge(
            "kindling_price_per_replica_hour",
            "Price of one replica for an hour, from the job file; NaN if the job file has none",
            starts_unknown=True,
        )

    def add_replica_series(self, read_status: Callable[[], list[ReplicaStatus]]) -> None:
        """Adds series of each replica, see `ReplicaCollector`."""
        self.registry.register(ReplicaCollector(self.run, read_status))


class TrainMetrics(Endpoint):
    """Metrics of `train`. The label `stage` names the stage of each series: `0-clm`."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.loss = self._gauge(
            "kindling_train_loss",
            "Loss over the last logged steps, in nats per token, for a classifier in nats per label",
            "stage",
        )
        self.held_out_loss = self._gauge(
            "kindling_train_held_out_loss",
            "Loss on held-out tokens at the last evaluation, in nats",
            "stage",
        )
        self.learning_rate = self._gauge(
            "kindling_train_learning_rate", "Learning rate of the last logged step", "stage"
        )
        self.steps = self._counter(
            "kindling_train_steps_total", "Optimizer steps taken, in all starts of the job", "stage"
        )
        self.planned_steps = self._gauge(
            "kindling_train_planned_steps", "Optimizer steps of the whole stage, which may end sooner", "stage"
        )
        self.tokens = self._counter(
            "kindling_train_tokens_total", "Tokens trained on in all starts, without padding", "stage"
        )
        self.tokens_per_second = self._gauge(
            "kindling_train_tokens_per_second",
            "Tokens trained on per second, over the last logged steps, without the time of evaluations",
            "stage",
        )
        self.eta = self._gauge(
            "kindling_train_eta_seconds",
            "Seconds to the stage's last step at the rate of this start, evaluations included",
            "stage",
        )


class EvaluateMetrics(Endpoint):
    """Metrics of `evaluate`, by evaluation and model. The runs of models' responses are at the same endpoint."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.examples = self._counter(
            "kindling_evaluate_examples_total",
            "Examples scored in all starts: responses of sentiment, pairs of blimp, items of emobench, tasks of "
            "lm_eval, texts of logit_lens",
            "evaluation",
            "model",
        )
        self.planned = self._gauge(
            "kindling_evaluate_planned_examples", "Examples of the whole evaluation", "evaluation", "model"
        )
        self.failed = self._gauge("kindling_evaluate_failed_models", "Models that could not be evaluated", "evaluation")
