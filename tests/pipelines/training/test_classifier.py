import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from pipelines import train
from pipelines.jobfile import load_job
from pipelines.training.labelled_texts import read_splits
from schemas.emotions import EMOTIONS
from schemas.errors import EngineError, JobError, RunError
from schemas.job import Classifier
from schemas.train import LabelledTexts, TrainJob
from services.models.classifier import batches_by_length, classifier_revision, load_classifier
from services.models.document_scores import POOLINGS, calibrate, score_documents
from services.models.embedded import embedded_encoder
from services.models.emotion_head import HEAD_FILES, SHIPPED_HEAD, SHIPPED_WORDS
from tests.support.tiny_models import JOY, SADNESS, job_on
from trainers.thresholds import best_thresholds, f1_by_label


@given(st.lists(st.integers(1, 128), min_size=1, max_size=60), st.integers(1, 400))
def test_batches_hold_every_text_once_and_little_padding(lengths, most):
    lengths = np.array(lengths)
    batches = list(batches_by_length(lengths, most))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= most for batch in batches)
    assert [lengths[batch].max() for batch in batches] == sorted(lengths[batch].max() for batch in batches)


@given(st.data())
def test_no_other_threshold_gives_a_better_f1(data):
    scores = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 0.9]), min_size=1, max_size=12)))
    targets = np.array(data.draw(st.lists(st.sampled_from([0, 1]), min_size=len(scores), max_size=len(scores))))
    scores, targets = scores[:, None], targets[:, None]
    found = f1_by_label(scores, targets, best_thresholds(scores, targets))[0]
    cuts = [f1_by_label(scores, targets, np.array([cut]))[0] for cut in (0.05, 0.15, 0.25, 0.4, 0.6, 0.8, 0.95)]
    assert found == pytest.approx(max(cuts))


