"""BLiMP: how pairs are scored and counted, beside lm-eval; and whole evaluations of models by their pairs and tasks."""

import json
import random
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

from eval.blimp import PARADIGMS, blimp_rates, compare_blimp
from eval.lm_eval_harness import blimp_task, choice_log_likelihoods, evaluate_task, refuse_unknown_tasks
from pipelines import evaluate, status
from pipelines.benchmarks import blimp as bench
from pipelines.evaluation import lm_eval, parts
from pipelines.evaluation.blimp_results import BlimpReport, ModelBlimp, blimp_tables, compare_models
from pipelines.inputs.minimal_pairs import load_paradigms
from pipelines.jobfile import as_job
from pipelines.run_status.page import render_page
from schemas.errors import EngineError, JobError
from schemas.evaluate import EvaluateJob
from schemas.job import Model
from schemas.minimal_pairs import MinimalPairs
from services.models.causal_lm import load_causal_model
from services.models.minimal_pairs import MinimalPair, good_is_likelier, log_likelihoods, margins
from services.models.prefix_trees import supports_prefix_trees
from services.observability.endpoint_reader import read_endpoint
from tests.support.evaluations import in_this_process
from tests.support.files import SHARED_DATA, write_jsonl
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ["glad", "say", "now", "dog", "cat", "the", "of", "day", "sun", "rain", "wind", "tree"]
NAMES = ["wh_island", "npi_present_1", "mine"]


def drawn_pairs(paradigm, number, seed=0):
    """Pairs that begin alike, as BLiMP's do, and that end alike or not."""
    draw, pairs = random.Random(f"{paradigm}{seed}"), []
    for _ in range(number):
        beginning = draw.choice(["The cat", "Who should", "A dog of the rain", ""])
        good, bad = (" ".join([beginning, *draw.choices(WORDS, k=draw.randint(1, 3))]).strip() for _ in range(2))
        pairs.append(MinimalPair(paradigm, f"{good} here.", f"{bad} here."))
    return pairs


def save_pairs(folder, names=NAMES, number=20):
    for name in names:
        write_jsonl(folder / f"{name}.jsonl", [{"sentence_good": pair.good, "sentence_bad": pair.bad}
                                               for pair in drawn_pairs(name, number)])  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(tiny):
    return load_causal_model(Model(id=tiny, dtype="float32"))


def llama():
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=257, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32,
        intermediate_size=64, max_position_embeddings=512, initializer_range=0.2,
    ))  # fmt: skip


def bloom():
    return BloomForCausalLM(BloomConfig(vocab_size=257, n_layer=2, n_head=2, hidden_size=32, initializer_range=0.2))


# Scoring


def test_a_pairs_margin_is_the_difference_of_its_sentences(loaded):
    model, tokenizer = loaded
    pairs = [*drawn_pairs("p", 60), *drawn_pairs("p", 60), MinimalPair("p", "The cat", "The cat sat."),
             MinimalPair("p", "Same.", "Same."), MinimalPair("p", "a", "b")]  # fmt: skip
    found = log_likelihoods(model, tokenizer, [sentence for pair in pairs for sentence in (pair.good, pair.bad)])
    assert supports_prefix_trees(model)
    assert margins(model, tokenizer, pairs) == pytest.approx(found[::2] - found[1::2], abs=1e-4)
    assert margins(model, tokenizer, pairs)[-2] == 0


@pytest.mark.parametrize(("make", "follows"), [(llama, True), (bloom, False)])
def test_models_of_other_kinds_are_scored_by_trees_or_without(tiny, make, follows):
    torch.manual_seed(0)
    model, tokenizer = make().eval(), AutoTokenizer.from_pretrained(tiny)
    long = "a long sentence " * 20  # of more tokens than a row has nodes
    pairs = [*drawn_pairs("p", 40), MinimalPair("p", f"{long}here.", f"{long}there.")]
    found = log_likelihoods(model, tokenizer, [sentence for pair in pairs for sentence in (pair.good, pair.bad)])
    assert supports_prefix_trees(model) == follows
    assert margins(model, tokenizer, pairs) == pytest.approx(found[::2] - found[1::2], abs=1e-3)
    model.config._attn_implementation = "eager"
    assert margins(model, tokenizer, pairs) == pytest.approx(found[::2] - found[1::2], abs=1e-3)


