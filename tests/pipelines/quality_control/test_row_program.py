"""A row's generations and tries: on an engine of a few lines for each outcome, and through whole runs."""

import asyncio
import json
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from pipelines import augment, verify
from pipelines.augmentation.plan import variant_settings
from pipelines.jobfile import as_job
from pipelines.recipes import all_fields, make_recipes
from schemas.errors import JobError
from schemas.row_programs import LOGGED_PROGRAM_SCHEMA, PROGRAM_SCHEMA
from schemas.rows import RowError, WorkRow, row_seed, to_batch
from services.engines.engine import Generation
from services.storage.store import ShardStore
from tests.support.files import write_jsonl


@pytest.fixture
def job(fake_job, tmp_path):
    """An instruction is answered; the answer is judged, and where it is weak written again."""
    prompts = {
        "answer": "Answer: {{ instruction }}",
        "verdict": "Is this good? {{ answer }}",
        "rewrite": "{{ instruction }} Better than {{ answer }}, which is {{ verdict }}",
    }
    for name, text in prompts.items():
        (tmp_path / f"{name}.jinja").write_text(text)
    generations = [
        {"name": "answer"},
        {"name": "verdict", "prompt": str(tmp_path / "verdict.jinja"), "parse": "choice", "choices": ["good", "weak"]},
        {"name": "rewrite", "prompt": str(tmp_path / "rewrite.jinja"), "when": "verdict == 'weak'"},
    ]
    return {
        **fake_job,
        "recipe": "template",
        "prompt": str(tmp_path / "answer.jinja"),
        "generations": generations,
        "keep": ["rewrite", "answer"],
    }


def run_row(job, responses, instruction="Name a bird"):
    """Runs one row, with responses in the place of an engine; returns its record and the requests."""
    settings = variant_settings(as_job(job), make_recipes(as_job(job)))["default"]
    waiting, requests = list(responses), []

    async def generate(messages, sampling, seed, should_stop=None):
        requests.append((messages, sampling, seed))
        response = waiting.pop(0)
        if isinstance(response, Exception):
            raise response
        if isinstance(response, list):  # the probabilities of a judge
            return Generation("yes", "stop", 10, 1, 1, datetime.now(UTC), 0.5, tuple(response))
        response, reason = response if isinstance(response, tuple) else (response, "stop")
        return Generation(response, reason, 10, 1, len(response.split()), datetime.now(UTC), 0.5)

    values = {"instruction": instruction, "context": instruction, "emotion": "joy"}
    row = WorkRow(0, 0, "rows.jsonl", 0, 0, {name: values[name] for name in settings.recipe.fields})
    record = asyncio.run(settings.program.run(row, settings, generate))
    assert not waiting and to_batch([record], LOGGED_PROGRAM_SCHEMA).num_rows == 1
    return record, requests


def contents(requests):
    return [messages[-1]["content"] for messages, _, _ in requests]


def seed_of(generation, try_number=1):
    return row_seed(0, "rows.jsonl", 0, 0, generation=generation, try_number=try_number)


def test_a_later_generation_sees_the_earlier_ones(job):
    record, requests = run_row(job, ["a wren", "weak", "a tiny wren"])
    assert contents(requests) == [
        "Answer: Name a bird",
        "Is this good? a wren",
        "Name a bird Better than a wren, which is weak",
    ]
    assert requests[1][1]["structured_outputs"] == {"choice": ["good", "weak"]}
    assert [request[2] for request in requests] == [seed_of(0), seed_of(1), seed_of(2)] and len({*requests[0][1]}) > 5
    assert (record["text"], record["state"], record["prompt_id"]) == ("a tiny wren", "accepted", "template/rewrite")
    assert json.loads(record["inputs"]) == {"instruction": "Name a bird"}
    assert (record["output_tokens"], record["other_output_tokens"], record["other_prompt_tokens"]) == (3, 3, 20)
    generations = json.loads(record["generations"])
    assert [(each["name"], each.get("value")) for each in generations] == [
        ("answer", None), ("verdict", "weak"), ("rewrite", None),
    ]  # fmt: skip


