"""The warm pool that a job adopts, by the names of its actors. Pools with engines: tests/pipelines/test_pools.py."""

import importlib.metadata
from dataclasses import make_dataclass

import pytest

from schemas.job import Model
from services.replicas import warm_pool
from services.replicas.warm_pool import find_pool

MODEL, ENGINE = Model(id="fake"), {"max_num_seqs": 8}


@pytest.fixture
def pool_of_two(monkeypatch):
    """The actors of a pool `warm` that this code started; each stands for its own name."""
    settings = warm_pool._settings_hash(MODEL, ENGINE)
    names = [warm_pool._actor_name("warm", settings, MODEL.id, number) for number in range(2)]
    monkeypatch.setattr(warm_pool, "_actor_names", lambda: names)
    monkeypatch.setattr(warm_pool, "_actor", lambda name: name)
    return names


def test_a_pool_with_the_same_engines_is_found(pool_of_two):
    assert find_pool(MODEL, ENGINE) == ("warm", pool_of_two)


def test_a_pool_with_another_model_or_engine_is_not_found(pool_of_two):
    assert find_pool(Model(id="embedded"), ENGINE) == ("", [])
    assert find_pool(MODEL, {"max_num_seqs": 9}) == ("", [])


def test_a_pool_of_another_version_is_not_found(pool_of_two, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.0.1")
    assert find_pool(MODEL, ENGINE) == ("", [])


def test_a_pool_whose_messages_have_other_fields_is_not_found(pool_of_two, monkeypatch):
    first, *others = warm_pool._MESSAGES
    older = make_dataclass(first.__name__, ["unit"], namespace={"__module__": first.__module__})
    monkeypatch.setattr(warm_pool, "_MESSAGES", (older, *others))
    assert find_pool(MODEL, ENGINE) == ("", [])
