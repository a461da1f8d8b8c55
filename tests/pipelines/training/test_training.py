"""Language models through `kindling train`, on tiny ones: what is learned, what is held out, and what is resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForCausalLM,
)

from pipelines import status, train
from pipelines.jobfile import as_job
from pipelines.training import stage as stage_module
from pipelines.training.rows import is_held_out, row_hash, row_sources
from schemas.errors import EXIT_STOPPED, EngineError, JobError, RunError
from schemas.rows import ACCEPTED, ERROR, REJECTED, to_batch
from schemas.run import Manifest
from schemas.train import TrainJob, TrainModel
from services.models.checkpoints import require_model
from services.storage.store import ShardStore
from tests.support.files import write_job, write_jsonl
from tests.support.runs import RUN_FINGERPRINT, record, write_run
from tests.support.tiny_models import CONTEXT, FAST, curve, env, job_of, save_tiny, sft
from trainers import initial_model
from trainers.examples import IGNORED_LABEL, ExampleEncoder, pack_documents, read_examples, write_examples
from trainers.rows import TrainingRow

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def prose(tmp_path):
    (tmp_path / "prose.txt").write_text("".join(f"The {i}th day was a good day.\n" for i in range(80)))
    return str(tmp_path / "prose.txt")


def clm(path, **stage):
    optimizer = {**FAST, **stage.pop("optimizer", {})}
    parts = {"prose": {"input": {"path": path, "format": "text"}}}
    return {"kind": "clm", "parts": parts, "dev": 0.2, "optimizer": optimizer, **stage}


def test_documents_and_then_answers_make_held_out_rows_likelier(tmp_path, tiny, prose, answers):
    job = job_of(tmp_path, tiny, clm(prose), sft(answers), license="mit")
    report = train(job)
    for stage in report.stages:
        mean, low, high = stage.change
        assert low < mean < high < 0
        assert stage.dev_loss == pytest.approx(stage.dev_loss_before + mean, abs=1e-4)
    assert [stage.folder for stage in report.stages] == ["stages/0-clm", "stages/1-sft"]
    folder = tmp_path / "o"
    top, last = (AutoModelForCausalLM.from_pretrained(at).state_dict() for at in (folder, folder / "stages/1-sft"))
    first = AutoModelForCausalLM.from_pretrained(folder / "stages/0-clm").state_dict()
    assert all(torch.equal(top[name], last[name]) for name in top)
    assert not all(torch.equal(first[name], last[name]) for name in top)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token == "<|end|>" and tokenizer.chat_template
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit") and "rows.jsonl" in card and "80 rows" in card
    assert not (folder / "work").exists()

    # What is done is left as it is: another job may have this model's content as its revision.
    before = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name not in ("README.md", "train.lock")
    }
    assert train(job) == report
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(RunError) as error:
        train({**job, "seed": 1})
    assert "seed: 0 -> 1" in error.value.cause


def test_the_loss_is_of_the_completion_alone(tmp_path, tiny):
    tokenizer = initial_model.load_tokenizer(tiny, as_job(job_of(tmp_path, tiny, sft("x")), TrainJob).model)
    encoder = ExampleEncoder(tokenizer, CONTEXT, "truncate")
    rows = [
        TrainingRow("Yes.", "Is it?"),
        TrainingRow("x" * 90, "Long?"),
        TrainingRow("No.", "y" * 90),
        TrainingRow("A<|end|>B", "Q<|end|>"),
    ]
    found = [(row, ids, labels) for row, (ids, labels) in encoder.examples(rows)]
    assert [row for row, *_ in found] == [rows[0], rows[1], rows[3]]
    assert dict(encoder.counts) == {"truncated": 1, "dropped": 1, "cleared of control tokens": 1}
    ids, labels = found[0][1:]
    assert tokenizer.decode(ids) == "User:\nIs it?\n\nAnswer:\nYes.<|end|>"
    assert tokenizer.decode([i for i in labels if i != IGNORED_LABEL]) == "Yes.<|end|>"
    assert len(found[1][1]) == CONTEXT
    # The end of a text is the model's to write, and no row's.
    assert found[2][1].count(tokenizer.eos_token_id) == 1


def test_documents_are_packed_without_loss_in_an_order_of_the_seed(tmp_path, tiny):
    tokenizer = initial_model.load_tokenizer(tiny, as_job(job_of(tmp_path, tiny, sft("x")), TrainJob).model)
    documents = [f"document number {i}" for i in range(30)]
    write_examples(
        [TrainingRow(text, is_held_out=i == 7) for i, text in enumerate(documents)],
        ExampleEncoder(tokenizer, 16, None),
        tmp_path,
    )

    def packed(seed):
        pack_documents(tmp_path / "train.arrow", tmp_path / f"{seed}.arrow", 16, seed)
        return [block["input_ids"] for block in read_examples(tmp_path / f"{seed}.arrow")]

    blocks = packed(0)
    assert {len(block) for block in blocks[:-1]} == {16}
    text = tokenizer.decode([i for block in blocks for i in block])
    assert sorted(text.split("<|end|>")[:-1]) == sorted(documents[:7] + documents[8:])
    assert packed(0) == blocks != packed(1)


@pytest.mark.parametrize(
    ("too_long", "lengths"), [("split", [16, 16, 9]), ("truncate", [16]), ("drop", [])], ids=lambda value: str(value)
)
def test_documents_that_are_not_packed(tmp_path, tiny, too_long, lengths):
    tokenizer = initial_model.load_tokenizer(tiny, as_job(job_of(tmp_path, tiny, sft("x")), TrainJob).model)
    encoder = ExampleEncoder(tokenizer, 16, too_long)
    assert [len(ids) for _, (ids, _) in encoder.examples([TrainingRow("z" * 40)])] == lengths
    assert sum(encoder.counts.values()) == 1


def test_a_row_is_held_out_wherever_it_lies(tmp_path, answers):
    share = sum(is_held_out(row_hash("a.json", i), 0.1) for i in range(5000)) / 5000
    assert 0.08 < share < 0.12
    # A larger share holds out all that a smaller one does.
    assert all(is_held_out(row_hash("a.json", i), 0.2) for i in range(500) if is_held_out(row_hash("a.json", i), 0.1))
    stage = as_job(job_of(tmp_path, "x", sft(answers)), TrainJob).stages[0]
    (source,) = row_sources(0, stage, 0)
    held = {row.prompt for row in source if row.is_held_out}
    with open(answers, "a") as file:
        file.write(json.dumps({"instruction": "More.", "text": "More."}) + "\n")
    (source,) = row_sources(0, stage, 0)
    assert {row.prompt for row in source if row.is_held_out} - {"More."} == held
    assert "Say 0.\n\nnow" in {row.prompt for row in source}


KILLED = """
import os, signal, sys
from pipelines import train
from pipelines.training import stage as stage_module
from trainers import callbacks

