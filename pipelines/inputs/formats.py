"""The file formats that input rows come in.

To add a format, write its file with a subclass of `FileSource`, add its line to FORMATS, and its name to `format` in
schemas/job.py.
"""

import lzma
import zlib

import pyarrow as pa

from pipelines.inputs.arrow_format import ArrowSource
from pipelines.inputs.csv_format import CsvSource
from pipelines.inputs.json_format import JsonSource
from pipelines.inputs.jsonl_format import JsonlSource
from pipelines.inputs.parquet_format import ParquetSource
from pipelines.inputs.sources import FileSource
from pipelines.inputs.text_format import TextSource

FORMATS: tuple[type[FileSource], ...] = (
    ParquetSource,
    ArrowSource,
    JsonlSource,
    JsonSource,
    CsvSource,
    TextSource,
)

READ_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
    *(error for file_format in FORMATS for error in file_format.read_errors),
)
"""exceptions that reading a source raises where it is missing or damaged"""
