"""The dataset card of a label run: README.md."""

from typing import Any

import yaml

from pipelines.labelling.contexts import CONTEXT_SCHEMA


def contexts_card(run: dict[str, Any], summary: dict[str, Any]) -> str:
    """Makes the card as Markdown.

    Args:
        run: content of run.json.
        summary: counts of the committed shards, as in `LabelSummary`.
    """
    header = {
        "pretty_name": run["name"],
        "tags": ["emotions", "kindling"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    }
    counts, job = summary["counts"], run["job"]
    columns = "\n".join(f"| `{f.name}` | {f.type} | {f.metadata[b'description'].decode()} |" for f in CONTEXT_SCHEMA)
    sources = "\n".join(
        f"| `{name}` | {source['sentences']} | {source['kept']} |" for name, source in summary["sources"].items()
    )
    emotions = "\n".join(f"| {name} | {number} |" for name, number in summary["emotions"].items())
    dropped = "\n".join(f"| {rule} | {number} |" for rule, number in summary["dropped"].items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {run["name"]}

Sentences of raw text with the emotions that `{job["classifier"]["id"]}` found in them. A sentence is kept where its
best label is not neutral and reaches the threshold ({job["threshold"]}); it has every label that reaches it.

| | |
| --- | --- |
| lines | {counts.get("lines", 0)} |
| sentences scored | {counts.get("sentences", 0)} |
| kept | {counts.get("kept", 0)} |
| best label neutral | {counts.get("neutral", 0)} |
| best label below the threshold | {counts.get("unsure", 0)} |
| shards | {counts.get("shards", 0)} of {len(run["ranges"])} |
| fingerprint | `{run["fingerprint"]}` |
| made with | {", ".join(f"{name} {version}" for name, version in run["versions"].items())} |

| source | sentences scored | kept |
| --- | --- | --- |
{sources}

| emotion | sentences with it |
| --- | --- |
{emotions}

| not scored | lines or sentences |
| --- | --- |
{dropped}

| column | type | meaning |
| --- | --- | --- |
{columns}
"""