def test_a_generation_that_is_left_out_gives_its_place_to_the_next_one_kept(job):
    record, requests = run_row(job, ["a wren", "good"])
    assert record["text"] == "a wren" and len(requests) == 2 and record["prompt_id"] == "template/answer"


@pytest.mark.parametrize(
    ("responses", "state", "reason"),
    [
        (["a wren", "no idea"], "error", "verdict: the model wrote 'no idea', which is none of good, weak"),
        (["a wren", RowError("too long")], "error", "verdict: too long"),
        (["  "], "rejected", "empty_text"),
        ([("so so so", "repetition")], "rejected", "repetition_detected"),
        (["a wren", ("good", "repetition")], "rejected", "repetition_detected"),
    ],
)
def test_a_generation_that_fails_names_itself(job, responses, state, reason):
    record, _ = run_row(job, responses)
    assert (record["state"], record["reason"]) == (state, reason)


def test_a_generation_has_a_form_of_its_own(job):
    rewrite = job["generations"][2]
    rewrite["sampling"] = {"structured_outputs": {"regex": "a [a-z ]+"}, "logit_bias": {"5": -1}}
    record, requests = run_row(job, ["a wren", "weak", ("a tin", "length")])
    assert (record["state"], record["reason"]) == ("rejected", "cut_off")
    assert requests[2][1]["logit_bias"] == {5: -1.0}


@pytest.mark.parametrize(
    ("number", "kind", "cause"),
    [(0, "regex", "needs a `prompt`"), (1, "regex", "no use with `choices`"), (2, "json", "needs `parse: json`")],
)
def test_a_form_that_does_not_fit_its_generation_is_refused(job, number, kind, cause):
    job["generations"][number]["sampling"] = {"structured_outputs": {kind: {} if kind == "json" else "a"}}
    with pytest.raises(JobError, match=cause):
        as_job(job)


def test_a_first_generation_that_fails_fails_the_row_as_in_a_job_without_programs(job):
    with pytest.raises(RowError, match=r"^too long$"):
        run_row(job, [RowError("too long")])


def test_a_rejected_row_is_tried_again_with_new_seeds_and_then_by_the_next_prompt(fake_job):
    quality = {"max_words": 3, "max_tries": 4, "retry_prompts": ["p1"]}
    job = {**fake_job, "quality": quality}
    long = "one two three four"
    record, requests = run_row(job, [long, long, long, "three words now"])
    assert (record["state"], record["try"], record["prompt_id"]) == ("accepted", 4, "babylm_story/p1")
    assert [request[2] for request in requests] == [seed_of(0, number) for number in (1, 2, 3, 4)]
    assert record["seed"] == seed_of(0, 4)
    first, second, third, fourth = contents(requests)
    assert first == second != third == fourth
    tries = record["earlier_tries"]
    assert [(each["try"], each["reason"], each["text"]) for each in tries] == [
        (number, "too_many_words", long) for number in (1, 2, 3)
    ]
    assert (record["output_tokens"], record["other_output_tokens"], record["other_prompt_tokens"]) == (3, 12, 30)
    assert record["duration_seconds"] >= 0.5 and record["started_at"] == tries[0]["started_at"]

    record, _ = run_row(job, [long] * 4)
    assert (record["state"], record["reason"], record["try"]) == ("rejected", "too_many_words", 4)


def test_an_answer_of_no_use_is_tried_again_and_a_refused_request_is_not(job):
    job["quality"] = {"max_tries": 2}
    record, _ = run_row(job, ["a wren", "no idea", "a crow", "good"])
    assert (record["text"], record["try"], record["earlier_tries"][0]["state"]) == ("a crow", 2, "error")
    record, _ = run_row(job, ["a wren", RowError("too long")])
    assert (record["state"], record["try"], record["earlier_tries"]) == ("error", 1, ())


