"""Records of a row log: Arrow IPC record batches, each after its length and its checksum.

Invariant: a log is decoded up to its first damaged record, and every record before that is complete.
"""

import struct
import zlib

import pyarrow as pa

from schemas.rows import ROW_SCHEMA

_HEADER = struct.Struct("<II")  # bytes of the batch, and their CRC-32
_SHARD = struct.Struct("<Q")  # before each record of a log of several shards; retries of their rows have high numbers


def encode_record(batch: pa.RecordBatch, shard: int | None = None) -> bytes:
    """Encodes one record; in a log of several shards with the number of its shard."""
    payload = batch.serialize().to_pybytes()
    prefix = b"" if shard is None else _SHARD.pack(shard)
    return prefix + _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def decode_records(
    raw: bytes | memoryview, shard: int | None = None, schema: pa.Schema = ROW_SCHEMA
) -> list[tuple[int, pa.RecordBatch]]:
    """Decodes the records of a log up to the first damaged one.

    Args:
        raw: content of the log.
        shard: shard of all records; None where each record names its own.
        schema: columns of the records, or the first ones of them.

    Returns:
        Shard and rows of each record.
    """
    records: list[tuple[int, pa.RecordBatch]] = []
    offset, prefix = 0, _SHARD.size if shard is None else 0
    while offset + prefix + _HEADER.size <= len(raw):
        number = _SHARD.unpack_from(raw, offset)[0] if shard is None else shard
        offset += prefix
        length, checksum = _HEADER.unpack_from(raw, offset)
        payload = raw[offset + _HEADER.size : offset + _HEADER.size + length]
        # A length of 0 is a header of zeros, whose checksum would be right: the CRC-32 of nothing is 0.
        if not length or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(payload), schema)
            # A right checksum does not make the content safe: a person who can write a log can write its checksum, and
            # Arrow would read outside of its buffers.
            batch.validate(full=True)
        except pa.ArrowException:
            break
        records.append((number, batch))
        offset += _HEADER.size + length
    return records
