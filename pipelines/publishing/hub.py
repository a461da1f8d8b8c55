"""`kindling push`: a trained model to the Hub, into a private repository unless told otherwise."""

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

# Of this machine alone: its paths and its lock. What a reader needs of them is in the card.
_LEFT_OUT = ("train.json", "train.lock", "train.log")
# Too many requests, and from 500 on what is the Hub's own fault.
_PASSING = 429
_SERVERS_FAULT = 500


@dataclass(frozen=True)
class Pushed:
    """What was sent.

    Attributes:
        url: of the repository.
        private: whether only its owners see it.
        files: their names in it.
    """

    url: str
    private: bool
    commit: str
    files: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def push(folder: str, repo: str, public: bool = False) -> Pushed:
    """Sends the model and its card in one commit; stages, checkpoints, curves and train.json stay here.

    The token is the Hub's own: HF_TOKEN, or that of `hf auth login`.

    Args:
        folder: what `train` made, when it is done.
        repo: `owner/name`, or a name of your own; made where there is none.
        public: make it public, or send to one that is.

    Raises:
        RunError: no trained model is there.
        JobError: the Hub refuses the repository or the token, or the repository is public and nobody asked for that.
        StoppedError: the Hub cannot be reached; the same call sends what is missing.
    """
    files = _files(Path(folder).expanduser())
    if get_token() is None:
        raise JobError("HF_TOKEN", None, "nobody is logged in to the Hub", "set HF_TOKEN, or say `hf auth login`")
    with _told(repo):
        api = HfApi()
        url = api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(url.repo_id).private)
        if not (private or public):
            raise JobError("REPO", repo, "it is public already", "say --public if that is meant, or name another")
        commit = api.upload_folder(
            repo_id=url.repo_id, folder_path=Path(folder).expanduser(), allow_patterns=files,
            commit_message="Upload by kindling",
        )  # fmt: skip
    return Pushed(str(url), private, commit.oid, files)


def _files(folder: Path) -> list[str]:
    """Names of what is sent."""
    if (folder / "run.json").is_file():
        remedy = "`kindling export` it, and send that: hf upload REPO FOLDER --repo-type dataset --private"
        raise RunError("FOLDER", str(folder), "it holds rows that `augment` made, and no model", remedy)
    try:
        record = json.loads((folder / "train.json").read_text())
        done = "report" in record or len(record["stages"]) == len(record["job"]["stages"])
    except (OSError, ValueError, KeyError, TypeError):
        remedy = "name the output.path of a train job"
        raise RunError("FOLDER", str(folder), "there is no train.json to be read", remedy) from None
    if not (done and (folder / "README.md").is_file()):  # the card is written last
        raise RunError("FOLDER", str(folder), "its training is not done", "`kindling train` its job again first")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return [name for name in names if name not in _LEFT_OUT and not name.startswith(".")]


@contextmanager
def _told(repo: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise JobError("REPO", repo, shorten(str(error).splitlines()[0]), "say owner/name") from None
    except OfflineModeIsEnabled:
        raise JobError("HF_HUB_OFFLINE", 1, "the Hub is turned off", "unset it, and call again") from None
    except (HTTPError, OSError, RuntimeError) as error:  # the last is what the library for large files raises
        said = shorten(str(error).strip().partition("\n")[0]) or type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status < _SERVERS_FAULT and status != _PASSING:
            remedy = "check the name, and that the token may write there (`hf auth whoami`)"
            raise JobError("REPO", repo, f"the Hub refuses it: {said}", remedy) from None
        cause = f"it did not take the model: {said}; nothing is lost here"
        raise StoppedError("HF_ENDPOINT", constants.ENDPOINT, cause, "see to the network, and call again") from None