@pytest.mark.parametrize("make", [llama, bloom])
def test_a_sentence_is_scored_given_its_context(tiny, make):
    torch.manual_seed(0)
    model, tokenizer = make().eval(), AutoTokenizer.from_pretrained(tiny)
    pairs = [MinimalPair("p", "It is wet.", "It is wet.", "It rained on Monday.", "It was dry."),
             MinimalPair("p", "It is wet.", "It is dry.", "It rained.", "It rained.")]  # fmt: skip
    whole = log_likelihoods(model, tokenizer, [text for pair in pairs for text in pair.texts])
    contexts = ["It rained on Monday.", "It was dry.", "It rained.", "It rained."]
    scores = whole - log_likelihoods(model, tokenizer, contexts)
    assert margins(model, tokenizer, pairs) == pytest.approx(scores[::2] - scores[1::2], abs=1e-3)
    assert good_is_likelier(model, tokenizer, pairs).tolist() == (scores[::2] > scores[1::2]).tolist()


def test_what_begins_alike_is_computed_once(loaded):
    model, tokenizer = loaded
    pairs = [MinimalPair("p", f"Nobody in that old house {verb}s.", f"Nobody in that old house {verb}.")
             for verb in ("sing", "dance", "sleep")]  # fmt: skip
    positions, scored = [], []
    hooks = [
        model.get_input_embeddings().register_forward_hook(lambda _, ids, out: positions.append(out.shape[1])),
        model.get_output_embeddings().register_forward_hook(lambda _, states, out: scored.append(out.shape[1])),
    ]
    margins(model, tokenizer, pairs)
    for hook in hooks:
        hook.remove()
    # Byte by byte: the root and " Nobody in that old house " once; the verbs, of which two begin with an s; their s.
    assert positions[-1] == 1 + 26 + (4 + 5 + 5 - 1) + 3
    assert scored[-1] == 2 * 3  # behind each verb, and behind its s


def test_a_sentence_that_is_too_long_is_named(loaded):
    model, tokenizer = loaded
    with pytest.raises(EngineError, match=r"the model takes 64: x+ x"):
        margins(model, tokenizer, [MinimalPair("p", "x" * 70 + " x", "x")])


# Counting


def test_the_67_paradigms_are_in_the_papers_12_phenomena():
    assert len(PARADIGMS) == 67
    assert list(dict.fromkeys(place.phenomenon for place in PARADIGMS.values())) == [
        "anaphor agreement", "argument structure", "binding", "control/raising", "determiner-noun agreement",
        "ellipsis", "filler-gap", "irregular forms", "island effects", "NPI licensing", "quantifiers",
        "subject-verb agreement",
    ]  # fmt: skip


def test_paradigms_belong_where_blimps_own_data_say():
    folder = SHARED_DATA / "blimp"
    if not folder.is_dir():
        pytest.skip("needs shared/data/blimp")
    called = {
        "s-selection": "argument structure",
        "filler_gap_dependency": "filler-gap",
        "control_raising": "control/raising",
        "determiner_noun_agreement": "determiner-noun agreement",
        "subject_verb_agreement": "subject-verb agreement",
        "npi_licensing": "NPI licensing",
    }
    for name, place in PARADIGMS.items():
        with (folder / f"{name}.jsonl").open() as lines:
            row = json.loads(next(lines))
        term = row["linguistics_term"]
        assert place.phenomenon == called.get(term, term.replace("_", " ")), name
        assert place.field == row["field"].replace("_", "/") and row["UID"] == name


