"""`kindling evaluate`: the statistics, what is read, and whole evaluations on the fake engine."""

import io
import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eval.intervals import mcnemar_p_value, paired_difference, rate_of
from eval.sentiment import OVERALL, PAPER_GROUPS, compare_sentiment, sentiment_rates, top_labels
from eval.variety import measure_variety
from pipelines import evaluate
from pipelines.evaluation.generation import read_generated
from pipelines.evaluation.models import collect_failures
from pipelines.evaluation.prompts import EmotionPrompt, read_groups, read_prompts
from pipelines.evaluation.responses import Response, read_responses, split_at_marker
from pipelines.evaluation.sentiment_results import write_sentiment
from pipelines.jobfile import as_job
from pipelines.pages.tables import Figure, Table, markdown, rendered
from schemas.emotions import EMOTIONS
from schemas.errors import EXIT_FAULTS, EngineError, JobError, RunError, StoppedError
from schemas.evaluate import EvaluateJob, Responses, Sentiment
from schemas.job import Cluster
from services.replicas.actors import run_on_actors
from services.storage.store import ShardStore
from tests.support.files import ROOT, SHARED_DATA, write_job, write_jsonl
from tests.support.runs import make_run

Z = 1.959963984540054


# Intervals


@given(st.integers(1, 2000), st.data())
def test_a_rate_has_the_interval_of_wilsons_formula(n, data):
    k = data.draw(st.integers(0, n))
    rate = rate_of(k, n)
    middle, spread_ = (k + Z * Z / 2) / (n + Z * Z), Z / (n + Z * Z) * math.sqrt(k * (n - k) / n + Z * Z / 4)
    assert (rate.rate, rate.n) == (k / n, n)
    assert rate.low == pytest.approx(middle - spread_, abs=1e-9)
    assert rate.high == pytest.approx(middle + spread_, abs=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: rate_of(0, 0),
        lambda: paired_difference([], [], 0),
        lambda: sentiment_rates([], None, PAPER_GROUPS),
        lambda: sentiment_rates([], [], PAPER_GROUPS),
        lambda: compare_sentiment([], [], None, PAPER_GROUPS, 0),
        lambda: measure_variety([]),
    ],
)
def test_there_is_no_figure_of_nothing(call):
    with pytest.raises(ValueError):
        call()


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_coin_thrown_for_each_pair_that_differs(first, second):
    n, least = first + second, min(first, second)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar_p_value(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_a_paired_bootstrap_is_of_the_pairs_and_its_seed():
    draw = np.random.default_rng(0)
    first, second = draw.random(400) < 0.4, draw.random(400) < 0.6
    found = paired_difference(first, second, seed=1)
    change = second.astype(int) - first
    error = change.std() / math.sqrt(len(change))
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert found.low == pytest.approx(found.difference - Z * error, abs=0.01)
    assert found.high == pytest.approx(found.difference + Z * error, abs=0.01)
    assert (found.only_second, found.only_first) == ((change > 0).sum(), (change < 0).sum())
    assert found == paired_difference(first, second, seed=1) != paired_difference(first, second, seed=2)
    # Where no pair differs, or there is one alone, resampling tells nothing.
    assert paired_difference(first, first, 0).high is None
    assert paired_difference([True], [False], 0).low is None


# Sentiment and variety


def test_groups_are_the_papers():
    assert [len(PAPER_GROUPS[group]) for group in ("positive", "neutral", "negative")] == [14, 2, 12]
    positive, negative = PAPER_GROUPS["positive"], PAPER_GROUPS["negative"]
    assert {"curiosity", "realization"} <= positive and "confusion" in negative
    assert PAPER_GROUPS["neutral"] == {"neutral", "surprise"}


def test_the_papers_prompts_are_in_groups_of_its_sizes():
    path = SHARED_DATA / "emotion_prompts.json"
    if not path.is_file():
        pytest.skip("needs shared/data/emotion_prompts.json")
    prompts = read_prompts(Sentiment(prompts=str(path)), "sentiment")
    rates = sentiment_rates(["joy"] * len(prompts), [prompt.emotion for prompt in prompts], PAPER_GROUPS)
    assert {group: each["positive"].n for group, each in rates.by_group.items()} == {
        "positive": 419,
        "neutral": 60,
        "negative": 350,
    }


def test_rates_are_by_group_by_emotion_and_of_all_and_a_blank_is_in_no_group():
    scores = np.eye(28)[[EMOTIONS.index(each) for each in ("joy", "curiosity", "confusion", "surprise", "joy")]]
    labels = top_labels(scores, ["a", "b", "c", "d", " \n"])
    assert labels == ["joy", "curiosity", "confusion", "surprise", ""]
    rates = sentiment_rates(labels, ["joy", "joy", "anger", "anger", "anger"], PAPER_GROUPS)
    assert {group: rate.rate for group, rate in rates.overall.items()} == {
        "positive": 0.4,
        "neutral": 0.2,
        "negative": 0.2,
    }
    assert list(rates.by_group) == ["positive", "negative"]  # nobody asked for a neutral one
    assert rates.by_emotion["joy"]["positive"].rate == 1 and rates.by_emotion["joy"]["positive"].n == 2
    assert rates.by_group["negative"]["neutral"].rate == pytest.approx(1 / 3)
    assert list(sentiment_rates(labels, None, PAPER_GROUPS).by_emotion) == []


def test_two_models_are_compared_prompt_by_prompt():
    first, second = ["joy", "joy", "anger", "neutral"], ["joy", "anger", "love", "pride"]
    found = compare_sentiment(first, second, ["joy", "joy", "grief", "grief"], PAPER_GROUPS, 0)
    assert list(found) == [OVERALL, "positive", "negative"]
    positive = found[OVERALL]["positive"]
    assert (positive.difference, positive.only_first, positive.only_second, positive.n) == (0.25, 1, 2, 4)
    assert found["negative"]["positive"].difference == 1


def test_a_model_that_says_one_thing_is_seen_through():
    same = measure_variety(["I am so happy today, my friend!"] * 20)
    varied = measure_variety([f"{number} is what I thought of when {number + 50} came by" for number in range(20)])
    assert same.duplicates == same.commonest_opening_share == 1 and varied.duplicates == 0
    assert same.distinct_openings == 1 / 20 and varied.distinct_openings == 1
    assert all(same.distinct[n] < varied.distinct[n] for n in same.distinct)
    assert same.distinct[1] == 7 / 140
    assert same.repetition == 0
    assert measure_variety(["ha " * 40]).repetition == pytest.approx(36 / 37)
    blank = measure_variety([" ", "one"])
    assert (blank.blank, blank.words, blank.distinct[1], blank.distinct[2], blank.repetition) == (1, 0.5, 1, None, None)


# What is read

PROMPTS = {"joy": ["Say hello.", "Sing."], "neutral": ["List the days."], "grief": ["Remember her.", "Weep."]}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(PROMPTS))
    return str(path)


