"""`kindling export --format prompts`: one set of evaluation prompts of all lists that a run made."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.inputs.near_duplicates import NearDuplicates
from pipelines.run_folder import open_run, read_part, write_errors
from schemas.emotions import EMOTIONS
from schemas.errors import RunError
from schemas.rows import ACCEPTED, FOLDER_OF_STATE, REJECTED
from services.storage.filesystem import resolve, write_atomic
from services.storage.store import ShardStore, shard_path


@dataclass
class EmotionPrompts:
    """What became of the tasks for one emotion.

    Attributes:
        prompts: those that were kept, in row order.
        duplicates: tasks that say what an earlier one says, or almost.
        spare: others that came when there were enough.
        unparsed: lines and items that could not be read as a task.
        refused: answers in which no task was found.
        short: prompts that are missing.
    """

    prompts: list[str] = field(default_factory=list)
    duplicates: int = 0
    spare: int = 0
    unparsed: int = 0
    refused: int = 0
    short: int = 0


@dataclass(frozen=True)
class PromptSet:
    """What `export_prompts` wrote: the file, and how it came about, by emotion."""

    to: str
    emotions: dict[str, EmotionPrompts]
    complete: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`; the prompts are counted, and not repeated."""
        found = {name: {**asdict(each), "prompts": len(each.prompts)} for name, each in self.emotions.items()}
        return {**asdict(self), "emotions": found}


def export_prompts(url: str, to: str, per_emotion: int = 30) -> PromptSet:
    """Collects the tasks of a run of the recipe `evaluation_prompts`, each once.

    Args:
        url: the run folder.
        to: a file that is not there yet, local or a URL: `{emotion: [prompt, ...]}` as JSON.
        per_emotion: prompts to keep of each emotion, the first ones in row order.

    Raises:
        RunError: no such run, a run of another recipe, no prompt in it, a damaged shard, or something is there already.
    """
    store = ShardStore(url)
    run = open_run(store)
    if run.job["recipe"] != "evaluation_prompts":
        cause = f"the run was made by the recipe {run.job['recipe']}, which makes no prompts"
        raise RunError("--format", "prompts", cause, "name a run of evaluation_prompts; see docs/job-file.md")
    fs, path = resolve(to, "--to")
    if fs.exists(path):
        raise RunError("--to", to, "there is something there already", "name a file that is not there yet")
    committed = sorted(store.committed_shards())
    found = {emotion: EmotionPrompts() for emotion in EMOTIONS}
    texts = {emotion: NearDuplicates() for emotion in EMOTIONS}
    for shard in committed:
        refused = Counter(emotion for emotion, _, _ in _rows(store, REJECTED, shard))
        for emotion, rows in refused.items():
            found[emotion].refused += rows
        for emotion, text, rest in _rows(store, ACCEPTED, shard):
            found[emotion].unparsed += len(rest.split("\n")) if rest else 0
            for task in json.loads(text):
                _add(found[emotion], texts[emotion], task, per_emotion)
    for each in found.values():
        each.short = per_emotion - len(each.prompts)
    prompts = {emotion: each.prompts for emotion, each in found.items() if each.prompts}
    if not prompts:
        raise RunError("RUN", url, "it has no prompt yet", "`kindling status` tells how far it is, and what it refused")
    with write_errors(to, "--to"):
        write_atomic(fs, path, f"{json.dumps(prompts, ensure_ascii=False, indent=1)}\n".encode())
    return PromptSet(to, found, len(committed) == run.shards)


def _rows(store: ShardStore, state: str, shard: int) -> Iterator[tuple[str, str, str]]:
    """(emotion, text, reason) of a committed shard's rows in one state."""
    path = shard_path(FOLDER_OF_STATE[state], shard)
    if state != ACCEPTED and path not in store.read_manifest(shard).siblings:
        return
    columns = ["emotion", "text", "reason"]
    table = read_part(store, path, columns)
    yield from zip(*(table[name].to_pylist() for name in columns), strict=True)


def _add(found: EmotionPrompts, texts: NearDuplicates, task: dict[str, str], most: int) -> None:
    instruction, given = task["instruction"], task["input"]
    number = len(found.prompts) + found.spare
    if texts.find_or_add(f"{instruction} {given}", number) is not None:
        found.duplicates += 1
    elif len(found.prompts) < most:
        found.prompts.append(f"Instruction: {instruction}" + (f" Input: {given}" if given else ""))
    else:
        found.spare += 1
