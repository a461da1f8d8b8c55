"""The run folder: shards, manifests, run.json.

run.json                     the job as resolved, its fingerprint, versions
README.md                    the dataset card
data/part-00000.parquet      accepted rows; its being there is what commits the shard
rejected/part-00000.parquet  rows that quality control refused
errors/part-00000.parquet    rows that could not be generated
log/part-00001.arrows        finished rows of shards still open (see row_log.py)
run.lock                     held by the one driver that may write here (see lease.py)
set-aside/<time>/            damaged files that `verify --repair` took out of the way
index.parquet                what the footers in data/ say (see shard_index.py); deleted, it is built again
"""

import errno
import hashlib
import io
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from schemas.errors import RunError, UnreadableError
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, ROW_SCHEMA
from schemas.run import MANIFEST_KEY, Manifest, RunRecord
from services.storage.failpoints import failpoint
from services.storage.filesystem import LEFTOVER_SUFFIX, is_local, resolve, write_atomic

LOCK_NAME = "run.lock"
# Folders in which this program writes, and may therefore remove what a killed process left half written.
_OWN_FOLDERS = ("", "log", *FOLDER_OF_STATE.values())
_SIBLING_FOLDERS = tuple(folder for state, folder in FOLDER_OF_STATE.items() if state != ACCEPTED)
_BATCH_ROWS = 256
_SHARD_NAME = re.compile(r"part-(\d{5,})\.parquet")

_Footer = TypeVar("_Footer", bound=BaseModel)


