import json
from pkgutil import resolve_name

import pytest
import yaml

from pipelines.inputs.formats import FORMATS
from pipelines.inputs.text_format import TextSource
from pipelines.jobfile import SCHEMAS, load_job
from schemas.augment import AugmentJob
from schemas.compose import ComposeJob
from schemas.errors import EXIT_USAGE, JobError
from schemas.evaluate import EvaluateJob
from schemas.job_parsing import NAMES_ELSEWHERE, parse_job, sections_in
from schemas.label import LabelJob
from schemas.train import TrainJob
from tests.support.files import ROOT

JOB = {
    "name": "test",
    "input": {"path": "rows.jsonl"},
    "recipe": "babylm_story",
    "sampling": {"max_tokens": 32},
    "output": {"path": "run"},
}


# A job file may have the others.
DATA_ENDINGS = {ending for each in FORMATS for ending in each.endings} - {".json", *TextSource.endings}


@pytest.fixture
def job_file(tmp_path):
    def write(text):
        path = tmp_path / "job.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.fixture
def load(job_file):
    def load(changes=None, overrides=None):
        job = {**JOB, **(changes or {})}
        return load_job(job_file(yaml.safe_dump(job)), overrides)

    return load


def error_of(call):
    with pytest.raises(JobError) as raised:
        call()
    error = raised.value
    assert error.exit_code == EXIT_USAGE
    assert error.key and error.cause and error.remedy
    text = str(error)
    assert text.startswith(error.key) and error.cause in text and text.endswith(f"\n  remedy: {error.remedy}")
    return error


def test_a_job_is_read_with_its_defaults(load):
    job = load()
    assert (job.name, job.input.path, job.sampling.max_tokens) == ("test", "rows.jsonl", 32)
    assert (job.samples, job.seed, job.model.id, job.output.rows_per_shard) == (1, 0, "embedded", 512)


