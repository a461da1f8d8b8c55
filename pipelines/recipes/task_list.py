"""A parser of the tasks in a response, when a model was asked for a list of tasks.

Models number or mark their lines, print them bold, write JSON, write the parts of a task on lines of their own, and
write text before and after. All these forms are parsed. The rest is returned as it is, without guessing.
"""

import json
import re
from collections.abc import Iterator

from pipelines.recipes.alpaca_cleaning import remove_empty_markers

# A shorter line is a title, and a longer one is not a simple task.
_MIN_WORDS, _MAX_WORDS = 3, 60
# A longer line has more than _MAX_WORDS words already, so following lines are not joined to it.
_MAX_JOINED_CHARACTERS = 2000

_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_OBJECT = re.compile(r"\{[^{}]*\}")
_STRINGS = re.compile(r'^[ \t]*\[\s*(?=")', re.MULTILINE)
# A string without its closing quote matches too, with an empty group, so that its parts are not tried one by one.
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*+("?)')

# The mark before an item: "- ", "3)", "(3)", "##", "Task 3:"; "Task 3" alone in its line.
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
# A part's label inside a line. In lower case the word may belong to the sentence.
_INLINE = re.compile(r"(?<=\S)[ \t]+\(?(?=[*_]{0,2}(?:Instruction|Input)s?(?: ?#?\d{1,3})?[*_]{0,2}:)")
_LABEL = re.compile(rf"[*_\"]*({_PART})s?(?: ?#?\d{{1,3}})?[*_]*\s?:[*_\"]*\s*", re.IGNORECASE)
_ENDS = (".", "!", "?", '"', "\u201d", ")")
_QUOTED = re.compile('\\A["\u201c]([^"\u201c\u201d]*)["\u201d],?\\Z')


def parse_tasks(text: str, cut_off: bool = False) -> tuple[list[dict[str, str]], list[str]]:
    """Parses the tasks of a response.

    Args:
        text: response of the model.
        cut_off: whether the response was stopped before its end, so that its last line is incomplete.

    Returns:
        The tasks, each as {"instruction", "input"} (the input is "" for a task without one), and the lines that are no
        task. The introduction, before the first task, is in neither.
    """
    text = _FENCE.sub("", text)
    items, rest = _json_items(text) or _listed_items(text, cut_off)
    tasks = []
    for item in items:
        # Quotation marks are removed where the model quotes its tasks. Around the input alone they belong to it.
        is_quoted = _QUOTED.match(" ".join(item["instruction"].split())) is not None
        task = {part: _cleaned(item[part], is_quoted) for part in ("instruction", "input")}
        if remove_empty_markers(task["input"].strip("()[]")) == "":
            task["input"] = ""
        if _is_task(task):
            tasks.append(task)
        else:
            rest.append(" ".join(" ".join(item.values()).split()))
    return tasks, rest


def _json_items(text: str) -> tuple[list[dict[str, str]], list[str]] | None:
    """Parses the items of a JSON list, or of objects line by line; a broken one spoils no other.

    Returns:
        The items and the rest, as `parse_tasks`; None for a text without JSON.
    """
    items, rest, end = [], [], 0
    for match in _OBJECT.finditer(text):
        item = _object(match[0])
        if "instruction" in item:
            items.append({"instruction": item["instruction"], "input": item.get("input", "")})
        else:
            rest.append(" ".join(match[0].split()))
        end = match.end()
    if items:
        # An open brace after the last object is an object that was cut off.
        return items, rest + ([" ".join(text[end:].split())] if "{" in text[end:] else [])
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
    items: list[dict[str, str]] = []
    rest: list[str] = []
    # The part of the last item that a line without a mark continues: "instruction", "input", or "" after a gap.
    part = ""
    lines = list(_lines(text))
    # With labels in the text ("Instruction: ..."), a mark alone does not begin a task.
    has_labels = any(label == "instruction" for _, label, _ in lines)
    for has_mark, label, line in lines:
        last = items[-1] if items else {}
        if not (label or any(map(str.isalnum, line))):
            # A blank line ends a part, but not one whose text is still to come ("Instruction:", blank line, text).
            part = part if part and not last[part] else ""
        elif label == "instruction" or (has_mark and not label and not has_labels):
            items.append({"instruction": line, "input": ""})
            part = "instruction"
        elif label == "input" and items and not last["input"]:
            last["input"], part = line, "input"
        elif part and not label and not has_mark and _is_continued(last[part]):
            last[part] = f"{last[part]} {line}".strip()
        else:
            part = ""
            if items:
                rest.append(line)
    if cut_off and part:
        rest.append(" ".join(items.pop().values()).strip())
    return items, rest


def _lines(text: str) -> Iterator[tuple[bool, str, str]]:
    """Yields (whether it has a mark, its label or "", the text after both) for each line."""
    for full_line in text.split("\n"):
        plain_line = _TITLE.sub(r"\1\2", full_line).replace("**", "").replace("`", "")
        # A label inside a line begins a new line.
        for line in _INLINE.sub("\n", plain_line).split("\n"):
            marks = _MARKS.match(line)
            marks_end = marks.end() if marks else 0
            label = _LABEL.match(line, marks_end)
            has_mark = bool(line[:marks_end].strip())
            yield has_mark, label[1].lower() if label else "", line[label.end() if label else marks_end :].strip()


def _is_continued(text: str) -> bool:
    return not text.endswith(_ENDS) and len(text) < _MAX_JOINED_CHARACTERS


def _cleaned(text: str, is_quoted: bool) -> str:
    text = " ".join(text.split())
    if is_quoted and (inner := _QUOTED.match(text)):
        text = inner[1]
    return text[:-1].rstrip() if text.endswith(")") and "(" not in text else text


def _is_task(task: dict[str, str]) -> bool:
    words = task["instruction"].split()
    return (
        _MIN_WORDS <= len(words) <= _MAX_WORDS
        and len(task["input"].split()) <= _MAX_WORDS
        and not re.search(r"\b(?:Instruction|Input)s?\s?:", " ".join(task.values()))
    )
