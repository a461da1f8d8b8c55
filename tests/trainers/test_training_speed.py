"""What makes training on a CPU faster changes nothing of what is trained; and a machine without memory is told so."""

import resource
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipelines.jobfile import as_job
from pipelines.training.language_model import train_stages
from schemas.errors import EngineError
from schemas.train import TrainJob
from tests.support.files import write_jsonl
from tests.support.tiny_models import job_of, save_tiny, sft
from trainers import completion_loss
from trainers.completion_loss import fits_on_cpu, labelled_losses
from trainers.examples import IGNORED_LABEL


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


@pytest.fixture
def batch():
    """Two examples: a prompt of three tokens, and padding behind the second."""
    torch.manual_seed(0)
    ids = torch.randint(0, 250, (2, 12))
    labels = ids.clone()
    labels[:, :3] = IGNORED_LABEL
    labels[1, 8:] = IGNORED_LABEL
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_labelled_positions_alone_give_the_model_s_own_loss_and_gradients(model, batch):
    losses = labelled_losses(model, batch)
    own = model(**batch).loss
    assert len(losses) == 9 + 5 and losses.mean().item() == pytest.approx(own.item(), rel=1e-5)
    ours, theirs = gradients(model, losses.mean()), gradients(model, own)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert model(input_ids=batch["input_ids"]).logits.shape == (2, 12, 257)


def test_a_batch_without_a_label_has_no_loss_and_no_gradient(model, batch):
    losses = labelled_losses(model, {**batch, "labels": torch.full_like(batch["labels"], IGNORED_LABEL)})
    assert len(losses) == 0
    assert not any(grad.any() for grad in gradients(model, losses.sum()).values())


def test_logits_that_are_too_many_are_left_to_trl(model, batch, monkeypatch):
    assert fits_on_cpu(model, batch)
    monkeypatch.setattr(completion_loss, "_MAX_LOGITS", 14 * 257 - 1)
    assert not fits_on_cpu(model, batch)


def test_labels_that_lie_elsewhere_than_in_memory_are_not_counted(model, batch):
    elsewhere = {name: tensor.to("meta") for name, tensor in batch.items()}  # which has shapes and no numbers
    assert not fits_on_cpu(model, elsewhere)


@pytest.fixture
def little_memory():
    """This process may take 64 MiB more than it has: less than the first tensor of a batch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_what_to_lower_is_said_where_memory_runs_out(tmp_path, tiny, little_memory):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, whose memory this does not limit")
    write_jsonl(tmp_path / "rows.jsonl", [{"instruction": str(i), "text": "x" * 990} for i in range(60)])
    job = job_of(tmp_path, tiny, {**sft(str(tmp_path / "rows.jsonl"), optimizer={"batch_size": 48}), "dev": 0.45})
    job["model"]["from_config"] = {"layers": 1, "heads": 2, "width": 512, "context": 1024}
    job = as_job(job, TrainJob)  # and what it needs is imported: no library is loaded into little memory
    with pytest.raises(EngineError) as error:
        train_stages(job)
    assert "not enough memory" in error.value.cause
    assert all(name in error.value.remedy for name in ("batch_size", "max_length", "gradient_checkpointing"))