SHIPPED = sorted((ROOT / "deploy" / "jobs").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_job_files_are_valid(path):
    kinds = {
        "compose": ComposeJob,
        "label": LabelJob,
        "evaluate": EvaluateJob,
        "emotion_": TrainJob,
        "train": TrainJob,
        "gpt2": TrainJob,
    }
    kind = next((kind for name, kind in kinds.items() if path.name.startswith(name)), AugmentJob)
    job = load_job(str(path), kind=kind)
    assert job.name and job.output.path


def test_a_job_is_laid_over_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text(json.dumps({**JOB, "sampling": {"max_tokens": 32, "top_p": 0.5}}))
    path = tmp_path / "job.yaml"
    path.write_text("base: base.yaml\nname: mine\nsampling: {top_p: 0.9}\n")
    job = load_job(str(path), ["sampling.top_k=5"])
    assert (job.name, job.recipe) == ("mine", "babylm_story")
    assert (job.sampling.max_tokens, job.sampling.top_p, job.sampling.top_k) == (32, 0.9, 5)
    path.write_text("base: absent.yaml\n")
    assert error_of(lambda: load_job(str(path))).value == str(tmp_path / "absent.yaml")
    path.write_text("base: [base.yaml]\n")
    assert error_of(lambda: load_job(str(path))).key == "base"


def test_no_such_file(tmp_path):
    path = str(tmp_path / "absent.yaml")
    error = error_of(lambda: load_job(path))
    assert (error.key, error.value, error.cause) == ("JOB", path, "No such file or directory")


def test_a_byte_order_mark_is_no_part_of_a_job(tmp_path):
    (tmp_path / "base.yaml").write_text("\ufeffname: a\n", encoding="utf-8")
    text = "\ufeffbase: base.yaml\ninput: {path: x}\nrecipe: messages\noutput: {path: y}\n"
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    assert load_job(str(tmp_path / "job.yaml")).name == "a"


def test_a_folder_in_place_of_the_file(tmp_path):
    error = error_of(lambda: load_job(str(tmp_path)))
    assert (error.key, error.value, error.cause) == ("JOB", str(tmp_path), "Is a directory")


def test_a_file_that_is_not_utf8(job_file):
    path = job_file(b"name: caf\xe9\n")
    error = error_of(lambda: load_job(path))
    assert (error.key, error.value) == ("JOB", path)
    assert "not UTF-8" in error.cause


def test_bad_yaml_names_its_line(job_file):
    path = job_file("name: a\ninput:\n  path: x\nrecipe: [messages\noutput: {path: y}\n")
    error = error_of(lambda: load_job(path))
    assert (error.key, error.value) == ("JOB", path)
    assert "not valid YAML at line 5: " in error.cause


@pytest.mark.parametrize("text", ["name: 2020-13-45\n", "name: !!int x\n", "name: \x07\n", "a: 1\n---\nb: 2\n"])
def test_yaml_that_its_library_refuses_in_other_ways(job_file, text):
    error = error_of(lambda: load_job(job_file(text)))
    assert error.key == "JOB" and "not valid YAML" in error.cause


@pytest.mark.parametrize(
    ("text", "shown"), [("", "NoneType"), ("- a\n- b\n", "list"), ("just words", "str"), ("17", "int")]
)
@pytest.mark.parametrize("overrides", [[], ["samples=2"]])
def test_top_level_that_is_no_mapping(job_file, text, shown, overrides):
    error = error_of(lambda: load_job(job_file(text), overrides))
    assert (error.key, error.value) == ("job file", shown)
    assert "top level" in error.cause


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"smaples": 3}, "smaples", "`samples`"),
        ({"sampling": {"temprature": 0.5}}, "sampling.temprature", "`sampling.temperature`"),
        ({"input": {"path": "a", "colums": {"a": "b"}}}, "input.colums", "`input.columns`"),
        ({"output": {"path": "a", "row_per_shard": 9}}, "output.row_per_shard", "`output.rows_per_shard`"),
        ({"metrics": {"prot": 1}}, "metrics.prot", "`metrics.port`"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(load, changes, key, nearest):
    error = error_of(lambda: load(changes))
    # Its value may be a secret.
    assert (error.key, error.value, error.cause) == (key, None, "unknown key")
    assert nearest in error.remedy


def test_an_unknown_key_near_to_none_lists_the_known_ones(load):
    error = error_of(lambda: load({"cluster": {"zzzz": 1}}))
    assert error.key == "cluster.zzzz"
    assert "replicas" in error.remedy and "gpus_per_replica" in error.remedy


@pytest.mark.parametrize("key", ["str", "int", "a[0]"])
def test_unknown_keys_that_look_like_types(load, key):
    assert error_of(lambda: load({key: 1})).key == key
    assert error_of(lambda: load({"sampling": {key: 1}})).key == f"sampling.{key}"


def test_an_unknown_key_is_told_before_the_missing_one_that_it_stands_for(load):
    error = error_of(lambda: load({"output": {"pth": "run"}}))
    assert (error.key, error.cause) == ("output.pth", "unknown key")
    assert "`output.path`" in error.remedy


def test_a_key_that_is_no_text(load):
    error = error_of(lambda: load({1: 2}))
    assert error.key == "1"


@pytest.mark.parametrize("key", ["name", "input", "recipe", "output"])
def test_a_missing_key(job_file, key):
    path = job_file(yaml.safe_dump({k: v for k, v in JOB.items() if k != key}))
    error = error_of(lambda: load_job(path))
    assert (error.key, error.value) == (key, None)
    assert "missing" in error.cause and f"`{key}`" in error.remedy


def test_a_missing_key_of_a_section(load):
    assert error_of(lambda: load({"output": {"rows_per_shard": 4}})).key == "output.path"


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"samples": "many"}, "samples", "many"),
        ({"samples": 1.5}, "samples", 1.5),
        ({"seed": [1]}, "seed", [1]),
        ({"input": {"path": 5}}, "input.path", 5),
        ({"input": {"path": ["a", 5]}}, "input.path", ["a", 5]),
        ({"recipe": "poem"}, "recipe", "poem"),
        ({"input": {"path": "a", "format": "xml"}}, "input.format", "xml"),
        ({"sampling": 5}, "sampling", 5),
        ({"engine": "fast"}, "engine", "fast"),
        ({"cluster": {"replicas": None}}, "cluster.replicas", None),
        ({"name": "with a space"}, "name", "with a space"),
        ({"name": "../up"}, "name", "../up"),
        ({"name": ""}, "name", ""),
    ],
)
def test_a_value_of_the_wrong_type_or_form(load, changes, key, value):
    error = error_of(lambda: load(changes))
    assert error.key == key
    assert error.value == value