def test_a_tie_is_right_as_in_lm_eval_and_told():
    found = blimp_rates({"wh_island": np.array([1.0, 0.0, -1.0]), "mine": np.array([-1.0]),
                      "npi_present_1": np.array([0.5, -0.5])})  # fmt: skip
    assert (found.overall.rate, found.overall.n, found.ties, found.ties_as_half) == (3 / 6, 6, 1, 3 / 6 - 1 / 12)
    assert {name: (rate.rate, rate.n) for name, rate in found.by_phenomenon.items()} == {
        "island effects": (2 / 3, 3), "NPI licensing": (1 / 2, 2),
    }  # fmt: skip
    assert list(found.by_field) == ["syntax", "semantics"]
    assert list(found.by_paradigm) == ["wh_island", "npi_present_1", "mine"] and found.by_paradigm["mine"].rate == 0
    with pytest.raises(ValueError):
        blimp_rates({})


def test_two_models_are_compared_pair_by_pair():
    first = {"wh_island": np.array([1.0, 1, 1, -1]), "npi_present_1": np.array([-1.0, -1])}
    second = {"wh_island": np.array([1.0, 1, -1, -1]), "npi_present_1": np.array([2.0, 2])}
    by = compare_blimp(first, second, seed=0)
    island, overall = by["phenomenon"]["island effects"], by["overall"]["overall"]
    assert (island.difference, island.only_first, island.only_second, island.n) == (-1 / 4, 1, 0, 4)
    assert (overall.difference, overall.only_first, overall.only_second, overall.n) == (1 / 6, 1, 2, 6)
    assert by == compare_blimp(first, second, seed=0)


# What is read


