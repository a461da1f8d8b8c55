"""Small evaluate runs, and a study of them, as `kindling report` reads them: written without a model."""

import json
import random
from pathlib import Path

import numpy as np

from eval.blimp import PARADIGMS
from eval.emobench import Item, Question
from eval.sentiment import PAPER_GROUPS
from pipelines.evaluation.blimp_results import write_blimp
from pipelines.evaluation.emobench_results import write_emobench
from pipelines.evaluation.record import write_result
from pipelines.evaluation.responses import Response
from pipelines.evaluation.sentiment_results import write_sentiment
from schemas.emotions import EMOTIONS
from schemas.evaluate import EvaluateJob
from schemas.study import StudyJobRecord, StudyRecord
from services.models.minimal_pairs import MinimalPair
from services.storage.store import ShardStore

PROMPTS = [(emotion, f"Write {number} words about {emotion}.") for emotion in EMOTIONS for number in range(4)]
_WORDS = ["sun", "rain", "door", "hill", "boat", "song", "kite", "moon", "stone", "path", "river", "apple"]


def write_evaluation(
    folder, models, name="compare", positive=None, right=None, classifier="embedded", paradigms=tuple(PARADIGMS)[::8],
    changes=None, is_given=False, emobench=None, lm_eval=None,
):  # fmt: skip
    """An evaluate run: each model's responses are positive, and its pairs and items right, with these probabilities.

    Args:
        models: name of each model -> its path.
        positive, right, emobench: probabilities by name; an evaluation of which none is given is not run.
        lm_eval: by name the value of the metric of the task `mine`; None where that has no result.
        is_given: the responses were scored again, by a job that has them in place of models.
        changes: for a name the responses to some prompts, by their number, in place of made-up ones.
    """
    store = ShardStore(str(folder))
    chosen = {"sentiment": positive, "blimp": right, "emobench": emobench, "lm_eval": lm_eval}
    evaluations = [each for each, given in chosen.items() if given]
    job = EvaluateJob.model_validate({
        "name": name, "models": [] if is_given else [{"path": path, "name": label} for label, path in models.items()],
        "responses": [{"path": "r.json", "name": label} for label in models] if is_given else None,
        "evaluations": evaluations, "sentiment": {"prompts": "prompts.json"}, "output": {"path": str(folder)},
        "emobench": {"path": "data"} if emobench else None, "lm_eval": {"tasks": ["mine"]} if lm_eval else None,
    })  # fmt: skip
    store.write_text("evaluate.json", json.dumps({
        "format": 1, "name": name, "written_at": "2026-11-30T10:00:00+00:00", "job": job.model_dump(mode="json"),
        "versions": {"python": "3.11.7", "kindling": "0.2.0"}, "failures": {},
    }))  # fmt: skip
    for label, path in models.items():
        facts = {"model.path": path, "model.found": f"content of {path}", "model.dtype": "auto"}
        if is_given:
            facts = {"responses": f"of {label}"}
        if positive:
            groups = {f"sentiment.groups.{group}": sorted(emotions) for group, emotions in PAPER_GROUPS.items()}
            identity = {**facts, **groups, "sentiment.classifier.id": classifier}
            if not is_given:
                identity["sampling.temperature"] = 0.0
            responses, scores = _responses(label, positive[label], (changes or {}).get(label, {}))
            write_sentiment(store, label, responses, scores, PAPER_GROUPS, identity, {})
        if right:
            write_blimp(store, label, *_pairs(label, right[label], paradigms), {**facts, "blimp.pairs": "some"})
        if emobench:
            items, sums = _items(label, emobench[label])
            identity = {**facts, "emobench.scoring": "cloze", "emobench.items": "some"}
            write_emobench(store, label, items, sums, "cloze", identity)
        if lm_eval and lm_eval[label] is not None:
            score = {"task": "mine", "metric": "acc", "value": lm_eval[label], "stderr": 0.01, "n": 50, "shots": 0,
                     "version": "1"}  # fmt: skip
            write_result(store, "lm_eval", f"{label}/mine", facts, scores=[score])
    return store


def _responses(label, positive, given):
    draw = random.Random(label)
    responses, scores = [], np.zeros((len(PROMPTS), len(EMOTIONS)), np.float32)
    for number, (emotion, prompt) in enumerate(PROMPTS):
        text = given.get(number, " ".join(draw.choices(_WORDS, k=9)))
        responses.append(Response(prompt=prompt, emotion=emotion, text=text, finish_reason="stop"))
        scores[number, EMOTIONS.index("joy" if draw.random() < positive else "anger")] = 0.9
    return responses, scores


def _pairs(label, right, paradigms, count=30):
    draw = random.Random(label)
    pairs = {name: [MinimalPair(name, f"good {i}", f"bad {i}") for i in range(count)] for name in paradigms}
    return pairs, {name: np.array([1.0 if draw.random() < right else -1.0 for _ in listed])
                   for name, listed in pairs.items()}  # fmt: skip


def _items(label, right, count=40):
    """Items of one category of each task, all answers of an item right with this probability or all wrong."""
    draw, kinds = random.Random(label), {"EU": ("emotion", "cause"), "EA": ("response",)}
    items, sums = {}, {}
    for task, of_task in kinds.items():
        questions = tuple(Question(kind, f"Which {kind}?", ("aa", "bb", "cc", "dd"), 1) for kind in of_task)
        for number in range(count):
            item = Item(task, str(number), "all", "x", f"Scene {number}.", questions)
            best = 1 if draw.random() < right else 2
            items.setdefault(item.part, []).append(item)
            sums.setdefault(item.part, []).append([[float(i == best) - 2 for i in range(4)] for _ in of_task])
    return items, sums


def write_training(folder, start, parts, seed=0, curves=()):
    """A train run of one stage: its record alone."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    stage = {"kind": "sft", "parts": {name: {"run": path} for name, path in parts.items()}}
    record = {
        "format": 1, "name": folder.name, "created_at": "2026-11-30T09:00:00+00:00", "fingerprint": "ab" * 32,
        "job": {"name": folder.name, "model": {"id": start}, "stages": [stage], "seed": seed},
        "identity": {"model.id": start, "seed": seed, **{f"parts.{name}": path for name, path in parts.items()}},
        "versions": {"python": "3.11.7"},
        "stages": [{"kind": "sft", "steps": 20, "seconds": 61.0, "dev_loss_before": 2.5, "dev_loss": 2.1,
                    "dev_losses": dict(curves or {"10": 2.3, "20": 2.1})}],
        "last_metrics": {'kindling_train_tokens_total{stage="0-sft"}': 1720.0},
    }  # fmt: skip
    (folder / "train.json").write_text(json.dumps(record))
    return str(folder)


def write_study(folder, jobs, **changes):
    """study.json of jobs: name -> (kind, names of the jobs that it needs)."""
    record = StudyRecord(
        name="pocket", description="Does a small model get better?", command="kindling reproduce pocket.yaml",
        file="name: pocket\n", created_at="2026-11-30T08:00:00+00:00", versions={"python": "3.11.7"},
        machine={"processors": 2, "memory": "24 GiB"}, price_per_hour=0.5,
        jobs={name: StudyJobRecord(kind=kind, folder=name, needs=needs, identity="0", state="done", seconds=90.0)
              for name, (kind, needs) in jobs.items()},
    )  # fmt: skip
    (Path(folder) / "study.json").write_text(json.dumps({**record.model_dump(), **changes}))
    return str(folder)