@pytest.mark.parametrize(("key", "value"), [("stop", ""), ("stop_token_ids", -1)])
def test_an_end_that_vllm_refuses_for_every_row(load, key, value):
    error = error_of(lambda: load({"sampling": {key: [value]}}))
    assert (error.key, error.value) == (f"sampling.{key}.0", value)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("sampling", "temperature", -0.1),
        ("sampling", "temperature", 2.01),
        ("sampling", "top_p", 0),
        ("sampling", "top_p", 1.01),
        ("sampling", "top_k", -2),
        ("sampling", "min_p", 1.5),
        ("sampling", "repetition_penalty", 0),
        ("sampling", "presence_penalty", 2.5),
        ("sampling", "frequency_penalty", -2.5),
        ("sampling", "max_tokens", 0),
        ("sampling", "min_tokens", -1),
        ("cluster", "replicas", 0),
        ("cluster", "gpus_per_replica", -1),
        ("cluster", "cpus_per_replica", 0),
        ("cluster", "price_per_replica_hour", -0.01),
        ("metrics", "port", 65536),
        ("metrics", "port", -1),
    ],
)
def test_a_value_out_of_range(load, section, key, value):
    error = error_of(lambda: load({section: {key: value}}))
    assert error.key == f"{section}.{key}"
    assert error.value == value or value != value  # not a number is not equal to itself
    assert "than" in error.cause


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"jsn": {}}, "sampling.structured_outputs.jsn"),
        ({"json": "{}"}, "sampling.structured_outputs.json"),
        ({"regex": ""}, "sampling.structured_outputs.regex"),
        ({"choice": []}, "sampling.structured_outputs.choice"),
        ({"choice": ["a", ""]}, "sampling.structured_outputs.choice.1"),
        ({"grammar": 3}, "sampling.structured_outputs.grammar"),
        ({}, "sampling.structured_outputs"),
        ({"regex": "a+", "choice": ["a"]}, "sampling.structured_outputs"),
        ("json", "sampling.structured_outputs"),
    ],
)
def test_structured_outputs_are_of_exactly_one_kind(load, value, key):
    assert error_of(lambda: load({"sampling": {"structured_outputs": value}})).key == key


@pytest.mark.parametrize(
    ("sampling", "key", "words"),
    [
        ({"repetition_detection": {"min_count": 3}}, "repetition_detection.max_pattern_size", "required"),
        ({"repetition_detection": {"max_pattern_size": 4, "min_count": 1}}, "repetition_detection.min_count", "2"),
        (
            {"repetition_detection": {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 3}},
            "repetition_detection", "min_pattern_size (3)",
        ),
        ({"bad_words": ["a", ""]}, "bad_words.1", "at least 1 character"),
        ({"logit_bias": {"eos": 3}}, "logit_bias.eos", "integer"),
        ({"logit_bias": {-1: 3}}, "logit_bias.-1", "greater"),
        ({"logit_bias": {5: 101}}, "logit_bias.5", "100"),
        ({"stop": ["x"], "structured_outputs": {"regex": "a+"}}, "", "stop would end a text"),
    ],
)  # fmt: skip
def test_sampling_that_cannot_be_is_one_error(load, sampling, key, words):
    error = error_of(lambda: load({"sampling": sampling}))
    assert error.key == f"sampling.{key}".rstrip(".") and words in error.cause


