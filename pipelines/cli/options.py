"""Arguments and options that several verbs share; the decorator `logged` adds two options about logs to a verb."""

import functools
import inspect
import json
import sys
from collections.abc import Callable
from enum import StrEnum
from importlib.abc import MetaPathFinder
from typing import Annotated, Any, Literal

import typer

from services.observability import logs

Job = Annotated[str, typer.Argument(metavar="JOB", help="the job file (YAML)")]


Run = Annotated[str, typer.Argument(metavar="RUN", help="the run folder: the job's output.path")]


Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set sampling.temperature=0.7")
]


Json = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]


WordDefinition = Annotated[
    Literal["blanks", "nltk"],
    typer.Option("--words", help="words: between blanks, or nltk's tokens without its stop words, as the paper's"),
]


Address = Annotated[str | None, typer.Option(help="address of the Ray cluster; by default RAY_ADDRESS")]


class LogFormat(StrEnum):
    """Format of the log lines on standard error."""

    text = "text"
    json = "json"


_Format = Annotated[
    LogFormat,
    typer.Option(
        help="format of the log lines on standard error: text, or one JSON object a line", rich_help_panel="Logs"
    ),
]
_Dependencies = Annotated[
    bool,
    typer.Option("--log-dependencies", help="show the logs of Ray, vLLM and other libraries", rich_help_panel="Logs"),
]
_LOG_OPTIONS = [
    inspect.Parameter("log_format", inspect.Parameter.KEYWORD_ONLY, default=LogFormat.text, annotation=_Format),
    inspect.Parameter("log_dependencies", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Dependencies),
]


def logged(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options `--log-format` and `--log-dependencies` to a verb, and sets the logs up before it runs."""

    @functools.wraps(verb)
    def with_logs(*args: Any, log_format: LogFormat, log_dependencies: bool, **options: Any) -> Any:
        logs.set_up(log_format is LogFormat.json, log_dependencies)
        logs.set_environment()
        return verb(*args, **options)

    # Typer reads the options of a command from its signature.
    signature = inspect.signature(verb)
    parameters = [*signature.parameters.values(), *_LOG_OPTIONS]
    vars(with_logs)["__signature__"] = signature.replace(parameters=parameters)
    return with_logs


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False))


class _PandasHider(MetaPathFinder):
    """Makes `import pandas` fail as if it were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("this command does without pandas", name=name)


def hide_pandas() -> None:
    """Keeps pyarrow from importing pandas, which takes longer than all the rest of a verb that only reads a run.

    pyarrow imports pandas, where it is installed, when an array of Python values is made. It is for verbs that end with
    their process.
    """
    sys.meta_path.insert(0, _PandasHider())
