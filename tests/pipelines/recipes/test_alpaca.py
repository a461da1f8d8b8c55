"""The recipe alpaca_rewrite: its prompts, the rows that it refuses, and what it cuts off the model's text."""

import json
import pickle
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import augment
from pipelines.augmentation.progress import AugmentProgress
from pipelines.inputs.reader import InputReader
from pipelines.recipes import alpaca, make_recipe
from pipelines.recipes.alpaca import AlpacaRewrite
from pipelines.recipes.alpaca_cleaning import remove_empty_markers
from pipelines.recipes.meta_talk import strip_meta_talk
from schemas.augment import AugmentJob
from schemas.emotions import POSITIVE
from schemas.errors import JobError
from schemas.job_parsing import parse_job
from schemas.rows import REJECTED, RowError, RowRejection, WorkRow, to_batch
from schemas.run import RunRecord
from services.engines.engine import Generation
from services.observability.series import AugmentMetrics
from services.replicas.row_records import VariantSettings, failed_record, finished_record
from tests.support.files import SHARED_DATA

PROMPTS = Path(alpaca.__file__).parent / "prompts"
EXAMPLES = [json.loads(line) for line in (PROMPTS / "alpaca_examples.jsonl").read_text().splitlines()]
VERSIONS = ("v1", "v2", "v3")
# What the examples are of: the positive emotions, and the one more that the paper's own data has.
REWRITTEN = sorted(POSITIVE | {"surprise"})
ROW = {"instruction": "Name a bird.", "input": "It swims.", "output": "A duck is a bird that swims.", "emotion": "joy"}


def rendered(version, seed=0, given=True, **changes):
    return AlpacaRewrite(version, "given" if given else "drawn").render({**ROW, **changes}, seed)


def text_of(prompt):
    assert [message["role"] for message in prompt.messages] == ["user"]
    return prompt.messages[0]["content"]


def dropped(call):
    with pytest.raises(RowRejection) as raised:
        call()
    return str(raised.value)


# The examples


def test_each_emotion_has_three_examples_with_and_without_an_input():
    assert Counter(example["emotion"] for example in EXAMPLES) == dict.fromkeys(REWRITTEN, 3)
    for emotion in REWRITTEN:
        assert {bool(example["input"]) for example in EXAMPLES if example["emotion"] == emotion} == {True, False}
    assert len({example["instruction"] for example in EXAMPLES}) == len(EXAMPLES)


def test_the_examples_keep_the_rules_that_they_illustrate():
    for example in EXAMPLES:
        assert set(example) == {"emotion", "instruction", "input", "output", "rewritten"}
        assert all(value == value.strip() and "\n" not in value for value in example.values())
        assert example["instruction"] and example["output"] != example["rewritten"]
        # Short, in one paragraph, without the emotion's name or talk round it.
        assert len(example["rewritten"].split()) < 100
        assert example["emotion"][:5] not in example["rewritten"].lower()
        assert strip_meta_talk(example["rewritten"]) == (example["rewritten"], "")
        rendered("v3", **example)  # no cleaning rule refuses it


# The prompts


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("emotion", REWRITTEN)
def test_a_version_shows_the_row_and_no_example_of_another_emotion(version, emotion):
    prompt = rendered(version, emotion=emotion)
    text = text_of(prompt)
    shown = [e["emotion"] for e in EXAMPLES if e["rewritten"] in text and e["output"] in text]
    assert shown == [emotion] * {"v1": 0, "v2": 1, "v3": 3}[version]
    assert not any(e["rewritten"] in text or e["instruction"] in text for e in EXAMPLES if e["emotion"] != emotion)
    assert [prompt.emotion, *prompt.emotions] == [emotion] * 2 and prompt.inputs == {**ROW, "emotion": emotion}
    assert emotion in text and re.search(r"(under|[Ff]ewer than) 100 words", text)
    row = text[text.rindex("Instruction:") :]
    assert [row.count(value) for value in (ROW["instruction"], ROW["input"], ROW["output"])] == [1, 1, 1]
    assert not re.search(r"[{}#]|\brule \d|appendix|\n\n\n", text)


