"""Secrets in URLs and in engine arguments: one rule for what a job may hold, and for what messages show.

A query parameter or a fragment may carry a permission under any name, so each is taken for a secret unless its name is
known to carry none. What a job holds is written to its record, its card and each row: a secret there is refused.
"""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Query parameters that carry no permission, as hubs, stores and file hosts name them.
_HARMLESS = frozenset(
    {"alt", "dl", "download", "export", "format", "generation", "raw", "ref", "revision", "version", "versionid"}
)
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://[^\s'\"<>`]+", re.I)
_PARTS = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://)((?P<user>[^/?#]*)@)?(?P<path>[^?#]*)(?P<rest>.*)", re.I | re.S)
_SECRET_NAME = re.compile(
    r"(.*[_-])?(secret|password|passwd|passphrase|credentials?|api_?key|(access|secret|private|account)[_-]?key)"
    r"|((hf|hub|auth|access|api|private|session|security|bearer)[_-]?)?token",
    re.I,
)


def secret_in(url: str) -> str:
    """Names the part of a URL that may be a secret; "" where there is none, or the text is no URL.

    Args:
        url: a path or URL, or a chain of them (`simplecache::https://...`).
    """
    for link in url.split("::"):
        if parts := _PARTS.fullmatch(link):
            if _is_secret_user(parts["head"], parts["user"] or ""):
                return "its user or password"
            for piece in _pieces(parts["rest"]):
                if _is_secret_piece(parts["head"], piece):
                    return f"its parameter {name}" if (name := piece.partition("=")[0]) != piece else "its parameters"
    return ""


def without_secrets(text: str) -> str:
    """Returns a text for a message, with `...` in place of the secrets of each URL in it."""
    return _URL.sub(lambda match: "::".join(map(_masked, match[0].split("::"))), text)


def secret_key_in(value: Any) -> str:
    """Names the key of a secret in values that have no schema of their own; "" where there is none.

    Args:
        value: engine arguments, for example: dicts, lists and plain values.
    """
    if isinstance(value, str):
        return secret_in(value)
    if isinstance(value, list):
        return next(filter(None, map(secret_key_in, value)), "")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str) and is_secret_name(str(key)):
                return str(key)
            if inside := secret_key_in(inner):
                return f"{key}: {inside}"
    return ""


def is_secret_name(name: str) -> bool:
    """Returns whether a key of this name holds a secret: `hf_token`, `password`, `aws_secret_access_key`."""
    return _SECRET_NAME.fullmatch(name) is not None


def _masked(link: str) -> str:
    parts = _PARTS.fullmatch(link)
    if parts is None:
        return link
    head, user, rest = parts["head"], parts["user"], parts["rest"]
    for piece in _pieces(rest):
        if _is_secret_piece(head, piece):
            name, equals, _ = piece.partition("=")
            rest = rest.replace(piece, f"{name}=..." if equals else "...")
    shown_user = "" if user is None else "...@" if _is_secret_user(head, user) else f"{user}@"
    return f"{head}{shown_user}{parts['path']}{rest}"


def _pieces(rest: str) -> list[str]:
    """Splits the query and the fragment of a URL into their parameters."""
    return [piece for piece in re.split(r"[?&;#]", rest) if piece]


def _is_secret_user(head: str, user: str) -> bool:
    return ":" in user or (bool(user) and _is_web(head))  # on the web a user's name may be a token


def _is_secret_piece(head: str, piece: str) -> bool:
    name, equals, _ = piece.partition("=")
    if not _is_web(head) and (not equals or "/" in name):
        return False  # in the name of an object `?` and `#` are letters, and `?` is one of a glob
    return name.lower() not in _HARMLESS


def _is_web(head: str) -> bool:
    return head.lower() in ("http://", "https://")


def command_line() -> str:
    """Returns the command of `kindling` that this process carries out, without secrets; empty in other programs."""
    program = Path(sys.argv[0])
    if program.name != "kindling" and program.parts[-2:] != ("pipelines", "__main__.py"):
        return ""
    return shlex.join(["kindling", *map(without_secret, sys.argv[1:])])


def without_secret(override: str) -> str:
    """Returns an override (`key.of.section=value`) for logs, without its secrets."""
    key, equals, _ = override.partition("=")
    is_secret = "storage_options" in key or is_secret_name(key.rpartition(".")[2])
    return f"{key}=..." if equals and is_secret else without_secrets(override)
