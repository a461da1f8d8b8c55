import errno
import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines import label, verify
from pipelines.inputs.files import input_files
from pipelines.labelling import sentences as rules
from pipelines.labelling.contexts import LabelCounts
from pipelines.labelling.progress import LabelProgress
from pipelines.labelling.ranges import lines_of, plan_ranges
from pipelines.labelling.scoring import keep
from pipelines.labelling.sentences import Segmenter
from schemas.emotions import EMOTIONS
from schemas.errors import EngineError, JobError, RunError
from schemas.job import Input
from schemas.label import Segmentation
from schemas.text import wide_encoding
from services.storage.store import ShardStore


def ranges_of(path, size):
    return plan_ranges(input_files(Input(path=str(path), format="text")), size)


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"", b"a", b"some words", b"\xff\xfe", b"x" * 40, b"\r"]), max_size=12), st.data())
def test_every_line_is_in_one_range_whatever_their_size(tmp_path_factory, lines, data):
    content = b"\n".join(lines) + data.draw(st.sampled_from([b"", b"\n"]))
    assume(not wide_encoding(content))
    path = tmp_path_factory.mktemp("ranges") / "raw.txt"
    path.write_bytes(content)
    ranges = ranges_of(path, data.draw(st.integers(1, 60)))
    found = [pair for each in ranges for pair in lines_of(each)]
    assert b"".join(line for _, line in found) == content
    assert all(content[offset : offset + len(line)] == line for offset, line in found)


def test_a_line_of_50_mb_is_passed_over(tmp_path):
    path = tmp_path / "raw.txt"
    path.write_bytes(b"first\n" + b"x" * 50_000_000 + b"\nlast\n")
    assert [line for each in ranges_of(path, 1 << 20) for _, line in lines_of(each)] == [b"first\n", None, b"last\n"]


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        (b"*MOT:\tdo you want the red one ?\n", ["do you want the red one ?"]),
        (b"A:\tWell, I think so. [laughter] We went twice.\r\n", ["Well, I think so.", "We went twice."]),
        (
            "\ufeffHe said \u201cIt is late.\u201d Then he left us.".encode(),
            ["He said \u201cIt is late.\u201d", "Then he left us."],
        ),
        (b"It was *so* very cold, and _nobody_ came.", ["It was so very cold, and nobody came."]),
        (b"Mr. Smith met Dr. Jones at 5 p.m. on Monday.", ["Mr. Smith met Dr. Jones at 5 p.m. on Monday."]),
    ],
)
def test_sentences_of_a_line(line, sentences):
    assert list(Segmenter(Segmentation(), "utf-8").sentences(line)) == sentences


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"= = = Early life = = =", rules.HEADING),
        (b"*CHAPTER IV.*", rules.HEADING),
        (b"THE ADVENTURES OF A PENNY", rules.HEADING),
        (b"   ", rules.BLANK),
        (b"[music]", rules.BLANK),
        (b"caf\xe9 is closed today", rules.NOT_TEXT),
        (b"a null \0 byte", rules.NOT_TEXT),
        (b"see https://example.org for more of it", rules.MARKUP),
        (b"an [[inner link]] to another page", rules.MARKUP),
        (b"Act 2, scene 1", rules.HEADING),
        (b"1 2 3 4 5", rules.NO_LETTERS),
        (b"Oh no.", rules.SHORT),
        (b"word " * 70, rules.LONG),
        (None, rules.LONG_LINE),
    ],
)
def test_what_is_dropped_is_counted_by_its_rule(line, rule):
    segmenter = Segmenter(Segmentation(), "utf-8")
    assert list(segmenter.sentences(line)) == []
    assert segmenter.dropped == {rule: 1}


@pytest.mark.parametrize(
    "line",
    [
        "Part I liked best was the end.",
        "Book I read last week was great.",
        "Act civil for once, please.",
        "Scene by scene it grew darker.",
        "Rhythm & blues by the B&B at AT&T was fun.",
    ],
)
def test_ordinary_sentences_stay_as_they_are(line):
    assert list(Segmenter(Segmentation(), "utf-8").sentences(line.encode())) == [line]


def test_a_shout_is_no_heading():
    assert list(Segmenter(Segmentation(), "utf-8").sentences(b"GO AWAY FROM HERE!")) == ["GO AWAY FROM HERE!"]


