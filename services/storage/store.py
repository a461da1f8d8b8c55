"""The run folder: shards, manifests, run.json.

Invariant: a shard is committed if and only if its file in data/ exists. That file appears last and as a whole, after
the shard's rejected rows and errors are durable, and it is never written again.

run.json                     the job as resolved, its fingerprint, versions
README.md                    the dataset card
data/part-00000.parquet      accepted rows; the existence of this file commits the shard
data/part-00000.r1.parquet   accepted rows of a retry (see parts.py), which has its own siblings
rejected/part-00000.parquet  rows that quality control refused
errors/part-00000.parquet    rows that could not be generated
tries/part-00000.parquet     tries of rows that were not the last one. On object stores each driver gives files in these
                             three folders names of its own (part-00000.5d1e0c7a.parquet), and the manifest says which
                             are the shard's
log/part-00001.arrows        finished rows of shards still open (see row_log.py)
run.lock                     held by the one driver that may write here (see lease.py)
dedup.parquet                rows that `kindling dedup` removed, which exports and trainings leave out
reviews/                     people's verdicts on sampled rows
set-aside/<time>/            damaged files that `verify --repair` moved away
index.parquet                copy of what the footers in data/ say (see shard_index.py); can be deleted and built again
"""

import errno
import hashlib
import io
import math
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeGuard, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from schemas.errors import RunError, UnreadableError
from schemas.row_programs import TRIES_FOLDER, split_tries
from schemas.rows import ACCEPTED, FOLDER_OF_STATE
from schemas.run import MANIFEST_KEY, Manifest, RunRecord
from services.storage.failpoints import failpoint
from services.storage.filesystem import is_leftover, is_local, list_folder, resolve, write_atomic
from services.storage.parts import in_input_order, parse_part, part_name, part_of, retry_of, shard_of

LOCK_NAME, TRAIN_LOCK_NAME = "run.lock", "train.lock"
# Folders to which only this program writes: it may remove what a killed process left half written there.
_OWN_FOLDERS = ("", "log", *FOLDER_OF_STATE.values(), TRIES_FOLDER)
_SIBLING_FOLDERS = (*(folder for state, folder in FOLDER_OF_STATE.items() if state != ACCEPTED), TRIES_FOLDER)
_BATCH_ROWS = 256

_Footer = TypeVar("_Footer", bound=BaseModel)