def saved(tmp_path, name, content):
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(content), path)
    elif name.endswith(".jsonl"):
        write_jsonl(path, content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


TEXTS = ["a", "b", "c", "d", "e"]
ROWS = [{"response": text} for text in TEXTS]
ASKED = ["joy", "joy", "neutral", "grief", "grief"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.json", TEXTS),
        ("r.json", {"joy": ["a", "b"], "neutral": ["c"], "grief": ["d", "e"]}),
        ("r.json", {"grief": ["d", "e"], "neutral": ["c"], "joy": ["a", "b"]}),
        ("r.json", ROWS),
        ("r.jsonl", ROWS),
        ("r.parquet", ROWS),
        (
            "r.jsonl",
            [{**row, "emotion": e} for row, e in zip(ROWS, ["joy"] * 2 + ["neutral"] + ["grief"] * 2, strict=True)],
        ),
        ("r.json", [f"Instruction: x Response: {text}" for text in TEXTS]),
    ],
)
def test_responses_are_laid_beside_their_prompts_whatever_they_come_in(tmp_path, prompts, name, content):
    asked = read_prompts(Sentiment(prompts=prompts), "sentiment")
    found = read_responses(Responses(path=saved(tmp_path, name, content)), asked)
    assert [(each.prompt, each.emotion) for each in found] == [(each.text, each.emotion) for each in asked]
    assert [each.text for each in found] == TEXTS


