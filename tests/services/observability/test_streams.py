"""Output that nobody can read is dropped, and changes no exit code."""

import os
import signal
import subprocess
import sys
import time

from tests.support.processes import cli_env

CODE = """
import os, sys
from services.observability import logs, streams
streams.set_up()
logs.set_up()
import logging
for _ in range(3):
    print("r" * 100_000)
    print("e" * 100_000, file=sys.stderr, flush=True)
    logging.getLogger("kindling").warning("w")
sys.exit(3 if streams.is_stdout_read() else 4)
"""
COMMAND = [sys.executable, "-c", CODE]


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_dead_reader_changes_no_exit_code():
    dead = broken_pipe()
    assert subprocess.run(COMMAND, env=cli_env(), stdout=dead, stderr=dead).returncode == 4
    only_logs = subprocess.run(COMMAND, env=cli_env(), stdout=subprocess.PIPE, stderr=dead)
    assert (only_logs.returncode, len(only_logs.stdout)) == (3, 300_003)
    os.close(dead)


def test_a_full_disk_drops_log_lines_and_no_result():
    with open("/dev/full", "wb") as full:
        assert subprocess.run(COMMAND, env=cli_env(), stdout=subprocess.PIPE, stderr=full).returncode == 3
        failed = subprocess.run(COMMAND, env=cli_env(), stdout=full, stderr=subprocess.PIPE)
    assert failed.returncode == 1 and b"No space left on device" in failed.stderr


def test_a_short_result_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "Some words."}\n')
    command = [sys.executable, "-m", "pipelines", "stats", f"{tmp_path}/rows.jsonl", "--json"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, env=cli_env(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "standard output: cannot be written: No space left on device" in ended.stderr


def test_closed_descriptors_are_no_file_of_the_run():
    opened = subprocess.run(
        ["bash", "-c", 'exec "$@" 2>&- 1>&- <&-', "bash", *COMMAND], env=cli_env(), timeout=60, check=False
    )
    assert opened.returncode == 3


def test_the_first_lines_of_a_page_end_quietly(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "Some words."}\n')
    command = f"{sys.executable} -m pipelines stats {tmp_path}/rows.jsonl | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], env=cli_env(), capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


INTERRUPTED = """
import signal, sys
from services.observability import streams
streams.set_up()
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled", file=sys.stderr, flush=True))
print("ready", flush=True)
print("e" * 4_000_000, file=sys.stderr)
"""


def test_a_signal_handler_may_print_while_a_line_is_being_printed():
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], env=cli_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.5)  # the long line fills the pipe, and waits
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors[-500:]
    assert errors.count(b"e") >= 4_000_000 and b"handled" in errors
