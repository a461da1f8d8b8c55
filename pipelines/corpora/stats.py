"""`kindling stats`: counts stories, words and openings of corpora. docs/corpora.md defines every figure."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pipelines.corpora.nltk_words import nltk_words
from pipelines.corpora.rows import CorpusRows, corpus_rows
from pipelines.corpora.tally import Tally
from pipelines.result import Result
from schemas.errors import RunError

# "once upon a time" has four words. Three words are the same in openings that a reader would call different; five are
# different in many openings that a reader would call the same.
OPENING_WORDS = 4
OPENINGS_KEPT = 5

# The words of Python's str.split(), which takes four control characters for blanks that Unicode does not.
_WORDS = pl.col("text").str.to_lowercase().str.extract_all(r"[^\s\x1c-\x1f]+")


def _bare(word: pl.Expr) -> pl.Expr:
    """Cuts a word to the part from its first letter or digit to its last; null where it has none."""
    letter = r"[\p{L}\p{M}\p{N}]"
    return word.str.replace_all("\u2019", "'", literal=True).str.extract(f"{letter}(?:.*{letter})?", 0)


# The opening is cut, because a word can be as long as a row.
_OPENING = (
    pl.col("words").list.head(OPENING_WORDS).list.eval(_bare(pl.element())).list.join(" ", ignore_nulls=True)
    .str.slice(0, 100)
)  # fmt: skip
# Number of counts held in memory before they go to disk, of words and of openings each. The words of English stories
# fit; openings, and tokens that are no words (numbers, keys, addresses), grow without end. A million of them take some
# 300 MB with what merging them needs.
MAX_HELD = 500_000
Words = Literal["blanks", "nltk"]
"""definition of a word: what stands between blanks; or a token of nltk that is none of its stop words"""
# Limits of a frame, which is counted at once: enough work for all cores, and small beside the memory for the counts.
_MAX_FRAME_ROWS, _MAX_FRAME_CHARACTERS = 8192, 8 << 20
# A column with more values than this identifies rows rather than groups of rows.
_MAX_VALUES = 10_000


Split = Callable[[Sequence[str]], list[list[str]]]
"""function that splits texts into words"""


@dataclass(frozen=True)
class Opening:
    """An opening: the first words of stories, the number of stories that begin so, and their share in [0, 1]."""

    words: str
    stories: int
    share: float


@dataclass(frozen=True)
class Composition:
    """Counts of a corpus, or of a part of it.

    Attributes:
        stories: number of stories.
        words: number of words.
        unique_words: number of different words.
        average_words: mean number of words in a story; None where there is no story.
        distinct_openings: number of different openings.
        openings: the OPENINGS_KEPT most frequent openings, the most frequent first.
    """

    stories: int
    words: int
    unique_words: int
    average_words: float | None
    distinct_openings: int
    openings: list[Opening]


@dataclass(frozen=True)
class Corpus:
    """Counts of one corpus.

    Attributes:
        corpus: name of the corpus, as it was given.
        complete: whether a run has all its shards; None for files.
        without_text: number of rows whose text is null or not a string; they do not count as stories.
        unreadable: number of rows that cannot be parsed (broken JSON); they do not count as stories.
        cut_off: number of a run's stories that were cut off at max_tokens; None for files.
        whole: counts of the whole corpus.
        by: counts of the parts of the corpus, by column and value; the largest part first.
    """

    corpus: str
    complete: bool | None
    without_text: int
    unreadable: int
    cut_off: int | None
    whole: Composition
    by: dict[str, dict[str, Composition]]


@dataclass(frozen=True)
class Stats(Result):
    """Counts of the corpora, in the order in which they were named; `words` is the definition of a word."""

    corpora: list[Corpus]
    words: Words = "blanks"

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each corpus, and for each of its parts: `by` and `value` say which."""
        rows = []
        for corpus in self.corpora:
            parts = [("", "", corpus.whole)]
            parts += [(by, value, part) for by, values in corpus.by.items() for value, part in values.items()]
            for by, value, part in parts:
                opening = part.openings[0] if part.openings else None
                figures = {name: figure for name, figure in asdict(part).items() if name != "openings"}
                shown = {"opening": opening and opening.words, "opening_share": opening and opening.share}
                rows.append({"corpus": corpus.corpus, "by": by, "value": value, **figures, **shown})
        return rows


