"""The page of a review, the tally of what comes back, and the rows that people accepted."""

import json
from html.parser import HTMLParser
from pathlib import Path

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines import export, review, tally_review, verify
from pipelines.cli.main import app
from pipelines.reviewing.tally_page import tally_tables
from schemas.errors import JobError, RunError
from schemas.review import REASONS, ReviewVerdicts
from schemas.rows import ACCEPTED, REJECTED
from services.storage.store import ShardStore
from tests.support.chromium import CHROMIUM, Browser
from tests.support.reviews import MODEL, RULES, key_of, returned, reviewed_run


@pytest.fixture
def run(tmp_path):
    return reviewed_run(tmp_path / "run", 40, dict.fromkeys(RULES, 10), blank=2)


@pytest.fixture
def page(run, tmp_path):
    return review(run, str(tmp_path / "review.html"), count=40)


def by_state(row):
    """What a reviewer says who knows the rules."""
    return row["state"]


class Data(HTMLParser):
    """The JSON of a page, and all its text and attributes."""

    def __init__(self, html):
        super().__init__()
        self.data, self.labels, self.names = None, [], []
        self._is_data = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._is_data = ("id", "data") in attrs
        self.labels += [value for name, value in attrs if name in ("for", "aria-labelledby")]
        self.names += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        self._is_data = False

    def handle_data(self, text):
        if self._is_data:
            self.data = json.loads(text)


# The page


def test_the_page_is_blind_to_what_the_run_made_of_a_row(run, page):
    html = Path(page.to).read_text()
    for secret in (*RULES, MODEL, "near_duplicate", "kept_score", "0.987654", "in.jsonl", "babylm", run):
        assert secret not in html, secret
    parsed = Data(html)
    items, key = parsed.data["items"], key_of(page)
    assert [sorted(item) for item in items] == [["emotion", "id", "source", "text"]] * 40
    assert [item["id"] for item in items] == [row["row"] for row in key["rows"]]
    for item, row in zip(items, key["rows"], strict=True):
        number = row["row_index"]
        assert item["text"] == f"Text number {number}." and item["source"] == [["context", f"Context {number}."]]
    # Accepted and rejected rows are mixed: neither half of the page has all of them.
    states = [key["groups"][row["group"]]["state"] for row in key["rows"]]
    assert states.count(ACCEPTED) == 20 and 3 < states[:20].count(ACCEPTED) < 17
    assert set(parsed.labels) <= set(parsed.names)


def test_ids_follow_from_what_the_page_does_not_have(tmp_path):
    pages = [
        review(reviewed_run(tmp_path / name, 4, {rule: 4}), str(tmp_path / f"{name}.html"))
        for name, rule in (("a", "x"), ("b", "y"))
    ]
    first, second = ({item["id"] for item in Data(Path(page.to).read_text()).data["items"]} for page in pages)
    assert not first & second


def test_the_same_call_gives_the_same_page(run, page, tmp_path):
    again = review(run, str(tmp_path / "again.html"), count=40)
    assert Path(again.to).read_bytes() == Path(page.to).read_bytes() and again.key == page.key
    assert review(run, str(tmp_path / "other.html"), count=40, seed=1).key != page.key
    assert verify(run).faults == []


def test_columns_and_reasons_are_those_that_the_rows_have(tmp_path):
    run = reviewed_run(tmp_path / "run", 4, {}, changes=lambda i: {"emotion": ""})
    data = Data(Path(review(run, str(tmp_path / "a.html"), columns=["kept_score"]).to).read_text()).data
    assert data["items"][0]["source"] == [["kept_score", "0.987654"]] and data["reasons"][0][0] == "meaning"
    data = Data(Path(review(run, str(tmp_path / "b.html"), columns=[]).to).read_text()).data
    assert data["items"][0]["source"] == [] and [name for name, _ in data["reasons"]] == [*REASONS][2:]