class ShardStore:
    """Reads and writes one run folder. Only one process may write to it.

    Args:
        url: the run folder, local or a URL of any fsspec file system.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.fs, self.root = resolve(url, "output.path", storage_options)
        self.can_append = is_local(self.fs)

    def path(self, relative: str) -> str:
        """Full path of a file below the run folder."""
        return f"{self.root}/{relative}"

    def write_text(self, relative: str, text: str) -> None:
        """Writes a whole text file, atomically."""
        write_atomic(self.fs, self.path(relative), text.encode())

    def is_empty(self) -> bool:
        """Whether nothing lies in the folder, or it is not there; its lock and half-written files are nothing."""
        there = {name for name in self.names("") if not _is_leftover(name)}
        return not there - {LOCK_NAME, ""}  # some object stores list a folder in itself

    def names(self, folder: str) -> list[str]:
        """Names of what lies in a folder below the run ("" is the run's own); none where it is not there."""
        return sorted(name for name, _ in _listed(self.fs, self.path(folder).rstrip("/")))

    def remove(self, relative: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path(relative))

    def move(self, relative: str, to: str) -> None:
        """Moves a file of the run to another place in it."""
        self.fs.makedirs(self.path(to).rsplit("/", 1)[0], exist_ok=True)
        self.fs.mv(self.path(relative), self.path(to))

    def remove_leftovers(self) -> None:
        """Removes what a killed driver left half done: files under temporary names, and siblings of shards that it did
        not come to commit. To be called by the one driver alone.
        """
        for folder in _OWN_FOLDERS if self.can_append else ():  # one whole PUT leaves nothing
            for name in self.names(folder):
                if _is_leftover(name):
                    self.remove(f"{folder}/{name}" if folder else name)
        siblings = [
            (int(match[1]), f"{folder}/{name}")
            for folder in _SIBLING_FOLDERS
            for name in self.names(folder)
            if (match := _SHARD_NAME.fullmatch(name))
        ]
        committed = self.committed() if siblings else set()
        for shard, path in siblings:
            if shard not in committed:
                self.remove(path)

    def read_run(self) -> RunRecord | None:
        """run.json, or None where there is none.

        Raises:
            RunError: it cannot be read as one.
        """
        path = self.path("run.json")
        try:
            # Asked for, and not whether it is there: fsspec answers "no" to that whatever goes wrong.
            return RunRecord.model_validate_json(self.fs.cat_file(path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            cause = f"not a run.json that this version reads: {error.errors()[0]['msg']}"
            raise RunError(
                path, None, cause, "read it with the version that wrote it, or name another folder"
            ) from None

    def write_run(self, run: RunRecord) -> None:
        """Writes run.json, atomically."""
        self.write_text("run.json", run.model_dump_json(indent=2) + "\n")

    def committed(self) -> set[int]:
        """Numbers of the shards whose data file exists."""
        return set(self.sizes())

    def sizes(self) -> dict[int, int]:
        """Number of each shard whose data file exists, and the bytes in it."""
        listed = _listed(self.fs, self.path("data"))
        return {int(match[1]): size for name, size in listed if (match := _SHARD_NAME.fullmatch(name))}

    def size(self, relative: str) -> int:
        """Bytes in one file."""
        return self.fs.size(self.path(relative))

    def free_bytes(self) -> float:
        """Room for this user on the disk of the run folder; NaN where that is no local one, or gone."""
        with suppress(OSError):
            if is_local(self.fs):
                return shutil.disk_usage(self.root).free
        return math.nan

    def remove_logs(self) -> None:
        """Removes the logs of a run whose every shard is committed."""
        for name in self.names("log"):
            self.remove(f"log/{name}")

    def holds_rows(self) -> bool:
        """Whether anything was generated: a shard is committed, or rows of an open one are logged."""
        listed = _listed(self.fs, self.path("data"))
        if any(_SHARD_NAME.fullmatch(name) for name, _ in listed):
            return True
        return bool(self.names("log"))

    def commit(self, manifest: Manifest, rows: pa.Table) -> Manifest:
        """Writes one shard: siblings first, then its data file, which commits it.

        Args:
            manifest: complete but for `siblings`, which this adds.
            rows: ROW_SCHEMA, every row of the shard in its final order, whatever its state.

        Raises:
            FileExistsError: another driver has committed it.
            OSError: as the file system gives it; the shard is then not committed.
        """
        failpoint("commit.begun")
        siblings: dict[str, bytes] = {}
        for state, folder in FOLDER_OF_STATE.items():
            part = rows.filter(pc.equal(rows["state"], state))
            if state != ACCEPTED and part.num_rows:
                siblings[shard_path(folder, manifest.shard)] = parquet_bytes(part, ROW_SCHEMA)
        for relative, data in siblings.items():
            write_atomic(self.fs, self.path(relative), data, what="sibling")
        failpoint("commit.siblings")
        hashes = {relative: hashlib.sha256(data).hexdigest() for relative, data in siblings.items()}
        manifest = manifest.model_copy(update={"siblings": hashes})
        accepted = rows.filter(pc.equal(rows["state"], ACCEPTED))
        # Never over another: a driver that lost its lease while it stood still must not undo what its successor did.
        data = self.path(shard_path("data", manifest.shard))
        write_atomic(self.fs, data, encode_shard(accepted, manifest), new=True, what="data")
        failpoint("commit.data")
        return manifest

    def manifest(self, shard: int) -> Manifest:
        """The manifest of a committed shard.

        Raises:
            UnreadableError: its content is not known.
            RunError: the data file is not a shard of ours, or is damaged.
        """
        return self.footer(shard, MANIFEST_KEY, Manifest)

    def footer(self, shard: int, key: bytes, model: type[_Footer]) -> _Footer:
        """What the footer of a committed shard holds under a key.

        Raises:
            UnreadableError: its content is not known.
            RunError: the data file is not a shard of ours, or is damaged.
        """
        path = self.path(shard_path("data", shard))
        try:
            with self.fs.open(path, "rb") as file:
                raw = (pq.read_metadata(file).metadata or {}).get(key)
            if raw is None:
                raise ValueError("its footer holds no manifest")
            return model.model_validate_json(raw)
        except (pa.ArrowInvalid, ValueError, OSError) as error:
            if is_no_damage(error):
                cause = f"cannot be read: {error.strerror or error}"
                raise UnreadableError(path, None, cause, "mend the file system, and try again") from None
            remedy = "`kindling verify` lists all damage; move the file away to have the shard generated again"
            raise RunError(path, None, f"not a whole shard: {error}", remedy) from None

    def read(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """All rows of one Parquet file below the run, with its page checksums verified.

        Raises:
            OSError, pa.ArrowInvalid: the file is damaged.
        """
        with self.fs.open(self.path(relative), "rb") as file:
            # Without Arrow's threads: a command that ended while they were being started was aborted (seen with 26.0,
            # on a busy machine), after it had said its word and with another exit code.
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            return parquet.read(columns, use_threads=False)

    def batches(self, relative: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The same a few rows at a time, so that memory does not grow with the file."""
        with self.fs.open(self.path(relative), "rb") as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            yield from parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)

    def rows(self, state: str = ACCEPTED, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The committed rows of one state, shard by shard in input order, as batches of one row group or less."""
        folder = FOLDER_OF_STATE[state]
        for shard in sorted(self.committed()):
            path = self.path(shard_path(folder, shard))
            if state != ACCEPTED and not self.fs.exists(path):
                continue
            with self.fs.open(path, "rb") as file:
                yield from pq.ParquetFile(file).iter_batches(columns=columns)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") and name.endswith(LEFTOVER_SUFFIX)


def shard_path(folder: str, shard: int) -> str:
    """`data/part-00003.parquet`; names are deterministic, so a resume needs no list of them."""
    return f"{folder}/part-{shard:05d}.parquet"


def is_no_damage(error: Exception) -> bool:
    """Whether a read failed for the file system's sake (EIO, EACCES, a server that is away) and not for the content.

    Arrow's errors of content have no errno.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)


def _listed(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[tuple[str, int]]:
    """Name and size of each file in a folder that may not be there."""
    if is_local(fs):
        # A third of the time that fsspec takes, which matters with 100,000 files.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # a link to nothing
                    yield entry.name, entry.stat().st_size
        return
    # Object stores cache listings; a resume must see what the last driver wrote.
    fs.invalidate_cache(folder)
    with suppress(FileNotFoundError):
        for info in fs.ls(folder, detail=True):
            yield info["name"].rsplit("/", 1)[-1], info["size"]


def encode_shard(accepted: pa.Table, manifest: Manifest) -> bytes:
    """A data file: the accepted rows of a shard, and in its footer the manifest."""
    return parquet_bytes(accepted, ROW_SCHEMA, {MANIFEST_KEY: manifest.model_dump_json().encode()})


def parquet_bytes(rows: pa.Table, schema: pa.Schema, metadata: Mapping[bytes, bytes] | None = None) -> bytes:
    """A Parquet file with page checksums, as all that is committed; its footer has `metadata` too."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        if rows.num_rows:  # `load_dataset` takes the first row group's length for a batch's, and none may be 0
            writer.write_table(rows)
        if metadata:
            writer.add_key_value_metadata({key.decode(): value.decode() for key, value in metadata.items()})
    return buffer.getvalue()
