"""Tasks out of what a model writes when it is asked for a list of them.

Models number or mark their lines, print them bold, write JSON, put the parts of a task on lines of their own, and say
something before and after. All of that is read; what is then left over is given back, and never guessed at.
"""

import json
import re
from collections.abc import Iterator

from pipelines.recipes.alpaca_cleaning import without_markers

# Shorter is a title, and longer no simple task any more.
_FEWEST_WORDS, _MOST_WORDS = 3, 60
# In characters; what is longer has more words than that, however it goes on.
_LONGEST_WRAPPED = 2000

_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_OBJECT = re.compile(r"\{[^{}]*\}")
_STRINGS = re.compile(r'^[ \t]*\[\s*(?=")', re.MULTILINE)
# One that is not closed is passed over whole.
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*+("?)')

# What stands before an item: "- ", "3)", "(3)", "##", "Task 3:"; "Task 3" alone in its line.
_MARK = (
    r"(?:[-*+\u2022\u00b7\u2013\u2014>#]{1,6}(?=\s)|\(?\d{1,3}[.):]+(?!\d)"
    r"|(?i:task|prompt|exercise) ?#?(?:\d{0,3}[.:)]|\d{1,3}\s*\Z))"
)
_MARKS = re.compile(rf"\s*(?:{_MARK}\s*)*")
_PART = r"(?:instruction|input|output|answer|response|example|explanation|note)"
# A bold title before the task itself: "**A kind letter:** Write a letter to ...".
_TITLE = re.compile(
    rf"^(\s*(?:{_MARK}\s*)*)\*\*((?:{_MARK}\s*)*)(?!(?i:{_PART}))[^*]{{1,60}}(?::\*\*|\*\*\s?[:\u2013\u2014-])\s+"
    r"(?=[\"\u201c]?[A-Z])"
)
# A part that does not begin its line; in lower case it may belong to the sentence.
_INLINE = re.compile(r"(?<=\S)[ \t]+\(?(?=[*_]{0,2}(?:Instruction|Input)s?(?: ?#?\d{1,3})?[*_]{0,2}:)")
_LABEL = re.compile(rf"[*_\"]*({_PART})s?(?: ?#?\d{{1,3}})?[*_]*\s?:[*_\"]*\s*", re.IGNORECASE)
_ENDS = (".", "!", "?", '"', "\u201d", ")")
_QUOTED = re.compile('\\A["\u201c]([^"\u201c\u201d]*)["\u201d],?\\Z')


def tasks_of(text: str, cut_off: bool = False) -> tuple[list[dict[str, str]], list[str]]:
    """The tasks of a model's answer, and the rest of it.

    Args:
        text: what the model wrote.
        cut_off: it was stopped before its end, so that its last line is broken off.

    Returns:
        Each task as {"instruction", "input"}, the input "" where it has none, and on a line each what is no task.
        What stands before the first task is an introduction, and in neither.
    """
    text = _FENCE.sub("", text)
    found, rest = _json_items(text) or _listed_items(text, cut_off)
    tasks = []
    for item in found:
        # Around an input alone quotation marks are part of it; a model that quotes its tasks quotes both.
        quoted = _QUOTED.match(" ".join(item["instruction"].split())) is not None
        task = {part: _cleaned(item[part], quoted) for part in ("instruction", "input")}
        if without_markers(task["input"].strip("()[]")) == "":
            task["input"] = ""
        if _is_task(task):
            tasks.append(task)
        else:
            rest.append(" ".join(" ".join(item.values()).split()))
    return tasks, rest


def _json_items(text: str) -> tuple[list[dict[str, str]], list[str]] | None:
    """Items of a JSON list, or of objects line by line; None where there are none. A broken one spoils no other."""
    found, rest, end = [], [], 0
    for match in _OBJECT.finditer(text):
        item = _object(match[0])
        if "instruction" in item:
            found.append({"instruction": item["instruction"], "input": item.get("input", "")})
        else:
            rest.append(" ".join(match[0].split()))
        end = match.end()
    if found:
        return found, rest + ([" ".join(text[end:].split())] if "{" in text[end:] else [])
    if start := _STRINGS.search(text):
        strings = [_string(match[0]) for match in _STRING.finditer(text, start.end()) if match[1]]
        return _listed_items("".join(f"- {' '.join(string.split())}\n" for string in strings), cut_off=False)
    return None


def _object(text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {key.lower(): value for key, value in values.items() if isinstance(value, str)}


def _string(text: str) -> str:
    try:
        return json.loads(text)
    except ValueError:  # an escape that JSON does not have
        return text.strip('"')


def _listed_items(text: str, cut_off: bool) -> tuple[list[dict[str, str]], list[str]]:
    found: list[dict[str, str]] = []
    rest: list[str] = []
    part = ""  # of the last item, which a line without a mark goes on with; "" after a gap
    lines = list(_lines(text))
    labelled = any(label == "instruction" for _, label, _ in lines)
    for marked, label, line in lines:
        last = found[-1] if found else {}
        if not (label or any(map(str.isalnum, line))):
            part = part if part and not last[part] else ""
        elif label == "instruction" or (marked and not label and not labelled):
            found.append({"instruction": line, "input": ""})
            part = "instruction"
        elif label == "input" and found and not last["input"]:
            last["input"], part = line, "input"
        elif part and not label and not marked and _goes_on(last[part]):
            last[part] = f"{last[part]} {line}".strip()
        else:
            part = ""
            if found:
                rest.append(line)
    if cut_off and part:
        rest.append(" ".join(found.pop().values()).strip())
    return found, rest


def _lines(text: str) -> Iterator[tuple[bool, str, str]]:
    """(it has a mark, its label or "", what follows them) of each line."""
    for whole in text.split("\n"):
        # Where a label splits a line, its mark stays behind; the mark of "3. Instruction: ..." says nothing more.
        for line in _INLINE.sub("\n", _TITLE.sub(r"\1\2", whole).replace("**", "").replace("`", "")).split("\n"):
            marks = _MARKS.match(line).end()
            label = _LABEL.match(line, marks)
            marked = bool(line[:marks].strip())
            yield marked, label[1].lower() if label else "", line[label.end() if label else marks :].strip()


def _goes_on(text: str) -> bool:
    return not text.endswith(_ENDS) and len(text) < _LONGEST_WRAPPED


def _cleaned(text: str, quoted: bool) -> str:
    text = " ".join(text.split())
    if quoted and (inner := _QUOTED.match(text)):
        text = inner[1]
    return text[:-1].rstrip() if text.endswith(")") and "(" not in text else text


def _is_task(task: dict[str, str]) -> bool:
    words = task["instruction"].split()
    return (
        _FEWEST_WORDS <= len(words) <= _MOST_WORDS
        and len(task["input"].split()) <= _MOST_WORDS
        and not re.search(r"\b(?:Instruction|Input)s?\s?:", " ".join(task.values()))
    )