def test_calls_that_write_no_page(run, page, tmp_path):
    for error, match, arguments in (
        (JobError, "its ending names no page", (run, str(tmp_path / "page"))),
        (RunError, "there is a file there already", (run, page.to)),
        (RunError, "no run.json", (str(tmp_path / "none"), str(tmp_path / "x.html"))),
    ):
        with pytest.raises(error, match=match):
            review(*arguments)
    store = ShardStore(run)
    record = store.read_run()
    record.job.update(recipe="template", prompt=str(tmp_path / "gone.jinja"))
    store.write_run(record)
    with pytest.raises(RunError, match=r"(?s)gone\.jinja.*--columns NAME,NAME"):
        review(run, str(tmp_path / "x.html"))
    assert not (tmp_path / "x.html").exists()


def test_a_key_is_not_replaced(run, page, tmp_path):
    key = Path(page.key)
    key.write_text(key.read_text().replace('"rows": 40', '"rows": 41'))
    before = key.read_text()
    with pytest.raises(RunError, match=r"(?s)key of a review of the same rows.*--seed"):
        review(run, str(tmp_path / "x.html"), count=40)
    assert key.read_text() == before


# The tally


def test_figures_weigh_groups_by_their_size_in_the_run(tmp_path):
    run = reviewed_run(tmp_path / "run", 900, {"a": 90, "b": 10})
    page = review(run, str(tmp_path / "review.html"), count=40)  # 20 of 900, 10 of 90, 10 of 10
    numbers = {row["row"]: i for i, row in enumerate(sorted(key_of(page)["rows"], key=lambda row: row["group"]))}

    def judge(row):  # people reject 2 of 20 accepted ones, 9 of 10 of rule a, 5 of 10 of rule b
        number = numbers[row["row"]]
        return (REJECTED, "meaning") if number < 2 or 20 <= number < 29 or number >= 35 else ACCEPTED

    tally = tally_review(run, [returned(page, tmp_path / "1.json", judge)])
    assert (tally.rows, tally.judged, tally.divided, tally.left_out) == (40, 40, 0, [])
    rejected = 900 * 0.1 + 90 * 0.9 + 10 * 0.5
    shares = {name: round(share.value, 9) for name, share in tally.accepted.items()}
    assert shares == {"all": round(1 - rejected / 1000, 9), ACCEPTED: 0.9, REJECTED: round(1 - 86 / 100, 9)}
    assert [(check.rule, check.rows, check.judged) for check in tally.checks] == [
        ("all", 100, 20), ("a", 90, 10), ("b", 10, 10),
    ]  # fmt: skip
    assert [round(check.precision.value, 9) for check in tally.checks] == [0.86, 0.9, 0.5]
    assert [check.recall.value for check in tally.checks] == pytest.approx([86 / rejected, 81 / rejected, 5 / rejected])
    for figure in (*tally.accepted.values(), *(c.precision for c in tally.checks), *(c.recall for c in tally.checks)):
        assert 0 <= figure.low < figure.value < figure.high <= 1
    assert tally.accepted[ACCEPTED].n == 20 and tally.accepted["all"].n == 40
    assert tally.reasons == {ACCEPTED: {"meaning": 2}, REJECTED: {"meaning": 14}}
    assert tally.pairs == [] and json.loads(json.dumps(tally.as_json()))["accepted"]["rejected"]["n"] == 20
    assert tally_review(run, [str(tmp_path / "1.json")]) == tally


