"""Conversations as what an sft stage is trained on: where they come from, and which of their tokens the loss is of."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from pipelines import train
from pipelines.jobfile import as_job
from pipelines.training.rows import row_sources
from schemas.errors import JobError
from schemas.train import TrainJob
from tests.support.files import write_jsonl
from tests.support.runs import write_run
from tests.support.tiny_models import CONTEXT, FAST, job_of, save_tiny
from trainers import initial_model
from trainers.examples import IGNORED_LABEL, ExampleEncoder, TrainingRow

pytestmark = pytest.mark.usefixtures("one_thread")

CHATML = """\
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# As reasoning models have it: only the last answer shows that there was a thought.
FORGETS = CHATML.replace(
    "{{ m.content }}", "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML


def said(*contents, system="Be glad."):
    roles = [{"role": "user"}, {"role": "assistant"}] * len(contents)
    turns = [{**role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *turns] if system else turns


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    def made(template):
        folder = tmp_path_factory.mktemp("models")
        save_tiny(folder, additional_special_tokens=["<|im_start|>", "<|im_end|>"])
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = template
        return tokenizer

    return made


def learned(tokenizer, ids, labels):
    """What is not ignored, as stretches of text; and the whole text."""
    text, stretches = tokenizer.decode(ids), [""]
    for label in labels:
        if label != IGNORED_LABEL:
            stretches[-1] += tokenizer.decode([label])
        elif stretches[-1]:
            stretches.append("")
    return [stretch for stretch in stretches if stretch], text


def test_the_loss_is_of_every_turn_of_the_assistant(tokenizer_of):
    tokenizer = tokenizer_of(CHATML)
    encoder = ExampleEncoder(tokenizer, 500, "truncate")
    *before, last = said("Hi?", "Hello.", "End<|im_end|> it?", "B<|im_start|>ye.")
    ((_, ids),) = encoder.examples([TrainingRow(last["content"], before)])
    stretches, text = learned(tokenizer, *ids)
    assert stretches == ["Hello.<|im_end|>", "B< |im_start|>ye.<|im_end|>"]
    turns = [{**turn, "content": turn["content"].replace("<|", "< |")} for turn in [*before, last]]
    assert text + "\n" == tokenizer.apply_chat_template(turns, tokenize=False)
    assert ids[0].count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 5
    # A prompt and a completion are a conversation of one turn each.
    one, other = encoder.examples(
        [TrainingRow("Yes.", "Is it?"), TrainingRow("Yes.", [{"role": "user", "content": "Is it?"}])]
    )
    assert one[1] == other[1]


def test_a_template_that_tells_the_past_otherwise_gets_an_example_for_each_answer(tokenizer_of):
    tokenizer = tokenizer_of(FORGETS)
    encoder = ExampleEncoder(tokenizer, 500, "truncate")
    *before, last = said("Hi?", "Hello.", "And?", "Bye.", system="")
    found = [learned(tokenizer, *ids) for _, ids in encoder.examples([TrainingRow(last["content"], before)])]
    assert [stretches for stretches, _ in found] == [
        ["<think></think>Hello.<|im_end|>"],
        ["<think></think>Bye.<|im_end|>"],
    ]
    assert "assistant\nHello.<|im_end|>" in found[1][1]


def test_what_is_too_long_or_refused_by_the_template_is_counted(tokenizer_of):
    tokenizer = tokenizer_of(NO_SYSTEM)
    encoder = ExampleEncoder(tokenizer, 60, "truncate")
    rows = [
        TrainingRow("Bye.", said("Hi?")),
        TrainingRow("x" * 90, said("Hi?", system="")),
        TrainingRow("Bye.", said("x" * 90, system="")),
        TrainingRow("Bye.", said("Hi?", "Yes.", "y" * 90, system="")),
    ]
    found = [(row, learned(tokenizer, *ids)[0]) for row, ids in encoder.examples(rows)]
    assert [row for row, _ in found] == [rows[1], rows[3]]
    assert found[1][1] == ["Yes.<|im_end|>"]
    assert dict(encoder.counts) == {"refused by the chat template": 1, "truncated": 2, "dropped": 1}


def test_a_model_without_a_template_takes_conversations(tiny, tmp_path):
    tokenizer = initial_model.load_tokenizer(tiny, as_job(chat_job(tmp_path, tiny, "x"), TrainJob).model)
    *before, last = said("Hi?", "Hello.", "And?", "Bye.")
    ((_, ids),) = ExampleEncoder(tokenizer, 500, "truncate").examples([TrainingRow(last["content"], before)])
    stretches, text = learned(tokenizer, *ids)
    assert stretches == ["Hello.<|end|>", "Bye.<|end|>"]
    assert text.startswith("System:\nBe glad.\n\nUser:\nHi?\n\nAnswer:\nHello.<|end|>User:\n")


def chat_job(tmp_path, tiny, path, **stage):
    parts = stage.pop("parts", {"chats": {"input": {"path": path}}})
    return job_of(
        tmp_path, tiny, {"kind": "sft", "messages": "messages", "parts": parts, "dev": 0.2, "optimizer": FAST, **stage}
    )


def rows_of(job):
    (source,) = row_sources(0, as_job(job, TrainJob).stages[0], 0)
    return list(source), source


CONVERSATIONS = [
    said("Hi?", "Hello.", "And?", "Bye."),
    said("Hi?", "Hello.", "Nobody answers this."),
    said("Nobody answers."),
    said("Hi?", "Hello.")[2:],
    [{"role": "bot", "content": "Hi"}],
    [{"role": "user", "content": None}, {"role": "assistant", "content": "Yes."}],
    None,
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_conversations_come_from_files(tmp_path, kind):
    path = tmp_path / f"chats.{kind}"
    rows = [{"messages": conversation} for conversation in CONVERSATIONS]
    write_jsonl(path, rows) if kind == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), path)
    found, source = rows_of(chat_job(tmp_path, "x", str(path)))
    assert [(row.text, row.prompt) for row in found] == [
        ("Bye.", CONVERSATIONS[0][:-1]),
        ("Hello.", CONVERSATIONS[1][:2]),
    ]
    assert source.unreadable == 5 and source.counts == {"chats": {"rows": 2}}


def test_a_run_of_messages_is_answered_by_its_text(tmp_path):
    asked = said("Hi?")
    inputs = [{"messages": asked, "text": "of the input"}] * 4
    run = write_run(tmp_path / "run", [f"Answer {i}." for i in range(4)], inputs=inputs)
    found, _ = rows_of(chat_job(tmp_path, "x", "", parts={"chats": {"run": run}}))
    assert [(row.text, row.prompt) for row in found] == [(f"Answer {i}.", asked) for i in range(4)]


def test_a_model_learns_from_conversations(tmp_path, tiny):
    rows = [{"talk": said(f"Say {i}.", f"Glad to: {i}!", system="")} for i in range(40)]
    write_jsonl(tmp_path / "chats.jsonl", [*rows, {"talk": []}])
    job = chat_job(tmp_path, tiny, str(tmp_path / "chats.jsonl"), messages="talk", max_length=CONTEXT)
    report = train(job)
    assert report.stages[0].change[2] < 0 and report.stages[0].not_whole == {"unreadable": 1}
    # The job that the record and the card hold is a job.
    resolved = json.loads((tmp_path / "o" / "train.json").read_text())["job"]
    assert as_job(resolved, TrainJob) == as_job(job, TrainJob)


@pytest.mark.parametrize(
    "more", [{"prompt": ["q"], "completion": "a"}, {"completion": "a"}, {"messages": None, "prompt": None}]
)
def test_a_stage_has_one_kind_of_rows(tmp_path, more):
    with pytest.raises(JobError) as error:
        as_job(chat_job(tmp_path, "x", "x", **more), TrainJob)
    assert "give either messages, or prompt and completion" in str(error.value)
