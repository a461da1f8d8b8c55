"""A sweep: what its variants are, which rows they make of an input, and a whole run of one on the fake engine."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import augment, export, status, verify
from pipelines.augmentation.plan import plan_run, work_rows
from pipelines.inputs.reader import InputReader
from pipelines.jobfile import load_job
from pipelines.recipes import all_fields, make_recipe, make_recipes
from schemas.augment import AugmentJob
from schemas.errors import JobError, RunError
from schemas.job_parsing import parse_job
from schemas.rows import row_seed
from services.engines.fake_engine import fake_text
from services.replicas.dispatch_window import DispatchWindow
from services.storage.row_log import open_row_log
from services.storage.store import ShardStore, encode_shard

BASE = {
    "name": "a",
    "input": {"path": "x.jsonl"},
    "recipe": "babylm_story",
    "sampling": {"top_p": 0.95, "min_tokens": 8},
    "output": {"path": "y"},
}
PAPER = {"prompt": ["p1", "p2", "p3"], "temperature": [0.3, 0.9, 1.2]}


def variants(sweep, **changes):
    return parse_job({**BASE, "sweep": sweep, **changes}, AugmentJob).variants()


# What the variants are


def test_every_combination_is_a_variant():
    found = variants(PAPER)
    assert len(found) == 9
    assert [each.name for each in found[:4]] == [
        "prompt=p1,temperature=0.3", "prompt=p1,temperature=0.9", "prompt=p1,temperature=1.2",
        "prompt=p2,temperature=0.3",
    ]  # fmt: skip
    assert (found[5].prompt, found[5].sampling.temperature, found[5].sampling.top_p) == ("p2", 1.2, 0.95)
    assert found[5].values == {"prompt": "p2", "temperature": 1.2}


def test_the_order_of_keys_does_not_matter():
    assert variants({"temperature": [0.3, 0.9], "prompt": ["p1", "p2"]}) == variants(
        {"prompt": ["p1", "p2"], "temperature": [0.3, 0.9]}
    )


def test_combinations_may_be_listed():
    found = variants([{}, {"repetition_penalty": 1.5, "temperature": "0.9"}, {"prompt": "p2", "stop": ["\n"]}])
    assert [each.name for each in found] == [
        "default", "temperature=0.9,repetition_penalty=1.5", 'prompt=p2,stop=["\\n"]',
    ]  # fmt: skip
    assert found[1].sampling.temperature == 0.9 and found[2].sampling.stop == ["\n"]


def test_a_job_without_a_sweep_is_as_it_was():
    job = parse_job(BASE, AugmentJob)
    assert [(each.name, each.prompt, each.sampling) for each in job.variants()] == [("default", None, job.sampling)]
    assert "sweep" not in job.model_dump(mode="json")


@pytest.mark.parametrize(
    ("sweep", "key", "value", "words"),
    [
        ({"temprature": [0.3]}, "sweep.temprature", None, "did you mean `temperature`?"),
        ({"sampling.top_p": [0.3]}, "sweep.sampling.top_p", None, "did you mean `top_p`?"),
        ({"seed": [1, 2]}, "sweep.seed", None, "`prompt` and the keys of `sampling`"),
        ([{"prompt": "p1"}, {"promt": "p2"}], "sweep.promt", None, "did you mean `prompt`?"),
        ({"temperature": []}, "sweep.temperature", [], "at least 1"),
        ({"temperature": 0.3}, "sweep.temperature", 0.3, "list"),
        ({}, "sweep", {}, "it is empty"),
        ([], "sweep", [], "it is empty"),
        ("p1", "sweep", "p1", "dictionary"),
        ({"prompt": ["p1", "p2"], "temperature": [0.3, -1]}, "sweep", "prompt=p1,temperature=-1", "greater than or"),
        ({"prompt": ["p1", 7]}, "sweep", "prompt=7", "not a name"),
        ({"prompt": [None]}, "sweep", "prompt=null", "not a name"),
        ({"max_tokens": [16, 4]}, "sweep", "max_tokens=4", "min_tokens (8) is above max_tokens (4)"),
        ({"temperature": [0.3, 0.3]}, "sweep", "temperature=0.3", "listed twice"),
        ({"temperature": [1, 1.0]}, "sweep", "temperature=1.0", "listed twice"),
        ([{}, {"top_p": 0.95}], "sweep", "top_p=0.95", "the same as default"),
        ({"temperature": [i / 100 for i in range(40)], "top_k": list(range(40))}, "sweep", None, "1,600 combinations"),
    ],
)
def test_a_faulty_sweep_is_one_clear_error(sweep, key, value, words):
    with pytest.raises(JobError) as raised:
        variants(sweep)
    assert (raised.value.key, raised.value.value) == (key, value)
    assert words in str(raised.value) and len(str(raised.value)) < 500


def test_a_product_that_no_memory_holds_is_refused_at_once():
    keys = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "max_tokens"]
    with pytest.raises(JobError, match="combinations"):
        variants({key: list(range(1, 500)) for key in keys})


def test_a_prompt_that_is_not_there_is_told_by_its_name():
    with pytest.raises(JobError, match=r"p9: cannot be read"):
        make_recipes(parse_job({**BASE, "sweep": {"prompt": ["p1", "p9"]}}, AugmentJob))


def test_the_command_line_sets_a_sweep(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps({**BASE, "prompt": "p3"}))
    job = load_job(str(path), ["sweep.temperature=[0.3,0.9]"])
    assert [(each.prompt, each.sampling.temperature) for each in job.variants()] == [("p3", 0.3), ("p3", 0.9)]


# Which rows they make


@pytest.fixture
def swept(tmp_path, fake_job):
    """A job over 12 rows by 2 prompts x 2 lengths, in shards of 5 rows."""
    lines = [{"context": f"Sentence {i}.", "emotion": ["joy", "fear"][i % 2]} for i in range(12)]
    Path(fake_job["input"]["path"]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    sweep = {"prompt": ["p2", "p3"], "max_tokens": [4, 8]}
    return {**fake_job, "sweep": sweep, "output": {"path": str(tmp_path / "run"), "rows_per_shard": 5}}


NAMES = [f"prompt={prompt},max_tokens={tokens}" for prompt in ("p2", "p3") for tokens in (4, 8)]


def planned(job, extend=False, done=()):
    """The run of a job, and the rows that are left of it."""
    job = parse_job(job, AugmentJob)
    recipes = make_recipes(job)
    reader = InputReader(job.input, all_fields(recipes))
    run = plan_run(ShardStore(job.output.path), job, recipes, reader.inputs, extend)
    writer = type("Writer", (), {"open": lambda self, shard, start, end: set(done)})()
    return run, list(work_rows(run, reader, recipes, writer, set()))


def test_each_row_is_made_by_every_variant_and_a_shard_holds_them_all(swept):
    run, rows = planned({**swept, "samples": 2}, done={5, 6})
    assert (run.rows, run.outputs_per_row, run.outputs, run.shards) == (12, 8, 96, 3)
    assert [row.output_id for row in rows] == [number for number in range(96) if number not in (5, 6)]
    for row in rows:
        assert (row.row_index, row.sample, row.variant) == (
            row.output_id // 8,
            row.output_id // 4 % 2,
            NAMES[row.output_id % 4],
        )
        assert row.shard == row.output_id // 40


def test_run_json_tells_the_variants_and_their_values(swept):
    planned(swept)
    run = ShardStore(swept["output"]["path"]).read_run()
    assert [variant.name for variant in run.variants] == run.variant_names == NAMES
    assert run.variants[1].values == {"prompt": "p2", "max_tokens": 8}
    hashes = {variant: recipe.prompt_hash for variant, recipe in make_recipes(parse_job(swept, AugmentJob)).items()}
    assert {f"prompt_hash.{name}": digest for name, digest in hashes.items()}.items() <= run.identity.items()


def test_rows_of_one_prompt_and_emotion_run_together_whatever_their_sampling(swept):
    _, rows = planned(swept)
    assert len({row.prefix for row in rows}) == 4  # two prompts by two emotions
    window, order = DispatchWindow(iter(rows), size=len(rows)), []
    while batch := window.take(0, 7):
        order += [(row.variant.partition(",")[0], row.row_index % 2) for row in batch]
    changes = sum(one != other for one, other in pairwise(order))
    assert changes == 3 and set(Counter(order).values()) == {12}


def test_another_sweep_is_another_run_and_rows_may_be_added(swept):
    run, _ = planned(swept)
    (Path(run.job["output"]["path"]) / "log").mkdir()
    (Path(run.job["output"]["path"]) / "log" / "part-00000.arrows").touch()
    with pytest.raises(RunError, match=r"sweep.max_tokens: \[4, 8\] -> \[4, 8, 16\]"):
        planned({**swept, "sweep": {"prompt": ["p2", "p3"], "max_tokens": [4, 8, 16]}})
    same, _ = planned({**swept, "sweep": dict(reversed(swept["sweep"].items()))})
    assert same.fingerprint == run.fingerprint
    more = Path(swept["input"]["path"]).with_name("more.jsonl")
    more.write_text(json.dumps({"context": "One more.", "emotion": "joy"}))
    longer, rows = planned({**swept, "input": {"path": [swept["input"]["path"], str(more)]}}, extend=True)
    assert longer.segments == [12, 13] and [row.variant for row in rows[-4:]] == NAMES


def test_templates_of_a_sweep_may_use_different_columns(tmp_path, fake_job):
    for name, text in {"one": "Say {{ context }}", "two": "Feel {{ emotion }}"}.items():
        (tmp_path / f"{name}.jinja").write_text(text)
    prompts = [str(tmp_path / f"{name}.jinja") for name in ("one", "two")]
    recipes = make_recipes(parse_job({**fake_job, "recipe": "template", "sweep": {"prompt": prompts}}, AugmentJob))
    assert all_fields(recipes) == ["context", "emotion"]


# A whole run


def rows_of(run):
    return [row for file in sorted(Path(run, "data").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_from_end_to_end(swept, tmp_path, kindling):
    swept["samples"] = 2
    run = augment(swept).run
    rows = rows_of(run)
    assert [(row["row_index"], row["sample"], row["variant"]) for row in rows] == [
        (index, sample, name) for index in range(12) for sample in range(2) for name in NAMES
    ]
    recipes = {name: make_recipe(parse_job({**swept, "prompt": name}, AugmentJob)) for name in ("p2", "p3")}
    for row in rows:
        prompt, tokens = (part.partition("=")[2] for part in row["variant"].split(","))
        seed = row_seed(0, row["source"], row["row_index"], row["sample"])
        messages = recipes[prompt].render(json.loads(row["inputs"]), seed).messages
        assert (row["text"], row["seed"]) == (fake_text(messages, seed, int(tokens))[0], seed)
        assert row["prompt_id"] == f"babylm_story/{prompt}" and row["prompt_hash"] == recipes[prompt].prompt_hash
    assert verify(run).faults == []
    found = status(run)
    assert found.complete and found.rows_total == 96 and found.variants == NAMES
    assert "variants  4 of each row: prompt=p2,max_tokens=4; " in kindling("status", run).stdout
    assert all(f"- `{name}`" in Path(run, "README.md").read_text() for name in NAMES)
    exported = export(run, str(tmp_path / "exported"))
    assert exported.complete and exported.rows == 96
    assert Counter(row["variant"] for row in rows_of(exported.to)) == dict.fromkeys(NAMES, 24)

    # A shard of which 13 outputs are in the log, in no order: the others alone are generated.
    lost = Path(run, "data", "part-00001.parquet")
    table, manifest = pq.read_table(lost), ShardStore(run).read_manifest(1)
    lost.unlink()
    log = open_row_log(ShardStore(run))
    log.append(1, table.take(list(range(38, -1, -3))).combine_chunks().to_batches()[0])
    log.close()
    assert augment(swept).generated == 40 - 13
    assert [row | {"started_at": 0, "duration_seconds": 0} for row in rows_of(run)] == [
        row | {"started_at": 0, "duration_seconds": 0} for row in rows
    ]
    assert verify(run).faults == []

    # What is missing is told by its variant.
    lost.write_bytes(encode_shard(table.slice(1), manifest))
    causes = [fault.cause for fault in verify(run).faults]
    assert f"row 5 of {rows[0]['source']}, sample 0, variant {NAMES[0]}, is missing" in causes