def test_two_reviewers_agree_beyond_chance(run, page, tmp_path):
    numbers = {row["row"]: row["row_index"] for row in key_of(page)["rows"]}
    rejected = sorted(number for number in numbers.values() if number >= 40)

    def doubtful(row):
        return ACCEPTED if numbers[row["row"]] in rejected[:5] else row["state"]

    files = [returned(page, tmp_path / "1.json", by_state), returned(page, tmp_path / "2.json", doubtful, 1)]
    tally = tally_review(run, files)
    (pair,) = tally.pairs
    # Of 20 rejected rows in the sample, which is all of them, they are divided on 5; of 40 accepted rows on none.
    observed, chance = 55 / 60, (2 / 3) * (45 / 60) + (1 / 3) * (15 / 60)
    assert pair.rows == 40 and pair.agreement.value == pytest.approx(observed)
    assert pair.kappa.value == pytest.approx((observed - chance) / (1 - chance))
    assert pair.kappa.low < pair.kappa.value < pair.kappa.high
    # A row on which they are divided counts as half of each.
    assert tally.divided == 5 and tally.accepted[REJECTED].value == pytest.approx(2.5 / 20)
    alike = tally_review(run, [files[0], returned(page, tmp_path / "2.json", by_state, 1)]).pairs[0]
    assert alike.kappa.value == 1.0 and alike.kappa.low < 1.0  # forty rows do not prove it
    accepting = [returned(page, tmp_path / f"{i}.json", lambda row: ACCEPTED, i - 1) for i in (1, 2)]
    tally = tally_review(run, accepting)
    assert tally.pairs[0].kappa is None and tally.checks[0].recall is None and tally.checks[0].precision.value == 0


def judged_run(folder, values):
    """A run of which a judge rated each accepted row: value of a row by its number; None for no value."""
    run = reviewed_run(folder, 40, {"fits": 20})
    store = ShardStore(run)
    record = store.read_run()
    record.job["generations"] = [
        {"name": "answer"}, {"name": "fits", "kind": "judge", "prompt": "fits.jinja", "threshold": 0.5},
    ]  # fmt: skip
    record.rubrics = {"fits": "Does it fit?\n## No heading\n```\n{{ answer }}"}
    store.write_run(record)
    for path in Path(run).glob("*/part-*.parquet"):
        table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
        given = [values(number) for number in table["row_index"].to_pylist()]
        scores = ["" if value is None else json.dumps({"fits": value}) for value in given]
        table = table.append_column("scores", pa.array(scores)).replace_schema_metadata(metadata)
        pq.write_table(table, path)
    return run


