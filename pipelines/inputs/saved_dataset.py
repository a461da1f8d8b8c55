"""Folders that `save_to_disk` of Hugging Face datasets wrote: one dataset, or one in a subfolder for each split."""

import json
import os
import re

import fsspec

from schemas.errors import JobError
from schemas.text import shorten

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_cache(path: str) -> bool:
    """Returns whether a file is a cache that `map` of Hugging Face datasets leaves beside the data."""
    return re.fullmatch(r"cache-[\w-]+\.arrow", os.path.basename(path)) is not None


def is_saved_dataset(fs: fsspec.AbstractFileSystem, folder: str) -> bool:
    """Returns whether `save_to_disk` wrote a folder."""
    return fs.isfile(f"{folder}/{_SPLITS}") or all(fs.isfile(f"{folder}/{name}") for name in (_STATE, _INFO))


def saved_files(fs: fsspec.AbstractFileSystem, folder: str, name: str) -> list[str]:
    """Returns the data files of a folder that `save_to_disk` wrote, without the caches that lie beside them.

    Args:
        fs: file system that the folder is on.
        folder: path of the folder.
        name: name of the folder, for errors.

    Raises:
        JobError: the folder has several splits, or its list of files cannot be read.
    """
    if fs.isfile(f"{folder}/{_SPLITS}"):
        splits = _names(fs, f"{folder}/{_SPLITS}", "splits", name)
        if len(splits) != 1:
            cause = f"save_to_disk wrote several splits into it: {shorten(', '.join(splits))}"
            remedy = "name the folder of one split, or give input.dataset and input.split in place of input.path"
            raise JobError("input.path", name, cause, remedy)
        folder = f"{folder}/{splits[0]}"
    return [f"{folder}/{file}" for file in _names(fs, f"{folder}/{_STATE}", "_data_files", name)]


def _names(fs: fsspec.AbstractFileSystem, path: str, key: str, name: str) -> list[str]:
    """Returns the names under a key of a JSON file: a list of texts, or of `{"filename": text}`."""
    try:
        names = [item["filename"] if isinstance(item, dict) else item for item in json.loads(fs.cat_file(path))[key]]
        if names and all(isinstance(item, str) for item in names):
            return names
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    remedy = "write the dataset again with save_to_disk, or name its files"
    raise JobError("input.path", name, f"{path} is no list of files that save_to_disk wrote", remedy)