def test_without_prompts_the_file_says_what_is_known(tmp_path):
    found = read_responses(Responses(path=saved(tmp_path, "r.json", {"joy": ["Q Response: a", "b"]})), None)
    assert [(each.prompt, each.emotion, each.text) for each in found] == [("Q", "joy", "a"), ("", "joy", "b")]
    table = Responses(path=saved(tmp_path, "r.parquet", [{"out": "a", "mood": "joy"}]),
                      columns={"response": "out", "emotion": "mood"})  # fmt: skip
    assert [(each.emotion, each.text) for each in read_responses(table, None)] == [("joy", "a")]


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("no marker", "", "no marker"),
        ("Instruction: x\n\n### Response:\nyes\nno", "Instruction: x", "yes\nno"),
        ("Response: a Response: b", "", "a Response: b"),
        ("an EmergencyResponse: 1", "", "an EmergencyResponse: 1"),
        ("p Response:", "p", ""),
    ],
)
def test_a_marker_parts_prompt_from_answer(text, prompt, answer):
    assert split_at_marker(text) == (prompt, answer)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (TEXTS[:4], "4 responses, and 5 prompts"),
        ({"joy": ["a"], "neutral": ["c"], "grief": ["d", "e"]}, "1 responses, and 2 prompts"),
        ({"joy": ["a", "b"], "neutral": ["c"]}, "0 responses, and 2 prompts"),
        ({"joy": ["a", "b"], "neutral": [], "grief": ["d", "e"]}, "an empty list"),
        ({"joy": "a"}, "a JSON str, not a list"),
        ({"happiness": ["a"]}, "'happiness' is not one of the 28"),
        ([], "there is no response in it"),
        ([1, 2], "the text is int, not text"),
        (["a", None], "2 responses, and 5 prompts"),
        ("{broken", "not valid JSON"),
        ([{"answer": "a"}], "has no such column"),
        ([{"response": "a"}, 3], "a JSON int, not an object"),
        ([{"response": t, "emotion": "anger"} for t in TEXTS], "that of prompt 0 is joy"),
        ([{"response": "a", "emotion": ["glee"]}], "'glee' is not one of the 28"),
        ([{"response": "a", "emotion": "joy, love"}], "the labels joy, love, and one is needed"),
        ([{"response": "a", "emotion": 17}], "the number 17, and its file names no labels"),
    ],
)
def test_responses_that_do_not_fit_are_one_clear_error(tmp_path, prompts, content, cause):
    with pytest.raises(JobError, match=cause) as raised:
        read_responses(
            Responses(path=saved(tmp_path, "r.json", content)), read_prompts(Sentiment(prompts=prompts), "sentiment")
        )
    assert raised.value.key == "responses.path" and raised.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("p.json", {"joy": ["x"], "glee": ["y"]}, "'glee' is not one of the 28"),
        ("p.json", {"joy": []}, "an empty list"),
        ("p.json", {"joy": ["x", " "]}, "the text is blank"),
        ("p.json", {}, "there is no prompt in it"),
        ("p.jsonl", [{"prompt": "x", "emotion": "glee"}], "'glee' is not one of the 28"),
        ("p.jsonl", [{"text": "x", "emotion": "joy"}], "has no such column"),
    ],
)
def test_prompts_that_do_not_fit_are_one_clear_error(tmp_path, name, content, cause):
    with pytest.raises(JobError, match=cause) as raised:
        read_prompts(Sentiment(prompts=saved(tmp_path, name, content)), "sentiment")
    assert raised.value.key == "sentiment.prompts" and raised.value.remedy