def test_version_1_has_three_examples_the_last_with_the_caring_fallback():
    for emotion in REWRITTEN:
        text = text_of(rendered("v1", emotion=emotion))
        assert text.count("\nNew answer:") == 4 and text.endswith("\nNew answer:")
        assert text.index("Example 3") < text.index("warm bed") < text.rindex("Instruction:")


@pytest.mark.parametrize("blank", [{"input": ""}, {"input": " \n"}, {"input": None}, {"input": "<noinput>"}, "absent"])
def test_a_row_without_an_input(blank):
    values = {key: value for key, value in ROW.items() if key != "input"} if blank == "absent" else {**ROW, **blank}
    for version in VERSIONS:
        text = text_of(AlpacaRewrite(version, "given").render(values, 0))
        row = text[text.rindex("Instruction:") :]
        assert re.findall("^Input: (.*)$", row, re.MULTILINE) == (["<noinput>"] if version == "v1" else [])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("<noinput>", ""), ("< No Input >", ""), ("No input", ""), ("No input needed.", ""), ("N/A", ""), ("None", ""),
        ("Number of tips: 5\n<noinput>", "Number of tips: 5"), ("  a duck \n", "a duck"),
        ("None of them came.", "None of them came."), ("No input devices were found.", "No input devices were found."),
    ],
)  # fmt: skip
def test_marks_of_a_missing_input_are_taken_out(given, kept):
    assert remove_empty_markers(given) == kept


def test_the_row_is_not_read_as_a_template():
    for version in VERSIONS:
        assert "{{ examples }}" in text_of(rendered(version, output="Write {{ examples }} in it."))


def test_an_emotion_is_drawn_by_the_seed_where_none_is_given():
    drawn = [rendered("v3", seed, given=False).emotion for seed in range(len(POSITIVE))]
    assert set(drawn) == POSITIVE
    # Changing these would give a run that is resumed other prompts than it began with.
    assert drawn[:3] == ["admiration", "amusement", "approval"]
    assert drawn == [rendered("v3", seed, given=False).emotion for seed in range(len(POSITIVE))]
    assert rendered("v3", 2, given=True).emotion == "joy"


def test_the_job_says_whether_emotions_are_given():
    def recipe(**section):
        job = {"name": "a", "output": {"path": "y"}, "recipe": "alpaca_rewrite", "input": {"path": "x", **section}}
        return make_recipe(parse_job(job, AugmentJob))

    assert recipe().fields == ("instruction", "input", "output")
    assert recipe(columns={"emotion": "feeling"}).fields == ("instruction", "input", "output", "emotion")
    assert recipe(columns={"emotion": "feeling"}).prefix(ROW) == "joy" and recipe().prefix(ROW) == ""
    assert recipe(columns={"emotion": "feeling"}).prefix({}) == ""


def test_of_several_labels_the_first_is_asked_for():
    prompt = rendered("v2", emotion=["love", "anger"])
    assert (prompt.emotion, prompt.emotions) == ("love", ["love", "anger"])


def test_a_pickled_recipe_renders_the_same():
    recipe = AlpacaRewrite("v3", "drawn")
    assert pickle.loads(pickle.dumps(recipe)).render(ROW, 5) == recipe.render(ROW, 5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"instruction": None}, "instruction is null"),
        ({"instruction": " "}, "instruction is blank"),
        ({"instruction": 7}, "instruction is int, not text"),
        ({"input": ["a"]}, "input is list, not text"),
        ({"output": 3.5}, "output is float, not text"),
        ({"output": "half \ud83d a pair"}, "output is not valid Unicode"),
        ({"emotion": "glee"}, "emotion 'glee' is not one of the 28 GoEmotions labels"),
        ({"emotion": None}, "emotion is null"),
    ],
)
def test_rows_that_cannot_be_rewritten(changes, reason):
    with pytest.raises(RowError, match=re.escape(reason)):
        rendered("v3", **changes)


# What is refused before it is generated

