"""`kindling status`: how far a run is, from disk, and from its endpoint while it runs."""

from dataclasses import replace

from pipelines.labelling.record import read_record
from pipelines.run_folder import open_run
from pipelines.run_status.augment import RunStatus, _finished, _on_disk, told_of
from pipelines.run_status.evaluate import EvaluateStatus, evaluate_status
from pipelines.run_status.label import LabelStatus, label_status
from pipelines.run_status.train import _COMPOSITION, TrainStatus, train_status
from schemas.errors import RunError
from services.observability.metrics import EndpointError, read_endpoint
from services.storage.store import ShardStore


def status(url: str) -> RunStatus | TrainStatus | LabelStatus | EvaluateStatus:
    """How far a run, a training, a labelling or an evaluation is; nothing is written.

    Of a run it reads run.json, the index of committed shards, the manifests of those not in it, the log of open ones,
    and the endpoint that run.json names.

    Raises:
        RunError: the folder holds none of these, or a shard is damaged.
    """
    store = ShardStore(url)
    if labels := read_record(store):
        return label_status(store, labels)
    if training := train_status(store):
        return training
    if evaluation := evaluate_status(store, _finished):
        return evaluation
    refuse_composition(store)
    run = open_run(store)
    found = _on_disk(store, run)
    if found.complete:
        return found
    try:
        return replace(found, source="endpoint", **told_of(read_endpoint(run.metrics, run.start_id), found, run))
    except EndpointError as error:
        return replace(found, silent=str(error))


def refuse_composition(store: ShardStore) -> None:
    """Refuses a composed corpus, which appears as a whole.

    Raises:
        RunError: this is one.
    """
    if store.fs.exists(store.path(_COMPOSITION)):
        cause = "this folder is a composed corpus, which is there as a whole, and no run"
        raise RunError("RUN", store.url, cause, "see its README.md")
