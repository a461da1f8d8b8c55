"""Names of class labels: Hugging Face datasets store a ClassLabel as a number, and its names beside the data.

The names are in the `huggingface` metadata of a Parquet or Arrow file, in the features of a loaded dataset, or in the
dataset card (`dataset_info` of README.md, or dataset_infos.json) of the dataset's folder.
"""

import hashlib
import json
import posixpath
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import fsspec
import yaml

from pipelines.jobfile import load_yaml
from schemas.errors import JobError
from services.storage.filesystem import is_local

Names = list[str] | dict[str, "Names"]
"""names of a column's labels by number, or names by key of a struct; a list's elements have the names of the list"""

_MAX_CARD_BYTES = 1 << 20
# A file of a dataset lies in its folder, in data/, or in CONFIG/SPLIT/.
_CARD_LEVELS = 3


def name_labels(names: Any, value: Any) -> Any:
    """Returns a value with names in place of numbers; the number -1, which stands for no label, becomes null."""
    if isinstance(value, list):
        return [name_labels(names, item) for item in value]
    if isinstance(names, dict):
        if isinstance(value, dict):
            return {key: name_labels(names[key], item) if key in names else item for key, item in value.items()}
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) < 10 and value not in names:  # a cell of a CSV file
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -1 <= value < len(names):
        return names[value] if value >= 0 else None
    return value


def identify_names(names: Mapping[str, Names]) -> str:
    """Returns a hash of label names."""
    return hashlib.blake2b(json.dumps(names, sort_keys=True).encode(), digest_size=8).hexdigest()


def names_in_features(features: Any, columns: Collection[str] | None = None) -> dict[str, Names]:
    """Returns the names of labels in some columns, or all, given features of a dataset in the JSON of `datasets`."""
    names = _feature_names(features)
    names = names if isinstance(names, dict) else {}
    return {column: labels for column, labels in names.items() if columns is None or column in columns}


def names_in_metadata(metadata: Mapping[bytes, bytes] | None, columns: Collection[str]) -> dict[str, Names]:
    """Returns the names of labels in some columns, given the metadata of an Arrow schema."""
    try:
        return names_in_features(json.loads((metadata or {})[b"huggingface"])["info"]["features"], columns)
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _feature_names(feature: Any) -> Names | None:
    if isinstance(feature, list):  # a list, in older versions of datasets
        return _feature_names(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    kind = feature.get("_type")
    if kind == "ClassLabel":
        return _texts(feature.get("names"))
    if isinstance(kind, str):
        return _feature_names(feature.get("feature"))
    return {key: names for key, value in feature.items() if (names := _feature_names(value))} or None


def names_in_card(fs: fsspec.AbstractFileSystem, path: str, columns: Collection[str]) -> dict[str, Names]:
    """Returns the names of labels in some columns from the dataset card in a local file's folder, or one above it.

    Raises:
        JobError: the card gives one of the columns other names for each of several configurations.
    """
    folder, inside = posixpath.split(path)
    for _ in range(_CARD_LEVELS if is_local(fs) else 0):
        card, infos = _read_text(f"{folder}/README.md"), _read_text(f"{folder}/dataset_infos.json")
        if configs := (_read_card(card) if card else {}) or (_read_infos(infos) if infos else {}):
            return _choose(configs, columns, inside, folder)
        folder, name = posixpath.split(folder)
        inside = f"{name}/{inside}"
    return {}


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_CARD_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""


def _choose(
    configs: dict[str, dict[str, Names]], columns: Collection[str], inside: str, folder: str
) -> dict[str, Names]:
    """Returns the names of the configuration whose folder a file is in; else those of all together."""
    config = next((part for part in inside.split("/") if part in configs), None)
    chosen: dict[str, Names] = {}
    for names in configs.values() if config is None else [configs[config]]:
        for column, labels in names.items():
            if column in columns and chosen.setdefault(column, labels) != labels:
                cause = f"the dataset card in {folder} has several configurations with other labels of `{column}`"
                raise JobError("input.path", inside, cause, "read it as input.dataset, with input.config")
    return chosen


@lru_cache(maxsize=8)  # the files of a folder have the same card
def _read_card(card: str) -> dict[str, dict[str, Names]]:
    """Returns the label names by configuration and column; {} for a card that gives none."""
    try:
        _, front_matter, _ = card.split("---\n", 2)
        infos = load_yaml(front_matter)["dataset_info"]
        infos = infos if isinstance(infos, list) else [infos]
        names = {str(info.get("config_name", "")): _card_feature_names(info["features"]) for info in infos}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return {}
    return {config: columns for config, columns in names.items() if isinstance(columns, dict)}


def _read_infos(infos: str) -> dict[str, dict[str, Names]]:
    """Returns the same as `_read_card`, given the dataset_infos.json of an older dataset."""
    try:
        names = {config: names_in_features(info["features"]) for config, info in json.loads(infos).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {config: columns for config, columns in names.items() if columns}


def _card_feature_names(feature: Any) -> Names | None:
    """Names in the form of a card: `{name: labels, sequence: {class_label: {names: {'0': joy}}}}`."""
    if isinstance(feature, list):  # columns, or the keys of a struct
        named = {item["name"]: names for item in feature if (names := _card_feature_names(item))}
        return named or None
    if not isinstance(feature, dict):
        return None
    if "class_label" in feature:
        names = feature["class_label"]["names"]
        return _texts([names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names)
    for key in ("dtype", "list", "large_list", "sequence", "struct"):
        if names := _card_feature_names(feature.get(key)):
            return names
    return None


def _texts(names: Any) -> list[str] | None:
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