def test_a_judge_is_measured_by_what_people_say(tmp_path):
    # Of 40 accepted rows, half have the value 0.9, half 0.7; people accept 9 of 10 of each. Rejected ones have 0.1.
    run = judged_run(tmp_path / "run", lambda number: 0.1 if number >= 40 else 0.9 if number % 2 else 0.7)
    page = review(run, str(tmp_path / "review.html"), count=60, columns=["context"])

    def judge(row):
        return REJECTED if row["row_index"] >= 36 else ACCEPTED

    tally = tally_review(run, [returned(page, tmp_path / "1.json", judge)])
    (fits,) = tally.judges
    assert (fits.judge, fits.rows, fits.bins) == ("fits", 60, 5)
    assert fits.value == pytest.approx((20 * 0.9 + 20 * 0.7 + 20 * 0.1) / 60) and fits.accepted == pytest.approx(0.6)
    error = (20 * 0.0 + 20 * 0.2 + 20 * 0.1) / 60  # 18 of 20 are accepted in either bin of accepted rows
    assert fits.error.value == pytest.approx(error) and fits.error.low <= error < fits.error.high and fits.error.n == 60
    assert json.loads(json.dumps(tally.as_json()))["judges"][0]["error"]["n"] == 60
    table = next(table for table in tally_tables(tally) if table.title == "Judges against people")
    assert table.rows[0][:3] == ["fits", "60", "5"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "- 60 rows judged by 1 reviewer." in card and "No person judged" not in card
    assert "Does it fit?\n## No heading\n```\n{{ answer }}\n````" in card
    assert "A value below 0.5 rejects the row. It rejected 20 rows, and 0 texts whose row was tried again." in card


def test_a_judge_without_enough_judged_rows_is_not_measured(run, page, tmp_path):
    assert tally_review(run, [returned(page, tmp_path / "1.json", by_state)]).judges == []  # no judge at all
    few = judged_run(tmp_path / "few", lambda number: 0.9 if number < 29 else None)
    page = review(few, str(tmp_path / "few.html"), count=60, columns=["context"])
    assert tally_review(few, [returned(page, tmp_path / "2.json", by_state)]).judges == []


def test_rows_that_nobody_judged_are_named(run, page, tmp_path):
    second = RULES[1]
    half = returned(page, tmp_path / "1.json", lambda row: None if row["rule"] == second else row["state"])
    tally = tally_review(run, [half])
    assert [(each.accepted, each.rejected, each.blank) for each in tally.reviewers] == [(20, 10, 10)]
    assert tally.left_out == [{"state": REJECTED, "rule": second, "rows": 10}] and tally.judged == 30
    assert tally.checks[1].recall.value == 1.0 and tally.checks[2].precision is None
    unseen = returned(page, tmp_path / "1.json", lambda row: None if row["state"] == ACCEPTED else REJECTED)
    tally = tally_review(run, [unseen])
    assert tally.accepted[ACCEPTED] is None and {check.recall for check in tally.checks} == {None}


def test_a_bad_file_is_named_with_what_is_wrong(run, page, tmp_path):
    good = returned(page, tmp_path / "good.json", by_state)
    other_sample = review(run, str(tmp_path / "other.html"), count=40, seed=1)
    other_run = review(reviewed_run(tmp_path / "run2", 30, {"x": 10}), str(tmp_path / "run2.html"), count=40)
    content = json.loads(Path(good).read_text())
    first, *rest = content["answers"]

    def refused(match, *files, error=JobError):
        with pytest.raises(error, match=match) as caught:
            tally_review(run, files)
        assert len(str(caught.value)) < 600

    def changed(name, **changes):
        return returned(page, tmp_path / name, by_state, 1, **changes)

    refused("no file is there", str(tmp_path / "absent*.json"))
    refused("no file of answers is named")
    (tmp_path / "cut.json").write_text(Path(good).read_text()[:-40])
    refused(r"cut\.json: not a file of answers that a review's page saved: Invalid JSON", str(tmp_path / "cut.json"))
    refused(r"key\.json: not a file of answers", page.key)
    refused(r"(?s)b\.json: answers review \w{8}, and this run has the reviews \w{8}, \w{8}\n.*name the run", good,
            returned(other_run, tmp_path / "b.json", by_state, 1))  # fmt: skip
    refused(r"c\.json: answers review \w{8}, and the first file answers \w{8}: other rows", good,
            returned(other_sample, tmp_path / "c.json", by_state, 1))  # fmt: skip
    refused(r"d\.json: saved .* is of the same respondent as .*good\.json", good,
            returned(page, tmp_path / "d.json", by_state))  # fmt: skip
    unknown = {**first, "row": "zzz"}
    refused(r"u\.json: has a row 'zzz' that the page lacks", changed("u.json", answers=[unknown, *rest]))
    refused(r"t\.json: has row \w+ twice", changed("t.json", answers=[*rest, rest[0]]))
    refused(r"l\.json: lacks row \w+ and 0 more", changed("l.json", answers=rest))
    refused(r"v\.json: .*answers\.0\.verdict", changed("v.json", answers=[{**first, "verdict": "maybe"}, *rest]))
    refused(r"r\.json: .*answers\.0\.reason", changed("r.json", answers=[{**first, "reason": "ugly"}, *rest]))
    refused("nobody judged a row", returned(page, tmp_path / "n.json", lambda row: None))
    assert not list(Path(page.key).parent.glob("*[!y].json"))
    Path(page.key).write_text("{")
    refused(r"(?s)key\.json: it is damaged.*put it back from a copy", good, error=RunError)
    for key in Path(page.key).parent.iterdir():
        key.unlink()
    refused("it has no review yet", good, error=RunError)


# Verdicts, which are kept with the run


def test_verdicts_are_kept_with_the_run_and_none_is_lost(run, page, tmp_path):
    one = returned(page, tmp_path / "1.json", lambda row: (REJECTED, "other") if row["row_index"] < 20 else ACCEPTED, 1)
    two = returned(page, tmp_path / "2.json", lambda row: ACCEPTED, 2)
    tally = tally_review(run, [one, two])
    kept = ReviewVerdicts.model_validate_json(Path(tally.verdicts).read_bytes())
    assert kept.review == page.review and len(kept.rows) == 40 and len(kept.reviewers) == 2
    assert kept.accepted["all"].value == tally.accepted["all"].value and kept.pairs[0].rows == 40
    row = next(row for row in kept.rows if row.row_index < 20)
    assert (row.state, row.rule, row.verdict) == (ACCEPTED, "", "divided") and row.source == "in.jsonl"
    assert [(each.verdict, each.reason) for each in row.judgements] == [(REJECTED, "other"), (ACCEPTED, "")]
    assert verify(run).faults == [] and verify(run).strays == []
    with pytest.raises(JobError, match=r"(?s)has verdicts of reviewer 0{8}, saved 2026.*name the files of all"):
        tally_review(run, [one])
    later = returned(page, tmp_path / "2.json", lambda row: REJECTED, 2, saved_at="2026-01-02T00:00:00.000Z")
    assert tally_review(run, [one, later]).accepted["all"].value == pytest.approx(0.333, abs=0.1)
    with pytest.raises(JobError, match="has verdicts of reviewer"):
        tally_review(run, [one, returned(page, tmp_path / "2.json", by_state, 2)])


def test_an_export_keeps_the_rows_that_people_accepted(run, page, tmp_path):
    with pytest.raises(RunError, match=r"(?s)no verdicts of people.*kindling review RUN --to"):
        export(run, str(tmp_path / "q.parquet"), reviewed=True)
    seen = sorted(row["row_index"] for row in key_of(page)["rows"] if row["row_index"] < 40)
    files = [
        returned(page, tmp_path / "1.json", lambda row: REJECTED if row["row_index"] in seen[:3] else ACCEPTED, 1),
        returned(page, tmp_path / "2.json", lambda row: REJECTED if row["row_index"] in seen[:5] else ACCEPTED, 2),
    ]
    tally_review(run, files)
    exported = export(run, str(tmp_path / "q.parquet"), columns=["text"], reviewed=True)
    assert exported.left_out == {"unseen": 20, "rejected": 3, "divided": 2, "refused_by_checks": 20}
    texts = polars.read_parquet(exported.to)["text"].to_list()
    assert texts == [f"Text number {number}." for number in seen[5:]] and exported.columns == ["text"]
    assert export(run, str(tmp_path / "all.parquet")).left_out == {}
    # A verdict is on a text. An output that has another one since was not judged.
    changed = reviewed_run(tmp_path / "changed", 40, {}, changes=lambda i: {"text": "New."} if i == seen[-1] else {})
    Path(changed, "reviews").symlink_to(Path(run, "reviews"))
    exported = export(changed, str(tmp_path / "folder"), test=0.2, reviewed=True)
    assert exported.left_out["changed"] == 1 and exported.rows == 14 and exported.splits == {"train": 11, "test": 3}
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "left out are 20 rows that nobody judged, 3 rows that people rejected" in card and "with the seed 0" in card
    strict = [returned(page, file, lambda row: REJECTED, i, saved_at="2027") for i, file in enumerate(files, 1)]
    tally_review(run, strict)
    with pytest.raises(RunError, match=r"(?s)accepted none of its accepted rows.*--seed 1"):
        export(run, str(tmp_path / "r.parquet"), reviewed=True)


def test_the_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def kindling(*arguments):
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})

    lines = kindling("review", run, "-n", "40", "--to", "review.html").stdout.splitlines()
    assert lines[:2] == ["40 rows in review.html, drawn from 60:", "     20 of        40  accepted"]
    assert lines[2] == f"     10 of        10  rejected: {RULES[0]}"
    assert "not shown: 2 rows without a text: near_duplicate" in lines and lines[-1].endswith("--returned FILES")
    page = review(run, "again.html", count=40)
    files = [returned(page, f"{i}.json", by_state, i) for i in (1, 2)]
    shown = kindling("review", run, "--returned", *files).stdout
    assert "40 rows of 40 judged by 2 reviewers" in shown and "Rules against people" in shown
    assert json.loads(kindling("review", run, "--returned", *files, "--json").stdout)["pairs"][0]["rows"] == 40
    shown = kindling("export", run, "--to", "q.jsonl", "--reviewed").stdout.splitlines()
    assert shown[:2] == ["20 rows in 1 file", "left out: 20 rows that nobody judged"]
    for words, *arguments in (
        ("no file is named for the page", "review", run),
        ("only returned files", "review", run, files[0]),
        ("no file of answers is named", "review", run, "--returned"),
        ("--returned writes none", "review", run, "--returned", files[0], "--to", "x.html"),
        ("a set of prompts has one form", "export", run, "--to", "p.json", "--format", "prompts", "--reviewed"),
    ):
        assert words in str(kindling(*arguments).exception)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def text_of(browser, element):
    return browser.value(f"document.getElementById('{element}').textContent")