def stats(
    corpora: str | Sequence[str],
    text_column: str = "text",
    by: Sequence[str] | None = None,
    words: Words = "blanks",
) -> Stats:
    """Counts stories, words, unique words and openings of each corpus and of its parts.

    Each corpus is read once. Memory does not grow with the number of rows: beyond a limit counts go to the folder for
    temporary files.

    Args:
        corpora: run folders (their committed accepted rows), or Parquet, JSONL, CSV and text files, folders or globs.
        text_column: column with the stories, in files.
        by: columns by which rows are grouped, or `column.key` for a key of a JSON object or struct; by default
            `rows.RUN_BREAKDOWNS` for a run, and no column for files.
        words: definition of a word; openings have their own.

    Raises:
        RunError: a name leads to no run and no file, a file is damaged or lacks a column, a run has no committed shard
            yet, or nltk or its data are not there.
    """
    named = [corpora] if isinstance(corpora, str) else corpora
    split = nltk_words() if words == "nltk" else None
    return Stats([_counted(corpus_rows(name, text_column, by), split) for name in named], words)


def _counted(rows: CorpusRows, split: Split | None) -> Corpus:
    try:
        with tempfile.TemporaryDirectory(prefix="kindling-stats-") as folder:
            parts = _Counts(rows, Path(folder), split).compositions()
    except OSError as error:
        cause = f"cannot be written: {error.strerror or error}"
        remedy = "set TMPDIR to a folder with space for the counts"
        raise RunError("TMPDIR", tempfile.gettempdir(), cause, remedy) from None
    whole = parts[0].get("", Composition(0, 0, 0, None, 0, []))
    if not whole.stories and rows.without_text:
        cause = f"none of the {rows.without_text} rows of {rows.name} has text there"
        raise RunError("--text-column", rows.text_column, cause, "name the column that holds the stories")
    by = dict(zip(rows.by, parts[1:], strict=True))
    return Corpus(rows.name, rows.complete, rows.without_text, rows.unreadable, rows.cut_off, whole, by)


