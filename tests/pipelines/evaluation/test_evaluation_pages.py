"""The evaluations that end in pages: a questionnaire that comes back, and the logit lens."""

import json
from pathlib import Path

import pytest

from eval.questionnaire import Questionnaire
from pipelines import evaluate
from pipelines.evaluation import generation, logit_lens
from pipelines.evaluation.progress import EvaluationProgress
from pipelines.evaluation.prompts import EmotionPrompt
from pipelines.evaluation.session import Session, UnansweredPrompts
from pipelines.jobfile import as_job
from schemas.errors import EngineError, JobError
from schemas.evaluate import EvaluateJob
from schemas.job import Metrics
from services.observability.endpoint import serve_metrics
from services.observability.series import EvaluateMetrics
from services.replicas.replica_pool import ReplicaPool
from services.storage.store import ShardStore
from tests.support.evaluations import in_this_process, returned
from tests.support.files import write_jsonl
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = {"joy": ["Tell of a party.", "Tell of rain."], "anger": ["Tell of a queue."]}


def sessions_of(tmp_path, **more):
    """A job of two models of the fake engine, a session of it for each of two evaluations, and their prompts."""
    models = [{"id": "fake", "name": name} for name in ("one", "two")]
    data = {"name": "e", "models": models, "evaluations": ["blimp"], "output": {"path": str(tmp_path)}, **more}
    job, store = as_job(data, EvaluateJob), ShardStore(str(tmp_path))
    located = {model.label: (model, "") for model in job.models}
    sessions = {
        name: Session(job, located, store, lambda: None, EvaluationProgress(EvaluateMetrics("e")), {})
        for name in ("sentiment", "preference")
    }
    prompts = [EmotionPrompt("Tell of rain.", "joy"), EmotionPrompt("Tell of a queue.", "anger")]
    return sessions, {name: UnansweredPrompts(list(located), prompts) for name in sessions}


def test_a_model_starts_its_engines_once_for_all_evaluations(tmp_path, ray_cluster, monkeypatch):
    starts, create, metrics = [], ReplicaPool._create, EvaluateMetrics("e")
    monkeypatch.setattr(ReplicaPool, "_create", lambda pool, number: starts.append(number) or create(pool, number))
    seen, augment = [], generation.augment

    def augment_and_look(job, shared):
        done = augment(job, shared=shared)
        seen.extend(shared.replicas._actors)
        return done

    monkeypatch.setattr(generation, "augment", augment_and_look)
    sessions, unanswered = sessions_of(tmp_path, sampling={"max_tokens": 24}, cluster={"cpus_per_replica": 1})
    with serve_metrics(metrics, Metrics(port=0, targets=None)) as address:
        generation.generate_responses(sessions, unanswered, metrics, address)
    assert starts == [0, 0] and seen[0] == seen[1] != seen[2] == seen[3]
    assert not any(session.failures for session in sessions.values())
    runs = [ShardStore(str(path)).read_run() for path in sorted((tmp_path / "responses").glob("*/*/"))]
    assert len(runs) == 4 and {run.metrics for run in runs} == {address} and len({run.start_id for run in runs}) == 4
    for run in runs:
        assert run.last_metrics['kindling_rows_total{state="accepted"}'] == 2
    generation.generate_responses(sessions, unanswered, metrics, "")  # all is there: no engine starts
    assert starts == [0, 0]


def test_a_model_that_fails_in_one_evaluation_is_not_started_again_for_the_next(tmp_path, monkeypatch):
    asked = []

    def fail(job, shared):
        asked.append(job.output.path)
        raise EngineError("engine", None, "no memory", "add some")

    monkeypatch.setattr(generation, "augment", fail)
    sessions, unanswered = sessions_of(tmp_path)
    generation.generate_responses(sessions, unanswered, EvaluateMetrics("e"), "")
    assert [path.partition("responses/")[2] for path in asked] == ["sentiment/one", "sentiment/two"]
    for session in sessions.values():
        assert "no memory" in session.failures["one"] and "no memory" in session.failures["two"]


