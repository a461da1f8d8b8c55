"""`kindling push`: uploads a trained model or a dataset to the Hugging Face Hub, by default to a private repository."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

from schemas.errors import JobError, RunError, StoppedError
from schemas.text import shorten

# Files that stay here: they hold paths of this machine, and its lock. The card has the facts that a reader needs.
_LEFT_OUT = ("train.json", "train.lock", "train.log")
# HTTP states after which the same call may succeed later: another commit came first, too many requests (for which the
# library itself waits several times, as long as the Hub asks for), and faults of the server.
_OTHER_COMMIT_FIRST, _TOO_MANY_REQUESTS = 412, 429
_FIRST_SERVER_FAULT = 500
_WAIT_SECONDS = (1, 2, 4, 8)
_log = logging.getLogger("kindling")


@dataclass(frozen=True)
class Pushed:
    """Result of `push`.

    Attributes:
        url: address of the repository.
        private: True where only the owners of the repository see it.
        commit: hash of the commit.
        files: names of the uploaded files.
        repo_type: model or dataset.
    """

    url: str
    private: bool
    commit: str
    files: list[str]
    repo_type: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def push(folder: str, repo: str, public: bool = False) -> Pushed:
    """Uploads a model or a dataset with its card in one commit; records, stages, checkpoints and curves stay here.

    The token is HF_TOKEN, or the one that `hf auth login` stored. Where the Hub has too many requests, or another
    commit came first, the upload is tried again; files that it has already are not sent again.

    Args:
        folder: output folder of a finished `train` job, of an `export` or of a `compose` job.
        repo: `owner/name`, or a name alone for a repository of your own; it is made where it does not exist.
        public: make the repository public, or upload to a public one.

    Raises:
        RunError: the folder holds neither a trained model nor a dataset, or its training is not finished.
        JobError: nobody is logged in, the Hub refuses the repository or the token, or the repository is public and
            `public` is False.
        StoppedError: the Hub cannot be reached; the same call may succeed later.
    """
    path = Path(folder).expanduser()
    repo_type, files = _files(path)
    if get_token() is None:
        raise JobError("HF_TOKEN", None, "nobody is logged in to the Hub", "set HF_TOKEN, or run `hf auth login`")
    with _hub_errors(repo):
        api = HfApi()
        url = api.create_repo(repo, repo_type=repo_type, private=not public, exist_ok=True)
        private = bool(api.repo_info(url.repo_id, repo_type=repo_type).private)
        if not (private or public):
            raise JobError("REPO", repo, "the repository is public", "add --public if you want that, or name another")
        commit = _upload(api, repo_id=url.repo_id, repo_type=repo_type, folder_path=path, allow_patterns=files)
    return Pushed(str(url), private, commit.oid, files, repo_type)


def _upload(api: HfApi, **arguments: Any) -> CommitInfo:
    """Uploads files in one commit, and tries again where another commit came first."""
    for wait in (*_WAIT_SECONDS, None):
        try:
            return api.upload_folder(**arguments, commit_message="Upload by kindling")
        except HTTPError as error:
            if _status(error) != _OTHER_COMMIT_FIRST or wait is None:
                raise
            _log.warning("another commit came first (412): trying again in %d s", wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _status(error: Exception) -> int | None:
    """Returns the HTTP state of an error of the Hub; None where it did not answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _files(folder: Path) -> tuple[str, list[str]]:
    """Returns the type of the repository, and the names of the files to upload."""
    if (folder / "run.json").is_file():
        remedy = "write them with `kindling export RUN --to FOLDER`, and push that folder"
        raise RunError("FOLDER", str(folder), "it holds the rows and records of a run", remedy)
    data = [path for path in sorted((folder / "data").glob("*")) if path.is_file() and not path.name.startswith(".")]
    if data and (folder / "README.md").is_file() and not (folder / "train.json").exists():
        return "dataset", ["README.md", *(f"data/{path.name}" for path in data)]
    return "model", _model_files(folder)


def _model_files(folder: Path) -> list[str]:
    try:
        record = json.loads((folder / "train.json").read_text())
        done = "report" in record or len(record["stages"]) == len(record["job"]["stages"])
    except (OSError, ValueError, KeyError, TypeError):
        remedy = "name the output.path of a train job; or a folder that `export` or `compose` wrote"
        cause = "it has no train.json that can be read, and no data/ with a card"
        raise RunError("FOLDER", str(folder), cause, remedy) from None
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
        status = _status(error)
        if (
            status is not None
            and status < _FIRST_SERVER_FAULT
            and status not in (_OTHER_COMMIT_FIRST, _TOO_MANY_REQUESTS)
        ):
            remedy = "check the name, and that the token may write there (`hf auth whoami`)"
            raise JobError("REPO", repo, f"the Hub refuses it: {message}", remedy) from None
        cause = f"it did not take the files: {message}; nothing is lost here"
        remedy = "check the network, and run the command again"
        raise StoppedError("HF_ENDPOINT", constants.ENDPOINT, cause, remedy) from None
