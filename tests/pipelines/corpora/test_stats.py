"""stats: on run folders written directly, and on files of others."""

import gzip
import json
import random
import re
from pathlib import Path

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import stats
from pipelines.corpora import stats as corpus_stats
from pipelines.corpora.stats_page import stats_page
from schemas.errors import RunError
from schemas.rows import ERROR, REJECTED, to_batch
from services.storage.row_log import open_row_log
from services.storage.store import ShardStore, shard_path
from tests.support.corpora import counted_plainly, shown
from tests.support.files import SHARED_DATA, write_jsonl
from tests.support.runs import make_run, record

STORIES = SHARED_DATA / "mistral_stories.parquet"
needs_data = pytest.mark.skipif(not STORIES.is_file(), reason=f"{STORIES} is not there")


# What stats counts


@pytest.mark.parametrize(
    ("text", "words", "unique"),
    [
        ("Once upon a time, once UPON a time.", 8, 4),
        ("Don\u2019t. don't DON'T", 3, 1),
        ("well-known - well known --", 5, 3),
        ("wait\u2014what?No", 1, 1),
        ("1,000 and 3.14", 3, 3),
        ("_so_ *so* 'so' (so) so's", 5, 2),
        ("\u00e9lan \u00c9LAN e\u0301lan", 3, 2),
        ("\u4f60\u597d \u4e16\u754c \U0001f600", 3, 2),
        ("... \u2014 \u2026", 3, 0),
        ("\u00a0a\u2003b\x1cc\x85d\n", 4, 4),
        ("", 0, 0),
    ],
)
def test_what_a_word_is(tmp_path, text, words, unique):
    assert words == len(text.split())
    write_jsonl(tmp_path / "a.jsonl", [{"text": text}])
    whole = stats(str(tmp_path / "a.jsonl")).corpora[0].whole
    assert (whole.stories, whole.words, whole.unique_words, whole.average_words) == (1, words, unique, words)


def test_what_an_opening_is(tmp_path):
    texts = [
        "Once upon a time, there was", '"Once upon a TIME?" he said', "Once upon a hill", "Once upon", "", "?!",
        "x" * 500 + " y",
    ]  # fmt: skip
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    whole = stats(str(tmp_path / "a.jsonl")).corpora[0].whole
    found = [(each.words, each.stories, each.share) for each in whole.openings]
    assert found[0] == ("once upon a time", 2, round(2 / 7, 4))
    assert [each[0] for each in found[1:]] == ["once upon", "once upon a hill", "x" * 100]
    assert whole.distinct_openings == 4 and whole.stories == 7


def plain(part):
    openings = [(each.words, each.stories) for each in part.openings]
    return part.stories, part.words, part.unique_words, part.average_words, openings