def test_json_has_parts_that_conditions_and_prompts_use(job):
    job["generations"][1:] = [
        {**job["generations"][1], "parse": "json", "choices": [], "reject_when": "verdict.score < 4"},
        {"name": "rewrite", "prompt": job["generations"][2]["prompt"]},
    ]
    record, _ = run_row(job, ["a wren", '{"score": 3}'])
    assert (record["state"], record["reason"], record["text"]) == ("rejected", "verdict", "a wren")
    record, _ = run_row(job, ["a wren", "{"])
    assert record["reason"] == "verdict: the model wrote no JSON: '{'"
    record, _ = run_row(job, ["a wren", '{"points": 3}'])
    assert record["state"] == "error" and record["reason"].startswith("verdict: generations.1.reject_when failed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": "poem"}, "keep: no generation is named poem"),
        ({"keep": "rewrite"}, "keep: rewrite may be left out"),
        ({"generations": [], "keep": "answer"}, "keep has no use without generations"),
        ({"generations": [{"name": "a"}, {"name": "b"}], "keep": []}, "only one generation may be without `prompt`"),
        ({"generations": [{"name": "a"}, {"name": "a", "prompt": "x"}], "keep": []}, "two generations are named a"),
        ({"generations": [{"name": "a", "parse": "choice"}], "keep": []}, "`parse: choice` and `choices`"),
        ({"generations": [{"name": "a", "threshold": 0.5}], "keep": []}, "need `kind: judge`"),
        ({"generations": [{"name": "a", "kind": "judge"}], "keep": []}, "a judge has a `prompt`"),
        ({"generations": [{"name": "a", "prompt": "x", "follows": "b"}], "keep": []}, "no earlier generation"),
        ({"generations": [{"name": "a", "when": "a b"}], "keep": []}, "may be left out"),
        ({"generations": [{"name": "a", "sampling": {"top_q": 1}}], "keep": []}, "generations.0.sampling.top_q"),
        ({"generations": [{"name": "a", "reject_when": "b ="}], "keep": []}, "not a Jinja expression"),
        ({"generations": [{"name": "a", "reject_when": "x) %}{% if (y"}], "keep": []}, "not a Jinja expression"),
        ({"generations": [{"name": "a", "prompt": "gone.jinja"}], "keep": [], "prompt": None}, "generations.0.prompt"),
    ],
)  # fmt: skip
def test_bad_generations_are_refused(job, change, message):
    with pytest.raises(JobError, match=message.replace("(", r"\(")):
        make_recipes(as_job({**job, **change}))


def test_a_prompt_cannot_use_a_later_generation(job, tmp_path):
    (tmp_path / "verdict.jinja").write_text("{{ rewrite }}")
    with pytest.raises(JobError, match=r"generations\.1\.prompt: it uses `rewrite`, which is generated later"):
        make_recipes(as_job(job))


def test_the_input_needs_the_columns_of_all_prompts_and_no_generation(job):
    assert all_fields(make_recipes(as_job(job))) == ["instruction"]


def judge(job, tmp_path, **keys):
    (tmp_path / "judge.jinja").write_text(
        "Is it {{ answer }}?" if "compare" not in keys else "{{ first }} or {{ second }}"
    )
    return {"name": "judge", "kind": "judge", "prompt": str(tmp_path / "judge.jinja"), **keys}


@pytest.mark.parametrize(("probability", "state"), [(0.71, "accepted"), (0.69, "rejected")])
def test_a_judge_gives_a_score_and_a_row_below_its_threshold_is_rejected(job, tmp_path, probability, state):
    job["generations"][1:] = [judge(job, tmp_path, follows="answer", threshold=0.7)]
    job["keep"] = []
    record, requests = run_row(job, ["a wren", [probability, 1 - probability]])
    assert (record["state"], record["text"]) == (state, "a wren") and json.loads(record["scores"]) == {
        "judge": probability
    }
    assert record["reason"] == ("judge" if state == "rejected" else "")
    messages, sampling, _ = requests[1]
    assert [message["content"] for message in messages] == ["Answer: Name a bird", "a wren", "Is it a wren?"]
    assert sampling["choices"] == ["yes", "no"]


