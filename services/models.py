"""From a model as a job names it to a checkpoint on this machine, and what identifies its content."""

import hashlib
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
from services.embedded import embedded_checkpoint

_WEIGHT_SUFFIXES = {".safetensors", ".gguf", ".bin", ".pt"}
_PROBE_BYTES = 1 << 20


def locate(model: Model) -> tuple[str, str]:
    """Where vLLM finds a model, and its revision.

    Returns:
        (path or hub id, revision). The revision is the hub commit, or for a local folder a hash: of its small files
        whole, of each weight file its size and its first and last MiB.

    Raises:
        EngineError: the model is not there.
    """
    if model.id == "embedded":
        path = embedded_checkpoint()
        return str(path), content_hash(path)
    path = Path(model.id).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise EngineError(
                "model.id", model.id, "this folder holds no config.json", "name a folder with a Hugging Face checkpoint"
            )
        return str(path), content_hash(path)
    if model.id.startswith((".", "/", "~")) or model.id.count("/") > 1:
        raise EngineError(
            "model.id", model.id, "no such folder", "name a checkpoint folder that every node has, or a hub id"
        )
    return model.id, _hub_commit(model)


def _hub_commit(model: Model) -> str:
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
            "check the id; private ones need HF_TOKEN",
        ) from None
    except LocalEntryNotFoundError:
        raise EngineError(
            "model.id",
            model.id,
            "the model is not in this machine's hub cache, and the hub cannot be reached",
            "download it where there is a network, or name a local folder",
        ) from None
    except EntryNotFoundError:
        raise EngineError(
            "model.id", model.id, "the repository holds no config.json", "name a model repository"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise EngineError("model.id", model.id, f"the hub did not answer: {error}", "try again later") from None
    # The hub cache keeps each file under snapshots/<commit>/.
    return config.parent.name


def content_hash(folder: Path) -> str:
    """Identifies a checkpoint folder without reading gigabytes; see `locate`."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            if path.suffix in _WEIGHT_SUFFIXES and path.stat().st_size > 2 * _PROBE_BYTES:
                digest.update(file.read(_PROBE_BYTES))
                file.seek(-_PROBE_BYTES, 2)
            digest.update(file.read())
    return digest.hexdigest()
