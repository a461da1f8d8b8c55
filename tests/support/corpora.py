"""What `stats` should count, taken the long way, and what a terminal shows of a page."""

import io
import re
from collections import Counter

from rich.console import Console


def shown(page, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(page)
    return console.file.getvalue()


def counted_plainly(rows):
    """The same figures, taken the long way."""
    words = [text.lower().split() for text in rows]
    bare = [
        [found[0] if (found := re.search(r"[a-z0-9](.*[a-z0-9])?", word)) else "" for word in each] for each in words
    ]
    openings = Counter(" ".join(filter(None, each[:4])) for each in bare)
    openings.pop("", None)
    first = sorted(openings.items(), key=lambda each: (-each[1], each[0]))[:5]
    total = sum(map(len, words))
    return len(rows), total, len({word for each in bare for word in each} - {""}), round(total / len(rows), 2), first