@pytest.mark.parametrize("held", [1, 50, corpus_stats.MAX_HELD])
def test_counts_are_the_same_whatever_goes_to_disk(tmp_path, monkeypatch, held):
    monkeypatch.setattr(corpus_stats, "MAX_HELD", held)
    monkeypatch.setattr(corpus_stats, "_MAX_FRAME_ROWS", 40)
    draw = random.Random(0)
    vocabulary = ["a", "b", "C", "c", "don't", "well-known", "d,", "--", "e.", *(f"w{i}" for i in range(60))]
    rows = [
        {"text": " ".join(draw.choices(vocabulary, k=draw.randrange(12))), "emotion": draw.choice(["joy", "fear", ""])}
        for _ in range(300)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    corpus = stats(str(tmp_path / "a.parquet"), by=["emotion"]).corpora[0]
    assert plain(corpus.whole) == counted_plainly([row["text"] for row in rows])
    assert set(corpus.by["emotion"]) == {"joy", "fear", ""}
    for value, part in corpus.by["emotion"].items():
        assert plain(part) == counted_plainly([row["text"] for row in rows if row["emotion"] == value])


def test_of_a_run_the_committed_accepted_rows_count(tmp_path):
    rows = [{"text": f"Word number {i}", "emotion": ["joy", "fear"][i % 2]} for i in range(12)]
    rows[1] = {"state": REJECTED, "text": "no such words", "reason": "too_many_words"}
    rows[2] = {"state": ERROR, "text": "", "reason": "null"}
    run = make_run(tmp_path / "run", rows, committed={0, 2})
    ShardStore(run).write_text(shard_path("rejected", 1), "left by a crash")
    log = open_row_log(ShardStore(run))
    log.append(1, to_batch([record(4)]))
    log.close()
    corpus = stats(run).corpora[0]
    assert corpus.complete is False and (corpus.without_text, corpus.unreadable) == (0, 0)
    assert (corpus.whole.stories, corpus.whole.words) == (6, 18)
    assert corpus.whole.unique_words == 2 + 6
    assert {value: part.stories for value, part in corpus.by["emotion"].items()} == {"fear": 3, "joy": 3}
    assert list(corpus.by) == ["prompt_id", "variant", "emotion", "source"]
    assert {value: part.stories for value, part in corpus.by["source"].items()} == {"in.jsonl": 6}
    assert list(stats(run, by=["inputs.context"]).corpora[0].by["inputs.context"])[:2] == ["c0", "c10"]
    assert "the run is not complete" in shown(stats_page(stats(run), 100))


def test_a_run_of_which_no_row_was_accepted_has_no_average(tmp_path):
    run = make_run(tmp_path / "run", [{"state": ERROR, "text": ""}] * 4)
    corpus = stats(run).corpora[0]
    assert (corpus.whole.stories, corpus.whole.average_words, corpus.whole.openings) == (0, None, [])
    assert "0" in shown(stats_page(stats(run), 100))


def test_corpora_of_others_in_any_format(tmp_path):
    rows = [{"story": "One two three", "labels": ["joy", "love"], "meta": {"part": "x"}}] * 3
    rows += [{"story": None, "labels": [], "meta": None}, {"story": "four", "labels": ["fear"], "meta": {"part": "y"}}]
    folder = tmp_path / "corpus"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode() + b'{"story": "torn'))
    found = stats([str(folder), str(folder / "*.parquet")], "story", ["labels", "meta.part"])
    both, one = found.corpora
    assert (one.whole.stories, one.whole.words, one.without_text, one.unreadable) == (4, 10, 1, 0)
    assert (both.whole.stories, both.whole.words, both.without_text, both.unreadable) == (8, 20, 2, 1)
    for column, values in {"labels": {"joy": 6, "fear": 2}, "meta.part": {"x": 6, "y": 2}}.items():
        assert {value: part.stories for value, part in both.by[column].items()} == values
    assert both.complete is None and json.loads(json.dumps(found.as_json()))["corpora"][1]["whole"]["words"] == 10
    text = shown(stats_page(found, 100))
    assert "left out: 1 row that cannot be read" in text and "by" not in found.as_json()


def test_emotions_are_counted_whatever_their_case(tmp_path):
    rows = [{"text": "one", "emotion": emotion, "id": emotion} for emotion in ("Joy", "joy ", ["JOY"], "glee", "Glee")]
    write_jsonl(tmp_path / "a.jsonl", rows)
    by = stats(str(tmp_path / "a.jsonl"), by=["emotion", "id"]).corpora[0].by
    assert {value: part.stories for value, part in by["emotion"].items()} == {"joy": 3, "glee": 1, "Glee": 1}
    assert len(by["id"]) == 5


