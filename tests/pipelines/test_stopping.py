"""Stop signals: which of several ends a job, and how."""

import os
import signal
import subprocess
import sys

import pytest

import pipelines.__main__
from pipelines import stopping
from pipelines.cli import main
from pipelines.stopping import stop_signals
from schemas.errors import EXIT_STOPPED
from tests.support.processes import cli_env


@pytest.fixture
def sent(monkeypatch):
    """Sends a signal to this process at a time of a clock that stands still."""
    clock = [1000.0]
    monkeypatch.setattr(stopping, "monotonic", lambda: clock[0])

    def send(number, after=0.0):
        clock[0] += after
        os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_rows_in_flight_their_grace_and_its_repetition_takes_nothing(sent, number):
    before = signal.getsignal(number)
    with stop_signals(grace_seconds=30) as stop_within:
        assert stop_within() is None
        sent(number)
        assert stop_within() == 25
        sent(signal.SIGHUP, after=0.3)  # a shell and the kernel both report that a terminal was closed
        sent(signal.SIGTERM, after=0.3)
        assert stop_within() == pytest.approx(24.4)
    assert signal.getsignal(number) == before


def test_a_later_signal_ends_the_wait_and_only_the_one_after_it_ends_the_process(sent, caplog):
    with stop_signals(grace_seconds=30) as stop_within:
        sent(signal.SIGTERM)
        sent(signal.SIGTERM, after=5)
        assert stop_within() == 0
        assert "a further signal ends the process at once" in caplog.text
    code = """
import os, signal
from pipelines import stopping
stopping._REPEAT_SECONDS = -1.0
with stopping.stop_signals(30):
    for _ in range(3):
        print("alive", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", code], env=cli_env(), capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "alive\n" * 3)


def test_a_second_ctrl_c_counts_at_once_and_only_one_that_a_wrapper_passes_on_is_the_same(sent):
    with stop_signals(grace_seconds=30) as stop_within:
        sent(signal.SIGINT)
        sent(signal.SIGINT, after=0.1)
        assert stop_within() > 20
        sent(signal.SIGINT, after=0.5)
        assert stop_within() == 0


def test_an_ignored_hangup_stays_ignored_as_nohup_asks(sent):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(grace_seconds=30) as stop_within:
            sent(signal.SIGHUP)
            assert stop_within() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_keeps_nothing_does_not_promise_that_the_same_command_resumes(sent, caplog, capsys, monkeypatch):
    with stop_signals(0, is_resumable=False):
        sent(signal.SIGTERM)
    assert caplog.messages == ["stopping: nothing is kept"]
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    for verb, title in (("preview", "begin again with"), ("augment", "resume with")):
        monkeypatch.setattr(sys, "argv", ["kindling", verb, "job.yaml"])
        with pytest.raises(SystemExit):
            main._exit(EXIT_STOPPED, f"kindling {verb} job.yaml")
        assert f"{title}: kindling {verb} job.yaml" in capsys.readouterr().err


def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback(capsys, monkeypatch):
    class Interrupted:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "pipelines.cli.main", Interrupted())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        pipelines.__main__.main()
    assert ended.value.code == EXIT_STOPPED and capsys.readouterr().err == "stopped\n"
