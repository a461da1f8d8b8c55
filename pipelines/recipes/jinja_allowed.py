"""The filters, attributes and operators that a template may use, and the cost of each.

Invariant: no allowed operation does more work than its cost says plus a constant times the size of its operands and its
result. The sandbox counts operands and results by `size_of`.

Every filter and attribute that is not named here is refused. An operation whose work or result can grow faster than its
operands (a text repeated, padded, joined or filled in) has a cost here. A cost is in characters, and is computed before
the work is done: the limit has to stop `"x" * 10**9` before it takes a gigabyte.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from numbers import Number
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.runtime import BlockReference, LoopContext

ELEMENT_CHARACTERS = 64
"""characters that one element of a list or dict counts as: about its cost in memory and time"""
_TEXTS, _CONTAINERS = (str, bytes), (list, tuple, dict, set, frozenset)
_MAX_NESTING = 64
# Python multiplies long numbers, and prints them, in more than linear time.
_MAX_BITS = 16_384
_MAX_DIGITS = 5_000
_MAX_INDENT = 16


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Left out: `random`, because a row must get the same prompt each time; and `pprint`, `striptags`, `urlize`, `wordwrap`
# and `xmlattr`, whose work grows with the square of the text.
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
    tuple: _names("count grouper index list"),  # the filter groupby gives pairs of `grouper` and `list`
    datetime: _DATE | _TIME | _names("date time"),
    date: _DATE,
    time: _TIME,
    timedelta: _names("days microseconds seconds total_seconds"),
    LoopContext: _names(
        "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
    ),
    BlockReference: _names("super"),
}


def size_of(value: Any, limit: int) -> int:
    """Returns the characters of a value and of all values in it; a value that is in it twice counts twice.

    Args:
        value: any value.
        limit: counting stops above this size, so that it takes no longer than the limit allows.

    Raises:
        TemplateRuntimeError: the value is nested too deeply, or holds a number that is too long to compute with.
    """
    if isinstance(value, str):
        return len(value)
    # Level by level, without recursion: deep nesting must not exhaust Python's stack.
    size, level = 0, [value]
    for _ in range(_MAX_NESTING):
        below: list[Any] = []
        for item in level:
            if isinstance(item, _TEXTS):
                size += len(item)
            elif isinstance(item, _CONTAINERS):
                size += ELEMENT_CHARACTERS * len(item)
                if size > limit:
                    return size
                below.extend(item)
                below.extend(item.values() if isinstance(item, dict) else ())
            else:
                _check_number(item)
        if not below or size > limit:
            return size
        level = below
    raise TemplateRuntimeError(f"a value is nested more than {_MAX_NESTING} deep")


def _check_number(value: Any) -> None:
    # A Decimal of a few characters (1E+999999) can print as a million.
    if (isinstance(value, int) and value.bit_length() > _MAX_BITS) or (
        isinstance(value, Decimal) and abs(value.adjusted()) > _MAX_DIGITS
    ):
        raise TemplateRuntimeError(f"a number has more than about {_MAX_DIGITS:,} digits")


def operator_cost(operator: str, left: Any, right: Any) -> int:
    """Returns the number of characters that a binary operator may make.

    Raises:
        TypeError: the operator formats bytes.
    """
    if operator == "*":
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int) and isinstance(sequence, (*_TEXTS, list, tuple)):
            return len(sequence) * max(times, 0) * (1 if isinstance(sequence, _TEXTS) else ELEMENT_CHARACTERS)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * abs(right)
    elif operator == "%" and isinstance(left, str):
        return _percent_cost(left, right)
    elif operator == "%" and isinstance(left, bytes):
        raise TypeError("bytes cannot be formatted")
    return 0


def sum_of_numbers(text: str) -> int:
    """Returns the sum of all numbers in a format, which no width or precision in it can exceed."""
    return sum(map(int, re.findall(r"\d+", text)))


def _percent_cost(text: str, values: Any) -> int:
    """Returns the cost of `text % values`."""
    widths = values if isinstance(values, tuple) else (values,)
    # A `*` takes its width from the values.
    stars = sum(abs(width) for width in widths if isinstance(width, int)) if "*" in text else 0
    # Each value of a mapping may be used by every field.
    times = text.count("%") if isinstance(values, dict) else 1
    # A width follows the % sign, or the key in parentheses after it.
    numbers = sum(map(sum_of_numbers, re.findall(r"[%)][-+# 0.*]*\d[\d.*]*", text)))
    # Values above a gigabyte need no exact size: their cost is above every limit.
    return numbers + stars + times * size_of(values, 1 << 30)


# Costs of filters and methods. Their parameters have the names that the filter or method gives them, because a template
# may name them: {{ text|indent(width=2) }}. `**others` of a method takes the keywords that Jinja adds to the call.


def _format_cost(text: str, *values: Any, **named: Any) -> int:
    return _percent_cost(str(text), named or values)


def _width_cost(text: str, width: int = 80, fill: str = " ", **others: Any) -> int:
    return width


def _replace_cost(text: str, old: str, new: str, count: int = -1, **others: Any) -> int:
    return str(text).count(str(old)) * len(str(new))


def _join_cost(items: Any, d: Any = "", attribute: Any = None) -> int:
    return len(items) * len(str(d)) + _characters_cost(items)


def _join_method_cost(separator: str, items: Any, **others: Any) -> int:
    return len(items) * len(separator) + _characters_cost(items)


def _indent_cost(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    return len(text) * (len(width) if isinstance(width, str) else width)


def _batch_cost(items: Any, linecount: int, fill_with: Any = None) -> int:
    return ELEMENT_CHARACTERS * linecount + _characters_cost(items)


def _characters_cost(items: Any, *more: Any, **others: Any) -> int:
    # A text that is iterated becomes a list of its characters.
    return ELEMENT_CHARACTERS * len(items) if isinstance(items, str) else 0


def _unique_cost(items: Any, *more: Any, **others: Any) -> int:
    # Numbers can be chosen so that they collide in a set, which then takes the square of their count: allow only few.
    return 8 * ELEMENT_CHARACTERS * len(items)


def _round_cost(number: Any, precision: int = 0, method: str = "common") -> int:
    return abs(precision) * _MAX_DIGITS  # Jinja computes a power of ten


def _sum_cost(items: Any, attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, Number):
        raise TypeError("only numbers can be summed")
    return 0


def _tojson_cost(value: Any, indent: int | str | None = None) -> int:
    if (len(indent) if isinstance(indent, str) else indent or 0) > _MAX_INDENT:
        raise ValueError(f"an indent is at most {_MAX_INDENT}")
    return 0


def _search_cost(text: str, sep: Any = " ", *more: Any, **others: Any) -> int:
    # A search from the end, or for any of some characters, compares each with each.
    return len(text) * len(sep) if isinstance(sep, str) else 0


def _trim_cost(text: Any, chars: str | None = None) -> int:
    return _search_cost(str(text), chars)


def _strftime_cost(moment: Any, format: str, **others: Any) -> int:
    return sum_of_numbers(format)


FILTER_COSTS: dict[str, Callable[..., int]] = {
    "batch": _batch_cost, "center": _width_cost, "format": _format_cost, "indent": _indent_cost, "join": _join_cost,
    "replace": _replace_cost, "round": _round_cost, "sum": _sum_cost, "tojson": _tojson_cost, "trim": _trim_cost,
    "unique": _unique_cost,
    **dict.fromkeys(_names("groupby list map max min reject select slice sort"), _characters_cost),
}  # fmt: skip
METHOD_COSTS: dict[str, Callable[..., int]] = {
    "join": _join_method_cost, "replace": _replace_cost, "strftime": _strftime_cost,
    **dict.fromkeys(_names("center ljust rjust zfill"), _width_cost),
    **dict.fromkeys(_names("lstrip rfind rindex rpartition rsplit rstrip strip"), _search_cost),
}  # fmt: skip