def test_prompts_come_as_a_table_too(tmp_path):
    path = saved(tmp_path, "p.parquet", [{"text": "x", "emotion": "joy"}])
    (prompt,) = read_prompts(Sentiment(prompts=path, columns={"prompt": "text"}), "sentiment")
    assert (prompt.text, prompt.emotion) == ("x", "joy")


def test_emotions_are_read_whatever_their_case_and_space(tmp_path):
    listed = read_prompts(Sentiment(prompts=saved(tmp_path, "a.json", {" Joy": ["x"], "FEAR": ["y"]})), "sentiment")
    table = [{"prompt": "x", "emotion": "Joy "}, {"prompt": "y", "emotion": ["Fear"]}]
    assert listed == read_prompts(Sentiment(prompts=saved(tmp_path, "b.jsonl", table)), "sentiment")
    assert [prompt.emotion for prompt in listed] == ["joy", "fear"]
    answers = saved(tmp_path, "r.csv", "response,emotion\nyes,JOY\nno,fear \n")
    assert [each.emotion for each in read_responses(Responses(path=answers), listed)] == ["joy", "fear"]
    groups = {"all": [f" {emotion.title()}" for emotion in EMOTIONS]}
    assert read_groups(Sentiment(groups=saved(tmp_path, "g.json", groups))) == {"all": list(EMOTIONS)}


