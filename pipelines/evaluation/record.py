"""The folder of an evaluation: whose it is, and the results in it.

evaluate.json                          the job as resolved, versions, what failed, where its metrics are, what they were
README.md                              the tables
results/<evaluation>/<model>.json      the figures of a model, and all that they depend on; its being there says that
                                       this evaluation of this model is done
results/<evaluation>/<model>.parquet   what the figures are of, row by row
responses/<evaluation>/<model>/        an augmentation run: what the model answered
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from pipelines.run_folder import RECORD_NAMES, claimed, lines_of, versions, write_errors
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
        metrics: the job's series.

    Raises:
        JobError: a relative output path would be lost.
        RunError: the folder holds something else, belongs to another process, or cannot be written.
    """
    with write_errors(store.url), claimed(store, "evaluate") as lease:
        old = read_record(store) or {}
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
                old = read_record(store) or {}
                write_record(store, job, old.get("failures", {}), **endpoint, **metrics.final_entries(old))
            raise


def write_record(store: ShardStore, job: EvaluateJob, failures: Mapping[str, str], **more: Any) -> None:
    """Writes evaluate.json, atomically; `more` is where its metrics are, or what they were at the end."""
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


def read_record(store: ShardStore) -> dict[str, Any] | None:
    """evaluate.json; None where there is none.

    Raises:
        RunError: it is no record.
    """
    path = store.path(_RECORD)
    try:
        return {**json.loads(store.fs.cat_file(path))}
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = "name a folder that you may read"
        raise RunError(path, None, f"cannot be read: {error.strerror or error}", remedy) from None
    except (ValueError, TypeError):
        remedy = "name another output.path, or move the file away"
        raise RunError(path, None, "it is no record of an evaluation", remedy) from None


def read_result(store: ShardStore, evaluation: str, name: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier start wrote of an evaluation of a model; None where it is not done.

    Args:
        identity: flat; all that its figures depend on.

    Raises:
        RunError: it is of another job, or cannot be read.
    """
    path = store.path(result_path(evaluation, name))
    try:
        found = json.loads(store.fs.cat_file(path))
        changes = difference(found["identity"], identity)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(path, None, "it is no result of an evaluation", "move it away to have it made again") from None
    if changes:
        cause = f"it holds {evaluation} of {name} by another job:" + lines_of(changes)
        raise RunError("output.path", store.url, cause, "name another output.path, or undo the change")
    return found


def write_result(
    store: ShardStore, evaluation: str, name: str, identity: Mapping[str, Any], **what: Any
) -> dict[str, Any]:
    """Writes a result, atomically; to be called when all else of it is written. What was written."""
    result = {
        "format": 1,
        "evaluation": evaluation,
        "name": name,
        "made_at": _now(),
        "fingerprint": fingerprint(identity),
        "identity": dict(identity),
        "versions": versions(),
        **what,
    }
    store.write_text(result_path(evaluation, name), _json(result))
    return result


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
