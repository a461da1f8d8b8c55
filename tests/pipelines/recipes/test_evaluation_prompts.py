"""The recipe evaluation_prompts: what is asked, what is read of the answers, and the set that becomes of them."""

import json
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import export_prompts
from pipelines.jobfile import load_job
from pipelines.recipes import make_recipe
from pipelines.recipes.evaluation_prompts import EvaluationPrompts
from pipelines.recipes.task_list import parse_tasks
from schemas.emotions import EMOTIONS
from schemas.errors import RunError
from schemas.rows import ACCEPTED, REJECTED, RowError, RowRejection, row_seed, to_batch
from schemas.run import InputSource, RunRecord
from services.storage.store import ShardStore
from tests.support.files import ROOT, SHARED_DATA
from tests.support.runs import manifest, record, table

POEM, LETTER = "Write a poem about rain.", "Write a letter to your aunt."
SEA = ("Describe what you feel.", "You see the sea for the first time.")
TASKS = [(POEM, ""), SEA, (LETTER, "")]
P, (S, X), L = POEM, SEA, LETTER


def read(text, cut_off=False):
    tasks, rest = parse_tasks(text, cut_off)
    assert all(set(task) == {"instruction", "input"} for task in tasks)
    return [(task["instruction"], task["input"]) for task in tasks], rest


# Each says the same three tasks.
WAYS = {
    "as asked": f"Instruction: {P}\nInstruction: {S} Input: {X}\nInstruction: {L}",
    "parts on their own lines": f"Instruction: {P}\n\nInstruction: {S}\nInput: {X}\n\nInstruction: {L}\n",
    "numbered": f"1. {P}\n2. {S} Input: {X}\n3. {L}",
    "numbered with labels": f"1. Instruction: {P}\n2. Instruction: {S}\n   Input: {X}\n3. Instruction: {L}",
    "numbered in parentheses": f"(1) {P}\n(2) {S} (Input: {X})\n(3) {L}",
    "numbered labels": f"Instruction 1: {P}\nInstruction 2: {S} Input 2: {X}\nInstruction 3: {L}",
    "bullets": f"- {P}\n- {S} Input: {X}\n- {L}",
    "stars and dots": f"* {P}\n\u2022 {S}\n  Input: {X}\n+ {L}",
    "bold labels": f"**Instruction:** {P}\n\n**Instruction**: {S}  \n**Input:** {X}\n\n**Instruction:** {L}",
    "bold numbers": f"**1.** {P}\n**2.** {S} **Input:** {X}\n**3.** {L}",
    "bold tasks": f"1. **{P}**\n2. **{S}** Input: {X}\n3. **{L}**",
    "bold titles": f"1. **Rain:** {P}\n2. **The sea** - {S} Input: {X}\n3. **A kind letter**: {L}",
    "italics": f"*Instruction:* {P}\n*Instruction:* {S} *Input:* {X}\n_Instruction:_ {L}",
    "headings": f"### Task 1\nInstruction: {P}\n\n### Task 2\nInstruction: {S}\nInput: {X}\n\n"
    f"### Task 3\nInstruction: {L}",
    "label above": f"**Instruction:**\n{P}\n\n**Instruction:**\n\n{S}\n**Input:**\n{X}\n\n**Instruction:**\n{L}",
    "task numbers": f"Task 1: {P}\nTask 2: {S} Input: {X}\nTask 3: {L}",
    "no input, said": f"Instruction: {P} Input: None\nInstruction: {S} Input: {X}\n"
    f"Instruction: {L}\nInput: (N/A)",
    "in one line": f"Instruction: {P} Instruction: {S} Input: {X} Instruction: {L}",
    "quoted": f'1. "{P}"\n2. "{S}" Input: \u201c{X}\u201d\n3. "{L}"',
    "wrapped": f"1. Write a poem\n   about rain.\n2. {S} Input: You see the sea\n   for the first time.\n3. {L}",
    "small letters": f"instruction: {P}\ninstruction: {S}\ninput: {X}\ninstruction: {L}",
    "Windows": f"1. {P}\r\n2. {S}\r\nInput: {X}\r\n3. {L}\r\n",
    "introduced": f"Sure! Here are three tasks that convey joy:\n\n1. {P}\n2. {S} Input: {X}\n3. {L}",
    "JSON": json.dumps([{"instruction": i, "input": x} if x else {"instruction": i} for i, x in TASKS]),
    "JSON in a fence": "Here you are:\n```json\n" + json.dumps(
        {"tasks": [{"Instruction": i, "Input": x} for i, x in TASKS]}, indent=2
    ) + "\n```\n",
    "JSON lines": "\n".join(json.dumps({"instruction": i, "input": x or None}) for i, x in TASKS),
    "JSON texts": json.dumps([POEM, f"Instruction: {S} Input: {X}", f"Instruction: {L}"]).replace(
        f'"{P}"', f'"Instruction: {P}"'
    ),
    "JSON texts, one a line": json.dumps([POEM, f"{S} Input: {X}", LETTER], indent=1),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_lists_are_read_whichever_way_they_are_written(way):
    assert read(WAYS[way]) == (TASKS, [])


@pytest.mark.parametrize("way", WAYS)
def test_they_are_read_like_that_inside_of_talk(way):
    tasks, rest = read(f"Certainly, a list of tasks:\n\n{WAYS[way]}\n\nLet me know if you need more!")
    assert tasks == TASKS
    assert rest == ([] if way.startswith("JSON") else ["Let me know if you need more!"])


@pytest.mark.parametrize(
    ("text", "tasks", "rest"),
    [
        # A title, a remark and an answer are no tasks, and what is not read is told.
        (f"1. {P}\n2. Rain\n3. {L}", [POEM, LETTER], ["Rain"]),
        (f"1. {P}\nThis is a short task.\n2. {L}", [POEM, LETTER], ["This is a short task."]),
        (f"Instruction: {P}\nOutput: Drip, drop.\nDrip.\nInstruction: {L}", [POEM, LETTER], ["Drip, drop.", "Drip."]),
        (f"Instruction: {P}\n2. Something else that is no task", [POEM], ["Something else that is no task"]),
        (f"1. {P}\n2. {'and then ' * 40}", [POEM], [("and then " * 40).strip()]),
        # Prose is no list.
        ("I feel joy when it rains. Then I write poems.", [], []),
        ("Write a poem about the following input: rain.", [], []),
        ("", [], []),
        ("\n \n---\n1.\n", [], []),
        ("Input: the sea, which is wide.", [], []),
        # One object is broken, one is something else.
        ('[{"instruction": "Write a poem about rain."}, {"instruction": Write}, {"id": 3}]', [POEM],
         ['{"instruction": Write}', '{"id": 3}']),
        ('{"instruction": 17}', [], []),
        ("3.5 hours of sleep\n3. Write about 3.5 hours of sleep.", ["Write about 3.5 hours of sleep."], []),
        # Not every word before a colon is a label, and not every star a mark.
        ("1. Write a list: three things you love.", ["Write a list: three things you love."], []),
        ("1. Describe *one* thing that you love.", ["Describe *one* thing that you love."], []),
        ("- Tell a friend (your best one)", ["Tell a friend (your best one)"], []),
    ],
)  # fmt: skip
def test_what_is_no_task_is_left_over_and_told(text, tasks, rest):
    assert read(text) == ([(task, "") for task in tasks], rest)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (f"1. {P}\n2. Write a letter to", ["Write a letter to"]),
        (f"Instruction: {P}\nInstruction: {S} Input: You see", [f"{S} You see"]),
        (f"1. {P}\n", []),
        (json.dumps([{"instruction": POEM}, {"instruction": LETTER}])[:-12], ['{"instruction": "Write a letter to y']),
        (json.dumps([POEM, LETTER])[:-8], []),
    ],
)
def test_a_task_that_is_broken_off_is_none(text, rest):
    tasks, left = read(text, cut_off=True)
    assert tasks == [(POEM, "")]
    assert [line.lstrip(", ") for line in left] == rest


