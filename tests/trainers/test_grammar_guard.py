"""Early stopping on minimal pairs: how they are scored and drawn, which weights are kept, what a killed stage does."""

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines import train
from pipelines.inputs.minimal_pairs import identify_sample, sample_pairs
from pipelines.jobfile import as_job
from pipelines.training import stage as stage_module
from schemas.errors import EngineError, JobError, RunError
from schemas.train import GrammarGuard, TrainJob
from services.models.embedded import embedded_checkpoint
from services.models.minimal_pairs import MinimalPair, good_is_likelier, log_likelihoods
from tests.support.files import SHARED_DATA, write_job, write_jsonl
from tests.support.tiny_models import env, job_of, save_tiny, sft
from trainers import callbacks
from trainers.grammar_guard import accuracy_drop_bound, min_pairs

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ["glad", "say", "now", "dog", "cat", "the", "of", "day", "sun", "rain", "wind", "tree"]
PAIRS = 200
# The tiny model's accuracy is 0.995 at its second evaluation, and 0.94 and lower from the third one on.
MAX_DROP = 0.05
KEPT, ENDED = 4, 10
PATIENT = {"learning_rate": 0.01, "epochs": 4, "eval_steps": 2, "patience": 3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny).eval(), AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def blimp(tmp_path_factory, loaded):
    """Two paradigms of 150 pairs; the good sentence is the one that the tiny model finds likelier, clearly so."""
    folder, draw = tmp_path_factory.mktemp("blimp"), random.Random(0)
    for paradigm in ("island", "agreement"):
        texts = [" ".join(draw.choices(WORDS, k=4)) for _ in range(600)]
        scored = list(zip(log_likelihoods(*loaded, texts), texts, strict=True))
        pairs = [sorted(pair, reverse=True) for pair in zip(scored[::2], scored[1::2], strict=True)]
        pairs = sorted(pairs, key=lambda pair: pair[1][0] - pair[0][0])[:150]
        write_jsonl(
            folder / f"{paradigm}.jsonl",
            [{"sentence_good": good, "sentence_bad": bad} for (_, good), (_, bad) in pairs],
        )
    return str(folder)


@pytest.fixture
def grammar_job(tmp_path, monkeypatch, tiny, blimp):
    """A job that trains on rows of a name that does not change, since that decides which of them are held out."""
    monkeypatch.chdir(tmp_path)
    write_jsonl("rows.jsonl", [{"instruction": f"Say {i}.", "text": f"Glad to: {i}!"} for i in range(60)])

    def job(name="o", optimizer=PATIENT, **section):
        section = {"path": blimp, "pairs": PAIRS, "max_drop": MAX_DROP, **section}
        stage = sft("rows.jsonl", prompt=["instruction"], blimp=section, optimizer=optimizer)
        return {**job_of(tmp_path, tiny, stage), "output": {"path": str(tmp_path / name)}}

    return job


def test_a_sentence_is_scored_alone_and_in_company_alike(loaded):
    model, tokenizer = loaded
    sentences = ["The cats sleep.", "No.", "x" * 63, "Who should Derek hug?"]
    found = log_likelihoods(model, tokenizer, sentences)
    for sentence, total in zip(sentences, found, strict=True):
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(f" {sentence}")["input_ids"]]])
        scores = model(ids[:, :-1]).logits.log_softmax(-1)[0]
        assert total == pytest.approx(scores[range(len(scores)), ids[0, 1:]].sum().item(), abs=1e-3)
    many = [" ".join(random.choices(WORDS, k=1 + i % 9)) for i in range(100)]
    assert np.allclose(log_likelihoods(model, tokenizer, many[::-1])[::-1], log_likelihoods(model, tokenizer, many))
    with pytest.raises(EngineError) as error:
        log_likelihoods(model, tokenizer, ["x" * 64])
    assert "the model takes 64" in error.value.cause


def test_a_tie_is_wrong(loaded):
    assert good_is_likelier(*loaded, [MinimalPair("none", "The same.", "The same.")]).tolist() == [False]


def test_the_most_that_is_lost_holds_in_95_of_100_samples():
    fates = np.random.default_rng(0).random((5000, 300))
    lost, won = fates < 0.06, fates > 0.97
    held = [accuracy_drop_bound(*pairs) >= 0.03 for pairs in zip(~won, ~lost, strict=True)]
    assert 0.93 < np.mean(held) < 0.97
    fewest = min_pairs(0.02)
    unchanged = [np.ones(pairs, dtype=bool) for pairs in (fewest - 1, fewest)]
    assert accuracy_drop_bound(unchanged[1], unchanged[1]) <= 0.02 < accuracy_drop_bound(unchanged[0], unchanged[0])


