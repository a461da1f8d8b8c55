"""The evaluations that end in pages: a questionnaire that comes back, and the logit lens."""

import json
from pathlib import Path

import pytest

from eval.questionnaire import Questionnaire
from pipelines import evaluate
from pipelines.evaluation import logit_lens
from schemas.errors import JobError
from tests.support.evaluations import in_this_process, returned
from tests.support.files import write_jsonl
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = {"joy": ["Tell of a party.", "Tell of rain."], "anger": ["Tell of a queue."]}


def test_a_questionnaire_is_made_of_the_models_responses_and_counted_when_it_is_back(tmp_path, ray_cluster):
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    job = {
        "name": "liked",
        "models": [{"id": "fake", "name": "one"}, {"id": "fake", "name": "two"}],
        "evaluations": ["preference"],
        "preference": {"prompts": str(tmp_path / "prompts.json"), "per_emotion": 1},
        "sampling": {"max_tokens": 24},
        "cluster": {"cpus_per_replica": 1},
        "output": {"path": str(tmp_path / "out")},
        "metrics": {"port": None},
    }
    first = evaluate(job)
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
    found = evaluate(job).as_json()["preference"]["found"]
    assert {name: chosen["count"] for name, chosen in found["models"].items()} == {"two": 3, "one": 0}
    assert (found["respondents"], found["blanks"]) == (2, 1)
    assert "Preferences of the respondents" in (tmp_path / "out" / "README.md").read_text()

    job["preference"]["returned"] = [str(tmp_path / "nothing-*.json")]
    with pytest.raises(JobError, match="no file is there"):
        evaluate(job)


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
    with pytest.raises(JobError, match="67 of 67 paradigms are missing"):
        evaluate(job)
    assert not (tmp_path / "out").exists()