def test_f1_is_what_scikit_learn_says():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    scores, targets = draw.random((50, 28)), (draw.random((50, 28)) < 0.2).astype(int)
    expected = metrics.f1_score(targets, scores >= 0.5, average=None, zero_division=0)
    assert f1_by_label(scores, targets, np.full(28, 0.5)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def moods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moods")
    return folder, train(job_on(folder))


def test_a_head_learns_what_it_is_shown_and_is_served(moods):
    folder, report = moods
    assert report.f1["joy"] == report.f1["sadness"] == 1
    assert report.rows == {"train": 20, "dev": 20, "test": 20}
    classifier = load_classifier(Classifier(id=str(folder / "moods")))
    texts = ["I am overjoyed, happy day!", "so sad, I cried", "I am overjoyed, happy day!"]
    scores = classifier.score(texts)
    assert scores.shape == (3, 28)
    assert [int(each) for each in scores.argmax(1)] == [JOY, SADNESS, JOY]
    assert scores == pytest.approx(np.vstack([classifier.score([text]) for text in texts]), abs=1e-5)
    assert not (folder / "moods" / "model.safetensors").exists()
    card = (folder / "moods" / "README.md").read_text()
    assert "macro-F1" in card
    record = json.loads((folder / "moods" / "train.json").read_text())
    assert record["last_metrics"]['kindling_train_steps_total{stage="0-classifier"}'] > 0
    assert "train.tsv" in card


def test_the_same_training_gives_the_same_bytes_and_a_finished_one_is_left(moods, tmp_path):
    folder, report = moods
    again = job_on(folder) | {"output": {"path": str(tmp_path / "again")}}
    assert train(again) == report
    for name in HEAD_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / "moods" / name).read_bytes()
    before = (folder / "moods" / "train.json").stat().st_mtime_ns
    assert train(job_on(folder)) == report
    assert (folder / "moods" / "train.json").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"stages\.0\.hidden: 16 -> 8"):
        train(job_on(folder, hidden=8))
    assert not list(folder.glob(".moods.*"))


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "moods").mkdir()
    (tmp_path / "moods" / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        train(job_on(tmp_path))
    assert (tmp_path / "moods" / "thesis.tex").read_text() == "precious"


@pytest.mark.slow
def test_an_encoder_that_is_trained_too_lies_beside_its_head(tmp_path):
    report = train(job_on(tmp_path, encoder="trained", epochs=6, batch_size=5, learning_rate=3e-3, dropout=0))
    # Batches are of texts of one length, which here are of one emotion: a step must not take its scale from a batch.
    assert min(report.f1["joy"], report.f1["sadness"]) > 0.9
    trained = load_file(tmp_path / "moods" / "model.safetensors")
    before = load_file(embedded_encoder() / "model.safetensors")
    assert not torch.equal(*(weights["encoder.layer.5.output.dense.weight"] for weights in (trained, before)))
    classifier = load_classifier(Classifier(id=str(tmp_path / "moods")))
    (scores,) = classifier.score(["I am overjoyed, happy day!"])
    assert scores[JOY] > scores[SADNESS]


@pytest.mark.parametrize("line", ["no tab", "text\t99\tid", "text\tjoy\tid", "\t3\tid"])
def test_a_line_that_is_not_goemotions_is_named(tmp_path, line):
    path = tmp_path / "bad.tsv"
    path.write_text(f"fine\t3\tid\n{line}\n")
    with pytest.raises(JobError, match="not a text, a tab, and label numbers from 0 to 27") as raised:
        read_splits(LabelledTexts(train=str(path)))
    assert "row 2" in str(raised.value)


def test_a_tsv_file_with_a_header_is_a_table(tmp_path):
    rows = "".join(f"{number}\ttext {number}\tJoy\n" for number in range(30))
    (tmp_path / "a.tsv").write_text(f"id\ttext\tmood\n{rows}")
    splits = read_splits(LabelledTexts(train=str(tmp_path / "a.tsv"), columns={"emotions": "mood"}))
    assert sum(len(part.texts) for part in (splits.train, splits.dev, splits.test)) == 30


def test_shares_of_a_table_keep_equal_texts_together(tmp_path):
    texts = [f"sentence number {n % 100}" for n in range(300)]
    table = pa.table({"context": texts, "emotions": [["joy", "love"]] * 300})
    pq.write_table(table, tmp_path / "contexts.parquet")
    section = LabelledTexts(train=str(tmp_path / "contexts.parquet"), columns={"text": "context"}, dev=0.2, test=0.3)
    splits = read_splits(section)
    parts = [set(part.texts) for part in (splits.train, splits.dev, splits.test)]
    assert sum(map(len, parts)) == 100
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert 10 < len(parts[1]) < 30
    assert 20 < len(parts[2]) < 40
    assert splits.test.targets.sum(0)[JOY] == len(splits.test.texts)


def test_a_label_that_the_taxonomy_does_not_know_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a", "emotions": ["schadenfreude"]}) + "\n")
    with pytest.raises(JobError, match=r"jsonl, row 0: emotions 'schadenfreude' is not .*\n.*admiration, .*neutral"):
        read_splits(LabelledTexts(train=str(tmp_path / "rows.jsonl")))


def test_labels_are_read_whatever_their_case_and_form_and_a_byte_order_mark_is_no_text(tmp_path):
    labels = ["Joy", " love ", "Joy,LOVE", "['joy', 'love']"] * 25
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"t{number}", "emotions": label}) + "\n" for number, label in enumerate(labels))
    )
    (tmp_path / "b.tsv").write_text("\ufefffirst\t17\tid\n")
    splits = read_splits(LabelledTexts(train=str(tmp_path / "a.jsonl"), dev=str(tmp_path / "b.tsv")))
    assert splits.train.targets.sum() + splits.test.targets.sum() == 150
    assert splits.dev.texts == ["first"]


def plain_classifier(folder, names):
    config = BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=len(names), id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)},
        problem_type="multi_label_classification",
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded_encoder()).save_pretrained(folder)
    return Classifier(id=str(folder))


def test_a_hugging_face_classifier_is_read_by_its_own_order_of_labels(tmp_path):
    section = plain_classifier(tmp_path, EMOTIONS[::-1])
    classifier = load_classifier(section)
    assert classifier.revision == classifier_revision(section)
    texts = ["one", "a somewhat longer text of several words", "two"]
    model = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with torch.inference_mode():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    assert classifier.score(texts) == pytest.approx(logits.sigmoid().numpy()[:, ::-1], abs=1e-5)