def checked(browser):
    return browser.value("[...document.querySelectorAll('#ask input:checked')].map((input) => input.value)")


def test_a_review_is_done_by_keyboard_saved_and_counted(browser, tmp_path):
    run = reviewed_run(
        tmp_path / "run", 3, {"repetition": 2}, changes=lambda i: {"text": "<b>&lt;i></script>"} if not i else {}
    )
    page = review(run, str(tmp_path / "review.html"))
    browser.download_to(tmp_path)
    since = len(browser.events)
    browser.open(f"file://{page.to}")
    browser.press("Enter")
    assert text_of(browser, "title") == "Text 1 of 5" and browser.value("document.activeElement.id") == "title"
    shown = []
    for keys, expected in (
        (["a"], ["accepted"]),
        (["r"], ["rejected"]),
        (["3", "a", "r"], ["rejected"]),  # to accept took the reason back
        (["a", "2"], ["rejected", "meaning"]),
    ):
        shown.append(text_of(browser, "judged"))
        for key in keys:
            browser.press(key)
        assert checked(browser) == expected
        assert browser.value("document.getElementById('reasons').checkVisibility()") == (expected[0] == "rejected")
        browser.press("Enter")
    assert any("<b>&lt;i></script>" in text for text in (*shown, text_of(browser, "judged")))
    browser.press("n")
    browser.type("a note")
    browser.press("Escape")
    browser.press("Enter", shift=True)
    browser.reload()
    assert text_of(browser, "title") == "Text 4 of 5" and checked(browser) == ["rejected", "meaning"]
    browser.press("Enter")
    browser.press("Enter")
    assert "answered 4 of 5 texts" in text_of(browser, "answered")
    browser.press("Tab")
    browser.press("Enter")
    file = browser.downloaded(tmp_path / browser.value("fileName()"))
    answers = json.loads(file.read_text())["answers"]
    assert [(each["verdict"], each["reason"]) for each in answers] == [
        (ACCEPTED, ""), (REJECTED, ""), (REJECTED, ""), (REJECTED, "meaning"), (None, ""),
    ]  # fmt: skip
    assert answers[4]["note"] == "a note"
    tally = tally_review(run, [str(file)])
    assert (tally.judged, tally.reviewers[0].blank) == (4, 1)
    faults = [event for event in browser.events[since:] if event[0] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert faults == []
    names = browser.value(
        "[...document.querySelectorAll('input, textarea')].map((each) => each.labels.length || each.ariaLabel?.length)"
    )
    assert all(names)  # each has a name for a screen reader
