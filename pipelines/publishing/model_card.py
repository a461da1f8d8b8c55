"""The model card: README.md of a trained model, with the YAML header that the Hub reads."""

import json
from typing import Any

from eval.blimp import PARADIGMS
from pipelines.pages.markdown import code, escaped, yaml_block
from pipelines.publishing.card_header import (
    EMBEDDED_ENCODER,
    hub_datasets,
    hub_model,
    languages_of,
    model_name,
    yaml_header,
)

_ENCODER_NOTES = {"frozen": "left as they are", "trained": "trained with it"}


def classifier_card(record: dict[str, Any]) -> str:
    """Makes the card of an emotion classifier as Markdown.

    Args:
        record: content of train.json.
    """
    job, report = record["job"], record["report"]
    (stage,) = job["stages"]
    header = {
        "license": job["license"],
        "language": languages_of(job.get("language")),
        "base_model": _base_model(job, stage, record["identity"].get("revision")),
        "pretty_name": record["name"],
        "tags": ["text-classification", "emotions", "goemotions", "kindling"],
        "pipeline_tag": "text-classification",
    }
    labels = "\n".join(
        f"| {label} | {report['f1'][label]:.2f} | {report['support'][label]} | {report['thresholds'][label]:.2f} |"
        for label in report["f1"]
    )
    data = "\n".join(
        f"- {code(name)}: {escaped(str(content))}" for name, content in record["identity"].items() if "data." in name
    )
    rows = report["rows"]
    return f"""{yaml_header(header)}

# {record["name"]}

An emotion classifier with GoEmotions' 28 labels: {_head(job["model"], stage)}.
A text may have several labels, or none: a label holds where its score reaches its threshold.{_credit(stage["data"])}

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

{yaml_block(job)}

| label | F1 | test texts with it | threshold |
| --- | --- | --- | --- |
{labels}
"""


def _base_model(job: dict[str, Any], stage: dict[str, Any], revision: str | None) -> str | None:
    return None if stage["encoder"] == "words" else hub_model(job["model"]["id"], revision, EMBEDDED_ENCODER)


def _head(model: dict[str, Any], stage: dict[str, Any]) -> str:
    """Describes the head, and what it reads."""
    if stage["encoder"] == "words":
        return (
            "a linear head on the words, the pairs of words and the\ncharacter sequences of a text, without an encoder"
        )
    return f"""a head of {stage["hidden"]} hidden units over mean and maximum of the
token states in the last {stage["layers"]} layers of {_encoder(model)}, whose own weights were
{_ENCODER_NOTES[stage["encoder"]]}"""


def _encoder(model: dict[str, Any]) -> str:
    name = code(model_name(model["id"], embedded=EMBEDDED_ENCODER))
    return f"{name}, as packaged" if model["id"] == "embedded" else name


def _credit(data: dict[str, Any]) -> str:
    return f"\n\nData: {data['credit']}" if data["credit"] else ""


def language_model_card(record: dict[str, Any]) -> str:
    """Makes the card of a trained language model as Markdown.

    Args:
        record: content of train.json.
    """
    job = record["job"]
    revision, adapters = record["identity"]["revision"], _adapters(job)
    header = {
        "license": job["license"],
        "language": languages_of(job.get("language")),
        "base_model": None if job["model"].get("from_config") else hub_model(job["model"]["id"], revision),
        "datasets": hub_datasets(_datasets(job)),
        "pretty_name": record["name"],
        "tags": ["text-generation", "kindling", *sorted({stage["kind"] for stage in record["stages"]})],
        "pipeline_tag": "text-generation",
        "library_name": "peft" if adapters else "transformers",
    }
    content = [
        f"- {code(key)}: {escaped(str(value))}"
        for key, value in record["identity"].items()
        if key.startswith("content.")
    ]
    content += [f"- {code(run)} was written by {escaped(teacher)}" for run, teacher in record["teachers"].items()]
    nl = "\n"
    return f"""{yaml_header(header)}

# {record["name"]}

{_started_from(job["model"], revision)} (revision `{revision}`), trained further.{adapters}

| stage | rows or documents | tokens | steps | loss on held-out rows: before, after | change (95% interval) |
| --- | --- | --- | --- | --- | --- |
{nl.join(_stage_line(stage) for stage in record["stages"])}

The loss is the mean negative log-likelihood of a token, in nats, averaged over the held-out examples; an `sft` stage
counts the tokens of the assistant alone. The interval is that of the change, paired by example. \
{_incomplete_examples(record["stages"])}
{_blimp(record["stages"])}
Made from:

{nl.join(content)}

Fingerprint `{record["fingerprint"]}`; made with {", ".join(f"{n} {v}" for n, v in record["versions"].items())}.

{yaml_block(job)}
"""


