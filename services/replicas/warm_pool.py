"""Warm pools: replicas that outlive their job, for the next job to use. Starting an engine takes minutes.

Invariant: a job adopts a pool only if the pool's model, engine arguments, seeds, version of Kindling and messages are
all the job's own.

A pool is a set of named, detached Ray actors and nothing else. The name of an actor is a JSON list: the prefix, the
pool's name, a hash of its settings, its model, and the replica's number. So every driver of the cluster finds all pools
by listing actors, and no file or registry can be out of date.
"""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import ray
from ray import ObjectRef

from schemas.errors import EngineError, KindlingError
from schemas.fingerprint import difference
from schemas.job import Cluster, Model, Seeds
from schemas.rows import FinishedRows, WorkRow
from services.engines.engine import EngineSpec
from services.observability.start_phases import Phase, waiting_phase
from services.replicas.placement import end_replicas, replica_actor, replica_spec, replica_wait
from services.replicas.row_records import VariantSettings
from services.replicas.sessions import OpenedSession
from services.replicas.starts import ReplicaStarts

_log = logging.getLogger("kindling")

_NAMESPACE = "kindling"
_PREFIX = "pool"
# A replica that does not answer within this time is starting its engine, which blocks its only thread.
_ANSWER_SECONDS = 3.0
_POLL_SECONDS = 1.0
# What a driver and a replica send each other, pickled.
_MESSAGES = (WorkRow, FinishedRows, VariantSettings, OpenedSession)


@dataclass(frozen=True)
class PoolState:
    """Status of one pool, as `kindling pool list` shows it.

    Attributes:
        name: name of the pool.
        model: model id, as in the job file.
        replicas: number of replicas.
        starting: number of replicas whose engine is not up.
        jobs: number of jobs that use it now: the largest number on one of its replicas.
        in_flight: requests of all jobs in all replicas.
        idle_seconds: time since its last job ended; 0 while it has one.
    """

    name: str
    model: str
    replicas: int
    starting: int
    jobs: int
    in_flight: int
    idle_seconds: float


def start_pool(
    name: str,
    model: Model,
    engine: dict[str, Any],
    cluster: Cluster,
    idle_seconds: float,
    on_ready: Callable[[int], None] = lambda number: None,
    on_phase: Callable[[Phase], None] = lambda phase: None,
    seeds: Seeds = "row",
) -> None:
    """Starts a pool and waits until all its engines are up. If one does not start, the whole pool is ended.

    Args:
        name: name of the pool.
        model: model section of a job.
        engine: vLLM engine arguments, as in a job file.
        cluster: number of replicas, and their GPUs and cores.
        idle_seconds: time without a job after which a replica ends itself.
        on_ready: called with the number of engines that are up, each time that it grows.
        on_phase: called each second, with the phase of the start that is most advanced.
        seeds: random numbers that its requests use: "row" or "none".

    Raises:
        EngineError: a pool of that name runs already, an engine cannot be started, or no node is large enough for it.
        StoppedError: others hold the resources of an engine for `cluster.wait_minutes`.
    """
    if _actors_of(name):
        raise EngineError("pool", name, "a pool of this name runs already", f"stop it first: kindling pool stop {name}")
    spec = replica_spec(model, engine, cluster, seeds=seeds)
    settings = _settings_hash(spec)
    actors = []
    try:
        for number in range(cluster.replicas):
            actor_name = _actor_name(name, settings, model.id, number)
            options = {"name": actor_name, "namespace": _NAMESPACE, "lifetime": "detached", "max_restarts": -1}
            actors.append(replica_actor(spec, **options).remote(spec, idle_seconds))
        waiting = [actor.__ray_ready__.remote() for actor in actors]
        starting, wait = [actor.start.remote() for actor in actors], replica_wait(spec, cluster)
        starts = ReplicaStarts(waiting_phase(wait.request), bool(spec.gpus))
        for actor in actors:
            starts.add(actor)
        while starting:
            on_phase(starts.latest())
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
            wait.check(bool(waiting))
            started, starting = ray.wait(starting, timeout=_POLL_SECONDS)
            ray.get(started)
            if started:
                on_ready(len(actors) - len(starting))
    except BaseException as error:
        end_replicas(actors)  # also after Ctrl-C: detached actors would keep their GPUs
        if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, KindlingError):
            raise error.cause from None
        if isinstance(error, ray.exceptions.RayError):
            cause = f"an engine died while it started: {str(error).splitlines()[-1]}"
            raise EngineError("pool", name, cause, "see the replica's log in Ray's session folder") from None
        if isinstance(error, ValueError):
            raise EngineError("pool", name, f"Ray refuses this name: {error}", "choose another name") from None
        raise


