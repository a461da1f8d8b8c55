"""The wheel: it holds every file that the packages need and no tests, and its demo runs where no checkout is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.files import ROOT

PACKAGES = {"schemas", "services", "trainers", "eval", "pipelines"}
UV = Path(sys.executable).with_name("uv")


def run(*command, cwd, seconds=300):
    """Runs a command without the checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository_files():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the repository so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("copy")
    for name in repository_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    # No isolation: the build takes setuptools from this environment, and needs no network.
    run(
        UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", copy / "dist", cwd=copy
    )
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == {name for name in repository_files() if name.split("/")[0] in PACKAGES}
    assert [name for name in metadata if name.endswith("/licenses/LICENSE")]


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_alone(wheel, tmp_path):
    environment, folder = tmp_path / "environment", tmp_path / "empty"
    folder.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    # The locked packages are taken from here. A path file inside that folder is not read, so the checkout stays unseen.
    site_packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    (site_packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(UV, "pip", "install", "--no-deps", "--offline", "--python", python, wheel, cwd=folder)

    module = run(python, "-c", "import pipelines; print(pipelines.__file__)", cwd=folder).strip()
    assert Path(module).is_relative_to(site_packages)
    kindling = environment / "bin" / "kindling"
    assert "56 accepted, in 4 shards" in run(kindling, "demo", cwd=folder, seconds=1800)
    verdict = json.loads(run(kindling, "verify", "runs/demo", "--json", cwd=folder))
    assert (verdict["faults"], verdict["shards"], verdict["rows"]["accepted"]) == ([], 4, 56)
    assert len(list((folder / "runs" / "demo" / "data").glob("*.parquet"))) == 4
