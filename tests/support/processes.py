"""The command line in a process of its own, and waiting for what it does."""

import os
import time

import psutil

from tests.support.files import ROOT


def cli_env(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def finished_rows(run):
    from pipelines import status
    from schemas.errors import KindlingError

    try:
        return sum(status(run).rows.values())
    except KindlingError:
        return 0


def gone(pids, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(_runs, pids)):
            return True
        time.sleep(0.2)
    return False


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
