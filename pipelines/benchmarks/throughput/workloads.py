"""The rows and prompts that every arm of a benchmark serves.

Three kinds of prompt load an engine differently: `p3` shares a long prefix (the task and its examples), `unique`
shares nothing, and the answers of `alpaca` differ most in length. All end where the model ends them, or at a cap where
it does not.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.recipes.babylm import BabylmStory
from pipelines.recipes.template import Template
from schemas.emotions import EMOTIONS
from schemas.rows import row_seed

_PROMPTS = Path(__file__).parent / "prompts"
_RECIPES = {"babylm_story": BabylmStory, "template": Template}
# As the paper's field samples. The cap is only there for a model that does not find its end.
_SAMPLING = {"temperature": 0.9, "top_p": 0.95, "max_tokens": 512}
# The embedded model, warm as it is sampled, lets half of its stories run on: they would all be as long as the cap.
_STORY_TOKENS = 256
_OPENING_TOKENS = 32
_STORY_WORDS = 150
_OPENING_WORDS = 3


@dataclass(frozen=True)
class Workload:
    """Rows, and what is asked of the model for each.

    Attributes:
        prompt: as in a job file: the name of a shipped prompt, or a path.
        rows: the recipe's fields of each row.
        sampling: keys of `schemas.job.Sampling`.
        engine: engine arguments that this workload needs beside those of its benchmark.
    """

    name: str
    recipe: str
    prompt: str
    rows: list[dict[str, Any]]
    sampling: dict[str, Any]
    engine: dict[str, Any] = field(default_factory=dict)

    def messages(self) -> list[list[dict[str, str]]]:
        """The conversation of each row, as the recipe renders it."""
        recipe = _RECIPES[self.recipe](self.prompt)
        return [recipe.render(row, seed=0).messages for row in self.rows]  # these prompts draw nothing

    def seeds(self, source: str) -> list[int]:
        """The seed that a job gives each row of the input file `source`: equal seeds, equal work."""
        return [row_seed(0, source, index, 0) for index in range(len(self.rows))]

    def write(self, path: Path) -> None:
        """Writes the rows as a JSON Lines input of a job."""
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows), encoding="utf-8")

    def write_requests(self, path: Path, source: str) -> None:
        """Writes what a baseline process serves: the messages, seeds and sampling of the same job."""
        requests = {"messages": self.messages(), "seeds": self.seeds(source), "sampling": self.sampling}
        path.write_text(json.dumps(requests), encoding="utf-8")


def p3(data: Path, count: int) -> Workload:
    """BabyLM sentences through the few-shot prompt p3: the first 160 tokens are everybody's, 250 more an emotion's."""
    rows = _spread(_contexts(data), count)
    return Workload("p3", "babylm_story", "p3", rows, {**_SAMPLING, "max_tokens": _STORY_TOKENS})


def p3_openings(data: Path, count: int) -> Workload:
    """The first words of such stories, all emotions as often (but for the rest of the division), in random order."""
    by_emotion: dict[str, list[dict[str, Any]]] = {}
    for row in _contexts(data):
        by_emotion.setdefault(row["emotion"][0], []).append(row)
    share, rest = divmod(count, len(by_emotion))
    counts = [share + (number < rest) for number in range(len(by_emotion))]
    rows = [
        row
        for emotion, wanted in zip(sorted(by_emotion), counts, strict=True)
        for row in _spread(by_emotion[emotion], wanted)
    ]
    random.Random(0).shuffle(rows)
    return Workload("p3-openings", "babylm_story", "p3", rows, {**_SAMPLING, "max_tokens": _OPENING_TOKENS})


def unique(data: Path, count: int) -> Workload:
    """What happens in a story, the story first; no two of the stories open with the same words."""
    openings, rows = set(), []
    for row in _parquet(data / "mistral_stories.parquet", ["story"]):
        words = row["story"].split()
        opening = " ".join(words[:_OPENING_WORDS]).casefold()
        if len(words) > _OPENING_WORDS and opening not in openings:
            openings.add(opening)
            rows.append({"story": " ".join(words[:_STORY_WORDS])})
    return Workload("unique", "template", str(_PROMPTS / "gist.jinja"), _spread(rows, count), _SAMPLING)


def alpaca(data: Path, count: int) -> Workload:
    """An answer said again with an emotion: mostly a line or three, at times a page without an end."""
    fields = ("output", "emotion")
    lines = (data / "alpaca_emotion.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{name: row[name] for name in fields} for row in map(json.loads, lines) if all(map(row.get, fields))]
    return Workload("alpaca", "template", str(_PROMPTS / "recolour.jinja"), _spread(rows, count), _SAMPLING)


WORKLOADS: dict[str, Callable[[Path, int], Workload]] = {"p3": p3, "unique": unique, "alpaca": alpaca}


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
    """`count` of the rows, evenly over them all: neighbours are often of one source or emotion."""
    if count > len(rows):
        raise ValueError(f"{count} rows asked for, and there are {len(rows)}")
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(count)]