def test_no_judge_is_asked_about_a_text_that_a_rule_rejects(job, tmp_path):
    job["generations"][1:] = [judge(job, tmp_path, follows="answer", threshold=0.7)]
    job["keep"], job["quality"] = [], {"max_words": 2}
    record, requests = run_row(job, ["a wren in a tree"])
    assert (record["state"], record["reason"], len(requests)) == ("rejected", "too_many_words", 1)
    record, requests = run_row(job, ["a wren", [0.9, 0.1]])
    assert record["state"] == "accepted" and len(requests) == 2 and json.loads(record["scores"]) == {"judge": 0.9}


def test_a_judge_compares_two_texts_in_both_orders(job, tmp_path):
    job["generations"][1:] = [
        {"name": "other", "prompt": job["generations"][2]["prompt"].replace("rewrite", "other")},
        judge(job, tmp_path, compare=["other", "answer"], threshold=0.6),
    ]
    (tmp_path / "other.jinja").write_text("Not {{ answer }}")
    job["keep"] = "other"
    # It chooses what comes first, whatever that is: both orders together say that neither is better.
    record, requests = run_row(job, ["a wren", "a crow", [0.9, 0.1], [0.9, 0.1]])
    assert [request[0][-1]["content"] for request in requests[2:]] == ["a crow or a wren", "a wren or a crow"]
    assert json.loads(record["scores"]) == {"judge": 0.5} and record["reason"] == "judge"
    assert record["other_prompt_tokens"] == 30


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_keeps_each_try_and_its_tokens_and_is_verified(fake_job):
    job = {**fake_job, "quality": {"max_words": 24, "max_tries": 3}}
    summary = augment(job)
    store = ShardStore(summary.run)
    rows = [row for batch in store.read_rows() for row in batch.to_pylist()]
    assert summary.rows["accepted"] == len(rows) > 10 and summary.rows["rejected"] > 0 == summary.rows["error"]
    assert {row["try"] for row in rows} == {1, 2, 3} and all(len(row["text"].split()) <= 24 for row in rows)
    manifests = [store.read_manifest(shard) for shard in store.committed_shards()]
    tables = [pq.read_table(store.path(manifest.sibling("tries"))) for manifest in manifests if manifest.tries]
    tries = [row for table in tables for row in table.to_pylist()]
    assert all(table.schema.equals(PROGRAM_SCHEMA) for table in tables)
    rejected = [row for batch in store.read_rows("rejected") for row in batch.to_pylist()]
    assert len(tries) == sum(row["try"] - 1 for row in rows + rejected) and {row["reason"] for row in tries} == {
        "too_many_words"
    }
    spent = sum(row["output_tokens"] for row in rows + rejected + tries)
    assert summary.output_tokens == spent == sum(manifest.output_tokens for manifest in manifests)
    assert sum(manifest.accepted_output_tokens for manifest in manifests) == sum(row["output_tokens"] for row in rows)
    assert verify(summary.run).faults == [] and not verify(summary.run).strays

    path = store.path(manifests[0].sibling("tries"))
    pq.write_table(tables[0].slice(1), path)
    assert "its content is not what was committed" in verify(summary.run).faults[0].cause


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_of_several_generations_has_the_same_rows_each_time(job, tmp_path):
    write_jsonl(job["input"]["path"], [{"instruction": f"Name bird {i}"} for i in range(20)])
    whole = augment({**job, "output": {**job["output"], "path": str(tmp_path / "whole")}})
    store = ShardStore(whole.run)
    kept = {(row["row_index"], row["text"], row["seed"]) for batch in store.read_rows() for row in batch.to_pylist()}
    assert len(kept) == 20 and whole.output_tokens > sum(
        store.read_manifest(shard).accepted_output_tokens for shard in store.committed_shards()
    )
    other = ShardStore(augment(job).run)
    assert kept == {(row["row_index"], row["text"], row["seed"]) for b in other.read_rows() for row in b.to_pylist()}
