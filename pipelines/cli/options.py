"""Arguments and options that several verbs share, and the two options about logs that `logged` adds to a verb."""

import functools
import inspect
import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from services.observability import logs

Job = Annotated[str, typer.Argument(metavar="JOB", help="the job file (YAML)")]


Run = Annotated[str, typer.Argument(metavar="RUN", help="the run folder: the job's output.path")]


Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set sampling.temperature=0.7")
]


Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]


Address = Annotated[str | None, typer.Option(help="of the Ray cluster; by default RAY_ADDRESS")]


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


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False))
