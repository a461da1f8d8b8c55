"""Finds the checkpoint of a model that a job names, and identifies its content."""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from schemas.errors import EngineError
from schemas.job import Model
from schemas.text import shorten
from services.models.embedded import embedded_checkpoint, require_embedded

_WEIGHT_SUFFIXES = {".safetensors", ".gguf", ".bin", ".pt"}
_SAFE_SUFFIXES = {".safetensors", ".gguf"}
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_TOKENIZER_FILES = ("tokenizer.json", "tekken.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken", "*.py")
_CHUNK_BYTES = 1 << 20
# The largest known tokenizer.json is smaller.
_MAX_JSON_BYTES = 64 << 20


def locate(model: Model) -> tuple[str, str]:
    """Locates a model for vLLM or transformers.

    Returns:
        (path or hub id, revision). The revision is the hub commit, or the `content_hash` of a local folder.

    Raises:
        EngineError: the model is missing, or loading it is not safe.
    """
    if model.id == "embedded":
        path = embedded_checkpoint()
        return str(path), content_hash(path)
    place, commit = _find(model)
    return place, commit or content_hash(Path(place))


def require_model(model: Model) -> None:
    """Checks that a model is there, and safe to load; makes, hashes and loads nothing.

    Raises:
        EngineError: the model is missing, or loading it is not safe.
    """
    if model.id == "embedded":
        require_embedded()
    elif model.id != "fake":
        _find(model)


def _find(model: Model) -> tuple[str, str]:
    """Finds a folder or a model of the hub.

    Returns:
        (path, "") of a folder, or (hub id, commit).

    Raises:
        EngineError: the model is missing, or loading it is not safe.
    """
    path = Path(os.path.expanduser(model.id))
    if path.is_dir():
        _check_folder(path, model)
        return str(path), ""
    if model.id.startswith((".", "/", "~")) or model.id.count("/") > 1:
        raise EngineError(
            "model.id", model.id, "no such folder", "name a checkpoint folder that every node has, or a hub id"
        )
    return model.id, _hub_commit(model)


def _check_folder(folder: Path, model: Model) -> None:
    """Checks that a folder holds a complete checkpoint that is safe to load.

    Raises:
        EngineError: a file is missing or cannot be read, or the weights are pickles.
    """
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        cause = "this folder holds LoRA adapters, and no whole model"
        remedy = "train it with `lora: {merge: true}`, or merge it: peft's merge_and_unload(), then save_pretrained()"
        raise EngineError("model.id", model.id, cause, remedy)
    if not (folder / "config.json").is_file():
        raise EngineError(
            "model.id", model.id, "this folder holds no config.json", "name a folder with a Hugging Face checkpoint"
        )
    for path in sorted(folder.glob("*.json")):
        _check_json(path, model)
    suffixes = {path.suffix for path in folder.iterdir()}
    if suffixes & _PICKLE_SUFFIXES and not suffixes & _SAFE_SUFFIXES:
        raise EngineError(
            "model.id", model.id, "its weights are pickles, and a pickle can run any code when it is loaded",
            "convert them to safetensors where you trust them: load the model and call "
            "model.save_pretrained(folder, safe_serialization=True)",
        )  # fmt: skip
    if not any(next(folder.glob(name), None) for name in _TOKENIZER_FILES):
        raise EngineError("model.id", model.id, "this folder holds no tokenizer", "save the model's tokenizer into it")


def _check_json(path: Path, model: Model) -> None:
    """Checks that a JSON file can be parsed, so that a broken one is reported before an engine starts.

    Raises:
        EngineError: the file is too large or cannot be parsed.
    """
    remedy = "fetch the model again"
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            cause = f"its {path.name} is larger than {_MAX_JSON_BYTES >> 20} MiB"
            raise EngineError("model.id", model.id, cause, remedy)
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        cause = f"its {path.name} cannot be read: {shorten(str(error))}"
        raise EngineError("model.id", model.id, cause, remedy) from None
    if not isinstance(content, dict) and path.name == "config.json":
        raise EngineError("model.id", model.id, "its config.json is not a JSON object", remedy)


def _hub_commit(model: Model) -> str:
    """Downloads config.json from the hub, and returns the commit of its revision.

    Raises:
        EngineError: the hub does not give it; the message says why.
    """
    try:
        config = Path(hf_hub_download(model.id, "config.json", revision=model.revision))
    except GatedRepoError:
        raise EngineError(
            "model.id",
            model.id,
            "the hub asks for a licence agreement",
            "accept it on the model's page and set HF_TOKEN",
        ) from None
    except RevisionNotFoundError:
        raise EngineError(
            "model.revision", model.revision, f"{model.id} has no such revision", "name a commit, tag or branch of it"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise EngineError(
            "model.id",
            model.id,
            "no such model on the hub or on this machine",
            "check the id; a private model needs HF_TOKEN",
        ) from None
    except LocalEntryNotFoundError:
        raise EngineError(
            "model.id",
            model.id,
            "the model is not in this machine's hub cache, and the hub cannot be reached",
            "download it on a machine with a network, or name a local folder",
        ) from None
    except EntryNotFoundError:
        raise EngineError(
            "model.id", model.id, "the repository holds no config.json", "name a model repository"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise EngineError("model.id", model.id, f"the hub did not answer: {error}", "try again later") from None
    _check_json(config, model)
    # The hub cache keeps each file under snapshots/<commit>/.
    return config.parent.name


def content_hash(folder: Path, leave_out: Collection[str] = ()) -> str:
    """Computes a hash that identifies a checkpoint folder without reading gigabytes.

    Small files are hashed whole; of each large weight file the size and the first and last MiB.

    Args:
        leave_out: names of files that do not change the model's results.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name not in leave_out):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            if path.suffix in _WEIGHT_SUFFIXES and path.stat().st_size > 2 * _CHUNK_BYTES:
                digest.update(file.read(_CHUNK_BYTES))
                file.seek(-_CHUNK_BYTES, os.SEEK_END)
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
