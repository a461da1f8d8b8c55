"""Shared by the tests of storage: an object store in this process."""

import sys

import pytest

from tests.support.stores import FakeS3


@pytest.fixture
def s3(monkeypatch):
    """The class behind `s3://` URLs; its hooks may be patched."""
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "s3", FakeS3)
    FakeS3.clear_instance_cache()
    yield FakeS3
    FakeS3.store.clear()
    FakeS3.pseudo_dirs[:] = [""]