def list_pools() -> list[PoolState]:
    """Returns all pools of this cluster, sorted by name."""
    pools: dict[str, list[tuple[str, Any]]] = {}
    for actor_name in _actor_names():
        _, name, _, model, _ = json.loads(actor_name)
        if actor := _actor(actor_name):
            pools.setdefault(name, []).append((model, actor))
    return [_state(name, members[0][0], [actor for _, actor in members]) for name, members in sorted(pools.items())]


def stop_pool(name: str) -> int:
    """Ends a pool. Jobs that use it go on with replicas of their own.

    Returns:
        Number of replicas that it had.

    Raises:
        EngineError: no pool has that name.
    """
    actors = _actors_of(name)
    if not actors:
        known = ", ".join(sorted({json.loads(actor)[1] for actor in _actor_names()})) or "none"
        raise EngineError("pool", name, "there is no pool of this name", f"the pools of this cluster: {known}")
    end_replicas(actors)
    return len(actors)


def find_pool(model: Model, engine: dict[str, Any], seeds: Seeds = "row") -> tuple[str, list[Any]]:
    """Returns (name, actors) of a pool with the engines that a job needs; ("", []) where there is none.

    For each pool that has the job's model and other settings, a warning names the keys that differ. A job whose engines
    have its seed adopts no pool: engines that served other jobs are somewhere in their random numbers.
    """
    if seeds == "run":
        return "", []
    spec = EngineSpec(model, engine, seeds=seeds)
    settings = _settings_hash(spec)
    pools = [json.loads(actor) for actor in _actor_names()]
    if matching := [pool for _, pool, other, _, _ in pools if other == settings]:
        return min(matching), _actors_of(min(matching))
    for name in sorted({pool for _, pool, _, model_id, _ in pools if model_id == model.id}):
        _log.warning(
            "the warm pool %s has this model, but it is not used: %s. Change the job, or stop the pool (`kindling pool "
            "stop %s`) and start one for this job", name, _difference_of(_actors_of(name), spec), name,
        )  # fmt: skip
    return "", []


def _difference_of(actors: list[Any], spec: EngineSpec) -> str:
    """Returns the keys in which a pool differs from a job: `engine.max_model_len: 2048 -> 4096 (pool -> job)`."""
    calls = [actor.describe.remote() for actor in actors[:1]]
    answered, _ = ray.wait(calls, timeout=_ANSWER_SECONDS) if calls else ([], [])
    if not answered or (answer := _answer(answered[0])) is None:
        return "its settings are not known before its engines are up"
    if "settings" not in answer:
        return "another version of Kindling started it"
    keys = difference(answer["settings"], spec.settings)
    return f"{'; '.join(keys)} (pool -> job)" if keys else "another version of Kindling started it"


def _settings_hash(spec: EngineSpec) -> str:
    """Returns a hash of everything in which a pool and a job must agree."""
    # A pool runs the code that started it, so a pool of another version has other engines. Between two releases the
    # version does not change. So the fields of the messages count as well: the two sides could not read each other's.
    version = importlib.metadata.version("kindling")
    messages = {f"{kind.__module__}.{kind.__name__}": [field.name for field in fields(kind)] for kind in _MESSAGES}
    facts = json.dumps([spec.settings, version, messages], sort_keys=True, default=str)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _actor_name(pool: str, settings: str, model: str, number: int) -> str:
    return json.dumps([_PREFIX, pool, settings, model, number])


def _actor_names() -> list[str]:
    named = ray.util.list_named_actors(all_namespaces=True)
    names = [actor["name"] for actor in named if actor["namespace"] == _NAMESPACE]
    return sorted(name for name in names if name.startswith(f'["{_PREFIX}"'))


def _actors_of(pool: str) -> list[Any]:
    actors = (_actor(name) for name in _actor_names() if json.loads(name)[1] == pool)
    return [actor for actor in actors if actor is not None]


def _actor(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=_NAMESPACE)
    except ValueError:
        return None  # it ended a moment ago


def _state(name: str, model: str, actors: list[Any]) -> PoolState:
    calls = [actor.describe.remote() for actor in actors]
    answered, _ = ray.wait(calls, num_returns=len(calls), timeout=_ANSWER_SECONDS)
    answers = [answer for ref in answered if (answer := _answer(ref))]
    return PoolState(
        name=name,
        model=model,
        replicas=len(actors),
        starting=len(actors) - sum(answer["up"] for answer in answers),
        jobs=max((answer["jobs"] for answer in answers), default=0),
        in_flight=sum(answer["in_flight"] for answer in answers),
        idle_seconds=min((answer["idle_seconds"] for answer in answers), default=0.0),
    )


def _answer(ref: ObjectRef[Any]) -> dict[str, Any] | None:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError:
        return None  # the replica is being restarted
