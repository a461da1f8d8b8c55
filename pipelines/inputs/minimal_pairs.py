"""BLiMP's minimal pairs, from the Hub or a folder of files: whole paradigms, or a sample."""

import difflib
import hashlib
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


def sample_of(key: str, section: GrammarGuard, seed: int) -> list[MinimalPair]:
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
    if len(found) < (fewest := min_pairs(section.max_drop)):
        cause = f"{len(found)} pairs show no drop as small as {section.max_drop}, even where none is lost"
        raise JobError(f"{key}.pairs", section.pairs, cause, f"take {fewest} at least, or a larger max_drop")
    return found


def whole_paradigms(key: str, section: MinimalPairs, all_of: Collection[str]) -> dict[str, list[MinimalPair]]:
    """Every pair of the paradigms that a job names, or of all there are to be, in their order.

    Args:
        key: of the section in the job.
        all_of: the paradigms, where the job names none.

    Raises:
        JobError: a paradigm is not there or has no pair, a file cannot be read, or a row of it is no pair.
    """
    found = {}
    for name, source in _chosen(key, section, all_of).items():
        found[name] = list(_pairs(key, name, source))
        if not found[name]:
            remedy = "add its pairs, or name other paradigms: there is no rate of nothing"
            raise JobError(f"{key}.paradigms", name, "there is no pair in it", remedy)
    return found


def content_of(pairs: Sequence[MinimalPair]) -> str:
    """What identifies some pairs."""
    digest = hashlib.blake2b(repr([(p.paradigm, p.good, p.bad) for p in pairs]).encode(), digest_size=16).hexdigest()
    return f"{len(pairs)} of {len({pair.paradigm for pair in pairs})} paradigms, {digest}"


def described(pairs: Sequence[MinimalPair]) -> str:
    """What identifies a sample that is held out of a training."""
    return f"{content_of(pairs)}; not trained on"


def _chosen(key: str, section: MinimalPairs, all_of: Collection[str] = ()) -> Mapping[str, Input]:
    """Where the pairs of each paradigm lie: of those that the job names, else of `all_of`, else of all there are."""
    there = _files(key, section.path) if section.path is not None else _configs(key, section)
    for name in section.paradigms or ():
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"there are {shorten(', '.join(sorted(there)))}"
            raise JobError(f"{key}.paradigms", name, "there is no such paradigm", remedy)
    names = section.paradigms or all_of or there
    if missing := [name for name in names if name not in there]:
        cause = f"{len(missing)} of {len(names)} paradigms are not there: {', '.join(missing)}"
        remedy = f"add them, or name those to take: {key}.paradigms"
        where = ("path", section.path) if section.path is not None else ("dataset", section.dataset)
        raise JobError(f"{key}.{where[0]}", where[1], cause, remedy)
    return {name: there[name] for name in names}


def _files(key: str, path: str) -> dict[str, Input]:
    with _told_of(f"{key}.path"):
        found = input_files(Input(path=path))
    return {PurePosixPath(file.name).name.partition(".")[0]: Input(path=file.name) for file in found}


def _configs(key: str, section: MinimalPairs) -> dict[str, Input]:
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
