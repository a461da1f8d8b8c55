"""Results of Python calls: a table in a notebook, and a polars data frame."""

import pipelines
from pipelines import compare, export, stats, status, verify
from pipelines.augmentation.summary import Summary
from pipelines.evaluation.evaluate import EvaluationReport
from pipelines.pages.tables import Figure, Table, html_tables
from pipelines.result import Result
from schemas.rows import ROW_SCHEMA
from tests.support.runs import make_run


def test_each_result_is_a_table_and_a_data_frame(tmp_path):
    run = make_run(tmp_path / "run", [{"text": f"<b>{i}</b> once upon a time"} for i in range(60)])
    counted = stats(run)
    frame = counted.to_polars()
    assert frame.row(0, named=True)["stories"] == 60 and {"emotion", "source"} <= set(frame["by"])
    compared = compare([run, run], count=3)
    assert compared.to_polars().height == 6 and "<b>" not in compared._repr_html_()
    for result in (counted, compared, status(run), verify(run)):
        assert isinstance(result, Result) and result._repr_html_().startswith("<table>")
        assert result.to_polars().height == len(result.records())


def test_the_rows_of_a_run_are_behind_its_summary(tmp_path):
    run = make_run(tmp_path / "run", [{}, {"state": "rejected"}, {}])
    summary = Summary(run, {"accepted": 2}, 0, {}, {}, 1, 14, 3, 1.0, 14.0, 0.0, 0.0)
    frame = summary.to_polars()
    assert frame["row_index"].to_list() == [0, 2] and frame.columns == ROW_SCHEMA.names
    assert "<th>rows.accepted</th><td>2</td>" in summary._repr_html_()
    empty = make_run(tmp_path / "empty", [{"state": "error"}])
    assert Summary(empty, {}, 0, {}, {}, 0, 0, 0, 0.0, 0.0, 0.0, 0.0).to_polars().is_empty()


def test_a_long_table_shows_its_beginning():
    class Long(Result):
        def records(self):
            return [{"text": "x" * 1000, "number": i} for i in range(70)]

    shown = Long()._repr_html_()
    assert shown.count("<tr>") == 51 and "and 20 rows more" in shown and len(shown) < 50 * 500


def test_tables_of_an_evaluation_are_text():
    shown = html_tables([Table("<i>", ["model", "right"], [["<b>", Figure("90.0", "85 to 95")], ["b", "-"]])])
    assert "90.0 (85 to 95)" in shown and "<i>" not in shown and "<b>" not in shown
    assert EvaluationReport("r", "n", {}, {}).records() == []


def test_calls_have_help():
    for name in pipelines.__all__:
        assert getattr(pipelines, name).__doc__, name
    assert export.__doc__.startswith("Copies the committed accepted rows")
