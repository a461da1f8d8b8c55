"""The rows and prompts that every arm of a benchmark serves.

The kinds of prompt load an engine differently. `p3` shares a long prefix (the task and its examples), `unique` shares
nothing, and the outputs of `alpaca` differ most in length. `messages` are the prompts of p3 with `top_p: 1`, where no
sampler of ours is at work: it shows what the service itself costs. An output ends where the model ends it, or at a
limit.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.recipes.babylm import BabylmStory
from pipelines.recipes.messages import Messages
from pipelines.recipes.template import Template
from schemas.emotions import EMOTIONS
from schemas.rows import row_seed

_PROMPTS = Path(__file__).parent / "prompts"
_RECIPES = {"babylm_story": BabylmStory, "template": Template}
# As the paper samples. The limit is there for a model that does not find its end.
_SAMPLING = {"temperature": 0.9, "top_p": 0.95, "max_tokens": 512}
# At this temperature the embedded model does not end half of its stories: a higher limit would make most of them equal
# in length.
_STORY_TOKENS = 256
_MESSAGE_TOKENS = 96
_OPENING_TOKENS = 32
_MAX_STORY_WORDS = 150
_OPENING_WORDS = 3


@dataclass(frozen=True)
class WorkloadFiles:
    """A workload on disk.

    Attributes:
        rows: JSON Lines file, the input of a job.
        requests: JSON file of a baseline process (`worker.Requests`): messages, seeds and sampling of the same job.
    """

    workload: "Workload"
    rows: Path
    requests: Path


@dataclass(frozen=True)
class Workload:
    """Rows, and the request to the model that each of them becomes.

    Attributes:
        prompt: name of a shipped prompt, or a path, as in a job file; None for the recipe messages.
        rows: input rows with the recipe's fields.
        sampling: keys of `schemas.job.Sampling`.
    """

    name: str
    recipe: str
    prompt: str | None
    rows: list[dict[str, Any]]
    sampling: dict[str, Any]

    def messages(self) -> list[list[dict[str, str]]]:
        """Returns the conversation of each row, as the recipe renders it."""
        recipe = _RECIPES[self.recipe](self.prompt) if self.prompt else Messages()
        return [recipe.render(row, seed=0).messages for row in self.rows]  # the seed changes nothing in these prompts

    def seeds(self, source: str) -> list[int]:
        """Returns the seed that a job gives to each row of the input file `source`."""
        return [row_seed(0, source, index, 0) for index in range(len(self.rows))]

    def write(self, folder: Path) -> WorkloadFiles:
        """Writes the files that all arms serve: equal prompts, equal seeds, equal work."""
        files = WorkloadFiles(self, folder / f"{self.name}.jsonl", folder / f"{self.name}.json")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        files.rows.write_text("".join(lines), encoding="utf-8")
        requests = {"messages": self.messages(), "seeds": self.seeds(str(files.rows)), "sampling": self.sampling}
        files.requests.write_text(json.dumps(requests), encoding="utf-8")
        return files


def p3(data: Path, count: int) -> Workload:
    """BabyLM sentences with the few-shot prompt p3: rows share the first 160 tokens, rows of one emotion 250 more."""
    rows = _spread(_contexts(data), count)
    return Workload("p3", "babylm_story", "p3", rows, {**_SAMPLING, "max_tokens": _STORY_TOKENS})


def p3_openings(data: Path, count: int) -> Workload:
    """Openings of such stories in random order; the numbers of rows of any two emotions differ by one at most."""
    by_emotion: dict[str, list[dict[str, Any]]] = {}
    for row in _contexts(data):
        by_emotion.setdefault(row["emotion"][0], []).append(row)
    share, rest = divmod(count, len(by_emotion))
    counts = [share + (number < rest) for number in range(len(by_emotion))]
    rows = [
        row
        for emotion, rows_of_emotion in zip(sorted(by_emotion), counts, strict=True)
        for row in _spread(by_emotion[emotion], rows_of_emotion)
    ]
    random.Random(0).shuffle(rows)
    return Workload("p3-openings", "babylm_story", "p3", rows, {**_SAMPLING, "max_tokens": _OPENING_TOKENS})


def unique(data: Path, count: int) -> Workload:
    """A question about a story, with the story first; no two stories begin with the same words."""
    openings, rows = set(), []
    for row in _parquet(data / "mistral_stories.parquet", ["story"]):
        words = row["story"].split()
        opening = " ".join(words[:_OPENING_WORDS]).casefold()
        if len(words) > _OPENING_WORDS and opening not in openings:
            openings.add(opening)
            rows.append({"story": " ".join(words[:_MAX_STORY_WORDS])})
    return Workload("unique", "template", str(_PROMPTS / "gist.jinja"), _spread(rows, count), _SAMPLING)


def alpaca(data: Path, count: int) -> Workload:
    """A text that is rewritten with an emotion: most outputs have one to three lines, some run on to the limit."""
    fields = ("output", "emotion")
    lines = (data / "alpaca_emotion.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{name: row[name] for name in fields} for row in map(json.loads, lines) if all(map(row.get, fields))]
    return Workload("alpaca", "template", str(_PROMPTS / "recolour.jinja"), _spread(rows, count), _SAMPLING)


def messages(data: Path, count: int) -> Workload:
    """The prompts of p3 as messages, of about 370 tokens, and answers of equal length."""
    rows = [{"messages": prompt} for prompt in p3(data, count).messages()]
    sampling = {"temperature": 0.9, "top_p": 1.0, "max_tokens": _MESSAGE_TOKENS}
    return Workload("messages", "messages", None, rows, sampling)


WORKLOADS: dict[str, Callable[[Path, int], Workload]] = {
    "p3": p3, "unique": unique, "alpaca": alpaca, "messages": messages, "p3-openings": p3_openings,
}  # fmt: skip


def _contexts(data: Path) -> list[dict[str, Any]]:
    known = set(EMOTIONS)
    return [
        {"context": row["context"], "emotion": row["emotions"]}
        for row in _parquet(data / "babylm_contexts.parquet", ["context", "emotions"])
        if row["emotions"] and known.issuperset(row["emotions"]) and row["context"].strip()
    ]


def _parquet(path: Path, columns: list[str]) -> Iterable[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=columns).to_pylist()


def _spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Returns `count` rows at equal distances: rows beside each other often have one source or one emotion."""
    if count > len(rows):
        raise ValueError(f"a workload of {count} rows was asked for, and its file has only {len(rows)}")
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(count)]
