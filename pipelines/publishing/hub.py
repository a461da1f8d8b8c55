"""`kindling push`: uploads a trained model to the Hugging Face Hub, by default into a private repository."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

from schemas.errors import JobError, RunError, StoppedError
from schemas.text import shorten

# Files that stay here: they hold paths of this machine, and its lock. The card has the facts that a reader needs.
_LEFT_OUT = ("train.json", "train.lock", "train.log")
# HTTP states after which the same call may succeed later: too many requests, and faults of the server.
_TOO_MANY_REQUESTS = 429
_FIRST_SERVER_FAULT = 500


@dataclass(frozen=True)
class Pushed:
    """Result of `push`.

    Attributes:
        url: address of the repository.
        private: True where only the owners of the repository see it.
        commit: hash of the commit.
        files: names of the uploaded files.
    """

    url: str
    private: bool
    commit: str
    files: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def push(folder: str, repo: str, public: bool = False) -> Pushed:
    """Uploads the model and its card in one commit; stages, checkpoints, curves and train.json stay here.

    The token is HF_TOKEN, or the one that `hf auth login` stored.

    Args:
        folder: output folder of a finished `train` job.
        repo: `owner/name`, or a name alone for a repository of your own; it is made where it does not exist.
        public: make the repository public, or upload to a public one.

    Raises:
        RunError: the folder holds no trained model, or its training is not finished.
        JobError: nobody is logged in, the Hub refuses the repository or the token, or the repository is public and
            `public` is False.
        StoppedError: the Hub cannot be reached; the same call may succeed later.
    """
    files = _files(Path(folder).expanduser())
    if get_token() is None:
        raise JobError("HF_TOKEN", None, "nobody is logged in to the Hub", "set HF_TOKEN, or run `hf auth login`")
    with _hub_errors(repo):
        api = HfApi()
        url = api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(url.repo_id).private)
        if not (private or public):
            raise JobError("REPO", repo, "the repository is public", "add --public if you want that, or name another")
        commit = api.upload_folder(
            repo_id=url.repo_id, folder_path=Path(folder).expanduser(), allow_patterns=files,
            commit_message="Upload by kindling",
        )  # fmt: skip
    return Pushed(str(url), private, commit.oid, files)


def _files(folder: Path) -> list[str]:
    """Returns the names of the files to upload."""
    if (folder / "run.json").is_file():
        remedy = "`kindling export` it, and upload the export: hf upload REPO FOLDER --repo-type dataset --private"
        raise RunError("FOLDER", str(folder), "it holds rows that `augment` made, and no model", remedy)
    try:
        record = json.loads((folder / "train.json").read_text())
        done = "report" in record or len(record["stages"]) == len(record["job"]["stages"])
    except (OSError, ValueError, KeyError, TypeError):
        remedy = "name the output.path of a train job"
        raise RunError("FOLDER", str(folder), "it has no train.json that can be read", remedy) from None
    if not (done and (folder / "README.md").is_file()):  # the card is written last
        remedy = "run `kindling train` with its job again first"
        raise RunError("FOLDER", str(folder), "its training is not finished", remedy)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return [name for name in names if name not in _LEFT_OUT and not name.startswith(".")]


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Inside the block an error of the Hub becomes one of Kindling's, with a remedy."""
    try:
        yield
    except HFValidationError as error:
        raise JobError("REPO", repo, shorten(str(error).splitlines()[0]), "write it as owner/name") from None
    except OfflineModeIsEnabled:
        raise JobError("HF_HUB_OFFLINE", 1, "the Hub is turned off", "unset it, and run the command again") from None
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError comes from the library for large files
        message = shorten(str(error).strip().partition("\n")[0]) or type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status < _FIRST_SERVER_FAULT and status != _TOO_MANY_REQUESTS:
            remedy = "check the name, and that the token may write there (`hf auth whoami`)"
            raise JobError("REPO", repo, f"the Hub refuses it: {message}", remedy) from None
        cause = f"it did not take the model: {message}; nothing is lost here"
        remedy = "check the network, and run the command again"
        raise StoppedError("HF_ENDPOINT", constants.ENDPOINT, cause, remedy) from None