PIECES = st.sampled_from(
    [
        "Instruction:",
        "Input:",
        "**",
        "1. ",
        "- ",
        "\n",
        "\n\n",
        "{",
        "}",
        '"',
        "[",
        "]",
        "```",
        POEM,
        "rain",
        ":",
        "\\",
        "(",
    ]
)


@given(st.lists(PIECES | st.text(max_size=8), max_size=40).map("".join), st.booleans())
def test_whatever_is_written_is_read_without_a_fault(text, cut_off):
    for task in parse_tasks(text, cut_off)[0]:
        assert len(task["instruction"].split()) >= 3
        assert all(value == " ".join(value.split()) for value in task.values())


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        '{"a":',
        "[",
        '["',
        '["' + '\\"' * 50,
        '"',
        "\\",
        "**",
        "*",
        "Instruction:",
        "1. ",
        "\n",
        " ",
        "- ",
        "```\n",
        "(Input:",
        "1",
        "rain\n",
    ],
)
def test_an_answer_takes_time_in_proportion_to_its_length(piece):
    began = time.process_time()
    for start in ("", "- rain"):
        parse_tasks(start + piece * (100_000 // len(piece)))
    assert time.process_time() - began < 2


# The recipe


@pytest.fixture(scope="module")
def recipe():
    return EvaluationPrompts("tasks")


def asked(recipe, emotion="joy", seed=0):
    (message,) = recipe.render({"emotion": emotion}, seed).messages
    return message["content"]


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_each_emotion_is_asked_for_with_two_examples_of_the_format(recipe, emotion):
    prompt = recipe.render({"emotion": emotion}, 7)
    text = asked(recipe, emotion, 7)
    assert f"10 such tasks for the emotion {emotion}." in text
    examples = [line for line in text.splitlines() if line.startswith("Instruction: ")]
    assert ["Input: " in line for line in examples] == [False, True]
    assert (prompt.emotion, prompt.emotions, prompt.inputs) == (emotion, [emotion], {"emotion": emotion})
    assert "{" not in text and "#" not in text and "\n\n\n" not in text


def test_samples_ask_for_different_forms_and_settings(recipe):
    seeds = [row_seed(0, "emotions.jsonl", 17, sample) for sample in range(8)]
    prompts = [asked(recipe, seed=seed) for seed in seeds]
    assert len(set(prompts)) == 8 and prompts == [asked(recipe, seed=seed) for seed in seeds]
    # What differs comes last: the engine's prefix cache serves the rest.
    assert len({prompt[: prompt.index("Now write")] for prompt in prompts}) == 1


def test_the_job_asks_once_for_each_of_the_28(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    job = load_job("deploy/jobs/evaluation_prompts.yaml")
    rows = [json.loads(line) for line in Path(job.input.path).read_text().splitlines()]
    assert rows == [{"emotion": emotion} for emotion in EMOTIONS]
    assert make_recipe(job).prompt_hash == recipe.prompt_hash
    assert pickle.loads(pickle.dumps(recipe)).render(rows[0], 1) == recipe.render(rows[0], 1)


def test_an_emotion_that_goemotions_does_not_have_is_a_fault_of_its_row(recipe):
    with pytest.raises(RowError, match="not one of the 28"):
        recipe.render({"emotion": "glee"}, 0)


def test_the_text_that_is_kept_is_a_json_list_and_the_reason_says_what_is_not_in_it(recipe):
    text, reason = recipe.finish(f"Here they are:\n1. {P}\n2. Rain\n3. {S} Input: {X}\nBye!")
    assert json.loads(text) == [{"instruction": POEM, "input": ""}, {"instruction": SEA[0], "input": SEA[1]}]
    assert set(reason.split("\n")) == {"Rain", "Bye!"}
    assert recipe.finish(f"1. {P}") == (json.dumps([{"instruction": POEM, "input": ""}]), "")


@pytest.mark.parametrize("text", ["", "Joy is a feeling.", "1. Joy\n2. Rain"])
def test_an_answer_without_a_task_is_refused_by_name(recipe, text):
    with pytest.raises(RowRejection, match=r"^no_tasks$"):
        recipe.finish(text)


def test_an_example_that_the_model_repeats_is_no_task_of_its_own(recipe):
    examples = "\n".join(line for line in asked(recipe).splitlines() if line.startswith("Instruction: "))
    with pytest.raises(RowRejection):
        recipe.finish(examples)
    text, reason = recipe.finish(f"{examples}\nInstruction: {P}")
    assert json.loads(text) == [{"instruction": POEM, "input": ""}] and len(reason.split("\n")) == 2


def test_the_broken_off_end_of_an_answer_is_not_kept(recipe):
    text, reason = recipe.finish(f"1. {P}\n2. Write a letter to", cut_off=True)
    assert json.loads(text) == [{"instruction": POEM, "input": ""}] and reason == "Write a letter to"


# The set


def run_folder(tmp_path, shards, recipe="evaluation_prompts", planned=None):
    """A run's folder of shards, each a list of (emotion, tasks or None where it was refused, what was left over)."""
    store = ShardStore(str(tmp_path / "run"))
    size = len(shards[0]) if shards else 1
    rows = (planned or len(shards)) * size
    store.write_run(RunRecord(
        name="r", created_at="", job={"recipe": recipe}, fingerprint="f" * 64, identity={}, samples=1,
        inputs=[InputSource(source="in.jsonl", rows=rows, content="c")], segments=[rows], rows_per_shard=size,
    ))  # fmt: skip
    for number, answers in enumerate(shards):
        records = []
        for index, (emotion, tasks, rest) in enumerate(answers, number * size):
            state = ACCEPTED if tasks else REJECTED
            text = json.dumps([{"instruction": i, "input": x} for i, x in tasks]) if tasks else "Joy is a feeling."
            reason = "\n".join(rest) if tasks else "no_tasks"
            records.append({**record(index, state), "emotion": emotion, "text": text, "reason": reason})
        counts = {state: sum(r["state"] == state for r in records) for state in (ACCEPTED, REJECTED)}
        facts = {"start": number * size, "samples": 1}
        kept = manifest(number, (number + 1) * size, **counts).model_copy(update=facts)
        store.commit(kept, table(to_batch(records)))
    return store.url


def numbered(start, end):
    """Tasks that are nothing like each other."""
    return [(f"Tell {i}a and {i}b of {i}c.", "") for i in range(start, end)]


def test_a_set_has_each_task_once_in_row_order_up_to_the_number_asked_for(tmp_path):
    again = [("write a poem about RAIN", ""), (SEA[0], "You lost your keys."), SEA]
    run = run_folder(tmp_path, [
        [("joy", TASKS, ["Rain", "Bye!"]), ("anger", [(POEM, "")], [])],
        [("anger", None, []), ("joy", again, ["Enough."])],
        [("joy", numbered(0, 3), []), ("grief", None, [])],
    ])  # fmt: skip
    made = export_prompts(run, str(tmp_path / "prompts.json"), per_emotion=5)
    written = json.loads((tmp_path / "prompts.json").read_text(encoding="utf-8"))
    assert written == {
        "anger": [f"Instruction: {P}"],
        "joy": [
            f"Instruction: {P}",
            f"Instruction: {S} Input: {X}",
            f"Instruction: {L}",
            f"Instruction: {S} Input: You lost your keys.",
            "Instruction: Tell 0a and 0b of 0c.",
        ],
    }
    counts = made.as_json()["emotions"]
    assert list(counts) == list(EMOTIONS) and made.complete
    assert counts["joy"] == {"prompts": 5, "duplicates": 2, "spare": 2, "unparsed": 3, "refused": 0, "short": 0}
    assert counts["anger"] == {"prompts": 1, "duplicates": 0, "spare": 0, "unparsed": 0, "refused": 1, "short": 4}
    assert counts["grief"] == {"prompts": 0, "duplicates": 0, "spare": 0, "unparsed": 0, "refused": 1, "short": 5}
    other = export_prompts(run, str(tmp_path / "again.json"), per_emotion=5)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "prompts.json").read_bytes()
    assert other.emotions == made.emotions


def refused(call):
    with pytest.raises(RunError) as raised:
        call()
    assert raised.value.cause and raised.value.remedy
    return raised.value


def test_a_set_is_not_made_of_what_has_none(tmp_path):
    stories = run_folder(tmp_path / "a", [[("joy", TASKS, [])]], recipe="babylm_story")
    error = refused(lambda: export_prompts(stories, str(tmp_path / "a.json")))
    assert (error.key, error.value) == ("--format", "prompts") and "babylm_story" in error.cause
    empty = run_folder(tmp_path / "b", [[("joy", None, [])]])
    assert refused(lambda: export_prompts(empty, str(tmp_path / "a.json"))).key == "RUN"
    assert not (tmp_path / "a.json").exists()


def test_nothing_is_written_over(tmp_path):
    run = run_folder(tmp_path, [[("joy", TASKS, [])]])
    (tmp_path / "mine.json").write_text("mine")
    assert refused(lambda: export_prompts(run, str(tmp_path / "mine.json"))).key == "--to"
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_a_damaged_shard_is_told(tmp_path):
    run = run_folder(tmp_path, [[("joy", TASKS, [])]])
    (tmp_path / "run" / "data" / "part-00000.parquet").write_bytes(b"PAR1 no more")
    assert "part-00000" in refused(lambda: export_prompts(run, str(tmp_path / "a.json"))).key


def test_the_command_prints_a_table(tmp_path, kindling):
    run = run_folder(tmp_path, [[("joy", TASKS, ["Bye!"])]], planned=2)
    done = kindling("export", run, "--format", "prompts", "--per-emotion", "2", "--to", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert lines["emotion"] == ["prompts", "short", "duplicates", "spare", "unparsed", "refused"]
    assert lines["joy"] == ["2", "0", "0", "1", "1", "0"] and lines["grief"] == ["0", "2", "0", "0", "0", "0"]
    assert done.stdout.splitlines()[-2] == f"2 prompts in {tmp_path / 'p.json'} (the run is not complete)"


PAPERS = SHARED_DATA / "emotion_prompts.json"


@pytest.mark.skipif(not PAPERS.is_file(), reason="the paper's prompts are not on this machine")
def test_the_papers_own_prompts_come_through_as_they_are(tmp_path):
    theirs = json.loads(PAPERS.read_text(encoding="utf-8"))
    recipe = EvaluationPrompts("tasks")
    shard = []
    for emotion, prompts in theirs.items():
        text, rest = recipe.finish("\n".join(prompts))
        shard.append(
            (emotion, [(t["instruction"], t["input"]) for t in json.loads(text)], rest.split("\n") if rest else [])
        )
    export_prompts(run_folder(tmp_path, [shard]), str(tmp_path / "ours.json"))
    assert json.loads((tmp_path / "ours.json").read_text(encoding="utf-8")) == theirs
