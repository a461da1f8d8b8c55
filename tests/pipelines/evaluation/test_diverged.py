"""A model whose numbers are NaN, in part or wholly, gives an error that names it, and no figure."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from eval.blimp import blimp_rates
from eval.lm_eval_harness import blimp_task, evaluate_task
from eval.logit_lens import logit_lens
from pipelines import train
from schemas.emotions import EMOTIONS
from schemas.errors import EngineError, RunError
from schemas.job import Model
from services.models.causal_lm import load_causal_model
from services.models.classifier import EmotionClassifier
from services.models.diverged import refuse_diverged_checkpoint
from services.models.document_scores import score_documents
from services.models.minimal_pairs import MinimalPair, good_is_likelier, log_likelihoods, margins
from tests.support.files import write_jsonl
from tests.support.tiny_models import job_of, save_tiny, sft
from trainers import emotion_classifier

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = [MinimalPair("short", "ab", "ba"), MinimalPair("long", "a long sentence", "a lung sentence")]


def spoil(model, positions):
    """Makes the model's numbers NaN from some positions of a text on."""
    with torch.no_grad():
        model.transformer.wpe.weight[positions] = torch.nan
    return model


@pytest.fixture(params=["wholly", "partly"])
def diverged(tiny, request):
    """A loaded model that has diverged since: wholly, or from the tenth token of a text on."""
    model, tokenizer = load_causal_model(Model(id=tiny))
    return spoil(model, slice(None) if request.param == "wholly" else slice(10, None)), tokenizer


@pytest.mark.parametrize("positions", [slice(None), slice(50, None)])
def test_a_checkpoint_that_has_diverged_is_not_loaded(tmp_path, positions):
    folder = save_tiny(tmp_path / "tiny")
    spoil(GPT2LMHeadModel.from_pretrained(folder), positions).save_pretrained(folder)
    with pytest.raises(EngineError, match="the model has diverged: its weight transformer") as error:
        load_causal_model(Model(id=folder))
    assert error.value.value == folder
    with pytest.raises(EngineError, match="the model has diverged"):
        refuse_diverged_checkpoint(folder, "student")
    write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Say.", "input": "", "text": "Yes."}] * 20)
    with pytest.raises(EngineError, match="the model has diverged") as error:
        train(job_of(tmp_path, folder, sft(str(tmp_path / "rows.jsonl"))))
    assert error.value.value == folder


@pytest.mark.parametrize("measure", [good_is_likelier, margins, lambda *loaded: logit_lens(*loaded[:2], "a long text")])
def test_no_figure_is_made_of_numbers_that_are_none(diverged, measure):
    with pytest.raises(EngineError, match="the model has diverged") as error:
        measure(*diverged, PAIRS)
    assert error.value.value == diverged[1].name_or_path


def test_texts_that_have_their_numbers_are_scored(tiny):
    model, tokenizer = load_causal_model(Model(id=tiny))
    expected = log_likelihoods(model, tokenizer, ["ab"])
    assert log_likelihoods(spoil(model, slice(10, None)), tokenizer, ["ab"]) == pytest.approx(expected)


def test_lm_eval_makes_no_figure_of_them(diverged, tmp_path):
    rows = [{"sentence_good": pair.good, "sentence_bad": pair.bad} for pair in PAIRS]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(EngineError, match="the model has diverged"):
        evaluate_task(*diverged, blimp_task("p", str(tmp_path / "pairs.jsonl")), None, 4)
    assert not diverged[0]._forward_hooks


def test_margins_that_are_no_numbers_are_not_counted_as_wrong():
    with pytest.raises(ValueError, match="not a number"):
        blimp_rates({"p": np.array([1.0, np.nan])})


def test_a_classifier_that_has_diverged_scores_nothing(tiny):
    _, tokenizer = load_causal_model(Model(id=tiny))
    tokenizer.pad_token = tokenizer.eos_token

    def logits(tokens, mask):
        return torch.where(tokens[:, :1] == tokens[0, 0], 0.0, torch.nan).expand(-1, len(EMOTIONS))

    classifier = EmotionClassifier(tokenizer, logits, range(28), [0.5] * 28, False, 60, "cpu", "r")
    classifier.name = "my-classifier"
    assert score_documents(classifier, ["same. same."]).shape == (1, 28)
    for score in (classifier.score, lambda texts: score_documents(classifier, texts)):
        with pytest.raises(EngineError, match="the model has diverged: 28 of 56 logits") as error:
            score(["a", "b"])
        assert (error.value.key, error.value.value) == ("classifier.id", "my-classifier")


def test_a_classifier_that_diverges_is_not_trained_on():
    weight = torch.nn.Parameter(torch.full((2, 28), torch.nan))
    with pytest.raises(RunError, match="the classifier has diverged"):
        emotion_classifier._step(weight, torch.zeros(2, 28), torch.optim.SGD([weight], 0.1), None)