def test_a_folder_must_have_all_paradigms_that_the_job_does_not_name(tmp_path):
    folder = save_pairs(tmp_path)
    with pytest.raises(JobError, match=r"65 of 67 paradigms are missing: anaphor_.*, adjunct_island") as raised:
        load_paradigms("blimp", MinimalPairs(path=folder), PARADIGMS)
    assert raised.value.key == "blimp.path" and "blimp.paradigms" in raised.value.remedy
    found = load_paradigms("blimp", MinimalPairs(path=folder, paradigms=["mine", "wh_island"]), PARADIGMS)
    assert {name: len(pairs) for name, pairs in found.items()} == {"mine": 20, "wh_island": 20}
    with pytest.raises(JobError, match="no such paradigm") as raised:
        load_paradigms("blimp", MinimalPairs(path=folder, paradigms=["wh_iland"]), PARADIGMS)
    assert raised.value.remedy == "did you mean wh_island?"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"models": [], "responses": {"path": "r.json"}}, "blimp needs models"),
        ({"evaluations": ["lm_eval"]}, "give lm_eval.tasks"),
        ({"lm_eval": {"tasks": ["a", "a"]}}, "a is there twice"),
        ({"lm_eval": {"tasks": [{"dataset_path": "json"}]}}, "needs a name"),
        ({"lm_eval": {"tasks": []}}, "at least 1 item"),
        ({"blimp": {"paradigms": []}}, "at least 1 item"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(change, cause):
    job = {"name": "t", "models": [{"id": "embedded"}], "evaluations": ["blimp"], "output": {"path": "o"}}
    as_job(job, EvaluateJob)
    with pytest.raises(JobError, match=cause):
        as_job({**job, **change}, EvaluateJob)


# lm-eval


def test_lm_eval_decides_the_same_pairs_alike(loaded, tmp_path):
    folder = save_pairs(tmp_path, ["wh_island", "mine"], number=60)
    tasks = [blimp_task(name, f"{folder}/{name}.jsonl") for name in ("wh_island", "mine")]
    theirs = choice_log_likelihoods(*loaded, tasks, None, 16)
    for name in ("wh_island", "mine"):
        found, its = margins(*loaded, drawn_pairs(name, 60)), theirs[f"blimp_{name}"]
        assert found == pytest.approx(its[:, 0] - its[:, 1], abs=1e-4)
    (score,) = evaluate_task(*loaded, tasks[0], None, 16)
    rate = blimp_rates({"wh_island": margins(*loaded, drawn_pairs("wh_island", 60))}).overall
    assert (score.task, score.metric, score.n, score.shots) == ("blimp_wh_island", "acc", 60, 0)
    assert score.value == pytest.approx(rate.rate) and 0.03 < score.stderr < 0.07
    assert evaluate_task(*loaded, tasks[0], 5, 16)[0].n == 5


def test_a_tasks_template_reaches_nothing_but_its_document(loaded, tmp_path):
    task = blimp_task("mine", f"{save_pairs(tmp_path, ['mine'], 2)}/mine.jsonl")
    with pytest.raises(EngineError, match="could not evaluate it: access to attribute '__class__'"):
        evaluate_task(*loaded, {**task, "doc_to_text": "{{ sentence_good.__class__.__mro__ }}"}, None, 2)


def test_a_metric_that_would_be_a_program_from_the_hub_is_refused():
    with pytest.raises(JobError, match="not one of lm-eval's own metrics"):
        refuse_unknown_tasks([{"task": "t", "metric_list": [{"metric": "somebody/theirs"}]}])
    refuse_unknown_tasks([blimp_task("mine", "x.jsonl")])


@pytest.mark.slow
def test_a_task_that_lm_eval_does_not_know_is_refused():
    refuse_unknown_tasks(["blimp", "hellaswag"])
    with pytest.raises(JobError, match="no task or group of that name") as raised:
        refuse_unknown_tasks(["helaswag"])
    assert raised.value.remedy == "did you mean hellaswag?"


@pytest.mark.slow
def test_three_whole_paradigms_are_decided_as_lm_eval_decides_them():
    folder = SHARED_DATA / "blimp"
    if not folder.is_dir():
        pytest.skip("needs shared/data/blimp")
    names = bench.PARADIGMS
    paradigms = load_paradigms("blimp", MinimalPairs(path=str(folder), paradigms=names), PARADIGMS)
    loaded = load_causal_model(Model(id="embedded", dtype="float32"))
    theirs = choice_log_likelihoods(
        *loaded, [blimp_task(name, str(folder / f"{name}.jsonl")) for name in names], None, 32
    )
    for name in names:
        found, its = margins(*loaded, paradigms[name]), theirs[f"blimp_{name}"]
        assert len(found) == 1000 and (np.argmax(its, 1) != (found < 0)).sum() == 0
        assert found == pytest.approx(its[:, 0] - its[:, 1], abs=1e-2)
    loaded = load_causal_model(Model(id="embedded"))
    rates = blimp_rates({name: margins(*loaded, paradigms[name]) for name in names}).by_paradigm
    # What both find in single precision. lm-eval's own bfloat16 rates are two points higher: its ties count as right.
    assert [rates[name].rate for name in names] == pytest.approx([0.723, 0.703, 0.346], abs=0.012)


# Whole evaluations


def job_of(folder, tiny, **more):
    return {
        "name": "both",
        "models": [{"path": tiny, "name": "one", "dtype": "float32"}, {"path": str(folder / "broken")},
                   {"path": tiny, "name": "two", "dtype": "bfloat16"}],
        "evaluations": ["blimp"],
        "blimp": {"path": str(folder / "pairs"), "paradigms": NAMES},
        "cluster": {"replicas": 2, "cpus_per_replica": 1},
        "output": {"path": str(folder / "out")},
        **more,
    }  # fmt: skip


def job_with_tasks(folder, tiny):
    """Three models, of which one is broken, by the pairs of a folder and by two tasks, of which one has no data."""
    (folder / "pairs").mkdir()
    save_pairs(folder / "pairs")
    broken = folder / "broken"
    save_tiny(broken)
    (broken / "model.safetensors").write_bytes(b"broken")
    own = blimp_task("mine", str(folder / "pairs" / "mine.jsonl"))
    gone = blimp_task("gone", str(folder / "gone.jsonl"))
    return job_of(folder, tiny, evaluations=["blimp", "lm_eval"], lm_eval={"tasks": [gone, own], "limit": 10})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, ray_cluster, tiny):
    folder = tmp_path_factory.mktemp("evaluated")
    job = job_with_tasks(folder, tiny)
    with pytest.MonkeyPatch.context() as patch:
        for module in (lm_eval, parts):
            patch.setattr(module, "spread_over_model", in_this_process)
        return folder, job, evaluate(job)