def test_keys_of_the_sampling_that_are_not_set_are_in_no_record(load):
    assert "logit_bias" not in str(load().model_dump())
    job = load(overrides=["sampling.logit_bias.198=-100", "sampling.bad_words=[x]"])
    assert job.sampling.logit_bias == {198: -100.0}
    dumped = json.loads(json.dumps(job.model_dump(mode="json")))["sampling"]
    assert (dumped["logit_bias"], dumped["bad_words"]) == ({"198": -100.0}, ["x"])


def test_a_schema_is_kept_as_it_is(load):
    schema = {"type": "object", "properties": {"b": {"type": "null"}, "a": True}, "required": []}
    job = load(overrides=[f"sampling.structured_outputs={json.dumps({'json': schema})}"])
    dumped = job.model_dump(mode="json")["sampling"]["structured_outputs"]
    assert json.dumps(dumped) == json.dumps({"json": schema})


@pytest.mark.parametrize("key", ["limit", "rows_per_shard", "samples"])
def test_counts_are_positive(load, key):
    changes = {
        "limit": {"input": {"path": "a", "limit": 0}},
        "rows_per_shard": {"output": {"path": "a", "rows_per_shard": 0}},
        "samples": {"samples": 0},
    }[key]
    assert error_of(lambda: load(changes)).key.endswith(key)


@pytest.mark.parametrize("section", [{}, {"split": "train"}, {"path": "a", "dataset": "b"}])
def test_either_a_path_or_a_dataset(load, section):
    error = error_of(lambda: load({"input": section}))
    assert error.key == "input"
    assert error.cause == "give either input.path or input.dataset"


def test_more_tokens_asked_for_than_allowed(load):
    error = error_of(lambda: load({"sampling": {"min_tokens": 33, "max_tokens": 32}}))
    assert error.key == "sampling"
    assert error.cause == "min_tokens (33) is above max_tokens (32)"


def test_as_many_tokens_asked_for_as_allowed(load):
    assert load({"sampling": {"min_tokens": 32, "max_tokens": 32}}).sampling.min_tokens == 32


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("samples=3", "samples", 3),
        ("name=other", "name", "other"),
        ("sampling.temperature=0.25", "sampling.temperature", 0.25),
        ("sampling.stop=[a, 'b=c']", "sampling.stop", ["a", "b=c"]),
        ("sampling.ignore_eos=true", "sampling.ignore_eos", True),
        ("metrics.port=null", "metrics.port", None),
        ("input.limit=", "input.limit", None),
        ("engine.max_model_len=1024", "engine.max_model_len", 1024),
        ("engine.compilation_config.level=0", "engine.compilation_config.level", 0),
        ("prompt=a=b.jinja", "prompt", "a=b.jinja"),
        ("model.id='12'", "model.id", "12"),
        ("input.columns={emotion: emotions}", "input.columns.emotion", "emotions"),
    ],
)
def test_set_reads_its_value_as_yaml(load, override, path, value):
    found = load(overrides=[override]).model_dump()
    for part in path.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_set_keeps_the_rest_of_its_section(load):
    job = load({"sampling": {"max_tokens": 7, "top_p": 0.5}}, ["sampling.temperature=0"])
    assert (job.sampling.max_tokens, job.sampling.top_p, job.sampling.temperature) == (7, 0.5, 0)


def test_of_two_sets_of_one_key_the_last_holds(load):
    assert load(overrides=["samples=2", "samples=5"]).samples == 5


