"""`kindling init`: a commented job file from a data file, with a recipe that fits its columns."""

import json
import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from pipelines.inputs.cells import first_label
from pipelines.inputs.encodings import guess_encoding
from pipelines.inputs.files import input_files
from pipelines.inputs.formats import READ_ERRORS
from pipelines.inputs.sources import FileSource, Skip, rows_with_names
from pipelines.recipes.jinja_blanks import is_blank
from schemas.errors import JobError
from schemas.job import Input
from schemas.job_parsing import parse_job
from schemas.text import shorten

# Rows that are looked at to guess what a column holds.
_PROBED_ROWS = 50
_MAX_COLUMNS = 8
RAY_IGNORE_FILE = ".rayignore"
_RAY_IGNORED = """\
# Left out of the working directory of a Ray job (`ray job submit --working-dir .`), as is all that .gitignore names.
runs/
checkpoint-*/
.venv/
"""
_EMOTION_COLUMNS = ("emotion", "emotions", "label", "labels")


@dataclass(frozen=True)
class NewJob:
    """Files that `kindling init` writes.

    Attributes:
        recipe: the recipe that fits the columns.
        files: content of each file, by its path; the job file comes first.
    """

    recipe: str
    files: dict[str, str]


def new_job(data: str, to: str = "job.yaml") -> NewJob:
    """Proposes a job for a data file; writes nothing.

    Args:
        data: a file, a folder or a glob, as `input.path` takes it.
        to: path of the job file; a prompt file for the recipe `template` lies beside it.

    Raises:
        JobError: the data cannot be read, or have no rows; or `to` is the name of a prompt file.
    """
    if Path(to).suffix == ".jinja":
        raise JobError(
            "--to", to, "the prompt file beside the job would have this name", "name a file that ends in .yaml"
        )
    source = input_files(parse_job({"path": data}, Input))[0]
    try:
        if source.is_text:
            with source.open() as file:
                source = replace(source, encoding=guess_encoding(file))
        columns, rows = source.columns(), source.count()
        named = rows_with_names(source, columns, Skip(), source.label_names(columns))
        probed = [row.values for row, _ in zip(named, range(_PROBED_ROWS), strict=False)]
    except READ_ERRORS as error:
        cause = f"cannot be read: {shorten(str(error).splitlines()[0] if str(error) else type(error).__name__)}"
        raise JobError("FILE", source.name, cause, "repair the file, or name another") from None
    if not rows:
        raise JobError("FILE", source.name, "it has no rows", "name a file that has some")
    values = {name: [row.get(name) for row in probed if row is not None] for name in columns}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data.rstrip("/*")).stem).strip("-.") or "job"
    recipe, mapping = _recipe(values)
    prompt = ""
    if recipe == "template":
        prompt = str(Path(to).with_suffix(".jinja"))
        shown = [column for column in columns if _is_text(values[column])] or columns
        variables = _variables(shown[:_MAX_COLUMNS])
        mapping = {variable: column for column, variable in variables.items() if variable != column}
    files = {to: _job_text(to, name, data, source, rows, columns, recipe, mapping, prompt)}
    if prompt:
        files[prompt] = _prompt_text(variables, values)
    return NewJob(recipe, files)


def write_job(job: NewJob) -> None:
    """Writes the files.

    Raises:
        JobError: one of them exists already, or cannot be written.
    """
    for path in job.files:
        if Path(path).exists():
            raise JobError("--to", path, "the file exists already", "name another file, or remove it")
    for path, text in job.files.items():
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            cause = f"cannot be written: {error.strerror or error}"
            raise JobError("--to", path, cause, "name a file in a folder that exists") from None


def write_ray_ignore_file() -> bool:
    """Writes .rayignore into the current folder, which a Ray job would upload with all its runs.

    Returns:
        False where there is one already, or none can be written: the job file does not depend on it.
    """
    try:
        with open(RAY_IGNORE_FILE, "x", encoding="utf-8") as file:
            file.write(_RAY_IGNORED)
    except OSError:
        return False
    return True


def _recipe(values: Mapping[str, list[Any]]) -> tuple[str, dict[str, str]]:
    """Returns the recipe that fits the columns, and the columns of its fields whose names differ."""
    emotion = _first(values, lambda name, cells: name.lower() in _EMOTION_COLUMNS and all(map(_is_emotion, cells)))
    context = _first(values, lambda name, cells: name.lower() in ("context", "text", "sentence") and _is_text(cells))
    messages = _first(values, lambda name, cells: bool(cells) and all(map(_is_chat, cells)))
    if messages:
        return "messages", {"messages": messages} if messages != "messages" else {}
    if {"instruction", "output"} <= set(values):
        return "alpaca_rewrite", {"emotion": emotion} if emotion not in (None, "emotion") else {}
    if context and emotion:
        pairs = {"context": context, "emotion": emotion}
        return "babylm_story", {field: column for field, column in pairs.items() if field != column}
    return "template", {}


