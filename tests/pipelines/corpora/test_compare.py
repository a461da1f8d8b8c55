"""compare: on run folders written directly, and with stats once on runs of the fake engine."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import augment, compare, save_comparison, stats
from pipelines.corpora.comparison_page import comparison_page
from pipelines.corpora.stats_page import stats_page
from schemas.errors import JobError, RunError
from schemas.rows import ACCEPTED, ERROR, REJECTED, ROW_SCHEMA
from services.storage.store import shard_path
from tests.support.corpora import counted_plainly, shown
from tests.support.runs import make_run


def page_of(comparison, width=100):
    return shown(comparison_page(comparison, width), width)


# What compare finds


def states_of(row):
    return [(output.run, output.state, output.reason) for output in row.outputs]


def test_each_run_says_what_became_of_a_row(tmp_path):
    rows = [{"text": f"story {i}"} for i in range(8)]
    other = [dict(row) for row in rows]
    other[2] = {"state": REJECTED, "reason": "too_many_words", "text": "far too long", "finish_reason": "length"}
    other[3] = {"state": ERROR, "reason": "the cell is null", "text": "", "output_tokens": 0, "duration_seconds": 0.0}
    settings = {"input.path": "in.jsonl", "model.id": "m"}
    runs = [
        make_run(tmp_path / "p1", rows, prompt="p1", **settings),
        make_run(tmp_path / "p3", other, [("elsewhere/in.jsonl", "content")], prompt="p3", **settings),
        make_run(
            tmp_path / "late", rows, per_shard=2, committed={0}, prompt="p3", **{"sampling.top_p": 0.5}, **settings
        ),
    ]
    found = compare(runs, [1, 2, 3])
    assert found.runs == ["p1", "p3", "late"] and found.left_out == []
    assert found.differences == {"prompt": ["p1", "p3", "p3"], "sampling.top_p": [None, None, 0.5]}
    assert [(row.number, row.source, row.row_index) for row in found.rows] == [(i, "in.jsonl", i) for i in (1, 2, 3)]
    late = ("late", "not done", "its shard is not committed yet")
    first, second, third = map(states_of, found.rows)
    assert first == [("p1", ACCEPTED, ""), ("p3", ACCEPTED, ""), ("late", ACCEPTED, "")]
    assert second == [("p1", ACCEPTED, ""), ("p3", REJECTED, "too_many_words"), late]
    assert third == [("p1", ACCEPTED, ""), ("p3", ERROR, "the cell is null"), late]
    assert found.rows[0].inputs == {"context": "c1", "emotion": "joy"}
    assert [output.text for output in found.rows[1].outputs] == ["story 2", "far too long", ""]
    assert [output.duration_seconds for output in found.rows[2].outputs] == [0.5, None, None]
    text = page_of(found)
    assert max(map(len, text.splitlines())) <= 100
    for words in ("prompt: p1 | p3 | p3", "rejected: too_many_words", "0.50 s, 7 tokens, cut off", "error: the cell is",
                  "far too long", "not done: its shard is", "row 3: in.jsonl, row 3", "context: c3"):  # fmt: skip
        assert words in text


def test_variants_and_samples_of_one_run(tmp_path):
    variants = [
        {"variant": variant, "sample": i, "text": f"{variant} {i}", "inputs": json.dumps({"c": 1, "g": variant})}
        for variant in ("t=0.9", "t=0.3")
        for i in (0, 1)
    ]
    found = compare(make_run(tmp_path / "sweep", [variants] * 4), [2])
    assert [output.text for output in found.rows[0].outputs] == ["t=0.3 0", "t=0.3 1", "t=0.9 0", "t=0.9 1"]
    assert found.rows[0].inputs == {"c": 1, "emotion": "joy"}
    assert [output.inputs for output in found.rows[0].outputs][::2] == [{"g": "t=0.3"}, {"g": "t=0.9"}]
    text = page_of(found, 120)
    assert "sweep, t=0.9, sample 1" in text and "g: t=0.3" in text


def test_rows_are_the_same_where_their_content_is(tmp_path):
    rows = [{"text": f"story {i}"} for i in range(12)]
    turned = [*rows[4:8], *rows[:4], *rows[8:]]
    runs = [
        make_run(tmp_path / "a", rows, [("x", "1"), ("y", "2"), ("z", "3")]),
        make_run(tmp_path / "b", turned, [("there/y", "2"), ("there/x", "1"), ("w", "4")]),
    ]
    found = compare(runs, [0, 5])
    assert [[output.text for output in row.outputs] for row in found.rows] == [["story 0"] * 2, ["story 5"] * 2]
    assert found.left_out == ["z", "w"]
    with pytest.raises(RunError, match="rows 0 to 7 in common"):
        compare(runs, [8])


def test_files_of_the_same_content_are_told_apart_by_their_order(tmp_path):
    rows = [{"text": f"story {i}"} for i in range(8)]
    found = compare(make_run(tmp_path / "a", rows, [("x", "1"), ("y", "1")]), [1, 5])
    assert [row.outputs[0].text for row in found.rows] == ["story 1", "story 5"]


def test_drawn_rows_are_the_same_for_a_seed_and_done_where_any_are(tmp_path):
    rows = [{"text": f"story {i}"} for i in range(40)]
    whole, part = make_run(tmp_path / "a", rows), make_run(tmp_path / "b", rows, committed={3, 7})
    numbers = [[row.number for row in compare([whole, part], seed=seed).rows] for seed in (0, 0, 1)]
    assert numbers[0] == numbers[1] != numbers[2]
    done = {*range(12, 16), *range(28, 32)}
    assert all(len(each) == 4 and each == sorted(each) and set(each) <= done for each in numbers)
    twelve = compare([whole, part], count=12).rows
    assert len(twelve) == 12 and sum(row.outputs[1].state == "not done" for row in twelve) == 4
    assert len(compare(whole, count=100).rows) == 40


def test_drawn_rows_are_accepted_in_all_runs_where_any_are(tmp_path):
    rows = [{"text": f"story {i}"} for i in range(40)]
    refused = [row if i % 10 == 3 else {**row, "state": REJECTED, "reason": "words"} for i, row in enumerate(rows)]
    runs = [make_run(tmp_path / "a", rows, per_shard=20), make_run(tmp_path / "b", refused, per_shard=20)]
    for seed in range(3):
        assert [row.number for row in compare(runs, seed=seed).rows] == [3, 13, 23, 33]
    more = compare(runs[1], count=6).rows
    assert len(more) == 6 and {3, 13, 23, 33} < {row.number for row in more}


def test_compare_of_what_cannot_be_compared(tmp_path):
    run = make_run(tmp_path / "a", [{}] * 8)
    other = make_run(tmp_path / "b", [{}] * 8, [("other.jsonl", "another")])
    unborn = make_run(tmp_path / "c", [{}] * 8, committed=())
    with pytest.raises(RunError, match=r"no input in common(.|\n)*/a: in.jsonl\n.*/b: other.jsonl"):
        compare([run, other])
    with pytest.raises(RunError, match=r"the folder has no run\.json"):
        compare([run, str(tmp_path)])
    with pytest.raises(RunError, match="no shard of this run is committed yet"):
        compare([run, unborn])
    with pytest.raises(RunError, match="--rows = 8: the runs have rows 0 to 7"):
        compare(run, [8])
    shard = Path(run, shard_path("data", 0))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"part-00000\.parquet: cannot be read"):
        compare(run, [0])
    found = compare(run, [4])
    with pytest.raises(JobError, match=r"--to = x.pdf: .*\n.*\.md or \.html"):
        save_comparison(found, "x.pdf")
    (tmp_path / "mine.md").write_text("mine")
    with pytest.raises(RunError, match="there is a file there already"):
        save_comparison(found, str(tmp_path / "mine.md"))
    assert (tmp_path / "mine.md").read_text() == "mine"


def test_the_share_of_cut_off_texts_stands_above_the_rows(tmp_path):
    cut = make_run(tmp_path / "a", [{"finish_reason": "length" if n < 3 else "stop"} for n in range(8)])
    found = compare([cut, make_run(tmp_path / "b", [{}] * 8)], [0])
    assert (found.accepted, found.cut_off) == ([8, 8], [3, 0])
    line = "cut off at max_tokens: 3 of 8 accepted rows (37.5%) | 0 of 8 accepted rows (0.0%)"
    assert line in page_of(found) and stats(cut).corpora[0].cut_off == 3
    assert "a: cut off at max_tokens: 3 of 8 accepted rows (37.5%)" in shown(stats_page(stats(cut), 100), 100)


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)> [x](javascript:alert(1)) ![y](http://z) | `code` {{ 7*7 }} "
    "&lt;b&gt; \\| **bold** <!-- \r\n# heading\n\n| a | b |\n\x1b[31mred\x07 \u202egnp.exe [bold]rich[/bold] \x00"
)

TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "section", "dl", "dt", "dd",
    "div", "article",
}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class"}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_nothing_from_data_is_more_than_text(tmp_path):
    hostile = {"text": HOSTILE, "reason": HOSTILE, "variant": HOSTILE, "inputs": json.dumps({HOSTILE: HOSTILE})}
    rows = [{**hostile, "state": state} for state in (ACCEPTED, REJECTED)]
    run = make_run(tmp_path / "<b>[x](y)|", rows, [(HOSTILE, "1")], prompt=HOSTILE)
    other = make_run(tmp_path / "other", [{"text": "plain"}] * 2, [("o", "1")], prompt="p1")
    found = compare([run, other], [0, 1])
    for name in ("page.html", "page.md"):
        save_comparison(found, str(tmp_path / name))
    tags = Tags()
    page = (tmp_path / "page.html").read_text()
    tags.feed(page)
    assert tags.tags <= TAGS and tags.attributes <= ATTRIBUTES
    assert "<script>alert(1)</script><img src=x onerror=alert(1)>" in tags.text and "{{ 7*7 }}" in tags.text
    assert "default-src 'none'" in page
    markdown = (tmp_path / "page.md").read_text()
    assert "<" not in markdown.replace("<br>", "")
    assert re.search(r"(?<!\\)(\\\\)*[\[\]`~$]", markdown.replace("\\`", "")) is None
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in tables} == {4}
    assert sum(line.startswith("#") for line in markdown.splitlines()) == 3
    text = page_of(found)
    assert "[bold]rich[/bold]" in text
    for form in (page, markdown, text):
        assert not any(character in form for character in "\x1b\x07\x00\u202e\r")


# On runs of the fake engine, and by the command line


def test_runs_of_two_prompts(ray_cluster, fake_job, tmp_path, kindling):
    jobs = [{**fake_job, "prompt": prompt, "output": {"path": str(tmp_path / prompt)}} for prompt in ("p1", "p3")]
    runs = [augment(job).run for job in jobs]
    rows = [pq.read_table(f"{run}/data", schema=ROW_SCHEMA).to_pylist() for run in runs]
    done = kindling("stats", *runs, "--json")
    assert done.returncode == 0, done.stderr
    for corpus, each in zip(json.loads(done.stdout)["corpora"], rows, strict=True):
        stories, words, unique, average, first = counted_plainly([row["text"] for row in each])
        whole = corpus["whole"]
        assert corpus["complete"] and list(corpus["by"]["emotion"]) == ["joy"]
        assert [whole[key] for key in ("stories", "words", "unique_words", "average_words")] == [
            stories,
            words,
            unique,
            average,
        ]
        assert [(opening["words"], opening["stories"]) for opening in whole["openings"]] == first
    done = kindling("stats", *runs)
    assert done.returncode == 0 and "prompt_id" in done.stdout and "40" in done.stdout
    done = kindling("compare", *runs, "--rows", "7", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["differences"] == {"prompt": ["p1", "p3"]}
    (row,) = found["rows"]
    assert row["inputs"] == {"context": "Sentence number 7 is here.", "emotion": "joy"}
    for output, each in zip(row["outputs"], rows, strict=True):
        (same,) = [row for row in each if row["row_index"] == 7]
        assert (output["text"], output["duration_seconds"]) == (same["text"], same["duration_seconds"])
    done = kindling("compare", *runs, "--to", "page.html", "-n", "2")
    assert (done.returncode, done.stdout) == (0, "2 rows compared in page.html\n")
    assert (tmp_path / "page.html").read_text().count("<article") == 4
    for wrong in (["stats", tmp_path / "no"], ["compare", tmp_path], ["compare", *runs, "--rows", "x"],
                  ["compare", *runs, "--to", "page.pdf"], ["compare", *runs, "--to", "page.html"]):  # fmt: skip
        done = kindling(*wrong)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "remedy:" in done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 8
