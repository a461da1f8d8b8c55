"""`kindling export --format prompts`: collects one set of evaluation prompts from all task lists of a run."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.inputs.near_duplicates import NearDuplicates
from pipelines.run_folder import open_run, read_part, write_errors
from schemas.emotions import EMOTIONS
from schemas.errors import RunError
from schemas.rows import ACCEPTED, REJECTED
from services.storage.filesystem import resolve, write_atomic
from services.storage.store import ShardStore

PROMPTS_PER_EMOTION = 30
"""number of prompts for each emotion where none is given: the paper's"""


@dataclass
class EmotionPrompts:
    """Prompts for one emotion, and counts of the tasks that were not taken.

    Attributes:
        prompts: kept prompts, in row order.
        duplicates: number of tasks that are the same as an earlier one, or nearly.
        spare: number of further tasks, after enough prompts were kept.
        unparsed: number of lines and items that could not be read as a task.
        refused: number of responses without any task.
        short: number of prompts that are missing.
    """

    prompts: list[str] = field(default_factory=list)
    duplicates: int = 0
    spare: int = 0
    unparsed: int = 0
    refused: int = 0
    short: int = 0


@dataclass(frozen=True)
class PromptSet:
    """Result of `export_prompts`.

    Attributes:
        to: the file.
        emotions: prompts and counts by emotion.
        complete: True where all shards of the run were committed.
    """

    to: str
    emotions: dict[str, EmotionPrompts]
    complete: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`, with the number of prompts in place of the prompts."""
        counts = {name: {**asdict(emotion), "prompts": len(emotion.prompts)} for name, emotion in self.emotions.items()}
        return {**asdict(self), "emotions": counts}


def export_prompts(url: str, to: str, per_emotion: int = PROMPTS_PER_EMOTION) -> PromptSet:
    """Collects the tasks of a run of the recipe `evaluation_prompts`, each once.

    Args:
        url: the run folder.
        to: a new file, a local path or a URL; it will hold `{emotion: [prompt, ...]}` as JSON.
        per_emotion: number of prompts to keep for each emotion, the first ones in row order.

    Raises:
        RunError: the folder holds no run, a run of another recipe, or no prompt yet; a shard is damaged; or `to` exists
            already or cannot be written.
    """
    fs, path = resolve(to, "--to")
    if fs.exists(path):
        raise RunError("--to", to, "it exists already", "name a new file")
    emotions, complete = collect_prompts(url, per_emotion)
    prompts = {emotion: collected.prompts for emotion, collected in emotions.items() if collected.prompts}
    with write_errors(to, "--to"):
        write_atomic(fs, path, f"{json.dumps(prompts, ensure_ascii=False, indent=1)}\n".encode())
    return PromptSet(to, emotions, complete)


def collect_prompts(url: str, per_emotion: int) -> tuple[dict[str, EmotionPrompts], bool]:
    """Collects the tasks of a run of the recipe `evaluation_prompts`, each once.

    Args:
        url: the run folder.
        per_emotion: number of prompts to keep for each emotion, the first ones in row order.

    Returns:
        (prompts and counts by emotion, whether all shards of the run were committed).

    Raises:
        RunError: the folder holds no run, a run of another recipe, or no prompt yet; or a shard is damaged.
    """
    store = ShardStore(url)
    run = open_run(store)
    if run.job["recipe"] != "evaluation_prompts":
        cause = f"the run was made by the recipe {run.job['recipe']}, which makes no prompts"
        raise RunError("--format", "prompts", cause, "name a run of evaluation_prompts; see docs/job-file.md")
    emotions = {emotion: EmotionPrompts() for emotion in EMOTIONS}
    texts = {emotion: NearDuplicates() for emotion in EMOTIONS}
    for part in store.live_parts(REJECTED):
        for emotion, _, _ in _rows(store, REJECTED, part):
            emotions[emotion].refused += 1
    for part in store.live_parts(ACCEPTED):
        for emotion, text, rest in _rows(store, ACCEPTED, part):
            emotions[emotion].unparsed += len(rest.split("\n")) if rest else 0
            for task in json.loads(text):
                _add(emotions[emotion], texts[emotion], task, per_emotion)
    for collected in emotions.values():
        collected.short = per_emotion - len(collected.prompts)
    if not any(collected.prompts for collected in emotions.values()):
        remedy = "`kindling status` shows the progress of the run, and its rejected rows"
        raise RunError("RUN", url, "it has no prompt yet", remedy)
    return emotions, len(store.committed_shards()) == run.shards


def _rows(store: ShardStore, state: str, part: int) -> Iterator[tuple[str, str, str]]:
    """Yields (emotion, text, reason) of the rows of a committed part in one state."""
    path = store.file_of(part, state)
    if path is None:
        return
    columns = ["emotion", "text", "reason"]
    table = read_part(store, path, columns)
    yield from zip(*(table[name].to_pylist() for name in columns), strict=True)


def _add(collected: EmotionPrompts, texts: NearDuplicates, task: dict[str, str], max_prompts: int) -> None:
    instruction, task_input = task["instruction"], task["input"]
    number = len(collected.prompts) + collected.spare
    if texts.find_or_add(f"{instruction} {task_input}", number) is not None:
        collected.duplicates += 1
    elif len(collected.prompts) < max_prompts:
        collected.prompts.append(f"Instruction: {instruction}" + (f" Input: {task_input}" if task_input else ""))
    else:
        collected.spare += 1
