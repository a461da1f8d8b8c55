"""EmoBench: how items are read, scored and counted, and whole evaluations."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from eval.emobench import compare_emobench, emobench_rates, join_orders, orders, outcome_of, prompts_of
from pipelines import evaluate
from pipelines.evaluation import parts
from pipelines.evaluation.emobench_results import read_emobench
from pipelines.inputs.emobench import identify_items, read_items
from pipelines.jobfile import as_job
from schemas.errors import EngineError, JobError
from schemas.evaluate import EmoBench, EvaluateJob
from schemas.job import Model
from services.models.causal_lm import load_causal_model
from services.models.continuations import OptionsQuestion, batch_log_likelihoods, option_log_likelihoods
from services.models.prefix_trees import continuation_log_likelihoods
from services.storage.store import ShardStore
from tests.support.evaluations import in_this_process
from tests.support.files import SHARED_DATA, write_jsonl
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

EMOTIONS = ["Joy", "Anger & Guilt", "Pride", "Fear", "Relief", "Shame"]
CAUSES = ["the bus left", "the letter came", "it rained again", "nobody called", "the cat slept", "her tea was cold"]
RESPONSES = ['"You did well."', "Call him at once", "Say nothing and leave", "Ask her what she needs"]
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def eu_row(number, category, causes=4, **changes):
    return {"qid": str(number), "language": "en", "coarse_category": category, "finegrained_category": "fine",
            "scenario": f"Mia waited {number} hours.", "subject": "Mia", "emotion_choices": EMOTIONS,
            "emotion_label": EMOTIONS[number % 6], "cause_choices": CAUSES[:causes],
            "cause_label": CAUSES[number % causes], **changes}  # fmt: skip


def ea_row(number, category, **changes):
    return {"qid": str(number), "language": "en", "category": category, "question type": "Action", "subject": "I",
            "scenario": f"My friend lost game {number}.", "choices": RESPONSES, "label": RESPONSES[number % 4],
            **changes}  # fmt: skip


def save_items(folder, per_category=3):
    """Items of two categories of each task, and a row in another language."""
    folder.mkdir(exist_ok=True)
    count = range(per_category)
    eu = [eu_row(i, "cues", 4 + 2 * (i % 2)) for i in count] + [eu_row(9000 + i, "beliefs") for i in count]
    ea = [ea_row(i, "Social-Self") for i in count] + [ea_row(9000 + i, "Personal-Others") for i in count]
    write_jsonl(folder / "EU.jsonl", [*eu, eu_row(0, "cues", language="zh")])
    write_jsonl(folder / "EA.jsonl", [*ea, ea_row(0, "Social-Self", language="zh")])
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_items(tmp_path_factory.mktemp("emobench") / "data")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def long_tiny(tmp_path_factory):
    path = save_tiny(tmp_path_factory.mktemp("models") / "long")
    config = GPT2Config.from_pretrained(path, n_positions=512)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(long_tiny):
    return load_causal_model(Model(id=long_tiny, dtype="float32"))


def items_of(folder, **section):
    return [item for items in read_items(EmoBench(path=folder, **section)).values() for item in items]


# Reading


def test_items_are_read_by_task_and_category_in_english_alone(folder):
    items = read_items(EmoBench(path=folder))
    assert {part: len(its) for part, its in items.items()} == {
        "EU cues": 3, "EU beliefs": 3, "EA Social-Self": 3, "EA Personal-Others": 3,
    }  # fmt: skip
    emotion, cause = items["EU cues"][1].questions
    assert (emotion.kind, emotion.options[emotion.label], cause.kind) == ("emotion", "Anger & Guilt", "cause")
    assert (len(cause.options), cause.options[cause.label]) == (6, CAUSES[1])
    (response,) = items["EA Social-Self"][2].questions
    assert (response.text, response.label) == ("What would it be best for me to do?", 2)
    assert {part: len(its) for part, its in read_items(EmoBench(path=folder, per_category=2)).items()} == {
        part: 2 for part in items
    }


def test_the_published_files_have_200_items_of_each_task():
    path = SHARED_DATA / "emobench"
    if not path.is_dir():
        pytest.skip("needs shared/data/emobench")
    items = read_items(EmoBench(path=str(path)))
    assert [len(its) for part, its in items.items() if part.startswith("EA ")] == [50] * 4
    assert sum(len(its) for part, its in items.items() if part.startswith("EU ")) == 200
    outcomes = [outcome_of(item, [np.zeros(len(q.options)) for q in item.questions], "cloze")
                for its in items.values() for item in its]  # fmt: skip
    rates = emobench_rates(outcomes)
    assert rates.by_task["EA"].chance == 0.25
    assert rates.by_task["EU"].chance == pytest.approx((140 / 24 + 60 / 36) / 200)
    assert rates.by_question["EU cause"].longest > 0.4  # far above chance: length alone tells much


@pytest.mark.parametrize(
    ("task", "row", "cause"),
    [
        ("EU", None, "no such file"),
        ("EU", {"emotion_label": "Envy"}, "emotion_label is none of emotion_choices: 'Envy'"),
        ("EU", {"cause_choices": ["one"], "cause_label": "one"}, "cause_choices has 1 options, not 2 to 26"),
        ("EU", {"cause_choices": ["one", "one "], "cause_label": "one"}, "cause_choices has the option 'one' twice"),
        ("EU", {"emotion_choices": "Joy"}, "emotion_choices is str, not a list"),
        ("EU", {"scenario": " "}, "scenario is blank"),
        ("EA", {"choices": [1, 2]}, "choices is int, not text"),
        ("EA", {"language": "zh"}, "no row has the language 'en'"),
        ("EA", {"qid": None}, "qid is null"),
    ],
)
def test_faults_of_the_files_are_one_error_each(tmp_path, task, row, cause):
    save_items(tmp_path)
    path = tmp_path / f"{task}.jsonl"
    if row is None:
        path.unlink()
    else:
        write_jsonl(path, [{"EU": eu_row, "EA": ea_row}[task](0, "cues", **row)])
    with pytest.raises(JobError, match=cause) as raised:
        read_items(EmoBench(path=str(tmp_path)))
    assert raised.value.key == "emobench.path" and str(path) in str(raised.value.value)


def test_a_missing_key_an_empty_folder_and_a_double_id_are_named(tmp_path):
    with pytest.raises(JobError, match="no such file") as raised:
        read_items(EmoBench(path=str(tmp_path)))
    assert "EU.jsonl and EA.jsonl" in raised.value.remedy
    save_items(tmp_path)
    row = ea_row(0, "Social-Self")
    write_jsonl(tmp_path / "EA.jsonl", [{key: value for key, value in row.items() if key != "label"}])
    with pytest.raises(JobError, match=r"label: .* has no such column; it has qid") as raised:
        read_items(EmoBench(path=str(tmp_path)))
    assert raised.value.key == "emobench.path"
    write_jsonl(tmp_path / "EA.jsonl", [row, row])
    with pytest.raises(JobError, match="two of its rows have the qid 0"):
        read_items(EmoBench(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"emobench": None}, "give emobench.path"),
        ({"emobench": {"scoring": "cloze"}}, "path"),
        ({"emobench": {"path": "x", "scoring": "generated"}}, "scoring"),
        ({"emobench": {"path": "x", "per_category": 0}}, "per_category"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(change, cause):
    job = {"name": "t", "models": [{"id": "embedded"}], "evaluations": ["emobench"], "output": {"path": "o"}}
    as_job({**job, "emobench": {"path": "x"}}, EvaluateJob)
    with pytest.raises(JobError, match=cause):
        as_job({**job, **change}, EvaluateJob)


# Counting


def outcomes_by(items, score, scoring="cloze"):
    return [outcome_of(item, [score(item, question) for question in item.questions], scoring) for item in items]


def oracle(item, question):
    return np.eye(len(question.options))[question.label] - 1.0


def test_an_oracle_is_always_right_and_equal_scores_lie_at_chance(folder, tmp_path):
    items = items_of(folder)
    rates = emobench_rates(outcomes_by(items, oracle))
    for by in (rates.by_task, rates.by_question, rates.by_category, rates.by_sum):
        assert {each.rate.rate for each in by.values()} == {1.0}
    assert set(rates.by_question) == {"EU emotion", "EU cause"} and rates.ties == 0
    # The longest emotion is Anger & Guilt, the right one of one item in three.
    assert rates.by_question["EU emotion"].longest == 1 / 3 and rates.by_task["EA"].longest == 0
    many = items_of(save_items(tmp_path, 1500))
    equal = emobench_rates(outcomes_by(many, lambda item, question: np.zeros(len(question.options))))
    for part, accuracy in {**equal.by_task, **equal.by_question}.items():
        assert abs(accuracy.rate.rate - accuracy.chance) < 0.035, part  # whichever stands first
    assert equal.ties == 3000 * 2 + 3000


@pytest.mark.parametrize("scoring", ["cloze", "letters"])
def test_a_random_scorer_lies_at_chance(tmp_path, scoring):
    items, draw = items_of(save_items(tmp_path, 1500)), np.random.default_rng(0)
    rates = emobench_rates(outcomes_by(items, lambda item, question: -draw.random(len(question.options)), scoring))
    for by in (rates.by_task, rates.by_question, rates.by_category):
        for part, accuracy in by.items():
            if scoring == "letters" or part.startswith("EU emotion"):
                assert abs(accuracy.rate.rate - accuracy.chance) < 0.035, part
    assert rates.by_task["EU"].chance == pytest.approx((1 / 24 + 1 / 24 + 1 / 36 + 1 / 24) / 4)
    assert rates.by_task["EA"].chance == 0.25


def test_long_options_are_scored_by_character_and_by_the_whole(folder):
    (item, *_) = items_of(folder)
    # The right options: Joy, of 3 characters; `the bus left`, of 12.
    sums = [np.full(6, -3.0), np.full(4, -12.0)]
    sums[0][0], sums[1][0] = -1.0, -9.0
    sums[0][1] = -2.0  # Anger & Guilt has 13 characters: better by character, worse as a whole
    outcome = outcome_of(item, sums, "cloze")
    assert outcome.right == {"emotion": False, "cause": True} and outcome.right_by_sum
    assert outcome_of(item, sums, "letters").right == {"emotion": True, "cause": True}
    with pytest.raises(ValueError, match="not a number"):
        outcome_of(item, [np.full(6, np.nan), sums[1]], "cloze")


def test_letters_take_out_the_place_of_an_option(folder):
    (item, *_) = items_of(folder)
    question = item.questions[0]
    each = np.array(orders(question))
    assert each.shape == (6, 6) and all(sorted(column) == list(range(6)) for column in each.T)
    assert each.tolist() == orders(question)
    prompts = list(prompts_of(item.scenario, question, "letters"))
    assert f"\nA. {question.options[each[0][0]]}\nB. " in prompts[0][0] and prompts[0][1] == tuple("ABCDEF")
    wish = np.array([0.0, 0.1, 0.3, 0.2, 0.0, 0.0])  # what a model knows
    place = np.array([9.0, 3.0, 1.0, 0.0, 0.0, 0.0])  # and how much it likes a place
    joined = join_orders(question, [wish[order] + place for order in each], "letters")
    assert joined - joined[0] == pytest.approx(wish - wish[0])


def test_two_models_are_compared_on_the_same_items(folder):
    items = items_of(folder)
    first, second = outcomes_by(items, oracle), outcomes_by(items, lambda item, question: -oracle(item, question))
    by = compare_emobench(first, second, seed=0)
    assert list(by) == ["task", "question", "category", "sum"]
    assert (by["task"]["EU"].difference, by["task"]["EU"].only_first, by["task"]["EU"].n) == (-1.0, 6, 6)
    assert by["category"]["EA Social-Self"].n == 3


# Scoring


def test_options_are_scored_as_the_end_of_their_text(loaded):
    model, tokenizer = loaded
    question = OptionsQuestion("Mia waited. " * 12 + "Who?", ["Mia", "nobody", "her old cat"])
    (scores,) = option_log_likelihoods(model, tokenizer, [question])
    texts = [f"{question.prompt}\nAnswer:{end}" for end in ("", *(f" {option}" for option in question.options))]
    sequences = [[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]] for text in texts]
    beginning, *whole = batch_log_likelihoods(model, sequences, [1] * 4)
    assert scores == pytest.approx(np.array(whole) - beginning, abs=1e-3)


def test_a_chat_template_is_used_where_there_is_one(loaded, monkeypatch):
    model, tokenizer = loaded
    monkeypatch.setattr(tokenizer, "chat_template", CHAT_TEMPLATE)
    (scores,) = option_log_likelihoods(model, tokenizer, [OptionsQuestion("Who?", ["Mia", "nobody"])])
    head = tokenizer("<user>Who?<assistant>")["input_ids"]
    sequences = [head + tokenizer(option)["input_ids"] for option in ("Mia", "nobody")]
    assert scores == pytest.approx(batch_log_likelihoods(model, sequences, [len(head)] * 2), abs=1e-4)
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('no users here') }}")
    with pytest.raises(EngineError, match="chat template fails on a question: no users here"):
        option_log_likelihoods(model, tokenizer, [OptionsQuestion("Who?", ["Mia", "nobody"])])


def test_long_questions_share_their_beginning(loaded):
    model, draw = loaded[0], random.Random(0)
    beginning = [draw.randrange(256) for _ in range(200)]
    sequences = [beginning + [draw.randrange(256) for _ in range(n)] for n in (3, 5, 8)]
    passes = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, ids, out: passes.append(out.shape[:2]))
    scores = continuation_log_likelihoods(model, sequences, [200] * 3)
    hook.remove()
    assert passes == [(1, 200 + 2 + 4 + 7)]  # one row, though it has more nodes than rows of short sequences
    assert scores == pytest.approx(batch_log_likelihoods(model, sequences, [200] * 3), abs=1e-3)


def test_a_question_that_is_too_long_is_named_and_a_diverged_model_has_no_figure(tiny):
    model, tokenizer = load_causal_model(Model(id=tiny))
    with pytest.raises(EngineError, match=r"an option with its question has \d+ tokens, and the model takes 64: y+"):
        option_log_likelihoods(model, tokenizer, [OptionsQuestion("y" * 80, ["a", "b"])])
    with torch.no_grad():
        model.transformer.wpe.weight[10:] = torch.nan
    with pytest.raises(EngineError, match="the model has diverged"):
        option_log_likelihoods(model, tokenizer, [OptionsQuestion("y" * 20, ["a", "b"])])


# Whole evaluations


def job_of(folder, tiny, out, **section):
    models = [{"path": tiny, "name": "one"}, {"path": tiny, "name": "two", "dtype": "bfloat16"}]
    return {"name": "emo", "models": models,
            "evaluations": ["emobench"], "emobench": {"path": folder, **section},
            "output": {"path": str(out)}}  # fmt: skip


@pytest.mark.parametrize("scoring", ["cloze", "letters"])
def test_models_are_measured_beside_chance(folder, long_tiny, tmp_path, ray_cluster, monkeypatch, scoring):
    monkeypatch.setattr(parts, "spread_over_model", in_this_process)
    job = job_of(folder, long_tiny, tmp_path / "out", scoring=scoring)
    report = evaluate(job)
    plain = report.as_json()
    one = plain["models"]["one"]["emobench"]
    assert (one["scoring"], one["by_task"]["EU"]["rate"]["n"], one["by_task"]["EA"]["chance"]) == (scoring, 6, 0.25)
    (comparison,) = plain["comparisons"]["emobench"]
    assert comparison["by"]["task"]["EU"]["n"] == 6
    page = (tmp_path / "out" / "README.md").read_text()
    assert "## EmoBench: accuracy" in page and "| EU: emotional understanding | 6 | 3.9 | " in page
    assert "| EA: Social-Self | 3 | 25.0 | 0.0 | " in page and "two less one, on the same items" in page
    rows = pq.read_table(tmp_path / "out/results/emobench/one.parquet").to_pylist()
    assert len(rows) == 6 * 2 + 6 and [len(row["log_likelihoods"]) for row in rows[:2]] == [6, 4]
    stored = json.loads((tmp_path / "out/results/emobench/one.json").read_text())
    assert stored["identity"]["emobench.scoring"] == scoring and stored["figures"] == {
        key: value for key, value in one.items() if key != "scoring"
    }
    assert read_emobench(ShardStore(str(tmp_path / "out")), "one", scoring).as_json() == one
    assert sorted(path.name for path in (tmp_path / "out/results/emobench").iterdir()) == [
        "one.json", "one.parquet", "two.json", "two.parquet",
    ]  # fmt: skip
    monkeypatch.setattr(parts, "spread_over_model", None)  # nothing is scored again
    assert evaluate(job).as_json()["models"] == plain["models"]


def test_a_stopped_model_goes_on_and_another_scoring_is_another_result(
    folder, long_tiny, tmp_path, ray_cluster, monkeypatch
):
    job, scored = job_of(folder, long_tiny, tmp_path / "out"), []
    job["models"] = job["models"][:1]

    def breaks_off(session, name, work, units):
        for number, done in in_this_process(session, name, work, units):
            scored.append(units[number][0].part)
            if len(scored) == 3:
                raise EngineError("cluster", None, "the machine went away", "again")
            yield number, done

    monkeypatch.setattr(parts, "spread_over_model", breaks_off)
    assert "the machine went away" in evaluate(job).failures["one"]
    assert not evaluate(job).failures
    assert scored == ["EU cues", "EU beliefs", "EA Social-Self", "EA Social-Self", "EA Personal-Others"]
    other = evaluate(job | {"output": {"path": str(tmp_path / "other")}}).as_json()["models"]
    assert other == evaluate(job).as_json()["models"]
    with pytest.raises(Exception, match=r"emobench of one by another job:[\s\S]*scoring"):
        evaluate({**job, "emobench": {"path": folder, "scoring": "letters"}})


def test_the_prompts_are_part_of_what_identifies_a_result(folder):
    items = read_items(EmoBench(path=folder))
    assert identify_items(items, "cloze").startswith("12 items, ")
    assert identify_items(items, "cloze") != identify_items(items, "letters")