def test_latin_1_is_read_where_the_job_says_so():
    assert list(Segmenter(Segmentation(), "latin-1").sentences(b"the caf\xe9 is closed")) == ["the café is closed"]


def test_what_is_kept_and_with_which_labels():
    scores = np.zeros((4, 28), dtype=np.float32)
    joy, love, neutral = (EMOTIONS.index(name) for name in ("joy", "love", "neutral"))
    scores[0, [joy, love, neutral]] = 0.6, 0.7, 0.5
    scores[1, [joy, neutral]] = 0.6, 0.8
    scores[2, joy] = 0.4
    scores[3, joy] = 0.5
    contexts, neutrals, unsure = keep([(f"s{n}", n, 0) for n in range(4)], "raw", scores, np.full(28, 0.5))
    assert contexts["context"].to_pylist() == ["s0", "s3"]
    assert contexts["emotions"].to_pylist() == [["love", "joy"], ["joy"]]
    assert contexts["scores"].to_pylist()[0] == pytest.approx([0.7, 0.6])
    assert (neutrals, unsure) == (1, 1)


HAPPY, THANKS, PLAIN = (
    "I am so happy today, this is wonderful!",
    "Thank you so much for your help!",
    "The box is on the table.",
)


def corpus(folder):
    folder.mkdir()
    lines = [f"*MOT:\t{HAPPY}", "= = = Title = = =", f"{THANKS} {PLAIN}", PLAIN] * 30
    (folder / "talk.train").write_bytes("\r\n".join(lines).encode() + b"\n\xff\xfe broken\n")
    (folder / "wiki.txt").write_text(f"{PLAIN}\n" * 20)
    (folder / "empty.txt").write_text("")


def job_of(folder, **changes):
    return {
        "name": "contexts",
        "input": {"path": [str(folder / "raw" / "*")]},
        "threshold": "tuned",
        "cluster": {"cpus_per_actor": 1},
        "output": {"path": str(folder / "run"), "bytes_per_shard": 2000},
        **changes,
    }


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("label")
    corpus(folder / "raw")
    return folder, label(job_of(folder))


def test_a_raw_corpus_becomes_contexts(labelled_run):
    folder, summary = labelled_run
    data = load_dataset(str(folder / "run"), split="train")
    assert set(data["context"]) == {HAPPY, THANKS}
    assert data.num_rows == summary.counts["kept"] == 60
    assert {row["context"]: row["emotions"][0] for row in data} == {HAPPY: "joy", THANKS: "gratitude"}
    assert summary.counts["sentences"] == 140
    assert summary.counts["sentences"] == sum(summary.counts[key] for key in ("kept", "neutral", "unsure"))
    assert summary.dropped == {rules.HEADING: 30, rules.NOT_TEXT: 1}
    raw = (folder / "raw" / "talk.train").read_bytes()
    for row in data:
        line = raw[row["offset"] :].split(b"\r\n")[0].decode(errors="replace")
        assert row["context"] in line
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["identity"]["classifier_revision"]


def test_a_line_a_minute_comes_whether_a_shard_does_or_not(monkeypatch, caplog):
    monkeypatch.setattr("pipelines.labelling.progress.LINE_SECONDS", 0.01)
    caplog.set_level("INFO", "kindling")
    totals = LabelCounts()
    totals.counts.update(shards=3, kept=30, sentences=90)  # of earlier starts, which say nothing of today's pace
    progress = LabelProgress("talk", totals, 10)

    def next_line():
        caplog.clear()
        while not caplog.records:
            time.sleep(0.01)
        return caplog.records[0].getMessage(), caplog.records[0].facts

    with progress.shown() as advance:
        text, facts = next_line()
        assert text == "3 of 10 shards, 30 of 90 sentences kept"
        assert facts["event"] == "progress" and facts["eta_seconds"] is None
        for _ in range(2):
            totals.counts.update(shards=1, kept=10, sentences=30)
            time.sleep(0.1)
            advance()
        _, facts = next_line()
    assert (facts["run"], facts["shards"], facts["shards_total"], facts["kept"]) == ("talk", 5, 10, 50)
    assert facts["eta_seconds"] >= 0.5  # five more, a tenth of a second each


