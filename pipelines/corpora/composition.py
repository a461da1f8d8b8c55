"""`kindling compose`: makes a training corpus from parts, up to a budget of words."""

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.corpora.documents import Document, Documents, RunDocuments, documents_of
from pipelines.corpora.word_budget import Choice, Survey, survey, words_asked
from pipelines.jobfile import as_job
from pipelines.publishing.dataset_card import corpus_card
from pipelines.run_folder import RECORD_NAMES, has_record, refuse_lost_path, refuse_other_job, versions, write_errors
from schemas.compose import ComposeJob
from schemas.composition import CORPUS_SCHEMA, CompositionRecord, PartRecord
from schemas.errors import JobError, RunError
from schemas.fingerprint import fingerprint, identity_of
from services.storage.filesystem import atomic_folder, write_atomic
from services.storage.store import ShardStore

_log = logging.getLogger("kindling")

_RECORD = RECORD_NAMES["compose"]
# Limits of a data file, which is held in memory: about 30 MB of text, or many short lines.
_MAX_FILE_CHARACTERS = 32 << 20
_MAX_FILE_DOCUMENTS = 1 << 18


def compose(job: ComposeJob | Mapping[str, Any] | str | Path) -> CompositionRecord:
    """Writes the corpus of a job; returns the record of the corpus, also where it is in the folder already.

    The documents of the parts alternate, so that any beginning of the corpus has the same shares as the whole. The same
    job over the same parts gives the same documents in the same order.

    Args:
        job: a job, the same as a dict, or the path of a job file.

    Raises:
        JobError: the job or a part is at fault.
        RunError: a run is damaged, or the output folder holds something else or cannot be written. A local output
            folder is not made in this case.
    """
    job = as_job(job, ComposeJob)
    words_asked(job, {})  # refuses an impossible budget before the parts are read
    store = ShardStore(job.output.path)
    refuse_lost_path(store.url, store.fs)
    parts = {name: documents_of(name, part) for name, part in job.parts.items()}
    record = _planned(job, parts)
    if existing := _existing(store, record):
        _log.info("%s is complete: nothing to do", job.output.path)
        return existing
    surveys = {name: surveyed(name, part, job.seed) for name, part in parts.items()}
    asked = words_asked(job, {name: counts.words for name, counts in surveys.items()})
    choices = {name: Choice(counts, asked[name], job.seed) for name, counts in surveys.items()}
    chosen = {name: filter(choices[name].takes, part) for name, part in parts.items()}
    record.parts = {name: _part_record(parts[name], counts, asked[name]) for name, counts in surveys.items()}
    quality = [part.quality(name) for name, part in parts.items() if isinstance(part, RunDocuments)]
    with write_errors(store.url), atomic_folder(store.fs, store.root) as folder:
        for number, table in enumerate(_tables(_in_turn(chosen, record.parts), record)):
            name, data = f"data/train-{number:05d}.parquet", _parquet(table)
            write_atomic(store.fs, f"{folder}/{name}", data)
            record.files[name] = hashlib.sha256(data).hexdigest()
        write_atomic(store.fs, f"{folder}/README.md", corpus_card(record, quality).encode())
        write_atomic(store.fs, f"{folder}/{_RECORD}", f"{record.model_dump_json(indent=2)}\n".encode())
    return record


def _planned(job: ComposeJob, parts: Mapping[str, Documents]) -> CompositionRecord:
    """Makes the record of the corpus, without counts and files."""
    resolved = job.model_dump(mode="json")
    for section in resolved["parts"].values():
        if section["input"]:
            del section["input"]["storage_options"]  # its values may be secrets
    identity = identity_of(resolved, content={name: part.content for name, part in parts.items()})
    return CompositionRecord(
        name=job.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job=resolved,
        fingerprint=fingerprint(identity),
        identity=identity,
        words_budget=job.words,
        words=0,
        documents=0,
        parts={},
        files={},
        versions=versions(),
    )


def _existing(store: ShardStore, new: CompositionRecord) -> CompositionRecord | None:
    """Returns the record of the same corpus from the output folder; None where the folder is new.

    Raises:
        RunError: the folder holds something else.
    """
    if not has_record(store, "compose", must_be_bare=True):
        return None
    path = store.path(_RECORD)
    try:
        old = CompositionRecord.model_validate_json(store.fs.cat_file(path))
    except (OSError, ValidationError):
        raise RunError(path, None, "it is no record of a composed corpus", "name another output.path") from None
    refuse_other_job(store.url, old.identity, new.identity)
    return old


def surveyed(name: str, part: Iterable[Document], seed: int) -> Survey:
    """Counts the documents of a part.

    Raises:
        JobError: the part has no document that can be read.
    """
    counts = survey(part, seed)
    if not counts.words:
        cause = f"none of its {counts.unreadable} documents can be read; {counts.first_unreadable}"
        if not counts.unreadable:
            cause = "it has no documents"
        raise JobError(f"parts.{name}", None, cause, "repair it (text must be UTF-8), or leave the part out")
    return counts


def _part_record(part: Documents, counts: Survey, asked: int) -> PartRecord:
    return PartRecord(
        content=part.content,
        complete=part.complete,
        documents_there=counts.documents,
        words_there=counts.words,
        words_asked=asked,
        documents=0,
        words=0,
        share=0.0,
        unreadable=counts.unreadable,
        first_unreadable=counts.first_unreadable,
    )


def _in_turn(
    chosen: Mapping[str, Iterator[Document]], parts: Mapping[str, PartRecord]
) -> Iterator[tuple[str, Document]]:
    """Yields the documents of all parts, next from the part with the smallest share done; counts into `parts`."""
    wanted = {name: min(parts[name].words_asked, parts[name].words_there) for name in sorted(parts)}
    while wanted:
        name = min(wanted, key=lambda name: parts[name].words / wanted[name])
        document = next(chosen[name], None)
        if document is None:
            del wanted[name]
            continue
        parts[name].documents += 1
        parts[name].words += document.words
        yield name, document


def _tables(documents: Iterator[tuple[str, Document]], record: CompositionRecord) -> Iterator[pa.Table]:
    """Yields the documents as one table for each file; afterwards the sums of the record are filled in."""
    rows: list[tuple[str, Document]] = []
    characters = 0
    for name, document in documents:
        rows.append((name, document))
        characters += len(document.text)
        if characters >= _MAX_FILE_CHARACTERS or len(rows) >= _MAX_FILE_DOCUMENTS:
            yield _table(rows)
            rows, characters = [], 0
    if rows:
        yield _table(rows)
    record.words = sum(part.words for part in record.parts.values())
    if not record.words:
        cause = "each document is longer than the words that its part is asked for"
        raise JobError("words", record.words_budget, cause, "raise the budget")
    record.documents = sum(part.documents for part in record.parts.values())
    for part in record.parts.values():
        part.share = part.words / record.words


def _table(rows: list[tuple[str, Document]]) -> pa.Table:
    columns = {
        field.name: [name if field.name == "part" else getattr(document, field.name) for name, document in rows]
        for field in CORPUS_SCHEMA
    }
    return pa.table(columns, schema=CORPUS_SCHEMA)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()
