"""`kindling doctor`: what it reports of a machine, and that only a fault makes it fail."""

import importlib.metadata
import json
import socket
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from pipelines import doctor
from pipelines.checking import doctor as module
from pipelines.cli.main import app

Memory = namedtuple("Memory", "total available")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without GPU, cluster and token, with an empty home."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def nvidia_smi(tmp_path, script):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)


def finding(topic, findings=None):
    return next(each for each in findings or doctor() if each.topic == topic)


def test_a_machine_without_gpu_and_cluster_is_fine():
    findings = doctor()
    assert not [each for each in findings if each.state == "fault"]
    assert "none" in finding("gpu", findings).text
    assert "starts a Ray of its own" in finding("ray", findings).text
    assert all(each.remedy for each in findings if each.state != "ok")


def test_gpus_are_named_and_need_their_build_of_vllm(machine):
    nvidia_smi(machine, "echo 'NVIDIA H200, 143771 MiB'; echo 'NVIDIA H200, 143771 MiB'")
    findings = doctor()
    assert finding("gpu", findings).text == "2: NVIDIA H200, 143771 MiB"
    assert finding("vllm", findings).state == ("ok" if module._version("vllm") else "warning")


def test_a_driver_that_fails_is_no_gpu(machine):
    nvidia_smi(machine, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert "none" in finding("gpu").text


def test_missing_and_wrong_packages_are_a_fault(monkeypatch):
    needs = ["pyarrow==1.*", "no-such-package>=2", "numpy", "other==1 ; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    packages = finding("packages")
    assert packages.state == "fault"
    assert "no-such-package is missing" in packages.text
    assert "and ==1.* is needed" in packages.text
    assert "numpy" not in packages.text and "other" not in packages.text


def test_a_cluster_that_does_not_answer_is_a_fault_and_the_exit_code_is_1(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    faults = [each for each in json.loads(result.stdout)["findings"] if each["state"] == "fault"]
    assert [each["topic"] for each in faults] == ["ray"]
    assert "unset RAY_ADDRESS" in faults[0]["remedy"]


def test_little_memory_and_disk_are_warnings(monkeypatch):
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: Memory(4 << 30, 1 << 30))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(1 << 20))
    findings = doctor()
    assert finding("memory", findings).state == finding("disk", findings).state == "warning"
    assert "1.0 GiB of 4.0 GiB" in finding("memory", findings).text


def test_a_port_in_use_is_said(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(module, "_PORTS", {server.getsockname()[1]: "a service"})
        assert "(a service) is in use" in finding("port").text


def test_the_page_has_a_remedy_under_each_fault(monkeypatch):
    monkeypatch.setattr(module, "_PORTS", {})
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    lines = CliRunner().invoke(app, ["doctor"]).stdout.splitlines()
    (number,) = (n for n, line in enumerate(lines) if line.startswith("fault"))
    assert "remedy: start it" in lines[number + 1]