def test_a_questionnaire_is_made_of_the_models_responses_and_counted_when_it_is_back(tmp_path, ray_cluster):
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    job = {
        "name": "liked",
        "models": [{"id": "fake", "name": "one"}, {"id": "fake", "name": "two"}],
        "evaluations": ["preference", "blimp"],
        "blimp": {"path": str(tmp_path)},
        "preference": {"prompts": str(tmp_path / "prompts.json"), "per_emotion": 1},
        "sampling": {"max_tokens": 24},
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": str(tmp_path / "out")},
        "metrics": {"port": None},
    }
    with pytest.raises(JobError, match="--only = quality: the job has no such evaluation"):
        evaluate(job, only=["quality"])
    first = evaluate(job, only=["preference"])
    assert first.left_out == ["blimp"] and "left them out: blimp." in (tmp_path / "out" / "README.md").read_text()
    page = tmp_path / "out" / "preference" / "questionnaire.html"
    assert Path(first.preference.page) == page and first.as_json()["preference"]["found"] is None
    key = json.loads((page.parent / "questionnaire.key.json").read_text())
    assert key["models"] == ["one", "two"] and [each["text"] for each in key["prompts"]] == [
        "Tell of a party.",
        "Tell of a queue.",
    ]
    assert "Tell of a party." in page.read_text() and "Tell of rain." not in page.read_text()

    questionnaire = Questionnaire(str(page), str(page.parent / "questionnaire.key.json"), key["questionnaire"])
    for number, choices in enumerate((["two", "two"], ["two", None])):
        returned(questionnaire, tmp_path / f"answers-{number}.json", choices, respondent=number)
    job["preference"]["returned"] = [str(tmp_path / "answers-*.json")]
    found = evaluate(job, only=["preference"]).as_json()["preference"]["found"]
    assert {name: chosen["count"] for name, chosen in found["models"].items()} == {"two": 3, "one": 0}
    assert (found["respondents"], found["blanks"]) == (2, 1)
    assert "Preferences of the respondents" in (tmp_path / "out" / "README.md").read_text()

    job["preference"]["returned"] = [str(tmp_path / "nothing-*.json")]
    with pytest.raises(JobError, match="no file is there"):
        evaluate(job, only=["preference"])


def test_models_are_read_through_the_lens_side_by_side(tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setattr(logit_lens, "spread_over_model", in_this_process)
    models = [{"path": save_tiny(tmp_path / name)} for name in ("one", "two")]
    job = {
        "name": "seen",
        "models": [*models, {"path": str(tmp_path / "gone")}],
        "evaluations": ["logit_lens"],
        "logit_lens": {"texts": ["A good day.", "<b>Bad</b>"]},
        "output": {"path": str(tmp_path / "out")},
    }
    report = evaluate(job)
    assert list(report.failures) == ["gone"]
    found = report.as_json()["models"]["two"]["logit_lens"]
    assert [each["text"] for each in found] == ["A good day.", "<b>Bad</b>"]
    assert found[0]["layers"] == 2 and all(0 <= layer <= 2 for layer in found[0]["settles_at"])
    pages = tmp_path / "out" / "logit_lens"
    assert {path.name for path in pages.iterdir()} == {"logit_lens.html", "logit_lens-0.png", "logit_lens-1.png"}
    assert "<b>Bad" not in (pages / "logit_lens.html").read_text()

    monkeypatch.setattr(logit_lens, "spread_over_model", None)  # what is done is not done again
    assert evaluate(job).as_json()["models"] == report.as_json()["models"]


def test_a_fault_of_a_later_evaluation_is_found_before_the_first_begins(tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Tell of a party.", "emotion": "joy"}])
    job = {
        "name": "late",
        "models": [{"id": "fake"}],
        "evaluations": ["sentiment", "blimp"],
        "sentiment": {"prompts": str(tmp_path / "prompts.jsonl")},
        "blimp": {"path": str(tmp_path)},
        "output": {"path": str(tmp_path / "out")},
    }
    with pytest.raises(JobError, match="no such column; it has prompt, emotion"):
        evaluate(job)
    assert not (tmp_path / "out").exists()
