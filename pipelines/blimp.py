"""A sample of BLiMP's minimal pairs, from the Hub or a folder of files."""

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice, zip_longest
from pathlib import PurePosixPath

import numpy as np

from pipelines.input_files import input_files
from pipelines.inputs import InputReader
from pipelines.recipes.cells import text_cell
from schemas.errors import JobError, shorten
from schemas.job import Input
from schemas.rows import RowError
from schemas.train import Blimp
from services.minimal_pairs import MinimalPair
from trainers.grammar import fewest_pairs

_FIELDS = ["sentence_good", "sentence_bad"]


def sample_of(key: str, section: Blimp, seed: int) -> list[MinimalPair]:
    """As many pairs as a job asks for, or all there are: equally many of each paradigm, drawn by the seed.

    Args:
        key: of the section in the job.

    Raises:
        JobError: a file is not there, a row of it is no pair, or the pairs are too few to show anything.
    """
    draw = np.random.default_rng(seed)
    shuffled = []
    for name, source in sorted(_chosen(key, section).items()):
        pairs = list(_pairs(key, name, source))
        shuffled.append([pairs[number] for number in draw.permutation(len(pairs))])
    found = list(islice(filter(None, chain.from_iterable(zip_longest(*shuffled))), section.pairs))
    if len(found) < (fewest := fewest_pairs(section.max_drop)):
        cause = f"{len(found)} pairs show no drop as small as {section.max_drop}, even where none is lost"
        raise JobError(f"{key}.pairs", section.pairs, cause, f"take {fewest} at least, or a larger max_drop")
    return found


def described(pairs: Sequence[MinimalPair]) -> str:
    """What identifies a sample."""
    digest = hashlib.blake2b(repr([(p.paradigm, p.good, p.bad) for p in pairs]).encode(), digest_size=16).hexdigest()
    return f"{len(pairs)} of {len({pair.paradigm for pair in pairs})} paradigms, {digest}; not trained on"


def _chosen(key: str, section: Blimp) -> Mapping[str, Input]:
    """Where the pairs of each paradigm lie."""
    there = _files(key, section.path) if section.path is not None else _configs(key, section)
    for name in section.paradigms or ():
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {shorten(', '.join(sorted(there)))}"
            raise JobError(f"{key}.paradigms", name, "there is no such paradigm", remedy)
    return {name: there[name] for name in section.paradigms or there}


def _files(key: str, path: str) -> dict[str, Input]:
    with _told_of(f"{key}.path"):
        found = input_files(Input(path=path))
    return {PurePosixPath(file.name).name.partition(".")[0]: Input(path=file.name) for file in found}


def _configs(key: str, section: Blimp) -> dict[str, Input]:
    from datasets import get_dataset_config_names

    try:
        names = get_dataset_config_names(section.dataset, revision=section.revision)
    except Exception as error:  # the library raises whatever its builders raise
        cause = f"datasets could not load it: {next(iter(str(error).splitlines()), type(error).__name__)}"
        remedy = "load it where there is a network, or name a folder of files: path"
        raise JobError(f"{key}.dataset", section.dataset, shorten(cause), remedy) from None
    return {name: Input(dataset=section.dataset, config=name, revision=section.revision) for name in names}


def _pairs(key: str, name: str, source: Input) -> Iterator[MinimalPair]:
    with _told_of(f"{key}.path" if source.path is not None else f"{key}.dataset"):
        reader = InputReader(source, _FIELDS)
        for place, index, row in reader.rows(0, sum(each.rows for each in reader.inputs)):
            try:
                if row.values is None:
                    raise RowError(row.fault)
                yield MinimalPair(name, *(text_cell(row.values, field) for field in _FIELDS))
            except RowError as error:
                raise JobError("", f"{place}, row {index}", str(error), "") from None


@contextmanager
def _told_of(key: str) -> Iterator[None]:
    """What is wrong with a file, under the key that names it here."""
    try:
        yield
    except JobError as error:
        remedy = "name BLiMP's files: <paradigm>.jsonl with sentence_good and sentence_bad"
        raise JobError(key, error.value, error.cause, remedy) from None
