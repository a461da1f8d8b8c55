"""Warm pools: replicas that outlive their job, as named detached Ray actors, for the next job to adopt.

Starting an engine takes a minute on a CPU and several on GPUs. A pool is nothing but its actors: their names tell its
name, what its engines are, and their numbers, so that any driver of the cluster finds them and nothing can go stale.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import ray

from schemas.errors import EngineError, KindlingError
from schemas.job import Cluster, Model
from schemas.rows import FinishedRows, WorkRow
from services.replicas.placement import replica_actor, replica_spec
from services.replicas.replica import OpenedSession
from services.replicas.row_records import VariantSettings

_NAMESPACE = "kindling"
_PREFIX = "pool"
# A replica that does not answer within this time is busy starting its engine, which holds its only thread.
_ANSWER_SECONDS = 3.0
_STOP_SECONDS = 15.0
# What a driver and a replica send each other, pickled.
_MESSAGES = (WorkRow, FinishedRows, VariantSettings, OpenedSession)


@dataclass(frozen=True)
class PoolState:
    """What `kindling pool list` shows of one pool.

    Attributes:
        starting: replicas whose engine is not up.
        jobs: jobs that use it now, at most, on one of its replicas.
        in_flight: requests of all jobs in all its replicas.
        idle_seconds: since its last job ended; 0 while it has one.
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
) -> None:
    """Starts a pool and waits until all its engines are up.

    Args:
        on_ready: called with how many are up.

    Raises:
        EngineError: there is a pool of that name, or an engine cannot be started; then none is left.
    """
    if _actors_of(name):
        raise EngineError("pool", name, "a pool of this name runs", f"stop it first: kindling pool stop {name}")
    spec = replica_spec(model, engine, cluster)
    settings = _settings(model, engine)
    actors = []
    try:
        for number in range(cluster.replicas):
            actor_name = _actor_name(name, settings, model.id, number)
            options = {"name": actor_name, "namespace": _NAMESPACE, "lifetime": "detached", "max_restarts": -1}
            actors.append(replica_actor(spec, **options).remote(spec, idle_seconds))
        left = [actor.start.remote() for actor in actors]
        while left:
            ready, left = ray.wait(left)
            ray.get(ready)
            on_ready(len(actors) - len(left))
    except BaseException as error:
        _end(actors)
        if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, KindlingError):
            raise error.cause from None
        if isinstance(error, ray.exceptions.RayError):
            cause = f"an engine died while it started: {str(error).splitlines()[-1]}"
            raise EngineError("pool", name, cause, "see the replica's log in Ray's session folder") from None
        if isinstance(error, ValueError):
            raise EngineError("pool", name, f"Ray refuses it: {error}", "choose another name") from None
        raise


def list_pools() -> list[PoolState]:
    """All pools of this cluster, by name."""
    pools: dict[str, list[tuple[str, Any]]] = {}
    for actor_name in _actor_names():
        _, name, _, model, _ = json.loads(actor_name)
        if actor := _actor(actor_name):
            pools.setdefault(name, []).append((model, actor))
    return [_state(name, members[0][0], [actor for _, actor in members]) for name, members in sorted(pools.items())]


def stop_pool(name: str) -> int:
    """Ends a pool, whatever jobs use it (they go on with replicas of their own), and returns how many replicas it had.

    Raises:
        EngineError: there is no pool of that name.
    """
    actors = _actors_of(name)
    if not actors:
        known = ", ".join(sorted({json.loads(actor)[1] for actor in _actor_names()})) or "none"
        raise EngineError("pool", name, "there is no pool of this name", f"the pools of this cluster: {known}")
    _end(actors)
    return len(actors)


def find_pool(model: Model, engine: dict[str, Any]) -> tuple[str, list[Any]]:
    """(name, actors) of a pool whose engines are what a job asks for; ("", []) where there is none."""
    settings = _settings(model, engine)
    matching = [json.loads(actor)[1] for actor in _actor_names() if json.loads(actor)[2] == settings]
    return (min(matching), _actors_of(min(matching))) if matching else ("", [])


def _settings(model: Model, engine: dict[str, Any]) -> str:
    # A pool runs the code that started it, so another version of ours is another engine. Between two releases the
    # version stays as it is, so the fields of the messages count as well: other ones could not be unpickled.
    version = importlib.metadata.version("kindling")
    messages = {f"{kind.__module__}.{kind.__name__}": [field.name for field in fields(kind)] for kind in _MESSAGES}
    facts = json.dumps([model.model_dump(), engine, version, messages], sort_keys=True, default=str)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _actor_name(pool: str, settings: str, model: str, number: int) -> str:
    return json.dumps([_PREFIX, pool, settings, model, number])


def _actor_names() -> list[str]:
    named = ray.util.list_named_actors(all_namespaces=True)
    found = [each["name"] for each in named if each["namespace"] == _NAMESPACE]
    return sorted(name for name in found if name.startswith(f'["{_PREFIX}"'))


def _actors_of(pool: str) -> list[Any]:
    named = (_actor(name) for name in _actor_names() if json.loads(name)[1] == pool)
    return [actor for actor in named if actor is not None]


def _actor(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=_NAMESPACE)
    except ValueError:
        return None  # it ended a moment ago


def _state(name: str, model: str, actors: list[Any]) -> PoolState:
    asked = [actor.describe.remote() for actor in actors]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)
    answers = [answer for ref in ready if (answer := _answer(ref))]
    return PoolState(
        name=name,
        model=model,
        replicas=len(actors),
        starting=len(actors) - sum(answer["up"] for answer in answers),
        jobs=max((answer["jobs"] for answer in answers), default=0),
        in_flight=sum(answer["in_flight"] for answer in answers),
        idle_seconds=min((answer["idle_seconds"] for answer in answers), default=0.0),
    )


def _answer(ref: ray.ObjectRef) -> dict[str, Any] | None:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError:
        return None  # it is being restarted


def _end(actors: list[Any]) -> None:
    stopping = [actor.stop.remote() for actor in actors]
    ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
    for actor in actors:
        ray.kill(actor)
