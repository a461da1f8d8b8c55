"""`kindling demo`: a complete augmentation job on the embedded model and a small corpus, and a page of its results."""

import json
from importlib.resources import files
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

from pipelines.augmentation.augment import augment
from pipelines.augmentation.summary import Summary
from schemas.augment import AugmentJob
from schemas.job_parsing import parse_job
from schemas.text import plural
from services.storage.store import ShardStore

_MAX_SAMPLES = 4
_MAX_CHARACTERS = 420


def demo_job(path: str) -> AugmentJob:
    """Returns the job of the demo: 56 sentences, two for each of the 28 emotions, with prompt p3."""
    return parse_job(
        {
            "name": "demo",
            "input": {
                "path": str(files("pipelines") / "data" / "demo_corpus.jsonl"),
                "columns": {"emotion": "emotions"},
                "keep": ["source"],
            },
            "recipe": "babylm_story",
            "prompt": "p3",
            "sampling": {"temperature": 0.9, "top_p": 0.95, "max_tokens": 160},
            "engine": {"max_model_len": 1024},
            "output": {"path": path, "rows_per_shard": 16},
        },
        AugmentJob,
    )


def demo(path: str = "runs/demo") -> Summary:
    """Runs the demo, writes the run to `path` and prints its page; a second call resumes, or shows the page again."""
    console = Console()
    summary = augment(demo_job(path))
    console.print(page(summary))
    return summary


def page(summary: Summary) -> Group:
    """Makes the page: some outputs beside their input sentences, and the figures of the run."""
    table = Table(show_lines=True, expand=True, title="What the model made of the corpus", title_justify="left")
    table.add_column("asked for", style="bold", width=14)
    table.add_column("context", ratio=1)
    table.add_column("story", ratio=3)
    for row in _samples(summary.run):
        context = json.loads(row["inputs"])["context"]
        table.add_row(row["emotion"], context, _shortened(row["text"]))
    rate = f"{summary.tokens_per_second:.0f} accepted output tokens/s"
    speed = rate if summary.generated else "nothing was left to generate"
    errors = f", {plural(summary.rows['error'], 'error')}" if summary.rows["error"] else ""
    facts = [
        f"rows      {summary.rows['accepted']} accepted{errors}, in {plural(summary.shards, 'shard')}",
        f"tokens    {summary.output_tokens} written; {speed}",
        f"dataset   {summary.run}/data/*.parquet, described in {summary.run}/README.md",
        f'load it   datasets.load_dataset("{summary.run}", split="train")',
        f"prove it  kindling verify {summary.run}",
    ]
    return Group(table, Panel("\n".join(facts), title="The run", title_align="left", expand=False))


def _samples(run: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in ShardStore(run).read_rows(columns=["emotion", "inputs", "text"]):
        rows += batch.to_pylist()
        if len(rows) >= _MAX_SAMPLES:
            break
    return rows[:_MAX_SAMPLES]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS].rsplit(" ", 1)[0] + " ..."
