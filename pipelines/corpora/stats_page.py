"""The page of `kindling stats` for a terminal: counts of corpora side by side, of their parts, and of openings."""

from collections.abc import Iterable, Sequence
from itertools import chain

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.corpora.rows import short_names
from pipelines.corpora.stats import Composition, Corpus, Stats
from schemas.outcomes import cut_off_share
from schemas.text import plural, shorten

# In a narrower terminal the openings of the parts would be folded into many short lines.
_MIN_WIDTH_OF_OPENINGS = 100
# Nobody reads a longer table of parts; --json has them all.
_MAX_PARTS = 30
_MAX_NAME_CHARACTERS = 40
_NLTK_WORDS = "words: nltk's tokens in lower case, without its English stop words"


def stats_page(stats: Stats, width: int) -> Group:
    """Makes a table of the corpora, one for each column that groups rows and has several values, and the openings.

    Args:
        stats: the counts.
        width: width of the terminal in characters.
    """
    corpora = stats.corpora
    names = [shorten(name, _MAX_NAME_CHARACTERS) for name in short_names([corpus.corpus for corpus in corpora])]
    whole = _table("corpus", openings=True)
    for name, corpus in zip(names, corpora, strict=True):
        whole.add_row(Text(name), *_figures(corpus.whole), _opening(corpus.whole))
    notes = chain.from_iterable(_notes(name, corpus) for name, corpus in zip(names, corpora, strict=True))
    columns = dict.fromkeys(column for corpus in corpora for column in corpus.by)
    defined = [Text(_NLTK_WORDS)] if stats.words == "nltk" else []
    return Group(
        whole,
        *defined,
        *(Text(note) for note in notes),
        *chain.from_iterable(_parts(column, names, corpora, width >= _MIN_WIDTH_OF_OPENINGS) for column in columns),
        _openings(names, corpora),
    )


def _table(*headers: str, openings: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for header in headers:
        table.add_column(Text(header), overflow="fold")
    for header in ("stories", "words", "a story", "unique"):
        table.add_column(header, justify="right", no_wrap=True)
    if openings:
        table.add_column("commonest opening")
    return table


def _figures(part: Composition) -> Iterable[str]:
    yield f"{part.stories:,}"
    yield f"{part.words:,}"
    yield "-" if part.average_words is None else f"{part.average_words:.1f}"
    yield f"{part.unique_words:,}"


def _opening(part: Composition) -> Text:
    return Text(f"{part.openings[0].share:.1%} {part.openings[0].words}" if part.openings else "-")


def _notes(name: str, corpus: Corpus) -> Iterable[str]:
    if corpus.complete is False:
        yield f"{name}: the run is not complete; what is committed so far was counted"
    if corpus.cut_off:
        yield f"{name}: cut off at max_tokens: {cut_off_share(corpus.cut_off, corpus.whole.stories)}"
    if corpus.without_text:
        yield f"{name}: left out: {plural(corpus.without_text, 'row')} without text"
    if corpus.unreadable:
        yield f"{name}: left out: {plural(corpus.unreadable, 'row')} that cannot be read"


def _parts(column: str, names: Sequence[str], corpora: Sequence[Corpus], openings: bool) -> Iterable[Table | Text]:
    """Yields a table with a line for each value and corpus; nothing for a column with one value, the whole corpus."""
    values: dict[str, int] = {}
    for corpus in corpora:
        for value, part in corpus.by.get(column, {}).items():
            values[value] = values.get(value, 0) + part.stories
    if len(values) < 2:
        return
    table = _table(column, *(["corpus"] if len(corpora) > 1 else []), openings=openings)
    largest = sorted(values, key=lambda value: (-values[value], value))[:_MAX_PARTS]
    for value in largest:
        shown = Text(shorten(value, _MAX_NAME_CHARACTERS) or "(none)")
        for name, corpus in zip(names, corpora, strict=True):
            if counts := corpus.by.get(column, {}).get(value):
                table.add_row(
                    shown, *([Text(name)] if len(corpora) > 1 else []), *_figures(counts),
                    *([_opening(counts)] if openings else []),
                )  # fmt: skip
                shown = Text()
    yield from (Text(), table)
    if more := len(values) - len(largest):
        yield Text(f"and {more:,} more: --json has them all")


def _openings(names: Sequence[str], corpora: Sequence[Corpus]) -> Group:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("how stories begin")
    table.add_column("stories", justify="right")
    table.add_column("share", justify="right")
    for name, corpus in zip(names, corpora, strict=True):
        table.add_row(Text(f"{name}: {corpus.whole.distinct_openings:,} different openings", style="bold"))
        for opening in corpus.whole.openings:
            table.add_row(f"  {opening.words}", f"{opening.stories:,}", f"{opening.share:.1%}")
    return Group(Text(), table)