class ShardStore:
    """Reads and writes one run folder. Only the process that holds the lease may write.

    Args:
        url: the run folder, local or a URL of any fsspec file system.
        storage_options: arguments of the file system, such as an endpoint.

    Attributes:
        can_append: whether files in the folder can be appended to; False on object stores.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.fs, self.root = resolve(url, "output.path", storage_options)
        self.can_append = is_local(self.fs)
        # In the names of siblings, where a driver that lost its lease may still write: it must not write over the
        # files of its successor, and its successor must not remove files that it is about to commit.
        self._owner = "" if self.can_append else f".{secrets.token_hex(4)}"

    def path(self, relative: str) -> str:
        """Full path of a file below the run folder."""
        return f"{self.root}/{relative}"

    def list_names(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder of the run ("" is the run folder); empty if it is missing."""
        return sorted(name for name, _ in list_folder(self.fs, self.path(folder).rstrip("/")))

    def is_empty(self, lock_name: str = LOCK_NAME) -> bool:
        """Returns whether the folder is missing or holds no file but its lock and half-written files."""
        names = {name for name in self.list_names("") if not is_leftover(name)}
        return not names - {lock_name, ""}  # "": some object stores list a folder in itself

    def file_size(self, relative: str) -> int:
        """Size of one file, in bytes."""
        return self.fs.size(self.path(relative))

    def free_bytes(self) -> float:
        """Free bytes for this user on the disk of the run folder; NaN if it is not on a local disk, or missing."""
        with suppress(OSError):
            if is_local(self.fs):
                return shutil.disk_usage(self.root).free
        return math.nan

    def write_text(self, relative: str, text: str) -> None:
        """Writes a whole text file, atomically."""
        write_atomic(self.fs, self.path(relative), text.encode())

    def remove(self, relative: str) -> None:
        """Removes a file, if it exists."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path(relative))

    def move(self, relative: str, to: str) -> None:
        """Moves a file to another path in the run folder."""
        self.fs.makedirs(self.path(to).rsplit("/", 1)[0], exist_ok=True)
        self.fs.mv(self.path(relative), self.path(to))

    def remove_leftovers(self) -> None:
        """Removes what a killed driver left: files under temporary names, and siblings of uncommitted shards.

        On an object store it does nothing: one PUT leaves no half of a file, and a driver that lost its lease may still
        commit the shards of its siblings (see `shard_index.remove_unlisted_siblings`). Only the driver that holds the
        lease may call it.
        """
        if not self.can_append:
            return
        for path in self.list_temporary():
            self.remove(path)
        siblings = self.list_siblings()
        committed = self.committed_parts() if siblings else set()
        for path, part in siblings.items():
            if part not in committed:
                self.remove(path)

    def list_temporary(self) -> list[str]:
        """Files under temporary names: a process writes them at this moment, or was killed while it did."""
        folders = {folder: f"{folder}/" if folder else "" for folder in _OWN_FOLDERS}
        return [
            prefix + name for folder, prefix in folders.items() for name in self.list_names(folder) if is_leftover(name)
        ]

    def list_siblings(self) -> dict[str, int]:
        """Number of the part of each file in rejected/, errors/ and tries/, by its path."""
        return {
            f"{folder}/{name}": part
            for folder in _SIBLING_FOLDERS
            for name in self.list_names(folder)
            if (part := parse_part(name, ".parquet", with_owner=True)) is not None
        }

    def remove_logs(self) -> None:
        """Removes the logs of a run whose every shard is committed."""
        for name in self.list_names("log"):
            self.remove(f"log/{name}")

    def read_run(self) -> RunRecord | None:
        """Reads run.json; None if there is none.

        Raises:
            RunError: the file is not a run.json of this version.
        """
        path = self.path("run.json")
        try:
            # Without `exists` first: fsspec answers False to it on any error, and the folder would be taken as new.
            return RunRecord.model_validate_json(self.fs.cat_file(path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                remedy = (
                    "put it back from a copy, or move it away and run the same job again, which makes it anew; the "
                    "texts are in data/, whole, and load_dataset reads them"
                )
                raise RunError(path, None, f"it is damaged: {first['msg']}", remedy) from None
            cause = f"not a run.json that this version reads: {first['msg']}"
            raise RunError(
                path, None, cause, "read it with the version that wrote it, or name another folder"
            ) from None

    def write_run(self, run: RunRecord) -> None:
        """Writes run.json, atomically."""
        self.write_text("run.json", run.model_dump_json(indent=2) + "\n")

    def committed_shards(self) -> set[int]:
        """Numbers of the committed shards, without retries of their rows."""
        return {part for part in self.committed_parts() if not retry_of(part)}

    def committed_parts(self) -> set[int]:
        """Numbers of the committed parts: shards, and retries of their rows."""
        return set(self.part_sizes())

    def part_sizes(self) -> dict[int, int]:
        """Bytes of the data file of each committed part, by its number."""
        listed = list_folder(self.fs, self.path("data"))
        return {part: size for name, size in listed if (part := parse_part(name, ".parquet")) is not None}

    def live_parts(self, state: str, parts: Iterable[int] | None = None) -> list[int]:
        """Committed parts whose rows of a state were not retried by a later part; those of a shard by their age.

        Args:
            parts: parts to choose from, with all retries of their shards; by default all committed parts.

        Raises:
            UnreadableError, RunError: as `read_manifest`, for a retry.
        """
        live, retried_shards = [], set()
        for part in reversed(in_input_order(self.committed_parts() if parts is None else parts)):
            if state == ACCEPTED or shard_of(part) not in retried_shards:
                live.append(part)
            if state != ACCEPTED and retry_of(part) and self.read_manifest(part).retried == state:
                retried_shards.add(shard_of(part))
        return live[::-1]

    def file_of(self, part: int, state: str) -> str | None:
        """Path of the file with a committed part's rows of a state; None where it has none.

        Raises:
            UnreadableError, RunError: as `read_manifest`.
        """
        folder = FOLDER_OF_STATE[state]
        return shard_path(folder, part) if state == ACCEPTED else self.read_manifest(part).sibling(folder)

    def has_rows(self) -> bool:
        """Returns whether any row was generated: a shard is committed, or rows of an open shard are logged."""
        if self.part_sizes():
            return True
        return bool(self.list_names("log"))

    def commit(self, manifest: Manifest, rows: pa.Table) -> Manifest:
        """Writes one shard: siblings first, then its data file, which commits it.

        Args:
            manifest: the manifest without `siblings`, which this adds.
            rows: all rows of the shard in their final order and in any state, as `RunRecord.logged_schema`.

        Returns:
            The manifest as written.

        Raises:
            FileExistsError: another driver has committed the shard.
            OSError: the file system refuses; the shard is not committed then.
        """
        failpoint("commit.begun")
        rows, tries = split_tries(rows)
        tables = {folder: _rows_of_state(rows, state) for state, folder in FOLDER_OF_STATE.items() if state != ACCEPTED}
        siblings = {
            shard_path(folder, part_of(manifest), self._owner): parquet_bytes(table, table.schema)
            for folder, table in {**tables, TRIES_FOLDER: tries}.items()
            if table.num_rows
        }
        # A crash between here and the data file leaves siblings of an uncommitted shard. A later driver removes them,
        # see `remove_leftovers`, and generates the shard again.
        for relative, data in siblings.items():
            write_atomic(self.fs, self.path(relative), data, failpoint_prefix="sibling")
        failpoint("commit.siblings")
        hashes = {relative: hashlib.sha256(data).hexdigest() for relative, data in siblings.items()}
        manifest = manifest.model_copy(update={"siblings": hashes})
        accepted = _rows_of_state(rows, ACCEPTED)
        # The file must be new: a driver that was suspended lost its lease without noticing, and must not replace the
        # shard that its successor committed meanwhile.
        path = self.path(shard_path("data", part_of(manifest)))
        write_atomic(self.fs, path, encode_shard(accepted, manifest), must_be_new=True, failpoint_prefix="data")
        failpoint("commit.data")
        return manifest

    def read_manifest(self, shard: int) -> Manifest:
        """Reads the manifest of a committed shard.

        Raises:
            UnreadableError: the file system fails, so that nothing is known about the shard.
            RunError: the data file is damaged, or is not a shard of Kindling.
        """
        return self.read_footer(shard, MANIFEST_KEY, Manifest)

    def read_footer(self, shard: int, key: bytes, model: type[_Footer]) -> _Footer:
        """Reads the value under a key in the footer of a committed shard.

        Raises:
            UnreadableError: the file system fails, so that nothing is known about the shard.
            RunError: the data file is damaged, or is not a shard of Kindling.
        """
        path = self.path(shard_path("data", shard))
        try:
            with self.fs.open(path, "rb") as file:
                raw = (pq.read_metadata(file).metadata or {}).get(key)
            if raw is None:
                raise ValueError("its footer holds no manifest")
            return model.model_validate_json(raw)
        except (pa.ArrowInvalid, ValueError, OSError) as error:
            if is_filesystem_failure(error):
                cause = f"cannot be read: {error.strerror or error}"
                raise UnreadableError(path, None, cause, "repair the file system, and try again") from None
            remedy = "`kindling verify` lists all damage; move the file away to have the shard generated again"
            raise RunError(path, None, f"not a whole shard: {error}", remedy) from None

    def read_table(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """Reads all rows of one Parquet file below the run folder, and verifies its page checksums.

        Raises:
            OSError, pa.ArrowInvalid: the file is damaged or cannot be read, see `is_filesystem_failure`.
        """
        with self.fs.open(self.path(relative), "rb") as file:
            # Without Arrow's threads: a command that ended while they were starting was aborted after its last output,
            # with a wrong exit code (seen with pyarrow 26.0 on a busy machine).
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            return parquet.read(columns, use_threads=False)

    def read_batches(self, relative: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Reads a Parquet file as `read_table` does, in small batches: memory does not grow with the file."""
        with self.fs.open(self.path(relative), "rb") as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            yield from parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)

    def read_rows(self, state: str = ACCEPTED, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Reads the committed rows of one state, part by part in input order, in batches of at most a row group."""
        for part in self.live_parts(state):
            relative = self.file_of(part, state)
            if relative is None:
                continue
            with self.fs.open(self.path(relative), "rb") as file:
                yield from pq.ParquetFile(file, page_checksum_verification=True).iter_batches(columns=columns)


def _rows_of_state(rows: pa.Table, state: str) -> pa.Table:
    mask = pc.equal(rows["state"], state)
    return rows if pc.all(mask).as_py() else rows.filter(mask)  # no copy of a shard whose rows are all accepted


def shard_path(folder: str, part: int, owner: str = "") -> str:
    """Path of a part's file: `data/part-00003.parquet`. Names of data files are deterministic.

    Args:
        owner: part of the name of siblings that one driver alone writes; see `Manifest.siblings`.
    """
    return f"{folder}/{part_name(part)}{owner}.parquet"


def is_filesystem_failure(error: Exception) -> TypeGuard[OSError]:
    """Returns whether a read failed because of the file system (EIO, EACCES, a dead server) and not of the content.

    Arrow's errors about content have no errno.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)


def encode_shard(accepted: pa.Table, manifest: Manifest) -> bytes:
    """Encodes a data file: the accepted rows of a shard, and its manifest in the footer."""
    return parquet_bytes(accepted, accepted.schema, {MANIFEST_KEY: manifest.model_dump_json().encode()})


def parquet_bytes(rows: pa.Table, schema: pa.Schema, metadata: Mapping[bytes, bytes] | None = None) -> bytes:
    """Encodes rows as Parquet with page checksums, and with `metadata` in its footer."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        # No row group for no rows: `load_dataset` takes the first row group's length as its batch size, and fails on 0.
        if rows.num_rows:
            writer.write_table(rows)
        if metadata:
            writer.add_key_value_metadata({key.decode(): value.decode() for key, value in metadata.items()})
    return buffer.getvalue()
