"""Files of a Ray that a job starts on this machine, for this user alone: its token and its temporary folder.

Whoever reads the token can run code as this user. Ray writes it readable by all, and opens its temporary folders to all
users of the machine.
"""

import contextlib
import logging
import os
import secrets
import stat
import tempfile
from pathlib import Path

_log = logging.getLogger("kindling")

# The path of a Unix socket has at most 107 bytes. Below its temporary folder Ray adds up to 67:
# /session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store, and a number.
_MAX_FOLDER_BYTES = 107 - 67


def make_token_private() -> None:
    """Makes the token of Ray's clusters, where this user has none, and takes it from other users' reach.

    Does nothing where Ray is to ask for no token, or for one of another place.

    Raises:
        OSError: the folder `~/.ray` cannot be written.
    """
    is_off = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if is_off or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent) as file, contextlib.suppress(FileExistsError):  # mode 0600
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.link(file.name, path)  # appears as a whole: another job may be starting too
    with contextlib.suppress(PermissionError):  # a file of the administrator's
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
            _log.warning(
                "other users of this machine could read %s until now. If one of them is not to be trusted, remove it "
                "while no Ray of yours runs: the next job makes another one", path,
            )  # fmt: skip


def private_folder() -> str:
    """Returns Ray's temporary folder on this machine, which no other user can enter; made where it is missing.

    It is in RAY_TMPDIR, TMPDIR or /tmp, the first that is short enough for Ray's sockets.
    """
    for base in (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"):
        # Ray itself opens the folder that it gets to all users, so the one above it is closed.
        if base and len(os.fsencode(folder := f"{base}/kindling-{os.getuid()}/ray")) <= _MAX_FOLDER_BYTES:
            break
    parent = os.path.dirname(folder)
    with contextlib.suppress(FileExistsError):
        os.mkdir(parent, 0o700)
    status = os.lstat(parent)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():  # another user was here first
        return f"{tempfile.mkdtemp(prefix='kindling-', dir=base)}/ray"
    os.chmod(parent, 0o700)
    return folder
