"""`kindling stats`: what corpora are made of, side by side. docs/corpora.md defines every figure."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.corpora.rows import CorpusRows, corpus_rows
from pipelines.corpora.tally import Tally
from schemas.errors import RunError

# "once upon a time": with three words, sentences that a reader would tell apart begin alike; with five, many that are
# one to him do not.
OPENING_WORDS = 4
OPENINGS_KEPT = 5

# What Python's str.split() gives: four control characters are blank to it, and not to Unicode.
_WORDS = pl.col("text").str.to_lowercase().str.extract_all(r"[^\s\x1c-\x1f]+")


def _bare(word: pl.Expr) -> pl.Expr:
    """A word from its first letter or digit to its last; null where it has none."""
    letter = r"[\p{L}\p{M}\p{N}]"
    return word.str.replace_all("\u2019", "'", literal=True).str.extract(f"{letter}(?:.*{letter})?", 0)


# A word can be as long as a row.
_OPENING = (
    pl.col("words").list.head(OPENING_WORDS).list.eval(_bare(pl.element())).list.join(" ", ignore_nulls=True)
    .str.slice(0, 100)
)  # fmt: skip
# Counts that are held in memory before they go to disk. The words of a million English stories fit; what grows without
# end are openings, and words that are none (numbers, keys, addresses).
MOST_HELD = 4_000_000
# One frame of rows is counted at a time: enough for all cores, little beside what the counts take.
_FRAME_ROWS, _FRAME_CHARACTERS = 8192, 8 << 20
# Beyond this many values a column tells rows apart rather than groups of rows.
_MOST_VALUES = 10_000


@dataclass(frozen=True)
class Opening:
    """How stories begin: their first words, how many of them do, and which share that is."""

    words: str
    stories: int
    share: float


@dataclass(frozen=True)
class Composition:
    """What a corpus, or a part of it, is made of.

    Attributes:
        average_words: of a story; None where there is none.
        distinct_openings: how many different ones there are.
        openings: the commonest of them, the commonest first.
    """

    stories: int
    words: int
    unique_words: int
    average_words: float | None
    distinct_openings: int
    openings: list[Opening]


@dataclass(frozen=True)
class Corpus:
    """One of the corpora that were counted.

    Attributes:
        corpus: as it was named.
        complete: whether a run has all its shards; None for what is no run.
        without_text: rows whose text is null or no text; they are no stories.
        unreadable: rows that cannot be read (broken JSON); nor are these.
        by: of each column that rows are told apart by, the parts of the corpus by its values, the largest first.
    """

    corpus: str
    complete: bool | None
    without_text: int
    unreadable: int
    whole: Composition
    by: dict[str, dict[str, Composition]]


@dataclass(frozen=True)
class Stats:
    """The corpora in the order in which they were named."""

    corpora: list[Corpus]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def stats(corpora: str | Sequence[str], text_column: str = "text", by: Sequence[str] | None = None) -> Stats:
    """Counts stories, words, unique words and openings of each corpus and of its parts.

    Each is read once. Memory does not grow with the number of rows: counts that it does not take go to the folder for
    temporary files.

    Args:
        corpora: run folders (their committed accepted rows), or Parquet, JSONL, CSV and text files, folders or globs.
        text_column: the stories' column in what is no run.
        by: columns that rows are told apart by, or `column.key` for a key of a JSON object or struct in one; by
            default `corpora.RUN_BREAKDOWNS` in a run, and none elsewhere.

    Raises:
        RunError: nothing is there, a file is damaged or lacks a column, or a run has no committed shard yet.
    """
    named = [corpora] if isinstance(corpora, str) else corpora
    return Stats([_counted(corpus_rows(name, text_column, by)) for name in named])


def _counted(rows: CorpusRows) -> Corpus:
    try:
        with tempfile.TemporaryDirectory(prefix="kindling-stats-") as folder:
            parts = _Counts(rows, Path(folder)).compositions()
    except OSError as error:
        cause = f"cannot be written: {error.strerror or error}"
        remedy = "let TMPDIR name a folder with room for the counts"
        raise RunError("TMPDIR", tempfile.gettempdir(), cause, remedy) from None
    whole = parts[0].get("", Composition(0, 0, 0, None, 0, []))
    if not whole.stories and rows.without_text:
        cause = f"none of the {rows.without_text} rows of {rows.name} has text there"
        raise RunError("--text-column", rows.text_column, cause, "name the column that holds the stories")
    by = dict(zip(rows.by, parts[1:], strict=True))
    return Corpus(rows.name, rows.complete, rows.without_text, rows.unreadable, whole, by)


class _Counts:
    """Counts of a corpus, for each value of each breakdown; breakdown 0 is the whole corpus, with one value.

    Args:
        rows: read to their end here.
        folder: an empty one, for counts that memory does not take.
    """

    def __init__(self, rows: CorpusRows, folder: Path) -> None:
        self._rows = rows
        self._values: list[dict[str, int]] = [{} for _ in ("", *rows.by)]
        self._columns = [f"value{i}" for i in range(len(self._values))]
        self._stories: Counter[tuple[int, int]] = Counter()
        self._words: Counter[tuple[int, int]] = Counter()
        self._unique, self._openings = (Tally(folder / name, MOST_HELD) for name in ("words", "openings"))
        for frame in self._frames():
            words = frame.lazy().select(*self._columns, words=_WORDS).collect(engine="streaming")
            self._add_stories(words)
            self._add_words(words)

    def _frames(self) -> Iterator[pl.DataFrame]:
        """Some thousand rows at a time: their text, and for each breakdown the number of its value."""
        schema = {"text": pl.String, **dict.fromkeys(self._columns, pl.UInt32)}
        frame: list[tuple[Any, ...]] = []
        characters = 0
        for text, *values in self._rows:
            frame.append((text, *(self._number(i, value) for i, value in enumerate(("", *values)))))
            characters += len(text)
            if len(frame) == _FRAME_ROWS or characters >= _FRAME_CHARACTERS:
                yield pl.DataFrame(frame, schema, orient="row")
                frame, characters = [], 0
        if frame:
            yield pl.DataFrame(frame, schema, orient="row")

    def _number(self, breakdown: int, value: str) -> int:
        numbers = self._values[breakdown]
        if value not in numbers and len(numbers) == _MOST_VALUES:
            cause = f"it has more than {_MOST_VALUES} values in {self._rows.name}"
            raise RunError("--by", self._rows.by[breakdown - 1], cause, "name a column that puts rows into groups")
        return numbers.setdefault(value, len(numbers))

    def _add_stories(self, words: pl.DataFrame) -> None:
        stories = words.select(
            *self._columns, words=pl.col("words").list.len(), key=_OPENING, rows=pl.lit(1, pl.UInt64)
        )
        for i, column in enumerate(self._columns):
            sums = stories.group_by(column).agg(pl.len().alias("stories"), pl.sum("words"))
            for value, rows, total in sums.iter_rows():
                self._stories[i, value] += rows
                self._words[i, value] += total
        self._add(self._openings, stories.lazy().filter(pl.col("key") != ""))

    def _add_words(self, words: pl.DataFrame) -> None:
        # As they are written first: what is common is then looked at once.
        written = words.lazy().explode("words").group_by(*self._columns, "words").agg(rows=pl.len().cast(pl.UInt64))
        bare = written.with_columns(key=_bare(pl.col("words"))).filter(pl.col("key").is_not_null())
        # Its hash of 64 bits stands for a word: that any two of ten million share one has a chance of 1 in 300,000.
        self._add(self._unique, bare.with_columns(pl.col("key").hash()))

    def _add(self, tally: Tally, keys: pl.LazyFrame) -> None:
        counts = keys.group_by(*self._columns, "key").agg(pl.sum("rows")).collect(engine="streaming")
        for i, column in enumerate(self._columns):
            part = counts.group_by(column, "key").agg(pl.sum("rows"))
            tally.add(part.select(pl.lit(i).alias("breakdown"), pl.col(column).alias("value"), "key", "rows"))

    def compositions(self) -> list[dict[str, Composition]]:
        """Of each breakdown its parts by value, the largest first."""
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
            first = sorted(commonest.get(at, []), key=lambda found: (-found[0], found[1]))[:OPENINGS_KEPT]
            openings = [Opening(opening, rows, round(rows / stories, 4)) for rows, opening in first]
            return Composition(stories, words, unique[at], round(words / stories, 2), distinct[at], openings)

        found = []
        for i, numbers in enumerate(self._values):
            parts = {value: composition((i, number)) for value, number in numbers.items()}
            found.append(dict(sorted(parts.items(), key=lambda part: (-part[1].stories, part[0]))))
        return found
