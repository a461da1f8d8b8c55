"""The model card: README.md of a trained model, with the YAML header that the Hub reads."""

from typing import Any

import yaml

_WHAT = {"frozen": "left as they are", "trained": "trained with it"}


def classifier_card(record: dict[str, Any]) -> str:
    """The card of an emotion classifier as Markdown.

    Args:
        record: what train.json says.
    """
    job, report = record["job"], record["report"]
    (stage,) = job["stages"]
    license_ = {"license": job["license"]} if job["license"] else {}
    header = {
        **license_,
        "pretty_name": record["name"],
        "tags": ["text-classification", "emotions", "goemotions", "kindling"],
        "pipeline_tag": "text-classification",
    }
    labels = "\n".join(
        f"| {label} | {report['f1'][label]:.2f} | {report['support'][label]} | {report['thresholds'][label]:.2f} |"
        for label in report["f1"]
    )
    data = "\n".join(f"- `{name}`: {content}" for name, content in record["identity"].items() if "data." in name)
    rows = report["rows"]
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {record["name"]}

An emotion classifier with GoEmotions' 28 labels: a head of {stage["hidden"]} hidden units over mean and maximum of the
token states in the last {stage["layers"]} layers of {_encoder(job["model"])}, whose own weights were
{_WHAT[stage["encoder"]]}. A text may have several labels, or none: a label holds where its score reaches its
threshold.{_credit(stage["data"])}

| | |
| --- | --- |
| macro-F1 on the test set | {report["macro_f1"]:.3f} |
| macro-F1 on the development set, where the thresholds were chosen | {report["dev_macro_f1"]:.3f} |
| test texts whose best-scored label is among theirs | {report["top_label_share"]:.1%} |
| texts | {rows["train"]} to train on, {rows["dev"]} to choose by, {rows["test"]} to test on |
| best epoch | {report["best_epoch"]} of {stage["epochs"]} |
| seed | {job["seed"]} |
| fingerprint | `{record["fingerprint"]}` |
| made with | {", ".join(f"{name} {version}" for name, version in record["versions"].items())} |

Made from:

{data}

On one kind of machine `kindling train` with the same job gives the same bytes again:

```yaml
{yaml.safe_dump(job, sort_keys=False).strip()}
```

| label | F1 | test texts with it | threshold |
| --- | --- | --- | --- |
{labels}
"""


def _encoder(model: dict[str, Any]) -> str:
    return "all-MiniLM-L6-v2, as packaged" if model["id"] == "embedded" else f"`{model['id']}`"


def _credit(data: dict[str, Any]) -> str:
    return f"\n\nData: {data['credit']}" if data["credit"] else ""
