"""`kindling runs`: the runs below a folder, whatever state each is in."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import runs
from pipelines.cli.main import app
from schemas.errors import EngineError, RunError
from services.storage.lease import hold_lease
from services.storage.store import ShardStore
from tests.support.runs import run_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_runs_below_a_folder_are_listed_with_their_states(tmp_path):
    def store(name):
        (tmp_path / name).mkdir(parents=True)
        return ShardStore(str(tmp_path / name))

    for name in ("study/running", "stopped", "failed"):
        store(name).write_run(run_of(2))
    with pytest.raises(EngineError), hold_lease(ShardStore(f"{tmp_path}/failed"), command="kindling augment f.yaml"):
        raise EngineError("model.id", "x", "it has no weights", "name another model")
    store("damaged").write_text("run.json", "{")
    store("corpus").write_text("composition.json", "{}")
    store(".hidden").write_run(run_of(2))
    store("empty")
    with hold_lease(ShardStore(f"{tmp_path}/study/running")):
        states = {Path(run.run).name: run.state for run in runs(str(tmp_path))}
        shown = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert states == {
        "corpus": "complete", "damaged": "unreadable", "failed": "failed", "running": "running", "stopped": "stopped"
    }  # fmt: skip
    lines = [line.removeprefix(str(tmp_path)).split(maxsplit=2) for line in shown.output.splitlines()]
    assert ["/study/running", "augment", "r: 0 of 8 rows, running"] in lines
    assert ["go", "on", "kindling augment f.yaml   (mend the error first)"] in lines
    assert any("it has no weights" in line[-1] for line in lines if line[0] == "error")
    written = json.loads(CliRunner().invoke(app, ["runs", f"{tmp_path}/failed", "--json"]).stdout)["runs"]
    assert [run["status"]["state"] for run in written] == ["failed"]  # the folder may be a run itself


def test_a_folder_without_runs_and_one_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["runs"])
    assert (shown.exit_code, shown.output) == (0, "no run below runs\n")
    assert CliRunner().invoke(app, ["runs", str(tmp_path)]).output == f"no run below {tmp_path}\n"
    with pytest.raises(RunError, match="no such folder"):
        runs(str(tmp_path / "nowhere"))