def test_set_can_give_what_the_file_lacks(job_file):
    path = job_file("name: a\nrecipe: messages\ninput: {path: x}\n")
    assert load_job(path, ["output.path=/tmp/x"]).output.path == "/tmp/x"


@pytest.mark.parametrize("override", ["samples", "", "=3", "sampling.temperature 0.7"])
def test_a_malformed_set(load, override):
    error = error_of(lambda: load(overrides=[override]))
    assert (error.key, error.value) == ("--set", override)
    assert "key.of.section=value" in error.cause


@pytest.mark.parametrize(("override", "named"), [("name.x=1", "`name`"), ("sampling.max_tokens.x=1", "max_tokens`")])
def test_set_into_what_is_no_section(load, override, named):
    error = error_of(lambda: load(overrides=[override]))
    assert (error.key, error.value) == ("--set", override)
    assert named in error.cause and "not a section" in error.cause


def test_set_with_bad_yaml(load):
    error = error_of(lambda: load(overrides=["sampling.stop=[a"]))
    assert (error.key, error.value) == ("--set", "sampling.stop=[a")
    assert "not valid YAML" in error.cause and """--set 'sampling.stop="VALUE"'""" in error.remedy


@pytest.mark.parametrize("mark", [",", "|", "\t", ";", ":"])
def test_set_takes_a_mark_that_yaml_reserves_as_text(load, mark):
    assert load(overrides=[f"input.delimiter={mark}"]).input.delimiter == mark


@pytest.mark.parametrize("ending", sorted(DATA_ENDINGS))
def test_a_data_file_in_place_of_a_job_file(tmp_path, ending):
    path = tmp_path / f"My Tickets{ending.upper()}"
    path.write_text("subject,text\n")
    error = error_of(lambda: load_job(str(path)))
    assert "it is data" in error.cause and f"kindling init '{path}'" in error.remedy
    error = error_of(lambda: load_job(str(tmp_path / f"missing{ending}")))
    assert "No such file" in error.cause


def test_set_of_an_unknown_key(load):
    error = error_of(lambda: load(overrides=["sampling.temprature=1"]))
    assert error.key == "sampling.temprature"
    assert "`sampling.temperature`" in error.remedy


def test_an_error_survives_pickling(load):
    import pickle

    error = error_of(lambda: load({"samples": 0}))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (JobError, str(error))


def test_a_long_value_is_shortened(load):
    error = error_of(lambda: load({"samples": "x" * 5000}))
    assert len(str(error)) < 600


def test_a_job_survives_its_own_json(load, job_file):
    job = load({"input": {"dataset": "d", "columns": {"emotion": "e"}}, "engine": {"max_model_len": 9}})
    assert load_job(job_file(json.dumps(job.model_dump(mode="json")))) == job


@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_a_number_must_be_finite(tmp_path, value):
    path = tmp_path / "job.yaml"
    path.write_text(
        f"name: a\ninput: {{path: x}}\nrecipe: messages\noutput: {{path: y}}\nsampling: {{temperature: {value}}}\n"
    )
    with pytest.raises(JobError, match="finite number") as caught:
        load_job(str(path))
    assert caught.value.key == "sampling.temperature"


def test_the_names_that_keys_have_elsewhere_lead_to_ours():
    with pytest.raises(JobError) as raised:
        parse_job({**JOB, "sampling": {"max_new_tokens": 8}}, AugmentJob)
    assert raised.value.remedy == "it is called `sampling.max_tokens` here"
    jobs = [resolve_name(path) for path in SCHEMAS.values()]
    keys = {key for job in jobs for section in [job, *sections_below(job)] for key in section.model_fields}
    assert set(NAMES_ELSEWHERE.values()) <= keys and not set(NAMES_ELSEWHERE) & set(AugmentJob.model_fields) - {"model"}


def sections_below(section):
    below = [inner for field in section.model_fields.values() for inner in sections_in(field.annotation)]
    return [*below, *(deeper for inner in below for deeper in sections_below(inner))]
