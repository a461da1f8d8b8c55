"""EmoBench's items in English, from a folder with its files EU.jsonl and EA.jsonl."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.emobench import TASKS, Item, Question, Scoring, prompts_of
from pipelines.inputs.cells import text_cell
from pipelines.inputs.reader import InputReader
from schemas.errors import JobError
from schemas.evaluate import EmoBench
from schemas.job import Input
from schemas.rows import RowError
from schemas.text import shorten

_KEY = "emobench.path"
_REMEDY = "name the folder with EmoBench's files EU.jsonl and EA.jsonl, as its authors publish them"
_LANGUAGE = "en"
# The columns of each file: category, finer category, and for each question its options and the right one.
_COLUMNS = {
    "EU": ("coarse_category", "finegrained_category", {"emotion": ("emotion_choices", "emotion_label"),
                                                       "cause": ("cause_choices", "cause_label")}),
    "EA": ("category", "question type", {"response": ("choices", "label")}),
}  # fmt: skip
_MIN_OPTIONS, _MAX_OPTIONS = 2, 26


def read_items(section: EmoBench) -> dict[str, list[Item]]:
    """Reads the items of both tasks, by task and category.

    Raises:
        JobError: a file is missing or has no row in English, a row lacks a key, or its options or its answer are not as
            they have to be.
    """
    items: dict[str, list[Item]] = {}
    for task in TASKS:
        path = f"{section.path.rstrip('/')}/{task}.jsonl"
        of_task = list(_items(task, path))
        if not of_task:
            cause = f"no row has the language {_LANGUAGE!r}: EmoBench is evaluated in English alone"
            raise JobError(_KEY, path, cause, _REMEDY)
        if twice := [name for name, count in Counter(item.name for item in of_task).items() if count > 1]:
            raise JobError(_KEY, path, f"two of its rows have the qid {twice[0]}", "leave one of them out")
        for item in of_task:
            of_part = items.setdefault(item.part, [])
            if section.per_category is None or len(of_part) < section.per_category:
                of_part.append(item)
    return items


def identify_items(items: Mapping[str, Sequence[Item]], scoring: Scoring) -> str:
    """Returns the number of items, and a hash of them and of their prompts."""
    listed = [item for of_part in items.values() for item in of_part]
    contents = [
        (item.part, item.name, question.label, list(prompts_of(item.scenario, question, scoring)))
        for item in listed
        for question in item.questions
    ]
    return f"{len(listed)} items, {hashlib.blake2b(repr(contents).encode(), digest_size=16).hexdigest()}"


def _items(task: str, path: str) -> Iterator[Item]:
    category, subcategory, questions = _COLUMNS[task]
    texts = ["qid", "language", "scenario", "subject", category, subcategory]
    columns = [*texts, *(column for pair in questions.values() for column in pair)]
    try:
        rows = InputReader(Input(path=path), columns).all_rows()
    except JobError as error:
        key = error.key.removeprefix("input.columns.")
        cause = f"{key}: {error.cause}" if key != error.key else error.cause
        raise JobError(_KEY, path, cause, _REMEDY) from None
    for _, index, row in rows:
        try:
            if row.values is None:
                raise RowError(row.fault)
            name = row.values["qid"]
            values = {**row.values, "qid": str(name) if isinstance(name, int) else name}
            cells = {column: text_cell(values, column) for column in texts}
            if cells["language"] == _LANGUAGE:
                asked = _question_texts(cells["subject"], cells[subcategory])
                yield Item(
                    task, cells["qid"], cells[category], cells[subcategory], cells["scenario"].strip(),
                    tuple(_question(values, kind, asked[kind], *names) for kind, names in questions.items()),
                )  # fmt: skip
        except RowError as error:
            raise JobError(_KEY, f"{path}, row {index}", str(error), "correct the row, or leave it out") from None


def _question_texts(subject: str, subcategory: str) -> dict[str, str]:
    """Our wording of EmoBench's questions. `I` is the only subject that has another form after `for`."""
    verb = "say" if subcategory == "Response" else "do"
    return {
        "emotion": f"What would {subject} feel in the end?",
        "cause": f"Why would {subject} feel that way?",
        "response": f"What would it be best for {'me' if subject == 'I' else subject} to {verb}?",
    }


def _question(values: Mapping[str, Any], kind: str, text: str, options_column: str, label_column: str) -> Question:
    """Makes a question of a row.

    Raises:
        RowError: the options are no list of different texts, or the answer is none of them.
    """
    options, label = values[options_column], text_cell(dict(values), label_column)
    if not isinstance(options, list):
        raise RowError(f"{options_column} is {type(options).__name__}, not a list")
    texts = tuple(text_cell({options_column: option}, options_column).strip() for option in options)
    if not _MIN_OPTIONS <= len(texts) <= _MAX_OPTIONS:
        raise RowError(f"{options_column} has {len(texts)} options, not {_MIN_OPTIONS} to {_MAX_OPTIONS}")
    if twice := [option for option, count in Counter(texts).items() if count > 1]:
        raise RowError(f"{options_column} has the option {shorten(repr(twice[0]))} twice")
    if label.strip() not in texts:
        raise RowError(f"{label_column} is none of {options_column}: {shorten(repr(label))}")
    return Question(kind, text, texts, texts.index(label.strip()))