def test_models_are_measured_and_a_broken_one_is_told(evaluated, loaded):
    folder, _, report = evaluated
    found = report.as_json()
    assert list(found["models"]) == ["one", "two"]
    assert set(found["failures"]) == {"one", "broken", "two"}  # a task of each could not be evaluated
    assert "cannot load it" in found["failures"]["broken"]
    wanted = blimp_rates({name: margins(*loaded, drawn_pairs(name, 20)) for name in NAMES})
    assert found["models"]["one"]["blimp"]["overall"]["rate"] == wanted.overall.rate
    assert found["models"]["one"]["blimp"]["by_paradigm"]["mine"]["n"] == 20
    (score,) = found["models"]["two"]["lm_eval"]["blimp_mine"]
    assert (score["metric"], score["n"]) == ("acc", 10) and "gone" in found["failures"]["two"]
    (comparison,) = found["comparisons"]["blimp"]
    assert (comparison["first"], comparison["second"]) == ("one", "two")
    assert comparison["by"]["overall"]["overall"]["n"] == 60
    page = (folder / "out" / "README.md").read_text()
    assert "| Phenomenon | n | one | two |" in page and "| Island Effects | 20 | 0." in page and "| Ties |" in page
    assert "| Overall, ties as one half | 60 | 0." in page
    assert "two less one" in page and "| blimp\\_mine | acc | 10 | 0 |" in page


def test_results_say_what_they_are_of(evaluated, loaded):
    out = evaluated[0] / "out"
    rows = pq.read_table(out / "results/blimp/one.parquet").to_pylist()
    assert [row["paradigm"] for row in rows] == [name for name in NAMES for _ in range(20)]
    assert rows[0]["phenomenon"] == "island effects" and rows[-1]["phenomenon"] is None
    assert [row["margin"] for row in rows[:20]] == pytest.approx(
        margins(*loaded, drawn_pairs("wh_island", 20)), abs=1e-4
    )
    assert all(row["right"] == (row["margin"] >= 0) for row in rows)
    identity = json.loads((out / "results/blimp/one.json").read_text())["identity"]
    assert identity["blimp.pairs"].startswith("60 of 3 paradigms") and identity["model.dtype"] == "float32"
    assert sorted(path.name for path in (out / "results/blimp").iterdir()) == [
        "one.json", "one.parquet", "two.json", "two.parquet",
    ]  # fmt: skip


def test_what_is_done_is_not_done_again_and_a_stopped_model_goes_on(evaluated, tiny, tmp_path, monkeypatch):
    _, job, report = evaluated
    scored, told, seen = [], [], []

    def here(session, name, work, units):
        """The pool, in this process; it breaks off after two units."""
        for number, unit in enumerate(units):
            if len(scored) == 2:
                scored.append("stopped")
                raise EngineError("cluster", None, "the machine went away", "again")
            scored.append(unit[0].paradigm)
            told.append(pairs_told(tmp_path / "out"))
            seen.append(status(str(tmp_path / "out")))
            yield number, work(load_causal_model(session.models[name][0].model()), unit)

    monkeypatch.setattr(parts, "spread_over_model", here)
    one = {"models": job["models"][:1], "evaluations": ["blimp"], "metrics": {"port": 0}}
    again = evaluate({**job, **one})
    assert scored == [] and again.as_json()["models"]["one"]["blimp"] == report.as_json()["models"]["one"]["blimp"]
    fresh = {**job, **one, "output": {"path": str(tmp_path / "out")}}
    assert "the machine went away" in evaluate(fresh).failures["one"]
    assert evaluate(fresh).as_json()["models"]["one"]["blimp"] == again.as_json()["models"]["one"]["blimp"]
    assert scored == ["wh_island", "npi_present_1", "stopped", "mine"]
    assert told == [(0, 60), (20, 60), (40, 60)]  # a later start counts from what is there
    assert [(each.source, each.complete, each.parts[0].examples) for each in seen[:2]] == [
        ("endpoint", False, 0), ("endpoint", False, 20),
    ]  # fmt: skip
    assert render_page(seen[2], datetime.now(UTC), 80)[::2] == [
        "both: an evaluation, 0 of 1 results, running", "blimp       0 of 1; one: 40 of 60",
    ]  # fmt: skip
    ended = status(str(tmp_path / "out"))
    assert (ended.source, ended.complete, ended.silent) == ("disk", True, "")