def test_the_sample_has_as_many_pairs_of_each_paradigm(blimp, tmp_path):
    def drawn(seed=0, **section):
        return sample_pairs("b", GrammarGuard(path=blimp, max_drop=0.1, **section), seed)

    names = [pair.paradigm for pair in drawn(pairs=101)]
    assert (names.count("agreement"), names.count("island")) == (51, 50)
    assert drawn(pairs=101) == drawn(pairs=101) != drawn(1, pairs=101)
    assert len(set(drawn())) == 300
    assert {pair.paradigm for pair in drawn(paradigms=["island"])} == {"island"}
    # A dataset with a configuration for each paradigm, as the Hub has it.
    configs = "".join(
        f"- config_name: {name}\n  data_files: {blimp}/{name}.jsonl\n" for name in ("island", "agreement")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    dataset = sample_pairs("b", GrammarGuard(dataset=str(tmp_path), pairs=101), 0)
    assert identify_sample(dataset) == identify_sample(drawn(pairs=101))


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ({"pairs": 10}, "stages.0.blimp.pairs", "10 pairs show no drop"),
        ({"paradigms": ["islands"]}, "stages.0.blimp.paradigms", "no such paradigm"),
        ({"path": "nowhere"}, "stages.0.blimp.path", "no such file"),
        ({"path": "rows.jsonl"}, "stages.0.blimp.path", "no such column"),
        ({"path": "null.jsonl"}, "stages.0.blimp.path", "sentence_bad is null"),
        ({"path": None, "dataset": "nowhere/at-all"}, "stages.0.blimp.dataset", "could not load it"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_pairs_that_are_refused(tmp_path, grammar_job, section, key, words):
    write_jsonl("null.jsonl", [{"sentence_good": "A.", "sentence_bad": None}])
    with pytest.raises(JobError) as error:
        train(grammar_job(**section))
    assert error.value.key == key and words in error.value.cause
    assert not (tmp_path / "o").exists()


def test_weights_that_have_lost_grammar_are_not_kept(tmp_path, grammar_job):
    report = train(grammar_job())
    stage = report.stages[0]
    assert (stage.best_step, stage.steps) == (KEPT, ENDED)
    found = stage.blimp
    assert found["accuracy"]["0"] == 1 and list(found["accuracy"]) == ["0", *stage.dev_losses]
    admissible = [step for step, lost in found["most_lost"].items() if lost <= MAX_DROP]
    assert min(admissible, key=stage.dev_losses.get) == str(KEPT)
    assert min(stage.dev_losses.values()) < stage.dev_losses[str(KEPT)]
    of_kept = [pairs * after for pairs, _, after in found["paradigms"].values()]
    assert sum(of_kept) / PAIRS == pytest.approx(found["accuracy"][str(KEPT)], abs=1e-4)
    accuracy, lost = found["accuracy"][str(KEPT)], found["most_lost"][str(KEPT)]
    line = f"minimal pairs of 2 paradigms 1.000 -> {accuracy:.3f}, at most {lost:.3f} lost"
    assert line in "\n".join(report.lines()) and line in (tmp_path / "o" / "README.md").read_text()


def assert_alike(tmp_path, job, whole):
    """A stage that was broken off goes on to the decision, and the weights, of a whole one."""
    assert replace(train(job).stages[0], seconds=0) == replace(whole, seconds=0)
    kept, other = (load_file(folder / "model.safetensors") for folder in (Path(job["output"]["path"]), tmp_path / "o"))
    assert all(torch.equal(kept[name], other[name]) for name in other)


def test_a_stage_that_is_broken_off_decides_alike(tmp_path, grammar_job, monkeypatch):
    """While its patience runs, and behind its last step."""

    def at_step_7(self, args, state, control, **more):
        if state.global_step == 7:
            raise KeyboardInterrupt

    def at_once(*_):
        raise KeyboardInterrupt

    whole = train(grammar_job()).stages[0]
    places = ((callbacks.ProgressCallback, "on_step_begin", at_step_7), (stage_module.StageTraining, "_save", at_once))
    for place, method, break_off in places:
        job = grammar_job(method)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(place, method, break_off)
            train(job)
        assert_alike(tmp_path, job, whole)


KILLED = """
import os, signal, sys
from pipelines import train
from trainers import callbacks

def die(self, args, state, control, **more):
    if state.global_step == 7:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks.ProgressCallback.on_step_begin = die
train(sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_stage_decides_alike(tmp_path, grammar_job):
    job = grammar_job("killed")
    command = [sys.executable, "-c", KILLED, write_job(tmp_path / "job.yaml", job)]
    done = subprocess.run(command, env=env(), capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert_alike(tmp_path, job, train(grammar_job()).stages[0])


def test_a_stage_that_keeps_no_grammar_is_told_of_and_not_delivered(tmp_path, grammar_job):
    late = {**PATIENT, "eval_steps": 8, "patience": 1}
    job = grammar_job(optimizer=late)
    told = []
    for _ in range(2):
        with pytest.raises(RunError) as error:
            train(job)
        told.append(str(error.value))
    assert told[0] == told[1] and "none of 2 evaluations kept the grammar" in told[0]
    assert not (tmp_path / "o" / "config.json").exists()


def test_a_job_without_pairs_says_nothing_of_them(tmp_path):
    job = as_job(job_of(tmp_path, "x", sft("rows.jsonl")), TrainJob)
    assert "blimp" not in json.dumps(job.model_dump(mode="json"))


@pytest.mark.slow
def test_lm_eval_decides_alike(tmp_path):
    """The embedded model on one paradigm, pair by pair, in fp32."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    source = SHARED_DATA / "blimp" / "adjunct_island.jsonl"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    checkpoint = embedded_checkpoint()
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    pairs = sample_pairs("b", GrammarGuard(path=str(source), pairs=150), 0)
    write_jsonl(tmp_path / "pairs.jsonl", [{"sentence_good": p.good, "sentence_bad": p.bad} for p in pairs])
    task = {
        "task": "pairs", "dataset_path": "json", "dataset_kwargs": {"data_files": str(tmp_path / "pairs.jsonl")},
        "output_type": "multiple_choice", "validation_split": "train", "doc_to_text": "", "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}", "num_fewshot": 0, "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    theirs = simple_evaluate(HFLM(model, tokenizer=tokenizer, batch_size=32), tasks=[task], log_samples=True)
    samples = sorted(theirs["samples"]["pairs"], key=lambda sample: sample["doc_id"])
    assert [bool(sample["acc"]) for sample in samples] == good_is_likelier(model, tokenizer, pairs).tolist()
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    scores = [score for sample in samples for ((score, _),) in sample["resps"]]
    assert np.allclose(scores, log_likelihoods(model, tokenizer, sentences), atol=1e-2)
