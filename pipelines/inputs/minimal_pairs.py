"""Minimal pairs, of BLiMP or in its form or in EWoK's, from the Hub or a folder of files: all of them, or a sample."""

import difflib
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice, zip_longest
from pathlib import PurePosixPath

import numpy as np

from pipelines.inputs.cells import text_cell
from pipelines.inputs.files import input_files
from pipelines.inputs.reader import InputReader
from schemas.errors import JobError
from schemas.job import Input
from schemas.minimal_pairs import MinimalPairs
from schemas.rows import RowError
from schemas.text import shorten
from schemas.train import GrammarGuard
from services.models.minimal_pairs import MinimalPair
from trainers.grammar_guard import min_pairs

_FIELDS = ["sentence_good", "sentence_bad"]
# Rows of EWoK: the first target is true after the first context. The second ones make a row of their own.
_EWOK_FIELDS = ["Target1", "Context1", "Context2"]
# The Hub keeps a paradigm as adjunct_island/train-00000-of-00001.parquet.
_HUB_SPLIT = re.compile(r"[a-z]+-\d{5}-of-\d{5}\.")


def sample_pairs(key: str, section: GrammarGuard, seed: int) -> list[MinimalPair]:
    """Draws `section.pairs` pairs, or all if there are fewer: equally many of each paradigm.

    Args:
        key: key of the section in the job, for errors.
        section: source and number of the pairs.
        seed: seed of the draw.

    Raises:
        JobError: a file is missing, a row is not a pair, or the pairs are too few to show the drop that is allowed.
    """
    draw = np.random.default_rng(seed)
    shuffled = []
    for name, source in sorted(_sources(key, section).items()):
        pairs = list(_read_pairs(key, name, source))
        shuffled.append([pairs[number] for number in draw.permutation(len(pairs))])
    # One pair of each paradigm in turn; a paradigm that has run out gives None.
    in_turn = chain.from_iterable(zip_longest(*shuffled))
    sample = list(islice(filter(None, in_turn), section.pairs))
    if len(sample) < (minimum := min_pairs(section.max_drop)):
        cause = f"{len(sample)} pairs show no drop as small as {section.max_drop}, even where none is lost"
        raise JobError(f"{key}.pairs", section.pairs, cause, f"take {minimum} at least, or a larger max_drop")
    return sample


def load_paradigms(
    key: str, section: MinimalPairs, default_paradigms: Collection[str], max_pairs: int | None = None
) -> dict[str, list[MinimalPair]]:
    """Loads the pairs of the paradigms that a job names, in its order.

    Args:
        key: key of the section in the job, for errors.
        section: source of the pairs.
        default_paradigms: names of the paradigms if the job names none; empty for all that the source has. A source
            that has none of them has pairs of another kind, of which all are taken.
        max_pairs: number of pairs to take of each paradigm, from the first on; None for all.

    Raises:
        JobError: a paradigm is missing or has no pair, a file cannot be read, or a row is not a pair.
    """
    paradigms = {}
    for name, source in _sources(key, section, default_paradigms).items():
        paradigms[name] = list(islice(_read_pairs(key, name, source), max_pairs))
        if not paradigms[name]:
            remedy = "add its pairs, or name other paradigms: without pairs there is no rate"
            raise JobError(f"{key}.paradigms", name, "there is no pair in it", remedy)
    return paradigms


def identify_pairs(pairs: Sequence[MinimalPair]) -> str:
    """Returns the number of pairs and paradigms, and a hash of the pairs."""
    contents = [(pair.paradigm, *pair.texts) for pair in pairs]
    digest = hashlib.blake2b(repr(contents).encode(), digest_size=16).hexdigest()
    return f"{len(pairs)} of {len({pair.paradigm for pair in pairs})} paradigms, {digest}"


def identify_sample(pairs: Sequence[MinimalPair]) -> str:
    """Returns what identifies pairs that only measure a training: their numbers, a hash, and that use."""
    return f"{identify_pairs(pairs)}; not trained on"


