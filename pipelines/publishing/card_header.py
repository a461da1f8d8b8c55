"""The YAML header of cards, as the Hub and load_dataset read it, and the names of models and datasets on the Hub.

Invariant: cards of different data files have different headers. `datasets` 5.2 caches the rows of a folder by name and
header, and does not look at the files: with the same header it would return the rows of earlier files.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from schemas.errors import JobError

# Size classes of the Hub: the number of rows below which the class ends, and its name.
_SIZES = {
    10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M",
    10**8: "10M<n<100M", 10**9: "100M<n<1B", 10**10: "1B<n<10B",
}  # fmt: skip
_MAX_SIZE = "10B<n<100B"
# The Hub refuses an upload whose card has another form of these.
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,8})?|code|multilingual")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# Folders of the Hub's cache: models--owner--name/snapshots/COMMIT.
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]{40}/?$")
# Names on the Hub of the models that packages ship.
EMBEDDED_GENERATOR = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class CardFacts:
    """Facts for a dataset's card that a run does not know.

    Attributes:
        license: license as the Hub names it, as `cc-by-4.0`; None leaves it out.
        language: languages as two letters, with commas between them, as `en,de`; None leaves them out.

    Raises:
        JobError: the Hub would refuse one of them.
    """

    license: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            remedy = "write it as the Hub does: apache-2.0, mit, cc-by-4.0, other"
            raise JobError("--license", self.license, "the Hub knows no such license", remedy)
        for language in languages_of(self.language):
            if not _LANGUAGE.fullmatch(language):
                raise JobError("--language", language, "not the code of a language", "write it as en, or as en,de")


@dataclass(frozen=True)
class DataFiles:
    """The data files beside a card.

    Attributes:
        patterns: glob of each split's files, relative to the card.
        digest: text that identifies the files and their content.
        rows: number of rows in all of them.
        features: columns, as `data_files.features_of` gives them; empty where the files say them.
    """

    patterns: Mapping[str, str]
    digest: str
    rows: int
    features: list[dict[str, Any]] = field(default_factory=list)


def card_header(name: str, tags: list[str], files: DataFiles, facts: CardFacts | None = None) -> str:
    """Makes the beginning of a dataset's card: the YAML header and the title.

    Args:
        name: title of the dataset.
        tags: tags of the dataset on the Hub.
        files: the data files.
        facts: facts that the run does not know.
    """
    facts = facts or CardFacts()
    config = {
        "config_name": "default",
        "description": f"data files {files.digest}",
        "data_files": [{"split": split, "path": pattern} for split, pattern in files.patterns.items()],
    }
    header = {
        "license": facts.license,
        "language": languages_of(facts.language),
        "pretty_name": name,
        "tags": tags,
        "size_categories": [size_category(files.rows)],
        "configs": [config],
        "dataset_info": {"features": files.features} if files.features else None,
    }
    return f"{yaml_header(header)}\n\n# {name}"


def languages_of(text: str | None) -> list[str]:
    """Returns the codes in `en,de`; none where there is no text."""
    return [code.strip() for code in text.split(",")] if text else []


def yaml_header(header: Mapping[str, Any]) -> str:
    """Formats the header of a card, without the keys that have no value."""
    given = {key: value for key, value in header.items() if value not in (None, [])}
    return f"---\n{yaml.safe_dump(given, sort_keys=False).strip()}\n---"


def size_category(rows: int) -> str:
    """Returns the Hub's class for a number of rows: `1K<n<10K`."""
    return next((name for end, name in _SIZES.items() if rows < end), _MAX_SIZE)


def hub_model(model_id: str, revision: str | None = None, embedded: str = EMBEDDED_GENERATOR) -> str | None:
    """Returns the name on the Hub of a model that a job names; None where it is a folder of its own.

    Args:
        model_id: key `model.id` of the job.
        revision: commit, or hash of a folder's content; where it is not known, a folder is looked for.
        embedded: name of the model that `embedded` stands for.
    """
    if model_id == "embedded":
        return embedded
    if cached := _CACHED.search(model_id):
        return f"{cached[1]}/{cached[2]}"
    is_folder = not _COMMIT.fullmatch(revision) if revision else os.path.isdir(model_id)
    return None if is_folder or not _HUB_ID.fullmatch(model_id) else model_id


def model_name(model_id: str, revision: str | None = None, embedded: str = EMBEDDED_GENERATOR) -> str:
    """Returns the name of a model for a reader elsewhere: its name on the Hub, or the name of its folder."""
    return hub_model(model_id, revision, embedded) or os.path.basename(model_id.rstrip("/")) or model_id


def hub_datasets(ids: Iterable[str | None]) -> list[str]:
    """Returns the names of datasets that are on the Hub, each once; folders are left out."""
    return sorted(
        {name for name in ids if name and "/" in name and _HUB_ID.fullmatch(name) and not os.path.isdir(name)}
    )
