"""Remote file systems: one error for all their failures, and writes whose answer is lost."""

import errno
import gzip
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from pipelines.cli import main as cli
from pipelines.run_folder import claimed, kind_of
from schemas.errors import EXIT_STOPPED, EXIT_USAGE, JobError, RunError, StoppedError, StoreError
from services.storage import remote
from services.storage.filesystem import resolve, write_atomic
from services.storage.store import ShardStore, is_filesystem_failure

URL = "memory://remote-test/run"


def error_class(name, *bases):
    """An error of a package such as botocore: only its name, and those of its bases, say what failed."""
    return type(name, bases or (Exception,), {"__module__": "packaged.errors"})


ConnectionError_ = error_class("ConnectionError", error_class("PackagedError"))
FAILURES = [
    (error_class("NoCredentialsError", error_class("PackagedError"))("no credentials"), errno.EACCES, False),
    (error_class("EndpointConnectionError", ConnectionError_)("no server"), errno.EHOSTUNREACH, True),
    (error_class("ConnectTimeoutError", ConnectionError_)("too slow"), errno.ETIMEDOUT, True),
    (error_class("ServerDisconnectedError", error_class("ClientError"))(), errno.EHOSTUNREACH, True),
    (error_class("ParamValidationError")("a bad name"), errno.EINVAL, False),
    (error_class("SomethingElse")("who knows"), errno.EIO, True),
    (PermissionError("Access Denied"), errno.EACCES, False),
    (OSError(errno.EBUSY, "Please reduce your request rate."), errno.EBUSY, True),
    (OSError("Forbidden"), errno.EIO, True),
    (TimeoutError(), errno.ETIMEDOUT, True),
    (ConnectionResetError("peer"), errno.EHOSTUNREACH, True),
]


