"""The same opening in many texts of a corpus: counted, and thinned out to a largest share."""

from bisect import bisect_right
from collections import Counter, defaultdict
from hashlib import blake2b

from pipelines.quality_control.text_checks import words

Identity = tuple[str, int, int, str]
"""values of the columns IDENTITY: source, row_index, sample, variant"""


class Openings:
    """The first words of the texts of a run, by variant.

    Args:
        number: number of words that make an opening; a shorter text's is all its words.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._rows: dict[str, dict[str, list[Identity]]] = defaultdict(lambda: defaultdict(list))

    def add(self, text: str, row: Identity) -> None:
        """Adds a row."""
        self._rows[row[-1]][" ".join(words(text)[: self._number])].append(row)

    def counts(self) -> Counter[str]:
        """Returns the number of rows by opening, of all variants."""
        counts: Counter[str] = Counter()
        for openings in self._rows.values():
            counts.update({opening: len(rows) for opening, rows in openings.items()})
        return counts

    def above(self, share: float) -> dict[Identity, str]:
        """Returns rows with the opening of each, without which no opening has more than a share of its variant's rows.

        Rows that stay are drawn by a hash of their identity, so that they are from all over the input.

        Raises:
            ValueError: a variant has too few different openings for the share.
        """
        removed = {}
        for variant, openings in self._rows.items():
            most = max_rows_of_opening([len(rows) for rows in openings.values()], share)
            if not most:
                raise ValueError(
                    f"the {len(openings)} different openings of variant {variant} have {1 / len(openings):.1%} each, "
                    "if every one is kept once"
                )
            for opening, rows in openings.items():
                removed.update(dict.fromkeys(sorted(rows, key=_draw)[most:], opening))
        return removed


def max_rows_of_opening(counts: list[int], share: float) -> int:
    """Returns the largest number of rows that each opening may keep, so that none has more than a share of all kept.

    Args:
        counts: number of rows of each opening.
        share: largest share, 0 to 1.

    Returns:
        0 where even one row of each opening is more than the share.
    """

    def is_above(most: int) -> bool:
        return most > share * sum(min(count, most) for count in counts)

    # The share of the commonest opening grows with the number of rows that it may keep.
    return bisect_right(range(1, max(counts) + 1), False, key=is_above)


def _draw(row: Identity) -> bytes:
    return blake2b(repr(row).encode(errors="surrogatepass"), digest_size=8).digest()