REFUSED = [
    ("empty_output", {"output": None}),
    ("empty_output", {"output": " \n"}),
    ("nooutput", {"output": "<nooutput>"}),
    ("nooutput", {"output": "Nooutput"}),
    ("nooutput", {"output": "No output."}),
    ("useless_output", {"output": "N/A"}),
    ("useless_output", {"output": "None."}),
    ("useless_output", {"output": "..."}),
    ("useless_output", {"output": "As an AI language model, I don't have feelings."}),
    ("useless_output", {"output": "I'm sorry, but I cannot view the page."}),
    ("other_task", {"output": "<noinput>\nWho wants to come?"}),
    ("other_task", {"output": "A rose.\n8. Instruction: Write a poem."}),
    ("url", {"input": "https://example.org/a"}),
    ("url", {"instruction": "Summarize www.example.org/a for me."}),
    ("unseen_image", {"instruction": "Write a caption for this lovely sunset photo.", "input": ""}),
    ("unseen_image", {"instruction": "Describe the attached picture.", "input": "<noinput>"}),
    ("unseen_image", {"instruction": "Write a text for a photo of a cat.", "input": "Photo:\n<noinput>"}),
    ("unseen_image", {"input": "[insert image here]"}),
    ("unseen_image", {"input": "Question 2: Who painted this? (image provided)"}),
    ("unseen_image", {"input": "cat_01.jpg"}),
    ("broken_encoding", {"output": "A caf\u00c3\u00a9 in Paris."}),
    ("broken_encoding", {"input": "It\u00e2\u20ac\u2122s raining."}),
    ("broken_encoding", {"instruction": "Explain \ufffd."}),
    ("broken_encoding", {"output": "A duck\x01."}),
    ("emotion_not_positive", {"emotion": "anger"}),
    ("emotion_not_positive", {"emotion": ["neutral", "joy"]}),
]
CLEAN = [
    {"output": "There is no output voltage."},
    {"output": "None of the birds can fly."},
    {"output": "\U0001f602"},
    {"output": "12"},
    {"output": "As an AI researcher, I work on models."},
    {"output": "I'm sorry that I cannot come to your party."},
    {"output": "As an AI language model, I have met many writers."},
    {"output": "Instructions: mix, bake, eat."},
    {"output": "You can read more on https://example.org."},
    {"instruction": "What does www stand for?"},
    {"instruction": "Write a caption for a photo of two friends.", "input": ""},
    {"instruction": "Describe the following picture.", "input": "A cat sits on a red mat."},
    {"instruction": "Review this video game.", "input": ""},
    {"instruction": "Explain what a photograph is.", "input": ""},
    {"input": "painting"},
    {"input": "<video> is an element of HTML."},
    {"output": "S\u00c3O PAULO, caf\u00e9, na\u00efve, \u00c2ngela, 20 \u20ac"},
    {"output": "one\ttwo\r\nthree"},
    {"emotion": "surprise"},
]


@pytest.mark.parametrize(("rule", "changes"), REFUSED)
def test_a_rule_refuses(rule, changes):
    assert dropped(lambda: rendered("v3", **changes)) == rule


@pytest.mark.parametrize("changes", CLEAN)
def test_what_only_looks_like_a_fault_is_kept(changes):
    assert rendered("v3", **changes).messages


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data is not here")
def test_most_of_a_real_corpus_is_kept_and_rendered():
    rows = [json.loads(line) for line in (SHARED_DATA / "alpaca_emotion.jsonl").read_text().splitlines()]
    recipe, drops, texts = AlpacaRewrite("v3", "given"), Counter(), set()
    for row in rows:
        try:
            texts.add(text_of(recipe.render(row, 0)))
        except RowRejection as rejection:
            drops[str(rejection)] += 1
    assert len(texts) > 0.98 * len(rows) and set(drops) >= {"url", "unseen_image", "other_task"}


# What is cut off the model's text


