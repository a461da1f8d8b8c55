"""`kindling report`: what it answers and shows of results whose figures are known, and of faults in them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from eval.intervals import mean_difference, mean_over_seeds, paired_difference
from eval.variety import compare_distinct, compare_openings, measure_variety
from pipelines import report, save_report
from pipelines.cli.main import app
from pipelines.pages.tables import Figure
from pipelines.reporting.charts import Curve, LineChart, Mark, RowChart
from pipelines.reporting.html_page import html_page, markdown_page
from pipelines.reporting.paper_tables import paper
from pipelines.reporting.svg import draw
from pipelines.reporting.terminal_page import terminal_page
from schemas.errors import RunError
from schemas.review import ReviewFigure, ReviewVerdicts
from tests.support.chromium import CHROMIUM, Browser
from tests.support.corpora import shown
from tests.support.reports import write_evaluation, write_study, write_training

OLD_RUNS = Path(__file__).parents[1] / "old_runs"
MARKUP = 'x</script><img src=http://evil.test/a onerror="alert(1)">{{ 7*7 }}'
HOSTILE = f"{MARKUP}$\\frac{{1}}{{2}}$\u202egnp\x00|`\n# no heading"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study: two students of one base, each on a part of the data, and one on both; two evaluations of the base."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(OLD_RUNS / "augment", folder / "stories")
    shutil.copytree(OLD_RUNS / "compose", folder / "corpus")
    for name, parts in (("baby", ["stories"]), ("instr", ["corpus"]), ("both", ["stories", "corpus"])):
        write_training(folder / name, "base-model", {part: str(folder / part) for part in parts})
    students = {name: str(folder / name) for name in ("baby", "instr", "both")}
    write_evaluation(
        folder / "compare", {"base": "base-model", "baby": students["baby"], "instr": students["instr"]},
        positive={"base": 0.4, "baby": 0.42, "instr": 0.9}, right={"base": 0.8, "baby": 0.8, "instr": 0.5},
    )  # fmt: skip
    write_evaluation(
        folder / "later", {"base": "base-model", "both": students["both"]}, "later",
        positive={"base": 0.4, "both": 0.95}, right={"base": 0.8, "both": 0.79},
    )  # fmt: skip
    write_evaluation(
        folder / "scorer", {"base": "base-model", "both": students["both"]}, "scorer",
        positive={"base": 0.5, "both": 0.9}, classifier="another", is_given=True,
    )  # fmt: skip
    jobs = {"stories": ("augment", []), "corpus": ("compose", ["stories"]), "baby": ("train", ["stories"]),
            "instr": ("train", ["corpus"]), "both": ("train", ["stories", "corpus"]),
            "compare": ("evaluate", ["baby", "instr"]), "later": ("evaluate", ["both"]),
            "scorer": ("evaluate", ["both"]), "judge": ("augment", ["compare"])}  # fmt: skip
    return write_study(folder, jobs)


@pytest.fixture(scope="module")
def made(study):
    return report(study)


def lines(made):
    return {answer.question: " ".join(answer.lines) for answer in made.answers}


def table_of(made, title):
    (table,) = [table for table in made.all_tables if table.title.startswith(title)]
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_the_questions_are_answered_with_intervals(made):
    texts = lines(made)
    assert texts["Does augmentation raise positivity?"].startswith("For some: over all prompts, 2 of 3 students")
    assert "Largest gain, both: positive prompts" in texts["Does augmentation raise positivity?"]
    assert "Measured otherwise (classifier.id another), both" in texts["Does augmentation raise positivity?"]
    assert "both:" in texts["At what cost in grammar?"] and "no clear change" in texts["At what cost in grammar?"]
    assert "instr -" in texts["At what cost in grammar?"]
    assert "both (sft: stories, corpus) +" in texts["Which part of the data does it?"]
    assert "no less varied than those of base" in texts["Is the gain more than style?"]
    assert "not run" in texts["Is the gain more than style?"]
    assert sum(len(answer.lines) for answer in made.answers) <= 10


def test_each_student_stands_against_the_base_that_it_was_trained_from(made):
    students = table_of(made, "Every student")
    assert list(students) == ["baby", "instr", "both"]
    assert {row["Base"] for row in students.values()} == {"base"}
    assert students["both"]["Data"] == "sft: stories, corpus"
    gain = students["instr"]["all prompts"]
    assert isinstance(gain, Figure) and gain.value.startswith("+") and " to " in gain.interval
    assert students["both"]["answers its prompt"] == "not run"


def test_claims_need_a_difference_without_doubt(tmp_path):
    write_evaluation(tmp_path / "e", {"base": "b", "one": "o"}, positive={"base": 0.5, "one": 0.52})
    (answer, grammar, parts, _) = report(str(tmp_path / "e")).answers
    assert answer.lines[0] == "No clear difference from the base, over all prompts, for 1 student."
    assert "no clear difference" in answer.lines[1]
    assert grammar.lines[0].startswith("Not run: ") and parts.lines[0].startswith("Not run: ")
    write_evaluation(tmp_path / "worse", {"base": "b", "one": "o"}, positive={"base": 0.9, "one": 0.2})
    (answer, *_) = report(str(tmp_path / "worse")).answers
    assert answer.lines[0].startswith("No: over all prompts, no student") and answer.lines[0].endswith("; one less.")
    write_evaluation(tmp_path / "loss", {"base": "b", "one": "o"}, right={"base": 0.9, "one": 0.5})
    assert "a clear loss" in report(str(tmp_path / "loss")).answers[1].lines[0]


def test_the_papers_tables_have_its_values_beside_ours(made):
    sentiment = table_of(made, "Table 5: sentiment of the responses (classifier.id embedded)")
    assert sentiment["Positive"]["paper, GPT2-med.: positive (%)"] == "41.0"
    assert sentiment["Negative"]["paper, GPT2-med.-baby-instr: positive (%)"] == "78.9"
    assert isinstance(sentiment["Positive"]["instr: positive (%)"], Figure)
    blimp = table_of(made, "Tables 6 and 15")
    assert blimp["Island Effects"]["paper: GPT2-med.-baby-instr"] == "0.7007"
    assert blimp["Quantifiers"]["base"] == "not run"  # none of its paradigms was measured
    assert table_of(made, "Table 2")["Total words"]["paper: Prompt 3"] == "4,348,549"
    assert table_of(made, "Table 14")["Total word count"]["corpus"] == "95"
    assert [line.partition(":")[0] for line in made.not_run] == ["Table 3", "Table 4", "EmoBench", "lm-eval"]


def test_the_papers_values_are_whole():
    values = paper()
    assert len(values["blimp"]) == 8 and all(len(each) == 12 for each in values["blimp"].values())
    assert all(len(each) == 28 for each in values["sentiment_by_emotion"].values())
    for each in (values["sentiment_by_group"], values["sentiment_by_emotion"]):
        for by in each.values():
            assert all(abs(sum(shares.values()) - 100) < 0.03 for shares in by.values())
    assert sum(values["preference"].values()) == pytest.approx(100)


def test_what_is_not_there_is_said(made, study, tmp_path):
    assert "judge: no run is in its folder; its state is done" in made.notes
    stopped = report(str(OLD_RUNS / "augment-stopped"))
    assert stopped.notes[0].startswith("augment-stopped is not complete; what is there is shown.")
    copy = tmp_path / "compare"
    shutil.copytree(Path(study) / "compare", copy)
    (copy / "results/blimp/instr.json").unlink()
    assert "blimp of instr in compare is not there" in report(str(copy)).notes


def test_a_report_works_from_the_files_of_old_runs_of_every_kind(tmp_path):
    names = ("augment", "label", "compose", "train", "train-stopped", "evaluate", "classifier", "augment-stopped")
    made = report([str(OLD_RUNS / name) for name in names])
    assert all(text.startswith("Not run") for text in lines(made).values())
    assert [row[:2] for row in made.lineage.table.rows][:3] == [
        ["augment", "augment"], ["label", "label"], ["compose", "compose"],
    ]  # fmt: skip
    page = save_report(made, str(tmp_path / "report.html"))
    assert Path(page).read_text().startswith("<!doctype html>")
    assert Path(tmp_path / "report.md").read_text().startswith("# Report: ")
    assert made.to_polars().height and "<table" in made._repr_html_()


def test_lineage_names_what_each_run_was_made_from(made):
    rows = {row[0]: dict(zip(made.lineage.table.header, row, strict=True)) for row in made.lineage.table.rows}
    assert rows["both"]["Made from"] == "stories, corpus" and rows["both"]["Tokens"] == "1,720"
    assert rows["baby"]["Time"] == "01:30" and rows["baby"]["Cost"] == "0.01"
    assert rows["judge"]["State"] == "done"
    assert made.lineage.command == "kindling reproduce pocket.yaml"
    assert made.lineage.versions["python"] == "3.11.7"
    assert made.lineage.machine == {"processors": "2", "memory": "24 GiB"}


# Faults


def refused(*folders):
    with pytest.raises(RunError) as raised:
        report(list(folders))
    assert raised.value.remedy
    return raised.value


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert refused().cause == "no run is named"
    assert refused(str(tmp_path)).cause == "the folder holds no run and no study"
    assert refused(str(tmp_path / "none")).cause == "there is no such folder"


def test_two_models_of_one_name_are_refused(tmp_path):
    write_evaluation(tmp_path / "one", {"base": "b", "instr": "here"}, positive={"base": 0.4, "instr": 0.6})
    write_evaluation(tmp_path / "two", {"base": "b", "instr": "there"}, "two", positive={"base": 0.4, "instr": 0.6})
    error = refused(str(tmp_path / "one"), str(tmp_path / "two"))
    assert error.key == f"{tmp_path}/two/results/sentiment/instr.json"
    assert f"{tmp_path}/one/results/sentiment/instr.json" in error.cause


@pytest.mark.parametrize(
    "file", ["results/sentiment/instr.json", "results/sentiment/instr.parquet", "results/blimp/base.parquet",
             "results/blimp/instr.json", "evaluate.json"]
)  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}"])
def test_a_damaged_file_is_one_error_that_names_it(study, tmp_path, file, content):
    copy = tmp_path / "compare"
    shutil.copytree(Path(study) / "compare", copy)
    (copy / file).write_bytes(content)
    assert refused(str(copy)).key == f"{copy}/{file}"


def test_a_damaged_count_of_preferences_or_record_of_a_corpus_is_named(study, tmp_path):
    for run, file in (("compare", "results/preference/tally.json"), ("corpus", "composition.json")):
        copy = tmp_path / run
        shutil.copytree(Path(study) / run, copy)
        (copy / file).parent.mkdir(exist_ok=True)
        (copy / file).write_text("{}")
        assert refused(str(copy)).key == f"{copy}/{file}"


def test_a_damaged_shard_is_named(study, tmp_path):
    shutil.copytree(Path(study) / "stories", tmp_path / "stories")
    part = tmp_path / "stories/data/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-200] + bytes(200))
    assert "part-00001" in refused(str(tmp_path / "stories")).key


def test_preferences_that_were_counted_are_table_4(study, tmp_path):
    shutil.copytree(Path(study) / "compare", tmp_path / "e")
    share = {"rate": 0.6, "low": 0.4, "high": 0.8, "n": 20}
    tally = {"models": {"instr": {"share": share, "count": 12}}, "ties": {"share": {**share, "rate": 0.4}, "count": 8},
             "respondents": 2, "prompts": 10, "intervals": "95%, Wilson"}  # fmt: skip
    (tmp_path / "e/results/preference").mkdir()
    (tmp_path / "e/results/preference/tally.json").write_text(json.dumps(tally))
    made = report(str(tmp_path / "e"))
    assert table_of(made, "Table 4")["instr"]["Preference (%)"] == Figure("60.0", "40.0 to 80.0")
    (note,) = [table.note for table in made.tables if table.title.startswith("Table 4")]
    assert "The paper: GPT2-med.-baby-instr 53.2%" in note


def test_a_damaged_record_of_a_study_is_named(study, tmp_path):
    for content in ("{", json.dumps({"name": "x"})):
        (tmp_path / "study.json").write_text(content)
        assert refused(str(tmp_path)).key == f"{tmp_path}/study.json"
    assert refused(study, write_study(tmp_path, {})).cause == "a second study"


# Pages


def test_the_page_shows_hostile_texts_as_text(study, tmp_path):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    write_evaluation(
        tmp_path / "e", {"base": "b", "one": "o"}, positive={"base": 0.4, "one": 0.9}, right={"base": 0.8, "one": 0.8},
        changes={"one": {0: HOSTILE, 5: "a needle in the hay"}},
    )  # fmt: skip
    page = save_report(report([str(tmp_path / "e"), str(OLD_RUNS / "train")]), str(tmp_path / "page.html"))
    assert "\0" not in Path(page).read_text() and "\u202e" not in Path(page).read_text()
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"file://{page}")
        articles = "[...document.querySelectorAll('#samples article')]"
        shown_articles = f"{articles}.filter((each) => !each.hidden)"
        assert browser.value("document.querySelectorAll('img').length") == 0
        assert MARKUP in browser.value(f"{articles}[0].textContent")
        assert browser.value(f"{shown_articles}.length") == 12
        browser.value("document.getElementById('search').focus()")
        browser.type("NEEDLE hay")
        assert browser.value(f"{shown_articles}.map((each) => each.innerText).join()").count("needle") == 1
        assert browser.value("document.getElementById('count').textContent") == "1 of 112 shown"
        assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
        ids = browser.value("[...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(ids) == len(set(ids))
        assert browser.value("document.querySelectorAll('figure svg').length") >= 3
        requested = [each["request"]["url"] for name, each in browser.events if name == "Network.requestWillBeSent"]
        assert all(url == f"file://{page}" for url in requested)
        faults = [each for name, each in browser.events if name in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert faults == []


def test_figures_take_their_colours_from_the_page_and_show_names_as_text():
    series = {"base": [Mark(1.0, 0.5, 2.0), None], "$x_1$ <i>": [Mark(2.0), None]}
    chart = RowChart("of <b>", [HOSTILE, "plain"], series, "points", "changes", ["base"])
    svg = draw(chart)
    assert svg.startswith("<svg ") and 'aria-label="of &lt;b&gt;"' in svg
    assert "currentColor" in svg and "var(--base)" in svg and "#0a0" not in svg
    assert "<img" not in svg and "$x_1$ &lt;i&gt;" in svg and "\0" not in svg
    lines_chart = LineChart("t", {"a": Curve("a", [(0, 2.0), (1, 1.0)]), "b": Curve("a", [(0, 3.0)], True)}, "x", "y")
    assert "var(--s0)" in draw(lines_chart)
    assert lines_chart.table().rows[0] == ["a", "2", "1", "2", "1"]
    assert chart.table().rows == [[HOSTILE, Figure("1.0", "0.5 to 2.0"), "2.0"], ["plain", "-", "-"]]


def test_markdown_has_the_same_tables(made):
    text = markdown_page(made)
    assert text.index("Does augmentation raise positivity?") < text.index("## Every student against its base")
    for title in ("Table 5", "Tables 6 and 15", "Positive responses by group", "BLiMP by phenomenon", "The runs"):
        assert f"## {title}" in text, title
    assert "- Table 3: not run." in text and "kindling reproduce pocket.yaml" in text


def test_the_command_writes_the_page_of_a_study(study, tmp_path):
    done = CliRunner().invoke(app, ["report", study, "--prompts", "5"])
    assert done.exit_code == 0, done.output
    assert (Path(study) / "report.html").is_file() and (Path(study) / "report.md").is_file()
    assert "At what cost in grammar?" in done.output and f"{study}/report.html" in done.output.replace("\n", "")
    page = str(tmp_path / "x.html")
    corpus = f"{study}/corpus"
    assert CliRunner().invoke(app, ["report", corpus, "--to", page]).exit_code == 0
    again = CliRunner().invoke(app, ["report", corpus, "--to", page])
    assert isinstance(again.exception, RunError) and "there is a file there already" in str(again.exception)
    save_report(report(corpus), page)  # from Python it is replaced, as that of a study is
    wrong = CliRunner().invoke(app, ["report", corpus, "--to", str(tmp_path / "x.pdf")])
    assert isinstance(wrong.exception, RunError) and ".html" in wrong.exception.remedy
    as_json = json.loads(CliRunner().invoke(app, ["report", corpus, "--json"]).output)
    assert as_json["answers"][0]["question"] == "Does augmentation raise positivity?"
    with pytest.raises(RunError, match="no place is named"):
        save_report(report(corpus))


def test_readings_of_people_and_of_a_judge_say_whether_responses_answer_their_prompts(tmp_path):
    models = {"base": "b", "one": "o"}
    store = write_evaluation(tmp_path / "e", models, positive={"base": 0.4, "one": 0.9})
    figure = ReviewFigure(value=0.75, low=0.6, high=0.86, n=40)
    verdicts = ReviewVerdicts(review="ab" * 32, reviewers={}, accepted={"all": figure}, pairs=[], rows=[])
    store.write_text("responses/sentiment/one/reviews/abababababab.json", verdicts.model_dump_json())
    shutil.copytree(OLD_RUNS / "augment", tmp_path / "judge")
    run = json.loads((tmp_path / "judge/run.json").read_text())
    run["job"] |= {"generations": [{"name": "answers", "kind": "judge"}]}
    run["job"]["input"]["path"] = f"{tmp_path}/e/results/sentiment/base.parquet"
    (tmp_path / "judge/run.json").write_text(json.dumps(run))
    style = report([str(tmp_path / "e"), str(tmp_path / "judge")]).answers[3].lines[1]
    assert style == (
        "Responses that still answer their prompt: base 100.0% (75.8% to 100.0%), by the judge of judge; "
        "one 75.0% (60.0% to 86.0%), by people (40 read)."
    )


def test_the_logit_lens_is_shown_where_it_was_run(tmp_path):
    store = write_evaluation(tmp_path / "e", {"base": "b"}, positive={"base": 0.4})
    store.fs.makedirs(store.path("logit_lens"))
    store.fs.pipe_file(store.path("logit_lens/logit_lens-0.png"), b"PNG")
    assert 'src="data:image/png;base64,UE5H"' in html_page(report(str(tmp_path / "e")))


def test_a_terminal_shows_the_tables(study):
    text = shown(terminal_page(report(f"{study}/compare", prompts=0, rows=0)), 200)
    assert "Every student against its base" in text and "Table 3: not run" in text


# Statistics


def test_changes_of_variety_have_intervals():
    first = ["a b c d e", "a b x y z", "k l m n o"]
    second = ["a b c d e", "a b c d f", "a b c d g"]
    change = compare_distinct(first, [second], 2)
    one, two = (measure_variety(texts).distinct[2] for texts in (first, second))
    assert change is not None and change.value == pytest.approx(two - one) and change.low < change.value < change.high
    openings = compare_openings(first, [second])
    assert openings is not None and openings.value == pytest.approx(1 / 3 - 1)
    assert compare_distinct(["a"], [["b"]], 2) is None  # no pair of words
    same = compare_distinct(first, [first], 1)
    assert same is not None and (same.value, same.low, same.high) == (0, 0, 0)
    both = compare_distinct(first, [first, second], 2)
    assert both is not None and both.value == pytest.approx(change.value / 2)


def test_pairs_that_are_none_of_blimps_are_named_so(tmp_path):
    models = {"base": "b", "one": "o"}
    write_evaluation(tmp_path / "e", models, right={"base": 0.9, "one": 0.4}, paradigms=("our_agreement", "our_words"))
    made = report(str(tmp_path / "e"))
    loss = made.answers[1].lines[0]
    assert "points of minimal pairs that are not BLiMP's, the mean of 2 paradigms: a clear loss; worst is our_" in loss
    assert table_of(made, "Minimal pairs that are not BLiMP's: accuracy by paradigm")["our_words"]["n"] == "30"
    assert "Tables 6 and 15: not run. It needs an evaluation blimp of paradigms of BLiMP." in made.not_run


def test_emobench_stands_beside_chance_and_each_student_beside_its_base(tmp_path):
    models = {"base": "b", "one": "o", "two": "t"}
    emobench, tasks = {"base": 0.3, "one": 0.9, "two": 0.3}, {"base": 0.5, "one": 0.625, "two": None}
    store = write_evaluation(tmp_path / "e", models, emobench=emobench, lm_eval=tasks)
    made = report(str(tmp_path / "e"))
    accuracy = table_of(made, "EmoBench: accuracy")
    assert accuracy["EU: emotional understanding"]["chance"] == "6.2"  # 1 / 16
    assert accuracy["EA: emotional application"]["chance"] == "25.0"
    assert " to " in accuracy["EA: emotional application"]["one"].interval
    students = table_of(made, "EmoBench: every student against its base")
    assert set(students) == {"one", "two"} and students["one"]["Base"] == "base"
    assert float(students["one"]["EU: points"].value) > 30 and students["one"]["EU: p"] == "<0.001"
    scores = table_of(made, "lm-eval: scores (e)")["mine"]
    assert (scores["one"], scores["two"]) == ("0.6250 ± 0.0100", "not run")
    assert "lm_eval mine of two in e is not there" in made.notes
    page, text = html_page(made), markdown_page(made)
    assert "<h2>Beyond the paper</h2>" in page and "EmoBench: every student against its base" in page
    assert "## EmoBench: accuracy" in text and made.as_json()["tables"][-1]["title"] == "lm-eval: scores (e)"
    write_evaluation(tmp_path / "f", {"base": "b"}, "f", right={"base": 0.9})
    assert report(str(tmp_path / "f")).not_run[-2:] == [
        "EmoBench: not run. It needs an evaluation emobench.", "lm-eval: not run. It needs an evaluation lm_eval.",
    ]  # fmt: skip
    (tmp_path / "e/results/emobench/two.json").unlink()
    assert "emobench of two in e is not there" in report(str(tmp_path / "e")).notes
    store.write_text("results/lm_eval/one/mine.json", '{"scores": [{"a": 1}]}')
    refused(str(tmp_path / "e"))


def test_students_with_several_seeds_have_a_mean(tmp_path):
    seeds = {f"s{seed}": write_training(tmp_path / f"s{seed}", "b", {"x": "rows"}, seed) for seed in (0, 1)}
    other = write_training(tmp_path / "other", "b", {"x": "others"})
    models = {"base": "b", **seeds, "other": other}
    write_evaluation(tmp_path / "e", models, positive={"base": 0.3, "s0": 0.8, "s1": 0.9, "other": 0.5},
                     right={"base": 0.9, "s0": 0.8, "s1": 0.6, "other": 0.9})  # fmt: skip
    made = report([str(tmp_path / name) for name in ("s0", "s1", "other", "e")])
    assert made.students is not None
    rows = {row[0]: row for row in made.students.rows}
    assert list(rows) == ["s0", "s1", "other", "mean of 2 seeds: s0, s1"]
    for title in ("all prompts", "grammar, mean", "distinct-2", "openings"):
        at = made.students.header.index(title)
        one, two, mean = (float(rows[name][at].value) for name in ("s0", "s1", "mean of 2 seeds: s0, s1"))
        assert mean == pytest.approx((one + two) / 2, abs=0.1)
        low, high = map(float, rows["mean of 2 seeds: s0, s1"][at].interval.split(" to "))
        assert low <= mean <= high


def test_the_interval_over_seeds_is_wider_where_seeds_differ():
    first = np.zeros(200, bool)
    alike, apart = np.repeat([[True] * 100 + [False] * 100], 4, 0), np.zeros((4, 200), bool)
    apart[:2] = True
    widths = [change.high - change.low for change in (mean_over_seeds([(first, each)], 0) for each in (alike, apart))]
    assert widths[1] > 3 * widths[0]
    with pytest.raises(ValueError):
        mean_over_seeds([(first, np.zeros((0, 200), bool))], 0)
    parts = [(first, alike), (first[:10], ~alike[:, :10])]  # +0.5 of 200 items, and 0 of 10: each counts alike
    assert mean_over_seeds(parts, 0).value == pytest.approx((0.5 + 0) / 2)


def test_the_mean_of_differences_counts_each_alike():
    up = paired_difference([False] * 10, [True] * 10, 0)
    down = paired_difference([True] * 4 + [False] * 4, [False] * 4 + [True] * 4, 0)
    mean = mean_difference([up, down])
    assert mean.value == 0.5 and mean.low < 0.5 < mean.high
    assert mean_difference([up]).low == 1.0
    with pytest.raises(ValueError):
        mean_difference([])
