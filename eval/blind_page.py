"""Blind pages: HTML pages on which people answer without knowing who or what made a text, and the files they return.

A questionnaire (`eval.questionnaire`) is one, the review of a run (`pipelines.reviewing`) another. Each is a page to
hand out, and a key that stays behind and says what the ids of the page stand for.

Invariant: a page works offline: the browser loads nothing and sends nothing. Texts lie in it as JSON, and its script
shows them as text, so that markup in a text has no effect. A key is never replaced by another one.
"""

import base64
import codecs
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

import fsspec
import jinja2
from pydantic import BaseModel, ValidationError

from schemas.errors import JobError
from schemas.questionnaire import MAX_REASON_CHARACTERS, ReturnedFile
from schemas.record import Record
from services.storage.filesystem import resolve, write_atomic

# Far more than any key or file of answers has. A file of another kind is not read to its end.
_MAX_FILE_BYTES = 20_000_000
_BASE = "blind_page"
_FileKind = TypeVar("_FileKind", bound=Record)
_Returned = TypeVar("_Returned", bound=ReturnedFile)


def blind_page(package: str, kind: str, identity: str, items: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """Renders a page, with its style, its script and its texts in it.

    Args:
        package: package with `{kind}.html.jinja`, which extends blind_page.html.jinja, and `{kind}.js`, which defines
            the `page` that blind_page.js works with.
        kind: name of the page's kind, which is also the key of `identity` in the files that it saves.
        identity: sha256 of all that the page shows.
        items: what is asked about, each a dict with an `id`; one at a time is shown.
        values: further values for the template and for the script.
    """
    sources = {
        f"{name}.{ending}": (files(folder) / f"{name}.{ending}").read_text(encoding="utf-8")
        for folder, name, endings in (
            ("eval", _BASE, ("html.jinja", "css", "js")),
            (package, kind, ("html.jinja", "js")),
        )
        for ending in endings
    }
    style, script = sources[f"{_BASE}.css"], sources[f"{kind}.js"] + sources[f"{_BASE}.js"]
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources), autoescape=True, undefined=jinja2.StrictUndefined
    )
    data = {"kind": kind, "identity": identity, "items": items, "longest_words": MAX_REASON_CHARACTERS, **values}
    return environment.get_template(f"{kind}.html.jinja").render(
        **values,
        data=data,
        style=style,
        script=script,
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def _policy_hash(source: str) -> str:
    """Returns the hash by which the page's Content-Security-Policy allows this one script or style, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def opaque_id(secret: str, *parts: object) -> str:
    """Returns an id that tells nothing to a person who does not have the secret."""
    return hashlib.sha256(" ".join(map(str, (secret, *parts))).encode()).hexdigest()[:12]


def write_key(fs: fsspec.AbstractFileSystem, path: str, key: BaseModel) -> bool:
    """Writes a key, unless another one lies there; returns whether it is there now.

    A page may have been handed out already, and its answers are worth nothing without its key. So a key is written
    before its page.

    Raises:
        OSError: the file system refuses.
    """
    content = (json.dumps(key.model_dump(), indent=1) + "\n").encode()
    if fs.exists(path) and fs.cat_file(path) != content:
        return False
    write_atomic(fs, path, content)
    return True


def read_returned_files(
    option: str,
    paths: Sequence[str],
    kind: type[_Returned],
    description: str,
    fault_of: Callable[[_Returned], tuple[str, str]],
) -> list[_Returned]:
    """Reads the files that respondents sent back, in the order of the paths.

    Args:
        option: job key or option that names the files, for errors.
        paths: paths, or URLs of any fsspec file system.
        kind: record that each file must be.
        description: the same for a person, with its article.
        fault_of: returns the first way in which a file does not fit its page, and the remedy; two empty texts where it
            fits.

    Raises:
        JobError: there are no files; one cannot be read, is not such a file, or does not fit; or two are of the same
            respondent.
    """
    if not paths:
        raise JobError(option, None, "no file of answers is named", "name the files that respondents sent back")
    returned: list[_Returned] = []
    file_of_respondent: dict[str, str] = {}
    for path in paths:
        answers = read_file(option, path, kind, description)
        fault, remedy = fault_of(answers)
        if fault:
            raise JobError(option, path, fault, remedy)
        if answers.respondent in file_of_respondent:
            other_file = file_of_respondent[answers.respondent]
            cause = f"saved {answers.saved_at}, is of the same respondent as {other_file}"
            raise JobError(option, path, cause, "name only the one that was saved last")
        file_of_respondent[answers.respondent] = f"{path}, saved {answers.saved_at}"
        returned.append(answers)
    return returned


def items_fault(noun: str, expected: Sequence[str], answered: Sequence[str]) -> str:
    """Returns the first way in which the ids in a file are not those of its page, or an empty text.

    Args:
        noun: name of one item.
        expected: ids of the page.
        answered: ids in the file, each of which must be there once.
    """
    there, seen = set(expected), set[str]()
    for item in answered:
        if item not in there:
            return f"has a {noun} {item!r} that the page lacks"
        if item in seen:
            return f"has {noun} {item} twice"
        seen.add(item)
    missing = [item for item in expected if item not in seen]
    return f"lacks {noun} {missing[0]} and {len(missing) - 1} more" if missing else ""


def read_file(key: str, path: str, kind: type[_FileKind], description: str) -> _FileKind:
    """Reads and checks a JSON file.

    Args:
        key: job key or option that names the file, for errors.
        path: path, or URL of any fsspec file system.
        kind: record that the file must be.
        description: the same for a person, with its article.

    Raises:
        JobError: the file cannot be read, or is of another kind.
    """
    fs, location = resolve(path, key)
    try:
        data = fs.read_block(location, 0, _MAX_FILE_BYTES)
    except OSError as error:
        raise JobError(key, path, f"cannot be read: {error.strerror or error}", f"name {description}") from None
    try:
        return kind.model_validate_json(data.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        cause = f"not {description}: {field + ': ' if field else ''}{first['msg']}"
        raise JobError(key, path, cause, f"name {description}") from None
