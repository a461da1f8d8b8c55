"""quality: on run folders written directly, and on files of others."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from eval.variety import self_bleu
from pipelines import quality, save_quality
from pipelines.cli.main import app
from pipelines.quality_report import report as quality_report
from pipelines.quality_report.report import grouped
from pipelines.quality_report.terminal_page import terminal_page
from schemas.emotions import EMOTIONS
from schemas.errors import JobError, KindlingError, RunError
from schemas.rows import ERROR, REJECTED
from services.storage.store import ShardStore
from tests.support.corpora import shown
from tests.support.files import write_jsonl
from tests.support.runs import make_run


class _Classifier:
    """Finds the emotion whose name is in a sentence, else `neutral`."""

    name, revision = "by-name", "1"
    thresholds = np.full(len(EMOTIONS), 0.5)

    def score(self, texts):
        scores = np.zeros((len(texts), len(EMOTIONS)), dtype=np.float32)
        for number, text in enumerate(texts):
            scores[number, next((i for i, emotion in enumerate(EMOTIONS) if emotion in text), -1)] = 1
        return scores


@pytest.fixture(autouse=True)
def classifier(monkeypatch):
    monkeypatch.setattr(quality_report, "_load_classifier", lambda name: _Classifier())


ROWS = [
    {"text": "What joy there is."},
    {"text": "What anger there was in it.", "prompt_id": "babylm_story/p1"},
    {"text": "As an AI model I cannot.", "state": REJECTED, "reason": "refusal"},
    {"text": "What joy there is again.", "state": REJECTED, "reason": "near_duplicate of row 0 of in.jsonl"},
    {"text": "", "state": ERROR, "reason": "context is null", "emotion": ""},
    {"text": "Nobody knows what it was.", "emotion": "fear", "finish_reason": "length"},
]


def test_acceptance_reasons_and_emotions_of_a_run(tmp_path):
    report = quality(make_run(tmp_path / "r", ROWS))
    (run,) = report.corpora
    assert run.rows == {"accepted": 3, "rejected": 2, "error": 1} and run.acceptance == 0.5 and run.complete
    assert run.reasons == {"context is null": 1, "near_duplicate": 1, "refusal": 1}
    assert run.by["emotion"]["joy"] == {"accepted": 2, "rejected": 2, "error": 0}
    assert run.by["emotion"][""] == {"accepted": 0, "rejected": 0, "error": 1}
    assert run.by["prompt_id"]["babylm_story/p1"]["accepted"] == 1 and list(run.by["source"]) == ["in.jsonl"]
    assert run.expression.matrix == {"joy": {"anger": 1, "joy": 1}, "fear": {"neutral": 1}}
    assert run.expression.same.rate == run.expression.same_group.rate == 1 / 3
    assert grouped(run.expression.matrix)["positive"] == {"positive": 1, "negative": 1}
    assert run.variety.texts == run.sample == 3 and 0 < run.self_bleu < 1
    page = shown(terminal_page(report))
    for line in (
        "r +6 +50.0% +33.3% +16.7%",
        "near_duplicate +1 .16.7%.",
        "joy +50.0% of 4",
        "positive +50.0% +0.0% +50.0%",
    ):
        assert re.search(line, page), page
    assert "source" not in page  # a column with one value is the whole run
    assert len(report.records()) == 1 + 2 + 3 + 1 and json.dumps(report.as_json())


def test_rules_judge_accepted_rows_and_rows_of_files(tmp_path):
    run = make_run(tmp_path / "r", ROWS)
    write_jsonl(tmp_path / "a.jsonl", [
        {"story": "Sure, here is the answer: What joy for 3 of us!", "feeling": ["joy"], "made_from": "All 3 and Anna"},
        {"story": "What a fine day it is.", "feeling": "sadness", "made_from": "all"},
        {"story": " ", "feeling": "happy", "made_from": "all"},
    ])  # fmt: skip
    columns = {"text_column": "story", "emotion_column": "feeling"}
    judged = quality([run, str(tmp_path / "a.jsonl")], "all", **columns, input_columns=["made_from"]).corpora
    assert judged[0].rows == {"accepted": 1, "rejected": 4, "error": 1}
    assert judged[0].reasons["emotion_word"] == judged[0].reasons["cut_off"] == 1
    assert judged[1].rows == {"accepted": 1, "rejected": 2, "error": 0}
    # A row counts for each rule that refuses it.
    assert judged[1].reasons == {"emotion_word": 1, "empty_text": 1, "meta_talk": 1, "names_lost": 1}
    assert judged[1].by == {"feeling": {each: judged[1].by["feeling"][each] for each in ("happy", "joy", "sadness")}}
    assert judged[1].unused_rules == ["cut_off"]
    report = quality(str(tmp_path / "a.jsonl"), "all", "story")
    assert report.corpora[0].unused_rules == ["cut_off", "emotion_word", "copied", "numbers_lost", "names_lost"]
    assert "not applied, because they need" in shown(terminal_page(report))
    unjudged = quality(str(tmp_path / "a.jsonl"), text_column="story", by=["feeling"])
    assert unjudged.corpora[0].acceptance is None and not unjudged.corpora[0].reasons
    assert "nobody judged" in shown(terminal_page(unjudged)) and re.search(r"joy +1\n", shown(terminal_page(unjudged)))


def test_the_rules_of_a_job_file(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "Two words"}, {"text": "There are four words"}])
    job = "name: q\ninput: a.csv\nrecipe: template\noutput: r\n"
    (tmp_path / "j.yaml").write_text(job + "quality: {min_words: 3}\n")
    (tmp_path / "empty.yaml").write_text(job)
    (counts,) = quality(str(tmp_path / "a.jsonl"), str(tmp_path / "j.yaml")).corpora
    assert counts.reasons == {"too_few_words": 1} and counts.rows["accepted"] == 1
    with pytest.raises(JobError, match="section `quality` has no rule on texts alone"):
        quality(str(tmp_path / "a.jsonl"), str(tmp_path / "empty.yaml"))


def test_variants_and_runs_stand_side_by_side_on_the_same_rows(tmp_path):
    rows = [[{"variant": name, "text": f"{name} joy {i}"} for name in ("t0.5", "t1.0")] for i in range(40)]
    runs = [make_run(tmp_path / "a", rows), make_run(tmp_path / "b", rows, committed=(0, 1, 2, 3, 4))]
    report = quality(runs, sample=10)
    assert [each.label for each in report.corpora] == ["a t0.5", "a t1.0", "b t0.5", "b t1.0"]
    assert [each.complete for each in report.corpora] == [True, True, False, False]
    drawn = [json.loads(json.dumps(each.variety.distinct)) for each in report.corpora[:2]]
    assert drawn[0] == drawn[1] and {each.sample for each in report.corpora} == {10}
    assert "b t0.5: the run is not complete" in shown(terminal_page(report))
    assert quality(runs, sample=10).as_json() == report.as_json() != quality(runs, sample=10, seed=1).as_json()
    without = quality(runs, sample=0)
    assert without.classifier == "" and without.corpora[0].expression is without.corpora[0].variety is None


def test_many_values_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(quality_report, "_MAX_VALUES", 2)
    write_jsonl(tmp_path / "a.jsonl", [{"text": "t", "n": n} for n in range(5)])
    (counts,) = quality(str(tmp_path / "a.jsonl"), by=["n"], sample=0).corpora
    assert {value: states["accepted"] for value, states in counts.by["n"].items()} == {
        "other values": 3,
        "0": 1,
        "1": 1,
    }


def test_a_page_shows_texts_as_text(tmp_path):
    name = "<b>hostile</b>\x1b[31m"
    run = make_run(tmp_path / "r", [{**row, "prompt_id": name} for row in ROWS])
    report = quality([run, make_run(tmp_path / "s", ROWS)])
    save_quality(report, str(tmp_path / "q.html"))
    page = (tmp_path / "q.html").read_text()
    assert "&lt;b&gt;hostile" in page and "<b>hostile" not in page and "\x1b" not in page and "<script" not in page
    assert all(f"expressed {emotion}" in page for emotion in EMOTIONS) and "by-name (1)" in page
    with pytest.raises(RunError, match="there is a file there already"):
        save_quality(report, str(tmp_path / "q.html"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--text-column", "story"], "--text-column = story: .*has no such column; it has text, emotion"),
        (["--emotion-column", "feeling"], "--emotion-column = feeling"),
        (["--input-column", "context"], "--input-column = context"),
        (["--by", "chunk"], "--by = chunk"),
        (["--rules", "missing.yaml"], "missing.yaml: No such file"),
    ],
)
def test_one_error_for_what_is_missing(tmp_path, options, error):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "t", "emotion": "joy"}])
    with pytest.raises((RunError, JobError), match=error):
        CliRunner().invoke(app, ["quality", str(tmp_path / "a.jsonl"), *options], catch_exceptions=False)


def test_a_run_without_rows_is_refused_and_one_without_accepted_rows_is_shown(tmp_path):
    empty = make_run(tmp_path / "empty", ROWS, committed=())
    with pytest.raises(RunError, match="no shard of this run is committed yet"):
        quality(empty)
    rejected = [{"state": REJECTED, "reason": "refusal"}] * 3
    report = quality(make_run(tmp_path / "none", rejected))
    assert report.corpora[0].acceptance == 0 and report.corpora[0].expression is None
    assert re.search(r"none +3 +0\.0% +100\.0%", shown(terminal_page(report)))
    assert ShardStore(empty).committed_shards() == set()


def test_self_bleu():
    text = "a b c d e f"
    assert (
        self_bleu([text, text]) == pytest.approx(1) and self_bleu([text]) is None and self_bleu(["a b", "c d"]) is None
    )
    apart = self_bleu(["a b c d e f", "g h i j k l"])
    near = self_bleu(["a b c d e f", "a b c d x y"])
    # The second: 4 of 6 words, 3 of 5, 2 of 4 and 1 of 3 sequences of 2, 3 and 4 words stand in the other text.
    assert apart < 0.15 < near == pytest.approx((4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # A repeated word counts as often as in the text that has it most often; a short text is punished for its length.
    assert self_bleu(["a a a a", "a a b c d"]) < self_bleu(["a a a a", "a a a a"])


def test_accepted_rows_of_a_file_are_written(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [
        {"answer": "A calm day by the sea.", "question": "How was it?", "other": 1},
        {"answer": "As an AI language model, I cannot say.", "question": "And then?", "other": 2},
        {"answer": "Two boats \u2028 came in.", "question": "", "other": 3},
    ])  # fmt: skip
    source, to = str(tmp_path / "a.jsonl"), str(tmp_path / "good.jsonl")
    columns = {"text_column": "answer", "input_columns": ["question"], "sample": 0}
    quality(source, "all", accepted=to, **columns)
    written = (tmp_path / "good.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in written if line] == [
        {"answer": "A calm day by the sea.", "question": "How was it?"},
        {"answer": "Two boats \u2028 came in.", "question": ""},
    ]
    for corpora, rules, cause in (
        (source, "all", "there is a file there already"),
        (source, None, "no rule says which rows"),
        ([source, source], "all", "the columns of several corpora"),
        (make_run(tmp_path / "r", ROWS), "all", "is a run, which has accepted rows"),
    ):
        with pytest.raises(KindlingError, match=cause):
            quality(corpora, rules, accepted=to, **columns)