def test_a_classifier_with_other_labels_is_refused_with_both_lists(tmp_path):
    section = plain_classifier(tmp_path, ["positive", "negative"])
    for use in (load_classifier, classifier_revision):
        with pytest.raises(EngineError) as raised:
            use(section)
        assert "positive, negative" in str(raised.value)
        assert "admiration" in str(raised.value)


def test_the_shipped_head_is_small_and_knows_joy():
    assert sum((SHIPPED_HEAD / name).stat().st_size for name in HEAD_FILES) <= 1_000_000
    card = (SHIPPED_HEAD / "README.md").read_text()
    for fact in ("cc-by-4.0", "GoEmotions", "macro-F1", "kindling train"):
        assert fact in card
    classifier = load_classifier(Classifier())
    best = [EMOTIONS[each] for each in classifier.score(["Thank you so much!", "I am so happy!"]).argmax(1)]
    assert best == ["gratitude", "joy"]


def test_words_need_no_encoder(tmp_path):
    job = job_on(tmp_path, encoder="words", epochs=4, learning_rate=0.1)
    report = train(job | {"model": {"id": "no/such-encoder"}})
    assert report.f1["joy"] == report.f1["sadness"] == 1
    folder = tmp_path / "moods"
    assert "without an encoder" in (folder / "README.md").read_text()
    section = Classifier(id=str(folder))
    classifier = load_classifier(section)
    assert classifier.revision == classifier_revision(section)
    texts = ["I am overjoyed, happy day!", "", "so sad, I cried"]
    scores = classifier.score(texts)
    assert [int(each) for each in scores[[0, 2]].argmax(1)] == [JOY, SADNESS]
    assert scores == pytest.approx(np.vstack([classifier.score([text]) for text in texts]), abs=1e-6)


def test_the_shipped_words_know_gratitude_and_are_small():
    assert sum((SHIPPED_WORDS / name).stat().st_size for name in HEAD_FILES) <= 4_000_000
    assert "macro-F1" in (SHIPPED_WORDS / "README.md").read_text()
    classifier = load_classifier(Classifier(id="embedded-words"))
    best = [EMOTIONS[each] for each in classifier.score(["Thank you so much!", "I’m so happy!"]).argmax(1)]  # noqa: RUF001
    assert best == ["gratitude", "joy"]


@given(st.lists(st.floats(0.01, 0.99), min_size=28, max_size=28))
def test_a_calibrated_score_is_one_half_at_the_threshold_and_keeps_the_order_of_each_label(thresholds):
    thresholds = np.array(thresholds)
    calibrated = calibrate(np.vstack([thresholds, thresholds * 0.9, np.zeros(28)]), thresholds)
    assert calibrated[0] == pytest.approx(np.full(28, 0.5))
    assert (calibrated[1] < 0.5).all() and (calibrated[2] <= calibrated[1]).all()
    assert calibrate(thresholds[None], np.full(28, 0.5))[0] == pytest.approx(thresholds, abs=1e-6)


def test_a_text_is_scored_by_passages_of_whole_sentences():
    pieces = []

    class Listening:
        def score(self, texts):
            pieces.extend(texts)
            return np.tile(np.arange(len(texts), dtype=np.float32)[:, None], (1, 28))

    sentence = "This is a sentence of exactly eight words. "
    scores = score_documents(Listening(), [sentence * 12, " ", "word " * 80])
    assert [len(piece.split()) for piece in pieces] == [64, 32, 80]
    assert scores[:, 0].tolist() == [0.5, 0, 2]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_long_text_is_scored_to_its_end(pooling):
    classifier = load_classifier(Classifier())
    story = "The box is on the table. " * 20 + "Thank you, thank you so much! I am very grateful to you all."
    (told, empty) = score_documents(classifier, [story, "  "], pooling)
    (beginning,) = classifier.score([story])
    gratitude = EMOTIONS.index("gratitude")
    assert told[gratitude] > beginning[gratitude]
    assert not empty.any()


def test_the_job_files_of_the_shipped_classifiers_are_valid():
    for name in ("emotion_head", "emotion_words"):
        job = load_job(f"deploy/jobs/{name}.yaml", ["stages.0.epochs=1"], TrainJob)
        assert job.stages[0].epochs == 1