def test_stats_of_what_cannot_be_counted(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs" / "some", [{}] * 8, committed={0})
    unborn = make_run(tmp_path / "unborn", [{}] * 8, committed=())
    write_jsonl(tmp_path / "a.jsonl", [{"story": "x", "row": i} for i in range(20)])
    (tmp_path / "empty").mkdir()
    for wrong, options, message in [
        (tmp_path / "nowhere", {}, "no such file"),
        (tmp_path / "empty", {}, "no run, and no corpus"),
        (tmp_path / "runs", {}, "name the runs: .*runs/some"),
        (unborn, {}, "no shard of this run is committed yet"),
        (tmp_path / "a.jsonl", {}, "--text-column = text: .*it has story, row"),
        (run, {"by": ["mood"]}, "--by = mood: .*it has text, state"),
        (tmp_path / "a.jsonl", {"text_column": "row"}, "none of the 20 rows"),
    ]:
        with pytest.raises(RunError, match=message):
            stats(str(wrong), **options)
    monkeypatch.setattr(corpus_stats, "_MAX_VALUES", 10)
    with pytest.raises(RunError, match="--by = row: it has more than 10 values"):
        stats(str(tmp_path / "a.jsonl"), "story", ["row"])


def test_stats_names_a_torn_file(tmp_path):
    run = make_run(tmp_path / "run", [{"text": f"story {i}"} for i in range(8)])
    shard = Path(run, shard_path("data", 1))
    whole = shard.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        shard.write_bytes(damaged)
        with pytest.raises(RunError, match=r"part-00001.parquet: (cannot be read|not a whole)(.|\n)*kindling verify"):
            stats(run)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000)[:-12])
    with pytest.raises(RunError, match=r"a\.jsonl\.gz: cannot be read"):
        stats(str(tmp_path / "a.jsonl.gz"))


def test_tables_stand_in_a_hundred_columns(tmp_path):
    rows = [{"text": "Once upon a time", "emotion": f"e{i % 40:02d}", "source": "[bold]x\x1b[31m"} for i in range(80)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "[red]b.jsonl", rows[:41])
    text = shown(
        stats_page(stats([str(tmp_path / "a.jsonl"), str(tmp_path / "[red]b.jsonl")], by=["emotion", "source"]), 100)
    )
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text and "[red]b.jsonl" in text
    assert "100.0% once upon a time" in text and "and 10 more: --json has them all" in text
    assert re.search(r"e00 +a.jsonl +2 .*\n +\[red\]b.jsonl +2 ", text)


@needs_data
def test_the_corpus_of_the_paper():
    corpus = stats(str(STORIES), "story", ["chunk"]).corpora[0]
    chunks = corpus.by["chunk"]
    prompt_1, prompt_2 = [str(chunk) for chunk in (*range(7), *range(10, 30))], ["30", "31", "32"]
    assert sum(chunks[chunk].stories for chunk in prompt_1) == 23_517  # Table 2 of the paper
    assert sum(chunks[chunk].stories for chunk in prompt_2) == 2_613
    assert corpus.whole.stories == sum(part.stories for part in chunks.values()) == 40_937
    words = [story.split() for story in polars.read_parquet(STORIES)["story"]]
    assert corpus.whole.words == sum(map(len, words))
    bare = (re.search(r"[^\W_](.*[^\W_])?", word.lower().replace("\u2019", "'")) for each in words for word in each)
    assert corpus.whole.unique_words == pytest.approx(len({found[0] for found in bare if found}), rel=0.001)


def test_words_are_nltks_tokens_where_its_data_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    (tmp_path / "corpus.txt").write_text("The sun is here, and it's warm.\n")
    with pytest.raises(RunError) as raised:
        stats(str(tmp_path / "corpus.txt"), words="nltk")
    assert raised.value.key == "--words" and "nltk.downloader punkt_tab stopwords" in raised.value.remedy
    folder = tmp_path / "tokenizers/punkt_tab/english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (folder / name).touch()
    (tmp_path / "corpora/stopwords").mkdir(parents=True)
    (tmp_path / "corpora/stopwords/english").write_text("the\nis\nand\nhere\nit\n")
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    (corpus,) = stats(str(tmp_path / "corpus.txt"), words="nltk").corpora
    assert (corpus.whole.words, corpus.whole.unique_words) == (5, 5)  # sun , 's warm .
    assert corpus.whole.openings[0].words == "the sun is here"