def dies_at(step):
    def die(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
    return die

at = sys.argv[2]
if at == "a checkpoint that is not whole":
    original = callbacks.DurableCheckpointCallback.on_save
    def first_dies(self, *given, **more):
        dies_at(10)(self, *given, **more)
        original(self, *given, **more)
    callbacks.DurableCheckpointCallback.on_save = first_dies
elif at == "a step after one that is":
    callbacks.ProgressCallback.on_step_begin = dies_at(12)
else:
    stage_module.StageTraining._save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
train(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("at", "checkpoints"),
    [
        ("a step after one that is", {10}),
        pytest.param("a checkpoint that is not whole", {5, 10}, marks=pytest.mark.slow),
        pytest.param("the end", {16}, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, tiny, answers, at, checkpoints):
    job = job_of(tmp_path, tiny, sft(answers, optimizer={"max_steps": 16, "epochs": 5}))
    whole = train({**job, "output": {"path": str(tmp_path / "whole")}}).stages[0]
    assert (whole.steps, list(whole.dev_losses)) == (16, ["5", "10", "15", "16"])
    command = [sys.executable, "-c", KILLED, write_job(tmp_path / "job.yaml", job), at]
    done = subprocess.run(command, env=env(), capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    there = {int(path.name.partition("-")[2]) for path in (tmp_path / "o").glob("work/*/checkpoint-*")}
    assert there == checkpoints
    resumed = train(job).stages[0]
    assert replace(resumed, seconds=0) == replace(whole, seconds=0)
    kept, other = (AutoModelForCausalLM.from_pretrained(tmp_path / each).state_dict() for each in ("o", "whole"))
    assert all(torch.equal(kept[name], other[name]) for name in kept)
    # What was told behind the last checkpoint is told once.
    for tag in ("eval/loss", "train/learning_rate"):
        assert curve(tmp_path / "o", tag) == curve(tmp_path / "whole", tag)
    assert [step for step, _ in curve(tmp_path / "o", "eval/loss")] == [5, 10, 15, 16]


def test_a_signal_ends_it_with_a_checkpoint_and_it_goes_on(tmp_path, tiny, answers):
    job = job_of(tmp_path, tiny, sft(answers, optimizer={"epochs": 400}))
    path = write_job(tmp_path / "job.yaml", job)
    command = [sys.executable, "-m", "pipelines", "train", path]
    process = subprocess.Popen(command, env=env(), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "step 10 of" in line:
            os.kill(process.pid, signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait(60) == EXIT_STOPPED, rest
    assert "resume with: kindling train" in rest
    (folder,) = (tmp_path / "o" / "work").iterdir()
    assert [path.name for path in folder.glob("checkpoint-*") if (path / "kindling.whole").exists()]


def test_a_loss_that_is_no_number_stops_it_with_the_batch_saved(tmp_path, tiny, answers):
    with pytest.raises(RunError) as error:
        train(job_of(tmp_path, tiny, sft(answers, optimizer={"learning_rate": 1e30})))
    assert "not a finite number" in error.value.cause and "learning_rate" in error.value.remedy
    (saved,) = (tmp_path / "o").glob("work/*/not-a-number.json")
    batch = json.loads(saved.read_text())["batch"]
    assert len(batch) == 4 and "Answer:" in batch[0]["text"]


def test_a_model_of_its_own_sizes(tmp_path, tiny, prose):
    job = job_of(tmp_path, tiny, clm(prose, max_length=32))
    job["model"]["from_config"] = {"layers": 1, "heads": 2, "width": 16, "context": 48}
    stage = train(job).stages[0]
    assert stage.change[2] < 0 and stage.max_length == 32
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "o").config
    assert (config.n_layer, config.n_embd, config.n_positions) == (1, 16, 48)


def test_divergence_from_the_base_model_keeps_it_near(tmp_path, tiny, answers):
    def moved(kl):
        job = job_of(tmp_path, tiny, sft(answers, kl=kl))
        job["output"]["path"] = str(tmp_path / f"kl-{kl}")
        train(job)
        was, now = (AutoModelForCausalLM.from_pretrained(at) for at in (tiny, tmp_path / f"kl-{kl}"))
        ids = torch.arange(40)[None]
        with torch.no_grad():
            return torch.nn.functional.kl_div(
                now(ids).logits.log_softmax(-1), was(ids).logits.log_softmax(-1), log_target=True, reduction="sum"
            ).item()

    assert moved(10.0) < moved(0.0) / 2


def test_replayed_text_is_trained_on_and_not_judged_by(tmp_path, tiny, answers, prose):
    replay = {"prose": {"input": {"path": prose, "format": "text"}, "words": 100}}
    alone, both = (
        train({**job_of(tmp_path, tiny, sft(answers, **more)), "output": {"path": str(tmp_path / name)}}).stages[0]
        for name, more in (("alone", {}), ("both", {"replay": replay}))
    )
    assert both.parts["prose"]["words"] <= 100 and both.examples["dev"] == alone.examples["dev"]
    assert both.examples["train"] == alone.examples["train"] + both.parts["prose"]["documents"]
    assert both.dev_loss_before == alone.dev_loss_before


def test_adapters_are_merged(tmp_path, tiny, answers):
    stage = train(job_of(tmp_path, tiny, sft(answers, lora={"rank": 4}, optimizer={"learning_rate": 0.03}))).stages[0]
    assert stage.change[2] < 0
    was, now = (AutoModelForCausalLM.from_pretrained(at).state_dict() for at in (tiny, tmp_path / "o"))
    assert was.keys() == now.keys()
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    assert changed and all("attn" in name or "mlp" in name for name in changed)


def test_adapters_are_kept_where_they_are_not_merged(tmp_path, tiny, answers):
    from peft import PeftModel

    lora = {"rank": 4, "merge": False}
    job = job_of(tmp_path, tiny, sft(answers, lora=lora, optimizer={"learning_rate": 0.03, "max_steps": 5}))
    report = train(job)
    folder = tmp_path / "o"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), folder)
    assert any(weight.any() for name, weight in model.named_parameters() if "lora_B" in name)
    assert not (folder / "model.safetensors").exists() and "library_name: peft" in (folder / "README.md").read_text()
    assert train(job) == report and status(str(folder)).complete
    with pytest.raises(EngineError, match="LoRA adapters, and no whole model"):
        require_model(TrainModel(id=str(folder)))
    with pytest.raises(JobError, match="a job has one stage"):
        train(job_of(tmp_path, tiny, sft(answers, lora=lora), sft(answers)))


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"precision": "fp16"}, "precision", "CPU"),
        ({"stages": [{"max_length": 65}]}, "stages.0.max_length", "takes 64 tokens"),
        ({"stages": [{"prompt": ["question"]}]}, "stages.0.parts.rows.input.columns.question", "no such column"),
        ({"stages": [{"completion": "answer"}]}, "stages.0.parts.rows.input.columns.answer", "no such column"),
        ({"stages": [{"max_length": 4}]}, "stages.0.parts", "0 examples to train on"),
        (
            {"stages": [{"parts": {"rows": {"run": "nowhere"}}}]},
            "stages.0.parts.rows.run",
            "the folder has no run.json",
        ),
        ({"stages": [{"kind": "rlhf"}]}, "stages.0.kind", "no such kind"),
        ({"output": {"path": "s3://bucket/o"}}, "output", "local or mounted folder"),
        ({"model": {"quantization": "gptq"}}, "model", "of serving"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_what_is_refused(tmp_path, tiny, answers, change, key, words):
    if torch.cuda.is_available() and key == "precision":
        pytest.skip("there is a GPU, which has fp16")
    job = {**job_of(tmp_path, tiny, {**sft(answers), **change.pop("stages", [{}])[0]}), **change}
    with pytest.raises(JobError) as error:
        train(job)
    assert error.value.key == key and words in error.value.cause


def run_of(folder, **options):
    """A run of 40 stories, of a teacher that is known."""
    write_run(folder, [f"This is story number {i}." for i in range(40)], **options)
    store = ShardStore(str(folder))
    store.write_run(store.read_run().model_copy(update={"job": {"model": {"id": "the/teacher"}}}))
    return str(folder)


def test_the_shards_of_a_run_are_trained_on(tmp_path, tiny):
    parts = {"stories": {"run": run_of(tmp_path / "run")}}
    stages = [clm("x", parts=parts), sft("x", parts=parts, prompt=["context"])]
    report = train(job_of(tmp_path, tiny, *stages))
    assert [stage.parts["stories"] for stage in report.stages] == [{"documents": 40, "words": 200}, {"rows": 40}]
    card = (tmp_path / "o" / "README.md").read_text()
    assert RUN_FINGERPRINT in card and "the/teacher" in card


def test_other_shards_give_the_same_rows_and_split(tmp_path):
    def rows(folder, rows_per_shard):
        parts = {"stories": {"run": run_of(folder, rows_per_shard=rows_per_shard)}}
        stages = as_job(
            job_of(tmp_path, "x", clm("x", parts=parts), sft("x", parts=parts, prompt=["context"])), TrainJob
        )
        return [[row for source in row_sources(n, stage, 0) for row in source] for n, stage in enumerate(stages.stages)]

    documents, answers = rows(tmp_path / "a", 4)
    assert rows(tmp_path / "b", 7) == [documents, answers]
    assert [row.is_held_out for row in documents] == [row.is_held_out for row in answers]
    assert (answers[3].prompt, answers[3].text) == ("c3", "This is story number 3.")


def test_of_a_run_the_input_asks_and_the_model_answers(tmp_path):
    inputs = [{"text": f"draft {i}"} for i in range(4)]
    run = write_run(tmp_path / "run", [f"final {i}" for i in range(4)], inputs=inputs)
    job = as_job(job_of(tmp_path, "x", sft("x", parts={"s": {"run": run}}, prompt=["text"])), TrainJob)
    (source,) = row_sources(0, job.stages[0], 0)
    assert [(row.prompt, row.text) for row in source] == [(f"draft {i}", f"final {i}") for i in range(4)]


def test_of_a_run_that_grows_the_shards_are_taken_that_were_there(tmp_path):
    texts = [f"Story {i}." for i in range(40)]
    run = write_run(tmp_path / "run", texts, missing=3)
    job = as_job(job_of(tmp_path, "x", sft("x", parts={"s": {"run": run}}, prompt=["context"])), TrainJob)
    (source,) = row_sources(0, job.stages[0], 0)
    shutil.copytree(Path(write_run(tmp_path / "whole", texts), "data"), Path(run, "data"), dirs_exist_ok=True)
    assert len(list(source)) == 28


def test_a_prompt_column_that_no_row_has_is_refused(tmp_path, tiny):
    part = {"s": {"run": run_of(tmp_path / "run")}}
    with pytest.raises(JobError) as error:
        train(job_of(tmp_path, tiny, sft("x", parts=part, prompt=["context", "emotoin"])))
    assert error.value.key == "stages.0.parts.s" and "emotoin" in error.value.cause


def test_a_fault_of_a_later_stage_costs_no_training(tmp_path, tiny, prose, answers):
    for stage in ({"max_length": 65}, {"lora": {"targets": ["q_proj"]}}):
        with pytest.raises(JobError) as error:
            train(job_of(tmp_path, tiny, clm(prose), sft(answers, **stage)))
        assert error.value.key.startswith("stages.1.")
        assert not (tmp_path / "o").exists()
    assert "c_attn" in error.value.remedy


def test_a_later_stage_may_be_mended_or_added(tmp_path, tiny, prose, answers):
    with pytest.raises(JobError) as error:
        train(job_of(tmp_path, tiny, clm(prose), sft(answers, max_length=4)))
    assert error.value.key == "stages.1.parts"
    weights = tmp_path / "o" / "stages" / "0-clm" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    train(job_of(tmp_path, tiny, clm(prose), sft(answers)))
    report = train(job_of(tmp_path, tiny, clm(prose), sft(answers), sft(answers)))
    assert [stage.folder for stage in report.stages] == ["stages/0-clm", "stages/1-sft", "stages/2-sft"]
    assert weights.stat().st_mtime_ns == written
    assert (tmp_path / "o" / "model.safetensors").samefile(tmp_path / "o" / "stages" / "2-sft" / "model.safetensors")
    with pytest.raises(RunError):
        train(job_of(tmp_path, tiny, clm(prose, dev=0.3), sft(answers), sft(answers)))


def test_what_is_looked_at_is_drawn_from_all_parts(tmp_path, tiny, answers):
    write_jsonl(tmp_path / "more.jsonl", [{"instruction": f"Tell {i}.", "text": "No."} for i in range(200)])
    parts = {name: {"input": {"path": str(tmp_path / f"{name}.jsonl")}} for name in ("more", "rows")}
    stage = sft(answers, parts=parts, dev=0.4, dev_examples=30, optimizer={"max_steps": 1})
    seen = []
    original = stage_module.train_language_model
    try:
        stage_module.train_language_model = lambda *given: seen.append(given[4]) or original(*given)
        report = train(job_of(tmp_path, tiny, stage))
    finally:
        stage_module.train_language_model = original
    long = sum(len(ids) > 35 for ids in seen[0]["input_ids"])
    assert report.stages[0].examples["dev"] == 30 and 0 < long < 30


def test_a_folder_that_was_moved_keeps_its_best_weights(tmp_path, tiny, answers):
    job = job_of(tmp_path, tiny, sft(answers, optimizer={"max_steps": 6}))
    whole = train({**job, "output": {"path": str(tmp_path / "whole")}})
    save = stage_module.StageTraining._save
    try:
        stage_module.StageTraining._save = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train(job)
    finally:
        stage_module.StageTraining._save = save
    (tmp_path / "o").rename(tmp_path / "moved")
    moved = train({**job, "output": {"path": str(tmp_path / "moved")}})
    assert replace(moved.stages[0], seconds=0) == replace(whole.stages[0], seconds=0)
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / at).state_dict() for at in ("moved", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_that_is_not_whole_or_not_causal_is_refused(tmp_path, tiny, answers):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    weights = load_file(broken / "model.safetensors")
    save_file({k: v for k, v in weights.items() if ".h.1." not in k}, broken / "model.safetensors", {"format": "pt"})
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny, encoder)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    RobertaForCausalLM(RobertaConfig(vocab_size=257, max_position_embeddings=66, **sizes)).save_pretrained(encoder)
    cut = tmp_path / "cut"
    shutil.copytree(tiny, cut)
    (cut / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-100])
    for model, cause in ((broken, "lacks 12 of its weights"), (encoder, "not a causal"), (cut, "cannot load it")):
        with pytest.raises(EngineError) as error:
            train(job_of(tmp_path, str(model), sft(answers)))
        assert cause in error.value.cause


