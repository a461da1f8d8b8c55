"""The options of verbs that log, added to each."""

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from services import logs


class LogFormat(StrEnum):
    """What a line on standard error is."""

    text = "text"
    json = "json"


_Format = Annotated[
    LogFormat,
    typer.Option(
        help="of what is said on standard error: for a person, or one JSON object a line", rich_help_panel="Logs"
    ),
]
_Dependencies = Annotated[
    bool, typer.Option("--log-dependencies", help="let Ray, vLLM and other libraries be heard", rich_help_panel="Logs")
]
_OPTIONS = [
    inspect.Parameter("log_format", inspect.Parameter.KEYWORD_ONLY, default=LogFormat.text, annotation=_Format),
    inspect.Parameter("log_dependencies", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Dependencies),
]


def logged(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb with these options beside its own."""

    @functools.wraps(verb)
    def with_logs(*args: Any, log_format: LogFormat, log_dependencies: bool, **options: Any) -> Any:
        logs.set_up(log_format is LogFormat.json, log_dependencies)
        logs.set_environment()
        return verb(*args, **options)

    signature = inspect.signature(verb)
    with_logs.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *_OPTIONS])
    return with_logs