def _first(values: Mapping[str, list[Any]], fits: Callable[[str, list[Any]], bool]) -> str | None:
    return next((name for name, cells in values.items() if fits(name, cells)), None)


def _is_text(cells: list[Any]) -> bool:
    return any(isinstance(cell, str) and cell.strip() for cell in cells)


def _is_emotion(cell: Any) -> bool:
    return bool(first_label({"cell": cell}, "cell"))


def _is_chat(cell: Any) -> bool:
    return bool(cell) and isinstance(cell, list) and all(isinstance(turn, dict) and "role" in turn for turn in cell)


def _variables(columns: list[str]) -> dict[str, str]:
    """Name of each column in a template: `Question text` is `Question_text` there, and no name stands for two."""
    variables: dict[str, str] = {}
    for column in columns:
        name = re.sub(r"\W", "_", column)
        if not name.isidentifier() or keyword.iskeyword(name) or name.lower() in ("true", "false", "none"):
            name = f"column_{name}"
        taken = {*variables.values(), *(other for other in columns if other != column)}
        variables[column] = next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)
    return variables


def _prompt_text(variables: Mapping[str, str], values: Mapping[str, list[Any]]) -> str:
    """A prompt that shows the columns; one with blank cells is left out where it is blank."""
    lines = []
    blanks = {column: sum(map(is_blank, values[column])) for column in variables}
    required = min(blanks, key=lambda column: blanks[column])  # a row without any text is to be an error, and no prompt
    for column, variable in variables.items():
        line = f"{column if column.isprintable() and '{' not in column else variable}: {{{{ {variable} }}}}\n"
        is_optional = blanks[column] and column != required
        lines.append(f"{{% if {variable} %}}{line}{{% endif %}}" if is_optional else line)
    return f"Say in one sentence what the following is about.\n\n{''.join(lines)}"


def _job_text(
    to: str, name: str, data: str, source: FileSource, rows: int, columns: list[str], recipe: str,
    mapping: dict[str, str], prompt: str,
) -> str:  # fmt: skip
    # JSON is YAML: names with colons, quotes or line ends stay what they are.
    more = f" and {len(columns) - _MAX_COLUMNS} more" if len(columns) > _MAX_COLUMNS else ""
    listed = shorten(", ".join(columns[:_MAX_COLUMNS])) + more
    fields = f"  columns: {json.dumps(mapping, ensure_ascii=False)}   # name in the prompt: column of the file\n"
    guess = f"  encoding: {source.encoding}   # a guess, as the file is not UTF-8: see its accents in `kindling check`"
    without_emotion = recipe == "alpaca_rewrite" and "emotion" not in (*columns, *mapping)
    lines = [
        "# Made by `kindling init`. Every key: docs/job-file.md. What to do next:",
        f"#   kindling check {to}     what can be known without an engine",
        f"#   kindling preview {to}   a few rows for real, and a forecast",
        f"#   kindling augment {to}   the whole job; the same command resumes it",
        f"name: {json.dumps(name)}",
        "input:",
        f"  path: {json.dumps(data, ensure_ascii=False)}   # {shorten(source.name)} has {rows:,} rows with {listed}",
        *([guess] if source.encoding else []),
        *([fields.rstrip()] if mapping else []),
        *([] if without_emotion else ["  keep: all   # each column lies in the `inputs` of its output; or a list"]),
        f"recipe: {recipe}   # or: {', '.join(other for other in _RECIPES if other != recipe)}",
        *([f"prompt: {json.dumps(prompt)}   # a Jinja file over the columns: write yours into it"] if prompt else []),
        *(["classifier: {id: embedded}   # chooses an emotion that fits each row"] if without_emotion else []),
        "model:",
        "  id: embedded   # a small model that comes with the packages; or a hub id, or a checkpoint folder",
        "sampling:",
        "  temperature: 0.7",
        "  top_p: 0.95",
        "  max_tokens: 256   # a longer text is cut off there",
        "engine:",
        "  max_model_len: 2048   # prompt and text together; any argument of vLLM may stand here",
        "output:",
        f"  path: {json.dumps('runs/' + name)}",
        f"  rows_per_shard: {512 if rows > 4096 else 64}   # rows that become readable together",
        "# samples: 1   # texts for each row",
        "# seed: 0",
        "# cluster: {replicas: 1, gpus_per_replica: 1}",
        "",
    ]
    return "\n".join(lines)


_RECIPES = ("template", "messages", "alpaca_rewrite", "babylm_story", "evaluation_prompts")