def test_a_model_that_begins_with_a_token_of_its_own_does_so_in_a_conversation(tmp_path):
    folder = save_tiny(tmp_path / "m", bos_token="!")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("! $A", special_tokens=[("!", 0)])
    tokenizer.save_pretrained(folder)
    loaded = initial_model.load_tokenizer(folder, TrainModel(id=folder))
    ((_, (ids, _)),) = ExampleEncoder(loaded, CONTEXT, "truncate").examples([TrainingRow("Yes.", "Is it?")])
    assert loaded.decode(ids).startswith("!User:")


def test_a_run_without_accepted_rows_is_refused(tmp_path, tiny):
    run = run_of(tmp_path / "run", missing=10)
    manifest = Manifest(
        fingerprint=RUN_FINGERPRINT, shard=0, start=0, end=4, samples=1, counts={ACCEPTED: 0, REJECTED: 4, ERROR: 0},
        siblings={}, prompt_tokens=0, cached_prompt_tokens=0, output_tokens=0, accepted_output_tokens=0,
        started_at="2026-01-01T00:00:00+00:00", finished_at="2026-01-01T00:00:01+00:00", versions={},
    )  # fmt: skip
    ShardStore(run).commit(manifest, pa.Table.from_batches([to_batch([record(i, REJECTED) for i in range(4)])]))
    job = job_of(tmp_path, tiny, sft("x", parts={"stories": {"run": run}}, prompt=["context"]))
    with pytest.raises(JobError) as error:
        train(job)
    assert (error.value.key, error.value.cause) == ("stages.0.parts.stories", "it has no accepted rows")


def test_a_job_that_was_at_fault_leaves_the_folder_to_its_mended_self(tmp_path, tiny, answers):
    with pytest.raises(JobError):
        train(job_of(tmp_path, tiny, sft(answers, max_length=4)))
    assert train(job_of(tmp_path, tiny, sft(answers, optimizer={"max_steps": 1}))).stages[0].steps == 1


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path, answers):
    model = save_tiny(tmp_path / "endless", eos_token=None)
    with pytest.raises(EngineError) as error:
        train(job_of(tmp_path, model, sft(answers)))
    assert "end-of-text" in error.value.cause


def test_what_lies_in_the_folder_already_is_left_alone(tmp_path, tiny, answers):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError):
        train(job_of(tmp_path, tiny, sft(answers)))
    assert {path.name for path in (tmp_path / "o").iterdir()} - {"train.lock"} == {"thesis.txt"}
