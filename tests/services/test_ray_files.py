"""Other users of the machine can neither read the token of a job's Ray nor enter its temporary folder."""

import os
import stat
from pathlib import Path

import pytest

from services import ray_files
from services.ray_files import make_token_private, private_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_the_token_is_made_for_this_user_alone_and_once(home, caplog):
    before = os.umask(0)
    try:
        make_token_private()
    finally:
        os.umask(before)
    path = home / ".ray" / "auth_token"
    token = path.read_text()
    assert mode(path) == 0o600 and mode(path.parent) == 0o700 and len(token) == 64 and not caplog.text
    make_token_private()
    assert path.read_text() == token and os.listdir(path.parent) == ["auth_token"]


def test_a_token_that_others_could_read_is_closed_and_kept(home, caplog):
    (home / ".ray").mkdir()
    path = home / ".ray" / "auth_token"
    path.write_text("token")
    path.chmod(0o644)
    make_token_private()
    assert mode(path) == 0o600 and path.read_text() == "token" and str(path) in caplog.text


def test_rays_folder_can_be_entered_by_this_user_alone(tmp_path, monkeypatch):
    base = Path("/tmp", f"k{os.getpid()}")
    base.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    folder = Path(private_folder())
    assert folder.parent.parent == base and mode(folder.parent) == 0o700
    folder.parent.chmod(0o777)
    assert Path(private_folder()) == folder and mode(folder.parent) == 0o700
    folder.parent.rmdir()
    folder.parent.symlink_to(tmp_path)  # of somebody who was here first
    other = Path(private_folder())
    assert other.parent != folder.parent and mode(other.parent) == 0o700 and mode(tmp_path) != 0o777
    other.parent.rmdir()
    folder.parent.unlink()
    base.rmdir()


def test_a_long_temporary_folder_leaves_room_for_rays_sockets(tmp_path, monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / ("x" * 60)))
    assert private_folder().startswith("/tmp/kindling-")
    assert len(private_folder()) <= ray_files._MAX_FOLDER_BYTES