@pytest.mark.parametrize(
    ("text", "kept", "talk"),
    [
        ("Rewritten Output: The sun is up.", "The sun is up.", "Rewritten Output: [...]"),
        ("Rewritten Output (Relief):The sun is up.", "The sun is up.", "Rewritten Output (Relief):[...]"),
        ("**Rewritten Output:** The sun is up.", "The sun is up.", "**Rewritten Output:** [...]"),
        ("### New answer:\nThe sun is up.", "The sun is up.", "### New answer:\n[...]"),
        ("Relief: The sun is up.", "The sun is up.", "Relief: [...]"),
        ("=> The sun is up.", "The sun is up.", "=> [...]"),
        ("Sure, here is a happy text: The sun is up.", "The sun is up.", "Sure, here is a happy text: [...]"),
        ("Here's the rewritten text:\n\nThe sun is up.", "The sun is up.", "Here's the rewritten text:\n\n[...]"),
        ("I have rewritten the answer for you: Up!", "Up!", "I have rewritten the answer for you: [...]"),
        ('"The sun is up."', "The sun is up.", '"[...]"'),
        ("\u201cThe sun is up.\u201d", "The sun is up.", "\u201c[...]\u201d"),
        ('Certainly! Here is it:\nAnswer: "Up."', "Up.", 'Certainly! Here is it:\nAnswer: "[...]"'),
        ("Up.\n\n(Note: I kept the original meaning.)", "Up.", "[...]\n\n(Note: I kept the original meaning.)"),
        ('"Up."\nWord count: 1', "Up.", '"[...]"\nWord count: 1'),
        ("Up.\nLet me know if you need more!\n", "Up.", "[...]\nLet me know if you need more!"),
    ],
)
def test_labels_and_talk_are_cut_off_and_told(text, kept, talk):
    assert strip_meta_talk(text) == (kept, talk)


@pytest.mark.parametrize(
    "text",
    [
        "Here are five breakfasts: oats, eggs, bread, fruit, and rice.",
        "Sure footing matters: look where you step.",
        "Of course the sun is up.",
        "I have revised my opinion: cats are fine.",
        "Love is: a warm hand.",
        "Joyful birds: they sing all day.",
        '"Hello," she said. "Goodbye."',
        "Bake it for an hour.\n\nNote: let it cool.",
        "The answer is 12.",
        "My plan: get up early.",
    ],
)
def test_what_belongs_to_the_text_stays(text):
    assert strip_meta_talk(text) == (text, "")
    assert strip_meta_talk(f"\n {text}\n") == (text, "")


@given(st.text(st.sampled_from('Answer: joy"=>\n(Note) here is sure, [.]*#'), max_size=40))
def test_nothing_is_lost_and_what_is_kept_has_no_talk_left(text):
    kept, talk = strip_meta_talk(text)
    assert strip_meta_talk(kept) == (kept, "")
    if kept:
        assert (talk.replace("[...]", kept, 1) if talk else kept) == text.strip() or "[...]" in text


def finish(text, prompt="v3"):
    return AlpacaRewrite(prompt, "drawn").finish(text)


@pytest.mark.parametrize("text", ["", " \n", "Rewritten Output:", '""', "Sure, here is the answer:\n"])
def test_a_text_with_nothing_left_is_refused(text):
    record = record_of(text)
    assert (record["state"], record["reason"], record["text"]) == ("rejected", "empty_text", text)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_text_has_fewer_words_than_the_prompt_says(version):
    assert finish("Answer: " + "word " * 99, version) == ("word " * 98 + "word", "Answer: [...]")
    assert dropped(lambda: finish("word " * 100, version)) == "too_many_words"


