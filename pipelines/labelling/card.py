"""The dataset card of a label run: README.md."""

from pipelines.labelling.contexts import CONTEXT_SCHEMA, LabelCounts, read_manifest
from pipelines.labelling.record import LabelRecord
from pipelines.pages.markdown import code
from pipelines.publishing.card_header import DataFiles, card_header, model_name
from services.storage.store import ShardStore

# Name for readers of the classifier that a job calls `embedded`.
_OWN_CLASSIFIER = "Kindling's classifier on all-MiniLM-L6-v2"


def write_card(store: ShardStore, run: LabelRecord, totals: LabelCounts) -> None:
    """Writes README.md; to be called whenever a shard was committed or removed."""
    store.write_text("README.md", contexts_card(run, totals))


def renew_card(store: ShardStore, run: LabelRecord) -> None:
    """Writes README.md from the footers of the committed shards.

    Raises:
        RunError: a shard is damaged, or cannot be read.
    """
    totals = LabelCounts()
    for shard in sorted(store.committed_shards()):
        totals.add(read_manifest(store, shard))
    write_card(store, run, totals)


def contexts_card(run: LabelRecord, totals: LabelCounts) -> str:
    """Makes the card as Markdown.

    Args:
        run: content of run.json.
        totals: counts of the committed shards.
    """
    counts, job = totals.counts, run.job
    columns = "\n".join(f"| `{f.name}` | {f.type} | {f.metadata[b'description'].decode()} |" for f in CONTEXT_SCHEMA)
    sources = "\n".join(
        f"| {code(name, in_table=True)} | {sentences} | {totals.kept_of_source[name]} |"
        for name, sentences in totals.sentences_of_source.items()
    )
    emotions = "\n".join(f"| {name} | {number} |" for name, number in totals.emotions.most_common())
    dropped = "\n".join(f"| {rule} | {number} |" for rule, number in totals.dropped.most_common())
    files = DataFiles({"train": "data/part-*.parquet"}, str(totals.digest), counts.get("kept", 0))
    classifier = model_name(job["classifier"]["id"], embedded=_OWN_CLASSIFIER)
    return f"""{card_header(run.name, ["emotions", "kindling"], files)}

Sentences of raw text with the emotions that {code(classifier)} found in them. A sentence is kept where its
best label is not neutral and reaches the threshold ({job["threshold"]}); it has every label that reaches it.

| | |
| --- | --- |
| lines | {counts.get("lines", 0)} |
| sentences scored | {counts.get("sentences", 0)} |
| kept | {counts.get("kept", 0)} |
| best label neutral | {counts.get("neutral", 0)} |
| best label below the threshold | {counts.get("unsure", 0)} |
| shards | {counts.get("shards", 0)} of {len(run.ranges)} |
| fingerprint | `{run.fingerprint}` |
| made with | {", ".join(f"{name} {version}" for name, version in run.versions.items())} |

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
