"""Conversations as what an sft stage is trained on: where they come from, and which of their tokens the loss is of."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from pipelines import train
from pipelines.inputs.conversations import messages_cell
from pipelines.jobfile import as_job
from pipelines.training.rows import row_sources
from schemas.errors import JobError
from schemas.rows import RowError
from schemas.train import TrainJob
from tests.support.files import write_jsonl
from tests.support.runs import write_run
from tests.support.tiny_models import CONTEXT, FAST, job_of, save_tiny
from trainers import initial_model
from trainers.examples import IGNORED_LABEL, ExampleEncoder
from trainers.rows import TrainingRow

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


WITH_TOOLS = """\
{% if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}""" + CHATML.replace(
    "{{ m.content }}",
    "{{ m.content or '' }}{% for call in m.tool_calls %}<call>{{ call.function | tojson }}{% endfor %}",
)
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def called(arguments, content=None):
    """A conversation with a call of a tool; an answer follows it."""
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": arguments}}
    return [
        {"role": "user", "content": "What time is it?", "tool_calls": None},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "content": "12:00", "tool_call_id": "1"},
        {"role": "assistant", "content": "It is noon.", "tool_calls": None},
    ]


@pytest.mark.parametrize("arguments", ['{"zone": "UTC"}', {"zone": "UTC", "city": None}])
def test_calls_of_tools_are_rendered_by_the_chat_template(tokenizer_of, tmp_path, arguments):
    rows = [{"messages": called(arguments), "tools": tools} for tools in ([TOOL], json.dumps([TOOL]))]
    rows.append({"messages": called(arguments)[:2], "tools": None})
    write_jsonl(tmp_path / "chats.jsonl", rows)
    found, source = rows_of(chat_job(tmp_path, "x", str(tmp_path / "chats.jsonl")))
    assert source.unreadable == 0
    tokenizer = tokenizer_of(WITH_TOOLS)
    encoder = ExampleEncoder(tokenizer, 900, "truncate")
    first, second, third = (learned(tokenizer, *ids) for _, ids in encoder.examples(found))
    call = '<call>{"name": "clock", "arguments": {"zone": "UTC"}}<|im_end|>'
    assert first == second and first[0] == [call, "It is noon.<|im_end|>"] and third[0] == [call]
    assert (
        '"name": "clock", "parameters"' in first[1] and "tool\n12:00<|im_end|>" in first[1] and "None" not in first[1]
    )
    assert not encoder.counts


def test_tools_that_a_template_does_not_show_are_counted_and_named(tokenizer_of, tmp_path):
    rows = [
        {"messages": called({})},
        {"messages": said("Hi?", "Hello."), "tools": [TOOL]},
        {"messages": said("a", "b")},
    ]
    write_jsonl(tmp_path / "chats.jsonl", rows)
    found, _ = rows_of(chat_job(tmp_path, "x", str(tmp_path / "chats.jsonl")))
    encoder = ExampleEncoder(tokenizer_of(CHATML), 900, "truncate")
    assert [row for row, _ in encoder.examples(found)] == [found[2]]
    (name,) = encoder.counts
    assert encoder.counts[name] == 2 and "chat template does not show" in name
    assert encoder.firsts[name] == f"row 0 of {tmp_path}/chats.jsonl: the call of clock"


def test_a_control_token_in_a_tool_call_is_none(tokenizer_of):
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": "Hi<|im_end|>"}}}
    row = TrainingRow("", [{"role": "user", "content": "Hi"}], place="row 3", tool_calls=[call])
    encoder = ExampleEncoder(tokenizer_of(WITH_TOOLS), 900, "truncate")
    ((_, (ids, _)),) = encoder.examples([row])
    assert ids.count(encoder._tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert encoder.counts == {"cleared of control tokens": 1} and encoder.firsts == {
        "cleared of control tokens": "row 3"
    }


PARTS = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
FAULTS = {
    "message 1: content is null": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
    "a part of the type 'image_url'": [{"role": "user", "content": [{"type": "image_url"}]}],
    "arguments are not JSON": called("{"),
    "without the name of a function": [{"role": "assistant", "tool_calls": [{"function": {}}]}],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_conversations_that_cannot_be_read_are_named(tmp_path, tiny, fault):
    rows = [{"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": PARTS}]}] * 3
    write_jsonl(tmp_path / "chats.jsonl", [*rows, {"messages": FAULTS[fault]}])
    found, source = rows_of(chat_job(tmp_path, tiny, str(tmp_path / "chats.jsonl")))
    assert [row.text for row in found] == ["One.\nTwo."] * 3 and found[0].prompt[0]["content"] == "One.\nTwo."
    assert source.unreadable == 1 and source.first_unreadable.startswith(f"row 3 of {tmp_path}/chats.jsonl: message ")
    assert fault in source.first_unreadable


def test_generation_refuses_calls_of_tools_with_their_reason():
    with pytest.raises(RowError, match="message 1 has tool_calls"):
        messages_cell({"messages": called({})}, "messages")


def test_texts_are_trained_as_they_are(tokenizer_of, tmp_path):
    write_jsonl(
        tmp_path / "code.jsonl",
        [
            {"q": "  def f(x):\n", "more": "\n# double it\n", "a": "    return 2 * x\n\n"},
            {"q": "x", "more": " ", "a": " \n"},
            {"q": " \t", "more": "y", "a": "b"},
            {"q": "x", "more": "", "a": "\tb"},
        ],
    )
    stage = {"kind": "sft", "prompt": ["q", "more"], "completion": "a", "dev": 0.2}
    job = job_of(tmp_path, "x", {**stage, "parts": {"code": {"input": {"path": str(tmp_path / "code.jsonl")}}}})
    found, source = rows_of(job)
    assert [(row.prompt, row.text) for row in found] == [
        ("  def f(x):\n\n\n\n# double it\n", "    return 2 * x\n\n"),
        ("x", "\tb"),
    ]
    assert source.unreadable == 2 and source.first_unreadable.endswith("a is blank")
    tokenizer = tokenizer_of(CHATML)
    (_, ids), _ = ExampleEncoder(tokenizer, 500, "truncate").examples(found)
    stretches, text = learned(tokenizer, *ids)
    assert stretches == ["    return 2 * x\n\n<|im_end|>"]
    assert text.startswith("<|im_start|>user\n  def f(x):\n\n\n\n# double it\n<|im_end|>")


def test_turns_are_trained_as_they_are(tmp_path):
    talk = said(" Hi?\n", "  Hello.\n", "\tAnd?", " Bye. ", system=" Be glad.\n")
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": talk}])
    ((row,), _) = rows_of(chat_job(tmp_path, "x", str(tmp_path / "chats.jsonl")))
    assert [*row.prompt, {"role": "assistant", "content": row.text}] == talk


def test_end_of_text_tokens_are_borders_of_documents(tokenizer_of):
    tokenizer = tokenizer_of(CHATML)
    end = tokenizer.eos_token
    encoder = ExampleEncoder(tokenizer, 500, "split")
    texts = [f"One.{end}Two.\n{end}{end} ", end, "A <|im_start|> b.", "Three."]
    found = list(encoder.examples([TrainingRow(text, place=f"row {i}") for i, text in enumerate(texts)]))
    assert [tokenizer.decode(ids) for _, (ids, _) in found] == [
        f"One.{end}", f"Two.\n{end}", f"A < |im_start|> b.{end}", f"Three.{end}"
    ]  # fmt: skip
    assert encoder.counts == {"divided at end-of-text tokens": 2, "cleared of control tokens": 1}
    assert encoder.firsts == {"divided at end-of-text tokens": "row 0", "cleared of control tokens": "row 2"}
    # A completion ends with one anyway, as in TRL.
    one, other = encoder.examples([TrainingRow(f"Yes.{end}", "Is it?"), TrainingRow("Yes.", "Is it?")])
    assert one[1] == other[1] and len(encoder.counts) == 2


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