def test_a_prompt_of_ones_own_has_the_limit_that_it_shows(tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("{{ output }} with {{ emotion }}")
    assert len(finish("word " * 300, str(own))[0].split()) == 300
    own.write_text("{{ output }} with {{ emotion }} in {{ max_words }}")
    assert dropped(lambda: finish("word " * 300, str(own))) == "too_many_words"


def test_alpacas_own_file_is_read_with_and_without_the_column_input(tmp_path):
    whole = {key: ROW[key] for key in ("instruction", "input", "output")}
    bare = {key: ROW[key] for key in ("instruction", "output")}
    for items, inputs in [([whole, bare], ["It swims.", None]), ([bare, {**bare, "input": ""}], [None, ""])]:
        path = tmp_path / "alpaca_data.json"
        path.write_text(json.dumps(items, indent=4))
        facts = {"name": "a", "input": {"path": str(path)}, "recipe": "alpaca_rewrite", "output": {"path": "r"}}
        job = parse_job(facts, AugmentJob)
        recipe = make_recipe(job)
        rows = [row for _, _, row in InputReader(job.input, list(recipe.fields), recipe.optional_fields).rows(0, 2)]
        assert [row.values["input"] for row in rows] == inputs
        assert ["Input: It swims." in text_of(recipe.render(row.values, 0)) for row in rows] == list(map(bool, inputs))


# What becomes of it in the run


def record_of(text):
    settings = VariantSettings(AlpacaRewrite("v3", "given"), {}, 0, "m")
    generation = Generation(text, "stop", 5, 0, 7, datetime.now(UTC), 0.5)
    return finished_record(WorkRow(0, 0, "a", 0, 0, ROW), settings, 1, rendered("v3"), generation)


def test_a_finished_row_keeps_its_text_and_tells_what_was_cut_off():
    record = record_of('Answer: "Quack!"')
    assert (record["state"], record["text"], record["reason"]) == ("accepted", "Quack!", 'Answer: "[...]"')
    record = record_of("Quack!")
    assert (record["state"], record["text"], record["reason"]) == ("accepted", "Quack!", "")


def test_a_refused_text_is_kept_as_it_stands():
    record = record_of("Answer: " + "word " * 100)
    assert (record["state"], record["reason"]) == ("rejected", "too_many_words")
    assert record["text"] == "Answer: " + "word " * 100 and record["output_tokens"] == 7


def test_rejects_are_counted_by_their_rule():
    run = RunRecord(
        name="a", created_at="", job={}, fingerprint="", identity={}, inputs=[], segments=[4], samples=1,
        rows_per_shard=4,
    )  # fmt: skip
    settings = VariantSettings(AlpacaRewrite("v3", "given"), {}, 0, "m")
    rows = [WorkRow(index, 0, "a", index, 0, ROW) for index in range(3)]
    rules = ["url", "near_duplicate of row 1 of a", "near_duplicate of row 2 of a"]
    unsent = [failed_record(row, settings, 1, rule, REJECTED) for row, rule in zip(rows, rules, strict=True)]
    metrics = AugmentMetrics("a")
    AugmentProgress(run, metrics).on_rows(to_batch([*unsent, record_of("")]))

    def sample(name, **labels):
        return metrics.registry.get_sample_value(name, {"run": "a", "start": metrics.start_id, **labels})

    assert sample("kindling_rows_total", state="rejected") == 4
    assert sample("kindling_rejects_total", reason="url") == 1
    assert sample("kindling_rejects_total", reason="near_duplicate") == 2
    assert sample("kindling_rejects_total", reason="empty_text") == 1
    assert sample("kindling_request_seconds_count") == 1  # the three were never sent


ANSWERS = {
    "gratitude": "Thank you so much for all your help, I am very grateful.",
    "joy": "I am so happy and full of joy today, what a happy day!",
    "love": "I love you with all my heart, and I love our home.",
}


def test_a_classifier_picks_the_emotion_that_fits(tmp_path):
    rows = [{"instruction": f"Say something about {name}s.", "output": text} for name, text in ANSWERS.items()]
    rows += [
        {"instruction": "Say nothing.", "output": ""},
        {**rows[0], "instruction": "Say something about GRATITUDES!"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    job = {
        "name": "fitting",
        "input": {"path": str(tmp_path / "rows.json")},
        "recipe": "alpaca_rewrite",
        "classifier": {"id": "embedded"},
        "model": {"id": "fake"},
        "output": {"path": str(tmp_path / "run")},
        "metrics": {"port": None},
    }
    assert augment(job).rows == {"accepted": 3, "rejected": 2, "error": 0}
    written = pq.read_table(tmp_path / "run" / "data").to_pylist()
    assert [row["emotion"] for row in written] == list(ANSWERS)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["classifier_revision"]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"input": {"path": "x.json", "columns": {"emotion": "emotion"}}}, "the rows have their emotions"),
        ({"recipe": "babylm_story"}, "does not choose an emotion for its rows"),
    ],
)
def test_a_classifier_that_would_pick_nothing_is_refused(changes, cause):
    job = {"name": "x", "input": {"path": "x.json"}, "recipe": "alpaca_rewrite", "output": {"path": "y"}}
    with pytest.raises(JobError, match=cause):
        make_recipe(parse_job({**job, "classifier": {}, **changes}, AugmentJob))