def test_a_run_goes_on_where_it_was_and_comes_to_the_same(labelled_run):
    folder, summary = labelled_run
    parts = sorted((folder / "run" / "data").glob("*.parquet"))
    assert len(parts) == summary.counts["shards"] > 2
    before = {part: part.read_bytes() for part in parts}
    parts[1].unlink()
    assert label(job_of(folder)) == summary
    for part, data in before.items():
        assert pq.read_table(part).equals(pq.read_table(pa.BufferReader(data)))


def test_a_shard_that_cannot_be_read_for_now_is_not_taken_for_damaged(labelled_run, monkeypatch):
    folder, _ = labelled_run
    run, read = str(folder / "run"), ShardStore.read_table

    def read_of_a_server_that_is_away(store, relative, columns=None):
        if relative == "data/part-00001.parquet":
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        return read(store, relative, columns)

    monkeypatch.setattr(ShardStore, "read_table", read_of_a_server_that_is_away)
    verdict = verify(run, repair=True)
    assert [(fault.path, fault.damages) for fault in verdict.faults] == [("data/part-00001.parquet", None)]
    assert "cannot be read: Connection timed out" in verdict.faults[0].cause and verdict.moved == []
    monkeypatch.undo()
    assert verify(run).faults == []


def test_verify_finds_what_is_wrong_and_repair_has_it_made_again(labelled_run):
    folder, summary = labelled_run
    run, part = str(folder / "run"), folder / "run" / "data" / "part-00001.parquet"
    verdict = verify(run)
    assert verdict.faults == []
    assert (verdict.shards, verdict.rows["accepted"]) == (summary.counts["shards"], summary.counts["kept"])
    whole, cards = part.read_bytes(), [(folder / "run" / "README.md").read_text()]
    part.write_bytes((folder / "run" / "data" / "part-00000.parquet").read_bytes())
    assert [fault.damages for fault in verify(run).faults] == [1, 1]
    broken = bytearray(whole)
    broken[40] ^= 1
    part.write_bytes(broken)
    (folder / "run" / "data" / "part-90000.parquet").write_bytes(whole)
    verdict = verify(run, repair=True)
    assert len(verdict.moved) == 2
    cards.append((folder / "run" / "README.md").read_text())
    assert label(job_of(folder)) == summary
    cards.append((folder / "run" / "README.md").read_text())
    # `load_dataset` caches by the header: it may not be that of a folder which held the damaged shard.
    assert len({card.partition("\n# ")[0] for card in cards}) == 3
    assert verify(run).faults == []


def test_another_job_is_refused_the_folder(labelled_run):
    folder, _ = labelled_run
    with pytest.raises(RunError, match="threshold"):
        label(job_of(folder, threshold=0.9))


def test_what_is_wrong_is_said_before_anything_starts(tmp_path):
    corpus(tmp_path / "raw")
    with pytest.raises(JobError, match="no such file"):
        label(job_of(tmp_path, input={"path": str(tmp_path / "nothing.txt")}))
    with pytest.raises(JobError, match="the files have no text"):
        label(job_of(tmp_path, input={"path": str(tmp_path / "raw" / "empty.txt")}))
    with pytest.raises(EngineError, match=r"classifier\.id"):
        label(job_of(tmp_path, classifier={"id": str(tmp_path / "no-such-model")}))
    with pytest.raises(JobError, match="did you mean `threshold`"):
        label(job_of(tmp_path) | {"treshold": 0.5})
    assert not list((tmp_path / "run").glob("data/*"))


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"actors": 3, "cpus_per_actor": 4}, "3 actors of 4 cores do not fit; the cluster has 8"),
        ({"gpus_per_actor": 0.5}, "1 actors of 0.5 GPUs do not fit; the cluster has 0"),
    ],
)
def test_more_cores_or_gpus_than_there_are_are_refused(labelled_run, tmp_path, cluster, words):
    corpus(tmp_path / "raw")
    with pytest.raises(JobError, match=words):
        label(job_of(tmp_path, cluster=cluster))


def test_the_command_says_what_was_kept(labelled_run, kindling):
    folder, _ = labelled_run
    (folder / "job.yaml").write_text(json.dumps(job_of(folder)))
    done = kindling("label", folder / "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "60 of 140 sentences kept" in done.stdout
    assert "complete: nothing to do" in done.stderr
