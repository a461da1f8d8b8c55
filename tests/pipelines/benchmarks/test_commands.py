"""The commands of `kindling bench` and the benches in pipelines/benchmarks: each has the other."""

import importlib
import inspect

import pytest
import typer.main
from typer.testing import CliRunner

from pipelines.cli.bench import app
from schemas.errors import EXIT_FAULTS
from tests.support.files import ROOT

FOLDER = ROOT / "pipelines" / "benchmarks"
COMMANDS = typer.main.get_command(app).commands
REQUIRED = {"data": "folder", "weight_format": "fp8"}


def test_each_bench_is_a_command_of_the_same_name():
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "report"}
    packages = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert modules | packages == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gives_its_options_to_its_bench_and_ends_with_1_where_a_goal_is_missed(name, monkeypatch):
    module = importlib.import_module(f"pipelines.benchmarks.{name}" + (".bench" if (FOLDER / name).is_dir() else ""))
    signature = inspect.signature(module.measure)
    received = {}

    def measure(*arguments):
        received.update(signature.bind(*arguments).arguments)
        return goals_met

    monkeypatch.setattr(module, "measure", measure)
    options = [f"{option.opts[0]}={REQUIRED[option.name]}" for option in COMMANDS[name].params if option.required]
    for goals_met in (False, True):
        done = CliRunner().invoke(app, [name, *options])
        assert done.exit_code == (0 if goals_met else EXIT_FAULTS), done.output
    assert received == {
        option.name: REQUIRED[option.name] if option.required else option.default for option in COMMANDS[name].params
    }
