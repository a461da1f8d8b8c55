"""What a template may use, and what each use costs: filters, attributes, operators.

Everything else is refused by name. A cost is told before the work is done, in characters, by what grows faster than its
operands: a text repeated, padded, joined or filled in. What only grows with its operands is weighed before and after.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from numbers import Number
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.runtime import BlockReference, LoopContext

# What an element of a list or dict counts, in characters: about what it costs in memory and time.
ELEMENT = 64
_TEXT, _HOLDERS = (str, bytes), (list, tuple, dict, set, frozenset)
_DEEPEST = 64
_MOST_BITS = 16_384
_MOST_DIGITS = 5_000
_MOST_INDENT = 16


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Not among them: `random` (a row would not get the same prompt twice), and `pprint`, `striptags`, `urlize`, `wordwrap`,
# `xmlattr`, whose work grows with the square of the text.
FILTERS = _names(
    "abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format "
    "groupby indent int items join last length list lower map max min reject rejectattr replace reverse round safe "
    "select selectattr slice sort string sum title tojson trim truncate unique upper urlencode wordcount"
)

_DATE = _names("day isoformat isoweekday month strftime weekday year")
_TIME = _names("hour isoformat microsecond minute second strftime")
ATTRIBUTES: dict[type, frozenset[str]] = {
    str: _names(
        "capitalize casefold center count endswith find index isalnum isalpha isascii isdecimal isdigit islower "
        "isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix replace rfind "
        "rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill"
    ),
    dict: _names("get items keys values"),
    list: _names("count index"),
    tuple: _names("count grouper index list"),  # groupby gives pairs of `grouper` and `list`
    datetime: _DATE | _TIME | _names("date time"),
    date: _DATE,
    time: _TIME,
    timedelta: _names("days microseconds seconds total_seconds"),
    LoopContext: _names(
        "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
    ),
    BlockReference: _names("super"),
}


def size_of(value: Any, most: int) -> int:
    """Characters of a value and of all that it holds; what it holds twice counts twice. Stops counting above `most`.

    Raises:
        TemplateRuntimeError: it is nested too deeply, or holds a number that is too long to compute with.
    """
    if isinstance(value, str):
        return len(value)
    size, level = 0, [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, _TEXT):
                size += len(item)
            elif isinstance(item, _HOLDERS):
                size += ELEMENT * len(item)
                if size > most:
                    return size
                below.extend(item)
                below.extend(item.values() if isinstance(item, dict) else ())
            else:
                _check_number(item)
        if not below or size > most:
            return size
        level = below
    raise TemplateRuntimeError(f"a value is nested more than {_DEEPEST} deep")


def _check_number(value: Any) -> None:
    # A Decimal of a few characters stands for any number of zeros.
    if (isinstance(value, int) and value.bit_length() > _MOST_BITS) or (
        isinstance(value, Decimal) and abs(value.adjusted()) > _MOST_DIGITS
    ):
        raise TemplateRuntimeError(f"a number has more than about {_MOST_DIGITS:,} digits")


def operator_cost(operator: str, left: Any, right: Any) -> int:
    """Characters that a binary operator may make.

    Raises:
        TypeError: it formats bytes.
    """
    if operator == "*":
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int) and isinstance(sequence, (*_TEXT, list, tuple)):
            return len(sequence) * max(times, 0) * (1 if isinstance(sequence, _TEXT) else ELEMENT)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * abs(right)
    elif operator == "%" and isinstance(left, str):
        return _percent(left, right)
    elif operator == "%" and isinstance(left, bytes):
        raise TypeError("bytes cannot be formatted")
    return 0


def numbers_in(text: str) -> int:
    """The sum of all numbers in a format: no width or precision is above it."""
    return sum(map(int, re.findall(r"\d+", text)))


def _percent(text: str, values: Any) -> int:
    """Of `text % values`. A `*` takes its width from the values; a mapping's may each be used many times."""
    widths = values if isinstance(values, tuple) else (values,)
    stars = sum(abs(width) for width in widths if isinstance(width, int)) if "*" in text else 0
    times = text.count("%") if isinstance(values, dict) else 1
    # Where a key is in parentheses, the width follows it.
    numbers = sum(map(numbers_in, re.findall(r"[%)][-+# 0.*]*\d[\d.*]*", text)))
    # One that is too large to count is too large to format.
    return numbers + stars + times * size_of(values, 1 << 30)


# The parameters below are named as those of the filter or method, for a template may name them too; those of methods
# come with Jinja's own beside them.


def _format(text: str, *values: Any, **named: Any) -> int:
    return _percent(str(text), named or values)


def _width(text: str, width: int = 80, fill: str = " ", **others: Any) -> int:
    return width


def _replace(text: str, old: str, new: str, count: int = -1, **others: Any) -> int:
    return str(text).count(str(old)) * len(str(new))


def _join(items: Any, d: Any = "", attribute: Any = None) -> int:
    return len(items) * len(str(d)) + _characters(items)


def _join_method(separator: str, items: Any, **others: Any) -> int:
    return len(items) * len(separator) + _characters(items)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    return len(text) * (len(width) if isinstance(width, str) else width)


def _batch(items: Any, linecount: int, fill_with: Any = None) -> int:
    return ELEMENT * linecount + _characters(items)


def _characters(items: Any, *more: Any, **others: Any) -> int:
    """Of a text that is taken apart into its characters."""
    return ELEMENT * len(items) if isinstance(items, str) else 0


def _unique(items: Any, *more: Any, **others: Any) -> int:
    # Numbers can be made to collide in a set, which then takes the square of their count.
    return 8 * ELEMENT * len(items)


def _round(number: Any, precision: int = 0, method: str = "common") -> int:
    return abs(precision) * _MOST_DIGITS  # it computes a power of ten


def _sum(items: Any, attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, Number):
        raise TypeError("only numbers can be summed")
    return 0


def _tojson(value: Any, indent: int | str | None = None) -> int:
    if (len(indent) if isinstance(indent, str) else indent or 0) > _MOST_INDENT:
        raise ValueError(f"an indent is at most {_MOST_INDENT}")
    return 0


def _search(text: str, sep: Any = " ", *more: Any, **others: Any) -> int:
    """From the end, or for any of some characters, Python searches character by character."""
    return len(text) * len(sep) if isinstance(sep, str) else 0


def _trim(text: Any, chars: str | None = None) -> int:
    return _search(str(text), chars)


def _strftime(moment: Any, format: str, **others: Any) -> int:
    return numbers_in(format)


FILTER_COSTS: dict[str, Callable[..., int]] = {
    "batch": _batch, "center": _width, "format": _format, "indent": _indent, "join": _join, "replace": _replace,
    "round": _round, "sum": _sum, "tojson": _tojson, "trim": _trim, "unique": _unique,
    **dict.fromkeys(_names("groupby list map max min reject select slice sort"), _characters),
}  # fmt: skip
METHOD_COSTS: dict[str, Callable[..., int]] = {
    "join": _join_method, "replace": _replace, "strftime": _strftime,
    **dict.fromkeys(_names("center ljust rjust zfill"), _width),
    **dict.fromkeys(_names("lstrip rfind rindex rpartition rsplit rstrip strip"), _search),
}  # fmt: skip