def _sources(key: str, section: MinimalPairs, default_paradigms: Collection[str] = ()) -> Mapping[str, Input]:
    """Returns the input of each paradigm that the job names; else of the default ones; else of all."""
    available = _files(key, section.path) if section.path is not None else _configs(key, section)
    for name in section.paradigms or ():
        if name not in available:
            close = difflib.get_close_matches(name, available, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {shorten(', '.join(sorted(available)))}"
            raise JobError(f"{key}.paradigms", name, "there is no such paradigm", remedy)
    default = default_paradigms if any(name in available for name in default_paradigms) else available
    names = section.paradigms or default
    if missing := [name for name in names if name not in available]:
        cause = f"{len(missing)} of {len(names)} paradigms are missing: {', '.join(missing)}"
        remedy = f"add them, or name those to take: {key}.paradigms"
        source_key, value = ("path", section.path) if section.path is not None else ("dataset", section.dataset)
        raise JobError(f"{key}.{source_key}", value, cause, remedy)
    return {name: available[name] for name in names}


def _files(key: str, path: str) -> dict[str, Input]:
    with _errors_under(f"{key}.path"):
        files = input_files(Input(path=path))
    inputs: dict[str, Input] = {}
    for file in files:
        name = _paradigm(PurePosixPath(file.name))
        if name in inputs:
            cause = f"two of its files are the paradigm {name}: {inputs[name].path} and {file.name}"
            raise JobError(f"{key}.path", path, cause, "leave one out, or join them: a paradigm is one file")
        inputs[name] = Input(path=file.name)
    return inputs


def _paradigm(path: PurePosixPath) -> str:
    """Returns the name of a file's paradigm: the file's own, or that of its folder where the file is a Hub's split."""
    return path.parent.name if _HUB_SPLIT.match(path.name) else path.name.partition(".")[0]


def _configs(key: str, section: MinimalPairs) -> dict[str, Input]:
    from datasets import get_dataset_config_names

    try:
        names = get_dataset_config_names(section.dataset, revision=section.revision)
    except Exception as error:  # the library raises whatever its builders raise
        cause = f"datasets could not load it: {next(iter(str(error).splitlines()), type(error).__name__)}"
        remedy = "load it where there is a network, or name a folder of files: path"
        raise JobError(f"{key}.dataset", section.dataset, shorten(cause), remedy) from None
    return {name: Input(dataset=section.dataset, config=name, revision=section.revision) for name in names}


def _read_pairs(key: str, name: str, source: Input) -> Iterator[MinimalPair]:
    with _errors_under(f"{key}.path" if source.path is not None else f"{key}.dataset"):
        reader, fields = _open_pairs(source)
        for file, index, row in reader.all_rows():
            try:
                if row.values is None:
                    raise RowError(row.fault)
                good, *others = (text_cell(row.values, field) for field in fields)
                # A pair of EWoK has one sentence, and two contexts.
                yield MinimalPair(name, good, *(others if fields is _FIELDS else (good, *others)))
            except RowError as error:
                raise JobError("", f"{file}, row {index}", str(error), "") from None


def _open_pairs(source: Input) -> tuple[InputReader, list[str]]:
    """Opens a file of pairs; returns its fields, those of BLiMP or of EWoK, too."""
    try:
        return InputReader(source, _FIELDS), _FIELDS
    except JobError as error:
        if error.key != f"input.columns.{_FIELDS[0]}":
            raise
        try:
            return InputReader(source, _EWOK_FIELDS), _EWOK_FIELDS
        except JobError:
            raise error from None


@contextmanager
def _errors_under(key: str) -> Iterator[None]:
    """Raises errors of the input under the job's own key, with a remedy for it."""
    try:
        yield
    except JobError as error:
        remedy = "name BLiMP's files: <paradigm>.jsonl with sentence_good and sentence_bad"
        is_of_files = error.key == "input.path"
        raise JobError(key, error.value, error.cause, error.remedy if is_of_files else remedy) from None
