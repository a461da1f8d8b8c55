"""What a job shows of its start: on a terminal and in a log."""

import logging
import sys

from services.engines import engine_log
from services.observability import start_phases, terminal
from services.observability.start_phases import Phase, engine_start
from services.observability.terminal import Bar


def test_without_a_terminal_each_phase_is_one_line_and_a_long_one_is_a_line_a_minute(monkeypatch, caplog):
    clock = [100.0]
    monkeypatch.setattr(terminal, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "kindling"), Bar("rows", 8) as bar:
        for seconds in (0, 1, 58, 2, 1):
            clock[0] += seconds
            bar.show_phase(Phase("loading the model", (5, 30)))
        bar.show_phase(Phase("warming up"))
    assert caplog.messages == [
        "loading the model (usually 5 to 30 s)", "loading the model (usually 5 to 30 s), 01:01 so far", "warming up",
    ]  # fmt: skip
    facts = caplog.records[1].facts
    assert (facts["event"], facts["phase"], facts["seconds"]) == ("starting", "loading the model", 61)


def test_a_bar_shows_the_time_since_the_command_began(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(start_phases, "command_began", terminal.monotonic() - 3723)
    with Bar("rows", 8) as bar:
        bar.show_phase(Phase("warming up", (5, 20)))
    shown = capsys.readouterr().err
    assert "warming up (usually 5 to 20 s)" in shown and "1:02:03" in shown


def test_the_start_of_an_engine_takes_as_long_as_its_phases():
    cpu, gpu = engine_start(on_gpu=False), engine_start(on_gpu=True)
    assert cpu.seconds[0] < cpu.seconds[1] < gpu.seconds[1]
    assert str(gpu).endswith("minutes)") and str(cpu).startswith("starting an engine (usually ")


def test_the_log_of_an_engine_tells_when_its_weights_are_loaded(tmp_path, monkeypatch):
    path = tmp_path / "worker.out"
    path.write_text("INFO Loading weights took 2 seconds\n")  # of an earlier engine
    monkeypatch.setattr(engine_log.os, "readlink", lambda link: str(path))
    log = engine_log.EngineLog()
    assert not log.has_loaded_weights()
    with path.open("a") as file:
        file.write("(EngineCore pid=7) INFO 11-30 [default_loader.py:384] Loading weights took 0.31 seconds\n")
    assert log.has_loaded_weights()
