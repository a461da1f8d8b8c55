"""The files by which Prometheus finds jobs: one in a folder for each running job."""

import errno
import logging
import os
import socket
import subprocess
import sys
import urllib.request

import pytest

from schemas.errors import JobError
from schemas.job import Metrics
from services.observability.endpoint import serve_metrics
from services.observability.scrape_targets import target_file
from services.observability.series import AugmentMetrics
from tests.support.monitoring import entries
from tests.support.processes import cli_env


@pytest.fixture
def targets(tmp_path):
    return tmp_path / "targets"


def test_a_killed_job_leaves_a_target_that_the_next_one_removes(targets):
    code = f"""
from services.observability.scrape_targets import target_file
import time
with target_file("127.0.0.1:1", {str(targets)!r}):
    print("there", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=cli_env(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    (targets / "node_exporter.json").write_text("[]")  # somebody else's
    with target_file("127.0.0.1:2", str(targets)):
        pass
    assert [each["targets"] for each in entries(targets)] == [["127.0.0.1:1"]]
    process.kill()
    process.communicate()
    with target_file("127.0.0.1:9400", str(targets), job="ray"):
        assert entries(targets) == [{"targets": ["127.0.0.1:9400"], "labels": {"job": "ray"}}]
    assert [path.name for path in targets.iterdir()] == ["node_exporter.json"]


def test_an_endpoint_on_all_interfaces_is_registered_by_the_name_of_its_host(targets):
    with serve_metrics(AugmentMetrics("a"), Metrics(port=0, host="0.0.0.0", targets=str(targets))) as address:
        assert address.rpartition(":")[0] == socket.gethostname()
        assert entries(targets) == [{"targets": [address], "labels": {}}]


def test_a_port_in_use_is_replaced_and_a_forbidden_port_is_an_error(caplog, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            caplog.at_level(logging.INFO, "kindling"),
            serve_metrics(AugmentMetrics("a"), Metrics(port=port, targets=None)) as at,
        ):
            assert at != f"127.0.0.1:{port}"
    (record,) = caplog.records
    assert record.levelname == "WARNING" and f"port {port} is in use" in record.message and at in record.message
    assert "metrics.port" in record.message

    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("services.observability.metrics.start_http_server", forbidden)
    section = Metrics(port=80, targets=None)
    with (
        pytest.raises(JobError, match=r"(?s)metrics.port.*80.*Permission denied.*from 1024 on"),
        serve_metrics(AugmentMetrics("a"), section),
    ):
        pass


def test_another_users_link_leads_no_job_to_remove_files_elsewhere(targets, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir()
    victim = tmp_path / "elsewhere" / "kindling-settings.json"
    victim.write_text("[]")
    targets.symlink_to(tmp_path / "elsewhere")
    os.lchown(targets, 12345, -1)
    with caplog.at_level(logging.WARNING, "kindling"), target_file("127.0.0.1:9400", str(targets)):
        assert list(victim.parent.iterdir()) == [victim]
    assert "a link that another user made" in caplog.text
    os.lchown(targets, os.getuid(), -1)  # one's own link is followed
    victim.unlink()
    with target_file("127.0.0.1:9400", str(targets)):
        assert len(entries(tmp_path / "elsewhere")) == 1


def test_a_folder_that_is_replaced_keeps_a_job_in_the_old_one(targets, tmp_path):
    with target_file("127.0.0.1:9400", str(targets)):
        (name,) = os.listdir(targets)
        targets.rename(tmp_path / "old")
        targets.mkdir()
        (targets / name).write_text("[]")
    assert os.listdir(targets) == [name] and os.listdir(tmp_path / "old") == []


def test_a_target_folder_that_cannot_be_written_causes_only_a_warning(targets, caplog):
    targets.write_text("no folder")
    section = Metrics(port=0, targets=str(targets))
    with caplog.at_level(logging.WARNING, "kindling"), serve_metrics(AugmentMetrics("a"), section) as address:
        assert urllib.request.urlopen(f"http://{address}/metrics", timeout=5).status == 200
    assert "metrics.targets" in caplog.text and address in caplog.text


@pytest.mark.parametrize("change", [{"port": None}, {"targets": None}])
def test_a_job_without_port_or_target_folder_writes_no_target(targets, change):
    with serve_metrics(AugmentMetrics("a"), Metrics(**{"port": 0, "targets": str(targets), **change})) as address:
        assert bool(address) == ("port" not in change)
        assert not targets.exists()


def test_a_folder_in_tmp_is_for_the_jobs_of_all_users(tmp_path):
    for mode in (0o1777, 0o755):
        parent = tmp_path / oct(mode)
        parent.mkdir()
        parent.chmod(mode)
        with target_file("127.0.0.1:1", str(parent / "targets")):
            assert (parent / "targets").stat().st_mode & 0o7777 == mode
            (entry,) = (parent / "targets").glob("*.json")
            assert entry.stat().st_mode & 0o777 == 0o644
