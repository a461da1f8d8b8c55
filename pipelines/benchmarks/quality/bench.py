"""`kindling bench quality`: what the loop of checks and tries gains, and what it costs, on the embedded model.

    single    each row is one generation
    loop      a text that does not express the emotion asked for is rejected and written again, up to 4 times; a judge
              answers a question about each text, in the same conversation
    rewrites  rewrites by prompt v3, written to their end: early stops are replayed over them
    cold      the judge's conversations once more, each as a new request without its prefix in the KV cache

The loop accepts by the embedded classifier. Its gain is measured by the other one, `embedded-words`, which has other
features. All arms run on one engine, one after the other.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipelines.augmentation.augment import augment
from pipelines.augmentation.shared import Shared
from pipelines.augmentation.summary import Summary
from pipelines.benchmarks.quality.replay import Recording, Replay, replay
from pipelines.benchmarks.report import Goal, conclude
from pipelines.inputs.reader import InputReader
from pipelines.jobfile import as_job
from pipelines.quality_control.scored_checks import EmotionCheck
from pipelines.recipes import make_recipes
from schemas.job import Classifier, Metrics
from schemas.quality import ExpressedEmotion, Quality
from schemas.rows import FOLDER_OF_STATE, Prompt, RowError, RowRejection, row_seed
from services.cluster import connect_to_ray
from services.models.embedded import embedded_checkpoint
from services.observability.endpoint import serve_metrics
from services.observability.series import EvaluateMetrics
from services.replicas.kept_replicas import KeptReplicas
from services.storage.store import ShardStore

_OTHER_CLASSIFIER = "embedded-words"
_MAX_TRIES = 4
_QUESTION = "Does this story show the feeling that was asked for? Answer yes or no."
_STORY_TOKENS, _REWRITE_TOKENS = 60, 200
_ENGINE = {"max_model_len": 1024, "max_num_seqs": 64, "block_size": 32}
_RULES = Quality(reject_refusals=True, reject_meta_talk=True, reject_emotion_word=True, max_repetition=0.2,
                 max_copied=0.5, stop_early=True)  # fmt: skip
_MIN_GAIN, _MIN_SPEED, _MAX_JUDGE_SHARE, _MIN_SAVED, _MIN_RECORDINGS = 1.5, 0.95, 0.25, 0.1, 2000

_TEXTS_TO_READ = 50

_console = Console(stderr=True)


def measure(rows: int, recordings: Sequence[str] | None = None) -> bool:
    """Measures and prints; returns whether all goals are met.

    Args:
        rows: number of outputs in each arm.
        recordings: JSON Lines or Parquet files with further recorded responses: columns `text`, and `emotion` where it
            was asked for.
    """
    recordings = recordings or []
    data = files("pipelines") / "data"
    with tempfile.TemporaryDirectory(prefix="kindling-bench-") as scratch:
        folder = Path(scratch)
        question = folder / "question.jinja"
        question.write_text(_QUESTION)
        stories = _job(folder, str(data / "demo_corpus.jsonl"), "babylm_story", "p3", _STORY_TOKENS, rows)
        loop = {
            "quality": {"expressed_emotion": "group", "max_tries": _MAX_TRIES},
            "generations": [
                {"name": "story"},
                {"name": "fits", "kind": "judge", "follows": "story", "prompt": str(question)},
            ],
        }
        rewrites = _job(folder, str(data / "demo_instructions.jsonl"), "alpaca_rewrite", "v3", _REWRITE_TOKENS, rows)
        arms = {"single": stories, "loop": stories | loop, "rewrites": rewrites}
        metrics = EvaluateMetrics("bench-quality")
        summaries: dict[str, Summary] = {}
        with (
            connect_to_ray(None),
            serve_metrics(metrics, Metrics(port=0, targets=None)) as address,
            KeptReplicas() as replicas,
        ):
            shared = Shared(replicas, metrics, address)
            for name, job in arms.items():
                summaries[name] = _run(folder, name, job, shared)
            cold = _cold_judge(folder, ShardStore(summaries["loop"].run), shared)
        samples = _measured(summaries, cold)
        replays = _replays(summaries, arms, recordings)
    samples["replay"] = {name: vars(counts) for name, counts in replays.items()}
    _print_table(samples)
    settings = {
        "rows": rows,
        "max_tries": _MAX_TRIES,
        "engine": _ENGINE,
        "recordings": [Path(path).name for path in recordings],
    }
    return conclude("quality", settings, samples, _goals(samples, replays))


def _job(folder: Path, path: str, recipe: str, prompt: str, max_tokens: int, rows: int) -> dict[str, Any]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    number = sum(1 for line in lines if line.strip())
    column = "emotions" if recipe == "babylm_story" else "emotion"
    return {
        "input": {"path": path, "columns": {"emotion": column}},
        "recipe": recipe,
        "prompt": prompt,
        "samples": -(-rows // number),
        "sampling": {"temperature": 0.9, "top_p": 0.95, "max_tokens": max_tokens},
        "engine": _ENGINE,
        "metrics": {"port": None},
    }


def _run(folder: Path, name: str, job: dict[str, Any], shared: Shared) -> Summary:
    _console.print(f"{name} ...")
    summary = augment(job | {"name": name, "output": {"path": str(folder / name), "rows_per_shard": 8}}, shared=shared)
    _console.print(f"{name}: {summary.rows}, {summary.output_tokens} tokens in {summary.serving_seconds:.0f} s")
    return summary


def _rows(store: ShardStore) -> list[dict[str, Any]]:
    """Reads the rows of a run in all states, and the tries before them."""
    states = [row for state in FOLDER_OF_STATE for batch in store.read_rows(state) for row in batch.to_pylist()]
    paths = (store.read_manifest(shard).sibling("tries") for shard in sorted(store.committed_shards()))
    return states + [row for path in paths if path for row in store.read_table(path).to_pylist()]


def _cold_judge(folder: Path, store: ShardStore, shared: Shared) -> Summary:
    """Asks the judge's question again, in conversations whose beginning no KV cache holds."""
    rows = [row for row in _rows(store) if row["generations"]][:128]
    path = folder / "conversations.jsonl"
    with path.open("w") as file:
        for number, row in enumerate(rows):
            story = json.loads(row["generations"])[0]["text"]
            # The number comes first, so that no two prompts begin alike. Its length is that of the examples of p3.
            text = f"{number}. {'A story and a feeling. ' * 60}\n{story}\n{_QUESTION}"
            file.write(json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n")
    job = {
        "input": {"path": str(path)}, "recipe": "messages", "sampling": {"max_tokens": 1}, "engine": _ENGINE,
        "metrics": {"port": None},
    }  # fmt: skip
    return _run(folder, "cold", job, shared)


def _measured(summaries: dict[str, Summary], cold: Summary) -> dict[str, Any]:
    """Returns the raw figures of all arms."""
    stores = {name: ShardStore(summary.run) for name, summary in summaries.items()}
    accepted = {
        name: [row for batch in stores[name].read_rows() for row in batch.to_pylist()] for name in ("single", "loop")
    }
    equal = min(map(len, accepted.values()))
    loop_rows = _rows(stores["loop"])
    judged = [json.loads(row["generations"])[1] for row in loop_rows if row["generations"].count('"name"') > 1]
    check_seconds = _check_seconds(loop_rows)
    cold_rows = [row for batch in ShardStore(cold.run).read_rows() for row in batch.to_pylist()]
    cold_tokens = sum(row["prompt_tokens"] - row["cached_prompt_tokens"] for row in cold_rows)
    return {
        "arms": {
            name: {
                "rows": dict(summary.rows),
                "tries": dict(summary.tries),
                "output_tokens": summary.output_tokens,
                "serving_seconds": summary.serving_seconds,
            }
            for name, summary in summaries.items()
        },
        "equal_accepted": equal,
        "margins": {
            classifier: _margins({name: rows[:equal] for name, rows in accepted.items()}, classifier)
            for classifier in ("embedded", _OTHER_CLASSIFIER)
        },
        "texts": {name: _texts_to_read(rows[:equal]) for name, rows in accepted.items()},
        "check_processor_seconds": check_seconds,
        "judge": {
            "requests": len(judged),
            "prompt_tokens": sum(each["prompt_tokens"] for each in judged),
            "cached_prompt_tokens": sum(each["cached_prompt_tokens"] for each in judged),
            "cold_tokens_per_second": cold_tokens / cold.serving_seconds,
        },
        "cores": psutil.cpu_count(logical=True),
    }


def _margins(arms: dict[str, list[dict[str, Any]]], classifier: str) -> dict[str, list[float]]:
    """Returns, for each row of each arm, the best score of the group asked for less the best other one; above 0 it is
    expressed."""
    score = EmotionCheck(ExpressedEmotion(classifier=Classifier(id=classifier))).load()
    return {
        name: [round(margin, 4) for margin in score([(row["text"], row["emotion"]) for row in rows])]
        for name, rows in arms.items()
    }


def _texts_to_read(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Returns rows from all over an arm, for a reading by people who do not know the arm."""
    step = max(len(rows) // _TEXTS_TO_READ, 1)
    return [{"emotion": row["emotion"], "text": row["text"]} for row in rows[::step][:_TEXTS_TO_READ]]


def _check_seconds(rows: Sequence[dict[str, Any]]) -> float:
    """Measures the processor time of the loop's check on the texts that it scored, on one thread."""
    import torch

    torch.set_num_threads(1)
    score = EmotionCheck(ExpressedEmotion()).load()
    items = [(row["text"], row["emotion"]) for row in rows if row["emotion"]]
    began = time.thread_time()
    score(items)
    return time.thread_time() - began


def _replays(
    summaries: dict[str, Summary], arms: dict[str, dict[str, Any]], files_: Sequence[str]
) -> dict[str, Replay]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_checkpoint())
    recorded = {name: _recordings(summaries[name], arms[name]) for name in ("single", "rewrites")}
    for path in files_:
        recorded[Path(path).name] = list(_recordings_in(path))
    return {name: replay(each, _RULES, tokenizer) for name, each in recorded.items()}


def _recordings(summary: Summary, arm: dict[str, Any]) -> list[Recording]:
    job = as_job(arm | {"name": "replay", "output": {"path": summary.run}})
    recipe = make_recipes(job)["default"]
    recordings = []
    for row in _rows(ShardStore(summary.run)):
        try:
            prompt = recipe.render(json.loads(row["inputs"]), row_seed(job.seed, row["source"], row["row_index"], 0))
        except (RowError, RowRejection):  # a row that was never sent
            continue
        # Of an accepted row the response is text and talk; of a rejected one the text is the whole response.
        response = (
            row["reason"].replace("[...]", row["text"], 1)
            if row["state"] == "accepted" and row["reason"]
            else row["text"]
        )
        recordings.append(Recording(response, prompt, recipe, job.max_tokens))
    return recordings


def _recordings_in(path: str) -> list[Recording]:
    job = as_job({"name": "replay", "input": {"path": path, "columns": {"messages": "text"}}, "recipe": "messages",
                  "output": {"path": "unused"}})  # fmt: skip
    recipe = make_recipes(job)["default"]
    reader = InputReader(job.input.model_copy(update={"columns": {}}), ["text", "emotion"], ["emotion"])
    recordings = []
    for _, _, row in reader.all_rows():
        values = row.values or {}
        if isinstance(text := values.get("text"), str) and text.strip():
            emotion = values.get("emotion")
            prompt = Prompt([], {}, emotion=emotion if isinstance(emotion, str) else "")
            recordings.append(Recording(text, prompt, recipe, max(1024, len(text))))
    return recordings


def _shares(samples: dict[str, Any], classifier: str) -> dict[str, float]:
    margins = samples["margins"][classifier]
    return {name: sum(margin > 0 for margin in of_arm) / max(len(of_arm), 1) for name, of_arm in margins.items()}


def _speeds(samples: dict[str, Any]) -> dict[str, float]:
    """Returns tokens/s of both arms, and of the loop without the time of its check and its judge."""
    single, loop, judge = samples["arms"]["single"], samples["arms"]["loop"], samples["judge"]
    computed = judge["prompt_tokens"] - judge["cached_prompt_tokens"]
    own = samples["check_processor_seconds"] / samples["cores"] + computed / judge["cold_tokens_per_second"]
    tokens = loop["output_tokens"]
    return {
        "single": single["output_tokens"] / single["serving_seconds"],
        "loop": tokens / loop["serving_seconds"],
        "loop without check and judge": tokens / (loop["serving_seconds"] - own),
    }


def _goals(samples: dict[str, Any], replays: dict[str, Replay]) -> list[Goal]:
    shares, speeds, judge = _shares(samples, _OTHER_CLASSIFIER), _speeds(samples), samples["judge"]
    computed = judge["prompt_tokens"] - judge["cached_prompt_tokens"]
    responses = sum(each.responses for each in replays.values())
    rewrites = replays["rewrites"]
    return [
        Goal("expressed as asked, loop over single", shares["loop"] / max(shares["single"], 1e-9), _MIN_GAIN),
        Goal("tokens/s, loop over single, own time of check and judge taken off",
             speeds["loop without check and judge"] / speeds["single"], _MIN_SPEED),
        Goal("judge's computed prompt tokens over all of them", computed / judge["prompt_tokens"], _MAX_JUDGE_SHARE,
             at_least=False),
        Goal("recorded responses", responses, _MIN_RECORDINGS),
        Goal("false early stops", sum(each.false_stops for each in replays.values()), 0, at_least=False),
        Goal("tokens saved on v3", rewrites.saved_tokens / max(rewrites.tokens, 1), _MIN_SAVED),
    ]  # fmt: skip


def _print_table(samples: dict[str, Any]) -> None:
    table = Table("", "single", "loop")
    arms = samples["arms"]
    table.add_row("accepted rows", *(str(arms[name]["rows"]["accepted"]) for name in ("single", "loop")))
    table.add_row("output tokens", *(str(arms[name]["output_tokens"]) for name in ("single", "loop")))
    for classifier in samples["margins"]:
        shares = _shares(samples, classifier)
        label = f"expressed as asked, by {classifier} (first {samples['equal_accepted']} rows)"
        table.add_row(label, *(f"{shares[name]:.1%}" for name in ("single", "loop")))
    speeds = _speeds(samples)
    table.add_row("output tokens/s", *(f"{speeds[name]:.1f}" for name in ("single", "loop")))
    table.add_row("  without the time of check and judge", "", f"{speeds['loop without check and judge']:.1f}")
    Console(width=120).print(table)
    early = Table("early stops, replayed", "responses", "accepted", "stopped", "false", "95% bound", "tokens saved")
    for name, counts in samples["replay"].items():
        each = Replay(**counts)
        early.add_row(
            name, str(each.responses), str(each.accepted), str(each.stopped), str(each.false_stops),
            f"{each.false_stop_bound:.2%}", f"{each.saved_tokens / max(each.tokens, 1):.1%}",
        )  # fmt: skip
    Console(width=120).print(early)
