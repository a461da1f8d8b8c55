"""The warm pool that a job adopts, by the names of its actors. Pools with engines: tests/pipelines/test_pools.py."""

import importlib.metadata
from dataclasses import make_dataclass
from types import SimpleNamespace

import pytest

from schemas.job import Model
from services.engines.engine import EngineSpec
from services.replicas import warm_pool
from services.replicas.warm_pool import find_pool

DIFFERENCE_OF = warm_pool._difference_of
MODEL, ENGINE = Model(id="fake"), {"max_num_seqs": 8}


@pytest.fixture
def pool_of_two(monkeypatch):
    """The actors of a pool `warm` that this code started; each stands for its own name."""
    settings = warm_pool._settings_hash(EngineSpec(MODEL, ENGINE))
    names = [warm_pool._actor_name("warm", settings, MODEL.id, number) for number in range(2)]
    monkeypatch.setattr(warm_pool, "_actor_names", lambda: names)
    monkeypatch.setattr(warm_pool, "_actor", lambda name: name)
    monkeypatch.setattr(warm_pool, "_difference_of", lambda *_: "engine")
    return names


def test_a_pool_with_the_same_engines_is_found(pool_of_two):
    assert find_pool(MODEL, ENGINE) == ("warm", pool_of_two)


def test_a_pool_with_another_model_or_engine_is_not_found(pool_of_two):
    assert find_pool(Model(id="embedded"), ENGINE) == ("", [])
    assert find_pool(MODEL, {"max_num_seqs": 9}) == ("", [])


def test_a_pool_whose_requests_have_seeds_serves_no_job_whose_requests_have_none(pool_of_two):
    assert find_pool(MODEL, ENGINE, "none") == find_pool(MODEL, ENGINE, "run") == ("", [])


def test_the_key_in_which_a_pool_differs_from_the_job_is_named(pool_of_two, monkeypatch, caplog):
    described = EngineSpec(MODEL, {**ENGINE, "max_model_len": 64}).settings
    answers = [{"settings": described}, {"settings": EngineSpec(MODEL, ENGINE).settings}, {}, None]
    monkeypatch.setattr(warm_pool, "_answer", lambda call: answers.pop(0))
    monkeypatch.setattr(warm_pool.ray, "wait", lambda calls, timeout: (calls, []))
    monkeypatch.setattr(warm_pool, "_difference_of", DIFFERENCE_OF)
    describe = SimpleNamespace(remote=lambda: "a call")
    monkeypatch.setattr(warm_pool, "_actor", lambda name: SimpleNamespace(describe=describe))
    job = Model(id="fake", dtype="float32"), {"max_num_seqs": 9}
    for _ in range(4):
        assert find_pool(*job) == ("", [])
    assert find_pool(Model(id="embedded"), ENGINE) == ("", [])  # another model is no surprise
    first, second, *others = caplog.messages
    for line in ("engine.max_model_len: 64 -> (absent)", "engine.max_num_seqs: 8 -> 9", "model.dtype: auto -> float32"):
        assert line in first
    assert "engine.max_num_seqs: 8 -> 9" in second and "pool stop warm`" in second
    assert "another version of Kindling" in others[0] and "not known before its engines are up" in others[1]
    assert len(caplog.messages) == 4


def test_a_pool_of_another_version_is_not_found(pool_of_two, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.0.1")
    assert find_pool(MODEL, ENGINE) == ("", [])


def test_a_pool_whose_messages_have_other_fields_is_not_found(pool_of_two, monkeypatch):
    first, *others = warm_pool._MESSAGES
    older = make_dataclass(first.__name__, ["unit"], namespace={"__module__": first.__module__})
    monkeypatch.setattr(warm_pool, "_MESSAGES", (older, *others))
    assert find_pool(MODEL, ENGINE) == ("", [])