@pytest.fixture
def memory(monkeypatch):
    """The memory behind `memory://`, which serves as the remote store; waits are short."""
    monkeypatch.setattr(remote, "_PUT_WAITS", (0.0, 0.0, 0.0))
    yield MemoryFileSystem
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def failing(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize(("error", "number", "is_transient"), FAILURES, ids=lambda value: type(value).__name__)
def test_every_failure_of_a_package_becomes_one_error(memory, monkeypatch, error, number, is_transient):
    fs, path = resolve(URL, "output.path")
    monkeypatch.setattr(memory, "ls", failing(error))
    with pytest.raises(StoreError) as raised:
        fs.ls(path)
    assert (raised.value.errno, raised.value.is_transient) == (number, is_transient)
    assert raised.value.strerror == (getattr(error, "strerror", None) or str(error) or type(error).__name__)
    assert is_filesystem_failure(raised.value)  # `verify` must not take it for damage


@pytest.mark.parametrize("error", [FileNotFoundError("x"), FileExistsError("x"), ValueError("a bad glob")])
def test_answers_and_wrong_calls_stay_what_they_are(memory, monkeypatch, error):
    fs, path = resolve(URL, "output.path")
    monkeypatch.setattr(memory, "ls", failing(error))
    with pytest.raises(type(error)) as raised:
        fs.ls(path)
    assert raised.value is error


def test_a_file_whose_connection_is_lost_while_it_is_read_fails_with_the_same_error(memory, monkeypatch):
    fs, path = resolve(URL, "input.path")
    fs.pipe_file(f"{path}/a.parquet", b"")
    with fs.open(f"{path}/a.parquet", "wb") as file:
        pq.write_table(pa.table({"a": [1, 2]}), file)
    with fs.open(f"{path}/a.parquet") as file:
        assert pq.ParquetFile(file).read()["a"].to_pylist() == [1, 2]
    with fs.open(f"{path}/a.parquet") as file:
        monkeypatch.setattr(
            MemoryFile, "read", failing(error_class("ClientPayloadError", error_class("ClientError"))())
        )
        with pytest.raises(StoreError):
            pq.ParquetFile(file).read()


def test_damage_of_a_compressed_file_is_not_a_failure_of_its_store(memory):
    fs, path = resolve(URL, "input.path")
    fs.pipe_file(f"{path}/a.gz", gzip.compress(b"two\nlines\n"))
    fs.pipe_file(f"{path}/b.gz", b"no gzip at all")
    with fs.open(f"{path}/a.gz", compression="infer") as file:
        assert list(file) == [b"two\n", b"lines\n"]
    with fs.open(f"{path}/b.gz", compression="infer") as file, pytest.raises(gzip.BadGzipFile):
        file.read()


def test_an_option_that_a_package_does_not_know_is_a_fault_of_the_job(memory, monkeypatch):
    monkeypatch.setattr(memory, "ls", failing(TypeError("__init__() got an unexpected keyword argument 'foo'")))
    fs, path = resolve(URL, "input.path")
    with pytest.raises(TypeError):
        fs.ls(path)
    monkeypatch.setattr(memory, "storage_options", {"foo": "secret"}, raising=False)
    fsspec.filesystem("memory").storage_options = {"foo": "secret"}
    try:
        with pytest.raises(JobError, match="foo") as raised:
            fs.ls(path)
    finally:
        fsspec.filesystem("memory").storage_options = {}
    assert raised.value.value == ["foo"] and "secret" not in str(raised.value)


# Writes


def with_answers(monkeypatch, *answers):
    """Lets the next writes be applied or not ("lost", "refused"), and their answers be an error."""
    left, write = list(answers), MemoryFileSystem.pipe_file

    def pipe_file(self, path, value, mode="overwrite", **options):
        answer = left.pop(0) if left else "ok"
        if answer in ("ok", "lost"):
            write(self, path, value, mode, **options)
        if answer != "ok":
            raise OSError(errno.EBUSY, "Service Unavailable")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    return left


@pytest.mark.parametrize("must_be_new", [False, True])
@pytest.mark.parametrize("answers", [["lost"], ["refused"], ["refused", "lost"], ["refused"] * 3])
def test_a_write_whose_answer_is_an_error_goes_on(memory, monkeypatch, answers, must_be_new):
    fs, path = resolve(URL, "output.path")
    left = with_answers(monkeypatch, *answers)
    write_atomic(fs, path, b"content", must_be_new)
    assert fs.cat_file(path) == b"content" and not left


def test_a_write_that_the_store_repeated_by_itself_finds_its_own_content(memory):
    fs, path = resolve(URL, "output.path")
    fs.pipe_file(path, b"content")  # applied; the package saw an error, sent it again, and was refused
    write_atomic(fs, path, b"content", must_be_new=True)
    with pytest.raises(FileExistsError) as raised:
        write_atomic(fs, path, b"other content", must_be_new=True)
    assert raised.value.errno == errno.EEXIST and fs.cat_file(path) == b"content"


def test_a_store_that_keeps_failing_or_refuses_ends_the_write(memory, monkeypatch):
    fs, path = resolve(URL, "output.path")
    left = with_answers(monkeypatch, *["refused"] * 9)
    with pytest.raises(StoreError, match="Unavailable"):
        write_atomic(fs, path, b"content")
    assert len(left) == 5 and not fs.exists(path)
    monkeypatch.setattr(memory, "pipe_file", failing(PermissionError("Access Denied")))
    monkeypatch.setattr(remote, "_PUT_WAITS", (100.0,))
    with pytest.raises(StoreError, match="Denied"):
        write_atomic(fs, path, b"content")


# Jobs


@pytest.mark.parametrize(("error", "kind"), [(FAILURES[0][0], RunError), (FAILURES[1][0], StoppedError)])
def test_a_store_that_fails_at_the_start_is_one_error(memory, monkeypatch, error, kind):
    store = ShardStore(URL)
    monkeypatch.setattr(memory, "ls", failing(error))
    with pytest.raises(kind) as raised, claimed(store, "augment"):
        pass
    assert raised.value.value == URL and str(error) in raised.value.cause
    assert ("AWS_PROFILE" in raised.value.remedy) == (kind is RunError)
    with pytest.raises(StoreError):
        kind_of(store)


def test_a_connection_that_is_lost_in_mid_run_does_not_hide_the_error_of_the_job(memory, monkeypatch):
    with pytest.raises(StoppedError, match="the first error"), claimed(ShardStore(URL), "evaluate"):
        for name in ("cat_file", "rm_file", "pipe_file"):
            monkeypatch.setattr(memory, name, failing(FAILURES[1][0]))
        raise StoppedError("", None, "the first error", "")


@pytest.mark.parametrize("verb", ["status", "verify", "stats", "export"])
def test_a_verb_that_cannot_reach_the_store_ends_with_one_error(memory, monkeypatch, capsys, verb, tmp_path):
    for name in ("ls", "info", "cat_file", "_open"):
        monkeypatch.setattr(memory, name, failing(FAILURES[0][0]))
    command = ["kindling", verb, URL, *(["--to", str(tmp_path / "to")] if verb == "export" else [])]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(cli.streams, "set_up", lambda: None)  # the streams here are pytest's
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().err
    assert ended.value.code == EXIT_USAGE != EXIT_STOPPED
    assert "no credentials" in shown and "remedy: give credentials" in shown and "Traceback" not in shown