def test_a_file_may_group_emotions_otherwise(tmp_path):
    calm = {"calm": ["neutral", "relief"], "stirred": [each for each in EMOTIONS if each not in ("neutral", "relief")]}
    groups = read_groups(Sentiment(groups=saved(tmp_path, "g.json", calm)))
    assert sentiment_rates(["relief", "joy"], ["neutral", "neutral"], groups).by_group["calm"]["calm"].rate == 0.5
    for wrong, cause in [
        ({"calm": ["neutral"]}, "is in no group"),
        ({**calm, "more": ["joy"]}, "is in two groups"),
        ({**calm, "more": ["bliss"]}, "not one of the 28"),
        ({"calm": "neutral"}, "not a JSON object"),
    ]:
        with pytest.raises(JobError, match=cause):
            read_groups(Sentiment(groups=saved(tmp_path, "g.json", wrong)))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"models": []}, "give either models or responses"),
        ({"responses": {"path": "r.json"}}, "give either models or responses"),
        ({"models": [], "responses": [{"path": "a/r.json"}, {"path": "b/r.json"}]}, "two models are called r"),
        ({"models": [{"id": "fake", "path": "x"}]}, "give either id or path"),
        ({"models": [{"id": "a/x"}, {"path": "b/x"}]}, "two models are called x"),
        ({"sentiment": {}}, "give sentiment.prompts"),
        ({"evaluations": []}, "at least 1 item"),
        ({"evaluations": ["sentimental"]}, "Input should be 'sentiment'"),
        ({"sentiment": {"promts": "x"}}, "unknown key"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(change, cause):
    job = {"name": "t", "models": [{"id": "fake"}], "evaluations": ["sentiment"], "output": {"path": "o"},
           "sentiment": {"prompts": "p.json"}}  # fmt: skip
    as_job(job, EvaluateJob)
    with pytest.raises(JobError, match=cause):
        as_job({**job, **change}, EvaluateJob)


# The pool and the tables


def test_items_are_shared_by_actors_that_load_once(ray_cluster):
    def load(device, cores):
        assert (device, cores) == ("cpu", 1)
        return {"pid": os.getpid(), "done": 0}

    def work(loaded, item):
        loaded["done"] += 1
        if item == "bad":
            raise EngineError("model.id", item, "it is bad", "take another")
        if item == "worse":
            raise ZeroDivisionError("of ours")
        return item, loaded["pid"], loaded["done"]

    cluster = Cluster(replicas=2, cpus_per_replica=1, gpus_per_replica=0)
    done = dict(run_on_actors(load, work, list("abcdefgh"), cluster, lambda: None))
    assert [done[number][0] for number in range(8)] == list("abcdefgh")
    pids = {pid for _, pid, _ in done.values()}
    assert sum(max(n for _, p, n in done.values() if p == pid) for pid in pids) == 8
    for item, cause in [("bad", "it is bad"), ("worse", "ZeroDivisionError: of ours")]:
        with pytest.raises(EngineError, match=cause):
            list(run_on_actors(load, work, [item], cluster, lambda: None))
    with pytest.raises(StoppedError):
        list(run_on_actors(load, work, ["a"], cluster, lambda: 0.0))


def test_what_is_no_fault_of_the_model_ends_the_job():
    failures = {}
    with collect_failures(failures, "m"):
        raise EngineError("model.id", "m", "gone", "find it")
    with collect_failures(failures, "n"):
        raise StoppedError("cluster", None, "replica 0 died 3 times", "more memory")
    assert list(failures) == ["m", "n"]
    with pytest.raises(StoppedError), collect_failures(failures, "o"):
        raise StoppedError("", None, "by a signal", "again")


def test_no_text_becomes_markup():
    table = Table("of *it*", ["", "a|b"], [["<b>x</b>", Figure("1.0", "0.5 to 2.0")]])
    assert markdown([table]).splitlines()[:5] == [
        "## of \\*it\\*", "", "|  | a\\|b |", "| --- | ---: |", "| \\<b\\>x\\</b\\> | 1.0 (0.5 to 2.0) |",
    ]  # fmt: skip


# Whole evaluations


def job_of(folder, prompts, **more):
    return {
        "name": "both",
        "models": [{"id": "fake", "name": "one"}, {"path": str(folder / "gone")}, {"id": "fake", "name": "two"}],
        "evaluations": ["sentiment"],
        "sentiment": {"prompts": prompts},
        "sampling": {"max_tokens": 24},
        "engine": {"max_model_len": 64},
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": str(folder / "out")},
        "metrics": {"port": None},
        **more,
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "prompts.json").write_text(json.dumps({**PROMPTS, "fear": ["Run.", "word " * 100]}))
    job = job_of(folder, str(folder / "prompts.json"))
    return folder / "out", job, evaluate(job)


def made_at(out):
    files = [*out.glob("results/**/*.*"), *out.glob("responses/**/*.parquet")]
    return {path.relative_to(out): path.stat().st_mtime_ns for path in files}


def test_models_are_measured_and_a_missing_one_is_told(evaluated):
    _, _, report = evaluated
    found = report.as_json()
    assert list(found["models"]) == ["one", "two"]
    assert "no such folder" in found["failures"]["gone"]
    for model in found["models"].values():
        sentiment = model["sentiment"]
        # The prompt that the model cannot take is counted, and in no rate.
        assert sentiment["failed"] == 1 and sentiment["responses"]["texts"] == 6
        assert set(sentiment["overall"]) == {"positive", "neutral", "negative"}
        assert set(sentiment["overall"]["positive"]) == {"rate", "low", "high", "n"}
        assert {group: each["neutral"]["n"] for group, each in sentiment["by_group"].items()} == {
            "positive": 2, "neutral": 1, "negative": 3,
        }  # fmt: skip
        assert sum(rate["rate"] for rate in sentiment["overall"].values()) == pytest.approx(1)
    (comparison,) = found["comparisons"]["sentiment"]
    assert (comparison["first"], comparison["second"]) == ("one", "two")
    same = comparison["by"]["overall"]["positive"]  # the fake engine's words come of prompt and seed alone
    assert (same["difference"], same["p"], same["n"]) == (0, 1, 6)


def test_results_say_what_they_are_of(evaluated):
    out, _, report = evaluated
    result = json.loads((out / "results/sentiment/one.json").read_text())
    assert result["figures"]["overall"] == report.as_json()["models"]["one"]["sentiment"]["overall"]
    identity = result["identity"]
    assert identity["sampling.max_tokens"] == 24 and identity["sentiment.prompts"].startswith("7, ")
    assert identity["sentiment.classifier.found"] and result["engine"]["device"] == "fake" and result["versions"]
    rows = pq.read_table(out / "results/sentiment/one.parquet").to_pylist()
    assert [row["emotion"] for row in rows] == ["joy", "joy", "neutral", "grief", "grief", "fear", "fear"]
    assert rows[6]["response"] is None and "64" in rows[6]["fault"] and rows[6]["label"] is None
    for row in rows[:6]:
        assert row["label"] in PAPER_GROUPS[row["sentiment"]] and row["seed"] is not None and 0 < row["score"] <= 1
    last = json.loads((out / "evaluate.json").read_text())["last_metrics"]
    assert last['kindling_evaluate_examples_total{evaluation="sentiment",model="one"}'] == 7
    page = (out / "README.md").read_text()
    assert "| Instruction emotion | n | one: Positive (%) |" in page and "`gone` could not be evaluated" in page
    assert "two less one" in page and "| Grief | 2 |" in page
    answers = [line.split(" | ") for line in page.partition("| Prompt | one | two |")[2].splitlines()[2:8]]
    assert [cells[0] for cells in answers] == [f"| {row['prompt'].strip()}" for row in rows[:6]]
    assert answers[3][1:] == [rows[3]["response"], f"{rows[3]['response']} |"]  # one and two are the same model
    console = Console(width=100, file=io.StringIO())
    console.print(rendered(report.tables()))
    shown = console.file.getvalue()
    low, high = (100 * getattr(report.sentiment.models[0].rates.overall["positive"], end) for end in ("low", "high"))
    assert f"{low:.1f} to {high:.1f}" in shown and "Sentiment by emotion" in shown


def test_what_is_done_is_not_done_again_and_more_models_may_come(evaluated):
    out, job, report = evaluated
    before = made_at(out)
    assert evaluate(job).as_json() == report.as_json()
    assert made_at(out) == before
    (out / "results/sentiment/two.json").unlink()  # as if it had been killed before it had scored
    more = {**job, "models": [*job["models"], {"id": "fake", "name": "three"}]}
    assert list(evaluate(more).as_json()["models"]) == ["one", "two", "three"]
    after = made_at(out)
    again = {path for path, at in before.items() if after[path] != at}
    assert {path.name for path in again} == {"two.json", "two.parquet"}


def test_the_folder_of_another_job_is_refused_with_the_difference(evaluated, tmp_path):
    _, job, _ = evaluated
    for change, told in [
        ({"sampling": {"max_tokens": 25}}, "sampling.max_tokens: 24 -> 25"),
        ({"sentiment": {**job["sentiment"], "pooling": "mean"}}, "sentiment.pooling: passages -> mean"),
        ({"sentiment": {**job["sentiment"], "per_emotion": 1}}, "sentiment.prompts: 7, .* -> 4, "),
    ]:
        with pytest.raises(RunError, match=told):
            evaluate({**job, **change})
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        evaluate({**job, "output": {"path": str(tmp_path)}})
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_the_command_line_tells_what_failed_and_exits_1(evaluated, kindling, tmp_path):
    _, job, report = evaluated
    done = kindling("evaluate", write_job(tmp_path / "job.yaml", job), "--json")
    assert done.returncode == EXIT_FAULTS
    assert json.loads(done.stdout)["models"]["one"] == json.loads(json.dumps(report.as_json()["models"]["one"]))
    assert "no such folder" in done.stderr and "Traceback" not in done.stderr


def test_an_emotion_without_a_response_is_a_fault_and_no_rate(tmp_path):
    answers = [Response("Sing.", "joy", "la"), Response("Run.", "fear", None, fault="too long")]
    store = ShardStore(str(tmp_path))
    with pytest.raises(EngineError, match="none of its prompts of fear was answered: too long"):
        write_sentiment(store, "one", answers, np.eye(28)[:2], PAPER_GROUPS, {}, {})
    assert not list(tmp_path.rglob("*.json"))


def test_responses_of_a_file_are_scored_without_a_model(tmp_path, ray_cluster):
    answers = {"joy": ["I love this wonderful, happy day!", "Thank you so much!"], "grief": ["I cried, so sad.", ""]}
    job = {"name": "given", "responses": {"path": saved(tmp_path, "r.json", answers), "name": "mine"},
           "evaluations": ["sentiment"], "cluster": {"cpus_per_replica": 1},
           "output": {"path": str(tmp_path / "out")}}  # fmt: skip
    found = evaluate(job).as_json()["models"]["mine"]["sentiment"]
    assert found["by_group"]["positive"]["positive"]["rate"] == 1
    assert found["by_group"]["negative"]["negative"]["rate"] == 0.5
    assert found["responses"]["blank"] == 1 and found["cut_off"] is None
    # What it wrote, and another model's, side by side: the same rates, and a comparison.
    written = str(tmp_path / "out" / "results" / "sentiment" / "mine.parquet")
    others = saved(tmp_path, "o.json", {"joy": ["I hate it.", "It hurts."], "grief": ["So sad.", "Awful pain."]})
    both = [{"path": written, "name": "mine"}, {"path": others, "name": "theirs"}]
    compared = evaluate({**job, "responses": both, "output": {"path": str(tmp_path / "both")}}).as_json()
    assert compared["models"]["mine"]["sentiment"]["by_group"] == found["by_group"]
    assert compared["models"]["theirs"]["sentiment"]["by_group"]["positive"]["positive"]["rate"] == 0
    assert compared["comparisons"]["sentiment"]
    saved(tmp_path, "r.json", {"joy": ["no"]})
    with pytest.raises(RunError, match=r"responses: 4, .* -> 1, "):
        evaluate(job)


@pytest.mark.slow
def test_greedy_answers_in_single_precision_are_the_same_by_one_engine_and_two(tmp_path, ray_cluster):
    prompts = str(ROOT / "pipelines" / "data" / "evaluation_prompts.json")
    answers = []
    for replicas in (1, 2):
        job = job_of(
            tmp_path, prompts, models=[{"id": "embedded", "dtype": "float32"}],
            sampling={"temperature": 0, "max_tokens": 24}, engine={"max_model_len": 512},
            cluster={"replicas": replicas, "cpus_per_replica": 1}, output={"path": str(tmp_path / str(replicas))},
        )  # fmt: skip
        assert evaluate(job).failures == {}
        rows = pq.read_table(tmp_path / str(replicas) / "results/sentiment/embedded.parquet").to_pylist()
        answers.append([(row["prompt"], row["response"], row["label"]) for row in rows])
    assert answers[0] == answers[1] and len(answers[0]) == 56


def test_a_blank_response_of_a_model_is_a_response(tmp_path):
    blank, failed = {"text": " \n", "state": "rejected"}, {"state": "error", "reason": "because"}
    make_run(tmp_path / "responses" / "sentiment" / "fake", [{"text": "Yes."}, blank, failed])
    data = {"name": "e", "models": [{"id": "fake"}], "evaluations": ["sentiment"], "output": {"path": str(tmp_path)}}
    job = as_job({**data, "sentiment": {"prompts": "prompts.json"}}, EvaluateJob)
    prompts = [EmotionPrompt(f"p{n}", "joy") for n in range(3)]
    responses, _ = read_generated(job, job.models[0], "sentiment", prompts)
    assert [(each.text, each.fault) for each in responses] == [("Yes.", ""), (" \n", ""), (None, "because")]