class _Counts:
    """Counts of a corpus, for each value of each breakdown. Breakdown 0 is the whole corpus, with one value.

    Args:
        rows: the rows, which the constructor reads to their end.
        folder: an empty folder, for counts that memory does not take.
        split: splits texts into words; None for what stands between blanks.
    """

    def __init__(self, rows: CorpusRows, folder: Path, split: Split | None) -> None:
        self._rows, self._is_bare = rows, split is None
        self._values: list[dict[str, int]] = [{} for _ in ("", *rows.by)]
        self._columns = [f"value{i}" for i in range(len(self._values))]
        self._stories: Counter[tuple[int, int]] = Counter()
        self._words: Counter[tuple[int, int]] = Counter()
        self._unique, self._openings = (Tally(folder / name, MAX_HELD) for name in ("words", "openings"))
        for frame in self._frames():
            words = (
                frame.lazy().select(*self._columns, words=_WORDS).with_columns(key=_OPENING).collect(engine="streaming")
            )
            if split is not None:
                words = words.with_columns(words=pl.Series(split(frame["text"].to_list()), dtype=pl.List(pl.String)))
            self._add_stories(words)
            self._add_words(words)

    def _frames(self) -> Iterator[pl.DataFrame]:
        """Yields frames of some thousand rows: their text, and for each breakdown the number of its value."""
        schema = {"text": pl.String, **dict.fromkeys(self._columns, pl.UInt32)}
        frame: list[tuple[Any, ...]] = []
        characters = 0
        for text, *values in self._rows:
            frame.append((text, *(self._number(i, value) for i, value in enumerate(("", *values)))))
            characters += len(text)
            if len(frame) == _MAX_FRAME_ROWS or characters >= _MAX_FRAME_CHARACTERS:
                yield pl.DataFrame(frame, schema, orient="row")
                frame, characters = [], 0
        if frame:
            yield pl.DataFrame(frame, schema, orient="row")

    def _number(self, breakdown: int, value: str) -> int:
        numbers = self._values[breakdown]
        if value not in numbers and len(numbers) == _MAX_VALUES:
            cause = f"it has more than {_MAX_VALUES} values in {self._rows.name}"
            raise RunError("--by", self._rows.by[breakdown - 1], cause, "name a column that puts rows into groups")
        return numbers.setdefault(value, len(numbers))

    def _add_stories(self, words: pl.DataFrame) -> None:
        stories = words.select(*self._columns, "key", words=pl.col("words").list.len(), rows=pl.lit(1, pl.UInt64))
        for i, column in enumerate(self._columns):
            sums = stories.group_by(column).agg(pl.len().alias("stories"), pl.sum("words"))
            for value, rows, total in sums.iter_rows():
                self._stories[i, value] += rows
                self._words[i, value] += total
        self._add(self._openings, stories.lazy().filter(pl.col("key") != ""))

    def _add_words(self, words: pl.DataFrame) -> None:
        # Equal words are counted first, as they are written, so that a frequent word is cut only once.
        written = words.lazy().explode("words").group_by(*self._columns, "words").agg(rows=pl.len().cast(pl.UInt64))
        word = pl.col("words")
        bare = written.with_columns(key=_bare(word) if self._is_bare else word).filter(pl.col("key").is_not_null())
        # A word is counted by its 64-bit hash; the chance that two of ten million words share one is 1 in 300,000.
        self._add(self._unique, bare.with_columns(pl.col("key").hash()))

    def _add(self, tally: Tally, keys: pl.LazyFrame) -> None:
        counts = keys.group_by(*self._columns, "key").agg(pl.sum("rows")).collect(engine="streaming")
        for i, column in enumerate(self._columns):
            part = counts.group_by(column, "key").agg(pl.sum("rows"))
            tally.add(part.select(pl.lit(i).alias("breakdown"), pl.col(column).alias("value"), "key", "rows"))

    def compositions(self) -> list[dict[str, Composition]]:
        """Returns the counts of each breakdown by value, the largest part first."""
        unique, distinct = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        for part in self._unique.parts():
            for breakdown, value, keys in part.group_by("breakdown", "value").len().iter_rows():
                unique[breakdown, value] += keys
        commonest: dict[tuple[int, int], list[tuple[int, str]]] = {}
        for part in self._openings.parts():
            ordered = part.sort("rows", "key", descending=[True, False])
            for breakdown, value, keys, rows, openings in (
                ordered.group_by("breakdown", "value", maintain_order=True)
                .agg(pl.len(), pl.col("rows").head(OPENINGS_KEPT), pl.col("key").head(OPENINGS_KEPT))
                .iter_rows()
            ):
                distinct[breakdown, value] += keys
                commonest.setdefault((breakdown, value), []).extend(zip(rows, openings, strict=True))

        def composition(at: tuple[int, int]) -> Composition:
            stories, words = self._stories[at], self._words[at]
            first = sorted(commonest.get(at, []), key=lambda counted: (-counted[0], counted[1]))[:OPENINGS_KEPT]
            openings = [Opening(opening, rows, round(rows / stories, 4)) for rows, opening in first]
            return Composition(stories, words, unique[at], round(words / stories, 2), distinct[at], openings)

        breakdowns = []
        for i, numbers in enumerate(self._values):
            parts = {value: composition((i, number)) for value, number in numbers.items()}
            breakdowns.append(dict(sorted(parts.items(), key=lambda part: (-part[1].stories, part[0]))))
        return breakdowns
