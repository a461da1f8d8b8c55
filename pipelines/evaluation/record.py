"""The record and the results in the folder of an evaluation.

evaluate.json                          the job as resolved, versions, failures, address and last values of its metrics
README.md                              the tables
results/<evaluation>/<model>.json      figures of a model, and everything that they depend on; its presence says that
                                       this evaluation of this model is done
results/<evaluation>/<model>.parquet   the rows that the figures are computed from
responses/<evaluation>/<model>/        an augmentation run: the responses of the model
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from pipelines.run_folder import RECORD_NAMES, claimed, lines_of, read_record, versions, write_errors
from schemas.errors import RunError
from schemas.evaluate import EvaluateJob, result_path
from schemas.fingerprint import difference, fingerprint
from services.observability.series import EvaluateMetrics
from services.storage.store import ShardStore

_RECORD = RECORD_NAMES["evaluate"]


@contextmanager
def recorded(store: ShardStore, job: EvaluateJob, address: str, metrics: EvaluateMetrics) -> Iterator[None]:
    """Inside the block this process alone writes to the folder, and evaluate.json describes this start.

    Args:
        address: the `host:port` of the Prometheus endpoint; empty for none.
        metrics: metrics of the job.

    Raises:
        JobError: a relative output path would be lost.
        RunError: the folder holds something else, belongs to another process, or cannot be written.
    """
    with write_errors(store.url), claimed(store, "evaluate") as lease:
        old = read_record(store, "evaluate") or {}
        # Failures of the last start, and its metrics, stay in the record until this start has its own.
        kept = {name: old[name] for name in ("ended_at", "last_metrics") if name in old}
        endpoint = {"metrics": address, "start_id": metrics.start_id}
        write_record(store, job, old.get("failures", {}), **endpoint, **kept)
        try:
            yield
        except BaseException:
            # The error that ended the job is reported, and no other; each file system has errors of its own.
            with suppress(Exception):
                lease.check()
                old = read_record(store, "evaluate") or {}
                write_record(store, job, old.get("failures", {}), **endpoint, **metrics.final_entries(old))
            raise


def write_record(store: ShardStore, job: EvaluateJob, failures: Mapping[str, str], **more: Any) -> None:
    """Writes evaluate.json, atomically.

    Args:
        failures: error of each model that could not be evaluated, by its name.
        more: address of the metrics, or their last values.
    """
    record = {
        "format": 1,
        "name": job.name,
        "written_at": _now(),
        "job": job.model_dump(mode="json"),
        "versions": versions(),
        "failures": dict(failures),
        **more,
    }
    store.write_text(_RECORD, _json(record))


def read_result(store: ShardStore, evaluation: str, name: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the result of an evaluation of a model; None where it is not done.

    Args:
        identity: everything that the figures depend on, flat.

    Raises:
        RunError: the result belongs to another job, or cannot be read.
    """
    path = store.path(result_path(evaluation, name))
    try:
        result: dict[str, Any] = json.loads(store.fs.cat_file(path))
        changes = difference(result["identity"], identity)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(
            path, None, "it is no result of an evaluation", "move it away to have it written again"
        ) from None
    if changes:
        cause = f"it holds {evaluation} of {name} by another job:" + lines_of(changes)
        raise RunError("output.path", store.url, cause, "name another output.path, or undo the change")
    return result


def write_result(
    store: ShardStore, evaluation: str, name: str, identity: Mapping[str, Any], **figures: Any
) -> dict[str, Any]:
    """Writes a result, atomically, and returns it; call it after all other files of the result are written."""
    result = {
        "format": 1,
        "evaluation": evaluation,
        "name": name,
        "made_at": _now(),
        "fingerprint": fingerprint(identity),
        "identity": dict(identity),
        "versions": versions(),
        **figures,
    }
    store.write_text(result_path(evaluation, name), _json(result))
    return result


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