def pairs_told(out):
    """What the endpoint says of the model `one`: pairs that are scored, and all."""
    record = json.loads((out / "evaluate.json").read_text())
    metrics = read_endpoint(record["metrics"], record["start_id"])
    labels = {"evaluation": "blimp", "model": "one", "run": "both"}
    names = ("kindling_evaluate_examples_total", "kindling_evaluate_planned_examples")
    return tuple(metrics.value(name, **labels) for name in names)


@pytest.mark.slow
def test_actors_find_what_one_process_finds(evaluated, ray_cluster, tmp_path):
    _, job, report = evaluated
    theirs = evaluate({**job, "output": {"path": str(tmp_path / "out")}}).as_json()
    mine = report.as_json()
    assert theirs["models"]["one"] == mine["models"]["one"]  # in float32
    assert set(theirs["failures"]) == set(mine["failures"]) and set(theirs["models"]) == set(mine["models"])


def test_the_table_has_the_papers_rows(loaded):
    found = {name: np.array([1.0, -1.0]) for name in PARADIGMS}
    model = ModelBlimp("m", blimp_rates(found), found)
    table = blimp_tables(BlimpReport([model], []))[0]
    assert [row[0] for row in table.rows[:12]] == [
        "Anaphor Agr.", "Arg. Structure", "Binding", "Control/Raising", "Det-noun Agr.", "Ellipsis", "Filler-gap",
        "Irregular Forms", "Island Effects", "NPI Licensing", "Quantifiers", "Subject-verb Agr.",
    ]  # fmt: skip
    assert [row[1] for row in table.rows[:3]] == ["4", "18", "14"]
    assert table.rows[0][2].value == "0.5000" and " to " in table.rows[0][2].interval


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["wh_island"], "BLiMP"),
        (["wh_island", "mine"], "BLiMP and other minimal pairs"),
        (["mine"], "Minimal pairs that are not BLiMP's"),
    ],
)
def test_tables_name_blimp_only_where_the_pairs_are_its_own(names, title):
    margins_of = {name: np.array([1.0, -1.0]) for name in names}
    models = [ModelBlimp(name, blimp_rates(margins_of), margins_of) for name in ("one", "two")]
    titles = [table.title for table in blimp_tables(BlimpReport(models, compare_models(models, seed=0)))]
    by_phenomenon = " by phenomenon (as Tables 6 and 15)" if "wh_island" in names else ""
    assert titles == [
        f"{title}: accuracy{by_phenomenon}",
        f"{title}: two less one, on the same pairs",
        f"{title}: accuracy by paradigm",
    ]


def test_the_bench_goals_are_of_its_samples():
    samples = {"seconds": {"lm_eval": [30.0, 20.0, 28.0], "kindling": [10.0, 10.0, 10.0]},
               "flips": {"float32: kindling from lm_eval": 1}}  # fmt: skip
    speed, flips = bench.goals_of(samples, 32)
    assert speed.value == pytest.approx(2.8) and speed.met and flips.value == 1 and not flips.met