def _datasets(job: dict[str, Any]) -> list[str | None]:
    parts = [part for stage in job["stages"] for part in (*stage["parts"].values(), *stage.get("replay", {}).values())]
    return [part["input"]["dataset"] for part in parts if part["input"]]


def _adapters(job: dict[str, Any]) -> str:
    """Returns how the adapters of a job are used, whose files are here; empty where here is a whole model."""
    if (job["stages"][-1]["lora"] or {}).get("merge", True):
        return ""
    base = json.dumps(hub_model(job["model"]["id"]) or "BASE")
    code_ = f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), FOLDER)"
    server = f"vllm serve {base} --enable-lora --lora-modules {job['name']}=FOLDER"
    return f" These are LoRA adapters without that model:\n\n    {code_}\n    {server}"


def _started_from(model: dict[str, Any], revision: str) -> str:
    name = code(model_name(model["id"], revision))
    if model["id"] == "embedded":
        name += ", as packaged"
    if sizes := model.get("from_config"):
        return f"A new GPT-2 of {sizes['layers']} layers and width {sizes['width']}, with the tokenizer of {name}"
    return name


def _stage_line(stage: dict[str, Any]) -> str:
    parts = ", ".join(f"{escaped(name)}: {next(iter(counts.values())):,}" for name, counts in stage["parts"].items())
    mean, low, high = stage["change"]
    losses = f"{stage['dev_loss_before']:.3f}, {stage['dev_loss']:.3f} ({stage['examples']['dev']} examples)"
    steps = f"{stage['steps']}, best {stage['best_step']}"
    return (
        f"| `{stage['folder']}` | {parts} | {stage['tokens']['train']:,} | {steps} | {losses} "
        f"| {mean:+.3f} ({low:+.3f} to {high:+.3f}) |"
    )


def _blimp(stages: list[dict[str, Any]]) -> str:
    lines = [f"`{s['folder']}`: {blimp_line(s['best_step'], s['blimp'])}." for s in stages if s.get("blimp")]
    return "".join(f"\n{line}\n" for line in lines)


def blimp_line(best_step: int, blimp: dict[str, Any]) -> str:
    """Formats the accuracy of a stage on its minimal pairs, before and after the training."""
    before, after = blimp["accuracy"]["0"], blimp["accuracy"][str(best_step)]
    # Pairs of one's own are none of BLiMP's, and their figures do not stand beside those on BLiMP.
    kind = "BLiMP paradigms" if set(blimp["paradigms"]) <= set(PARADIGMS) else "paradigms"
    sample = f"{blimp['pairs']} minimal pairs of {len(blimp['paradigms'])} {kind}"
    lost = blimp["most_lost"][str(best_step)]
    return f"accuracy on {sample} {before:.3f} -> {after:.3f}, at most {lost:.3f} lost (95%)"


def _incomplete_examples(stages: list[dict[str, Any]]) -> str:
    counts = [f"{n} {reason} in `{s['folder']}`" for s in stages for reason, n in s["not_whole"].items()]
    return f"Examples that were cut or left out: {', '.join(counts)}." if counts else "No example was cut or left out."
