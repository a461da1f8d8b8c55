"""Hugging Face datasets as input: one split, by hub id or local folder."""

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipelines.inputs.class_labels import Names, names_in_features
from pipelines.inputs.saved_dataset import is_saved_dataset
from pipelines.inputs.sources import BATCH_ROWS, InputRow, Skip, decode_batch, skip_items
from schemas.errors import JobError
from schemas.job import Input
from services.storage.digest import ContentDigest


class HuggingFaceDataset:
    """One split of a Hugging Face dataset.

    Args:
        section: the `input` section of the job.

    Raises:
        JobError: `datasets` cannot load it.
    """

    def __init__(self, section: Input) -> None:
        import datasets

        self.name = f"{section.dataset}:{section.split}"
        datasets.disable_progress_bars()
        try:
            self._dataset = _load(section)
        except Exception as error:  # the library raises whatever its builders raise
            cause = f"datasets could not load it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            remedy = "check id, config, split and revision; private ones need HF_TOKEN"
            raise JobError("input.dataset", section.dataset, cause, remedy) from None

    def count(self) -> int:
        """Returns the number of rows."""
        return self._dataset.num_rows

    def content(self) -> str:
        """Returns a hash of all rows, whatever files they came from."""
        digest = hashlib.blake2b(digest_size=16)
        for table in self._dataset.with_format("arrow").iter(BATCH_ROWS):
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
        return digest.hexdigest()

    def columns(self) -> list[str]:
        """Returns the names of the columns."""
        return self._dataset.column_names

    def has_late_column(self, column: str) -> bool:
        """Returns False: all columns of a dataset are known."""
        return False

    def label_names(self, columns: Collection[str]) -> dict[str, Names]:
        """Returns the names of class labels in some columns, by column."""
        return names_in_features(self._dataset.features.to_dict(), columns)

    def rows(self, columns: list[str], skip: Skip) -> Iterator[InputRow]:
        """Yields the rows; see `Source.rows`."""
        present = [name for name in columns if name in self._dataset.column_names]
        # A dataset without any column would have no rows.
        dataset = self._dataset.select_columns(present) if present else self._dataset
        for low in range(0, dataset.num_rows, BATCH_ROWS):
            high = min(low + BATCH_ROWS, dataset.num_rows)
            if skip.rows >= high - low:
                skip.rows -= high - low
                continue
            batch = dataset.select(range(low, high))
            yield from skip_items(decode_batch(batch.num_rows, partial(list, batch), batch.__getitem__), skip)


def _local_files(builder: Any) -> str:
    """Returns a text that changes when a file of a local folder's dataset does."""
    digest = ContentDigest()
    for split, files in (builder.config.data_files or {}).items():
        for path, origin in zip(files, files.origin_metadata, strict=True):
            stat = os.stat(path) if os.path.isfile(path) else None
            digest.add(
                str(split), path, str(origin), *((stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) if stat else ())
            )
    return f"files {digest}"


def _load(section: Input) -> Any:
    """Loads a split, or a part or sum of splits such as `train[:100]`."""
    import datasets

    folder = section.dataset or ""
    if not is_saved_dataset(LocalFileSystem(), folder):
        where: dict[str, Any] = {"path": folder, "name": section.config, "revision": section.revision}
        # `datasets` caches a local folder by its card, and returns the rows of earlier files. Its key includes the
        # description.
        files = _local_files(datasets.load_dataset_builder(**where)) if os.path.isdir(folder) else ""
        return datasets.load_dataset(**where, split=section.split, **({"description": files} if files else {}))
    saved = datasets.load_from_disk(folder)
    if isinstance(saved, datasets.Dataset):
        # One that knows no split has the name of its folder, inside a saved DatasetDict; else it is all of `train`.
        asked, name = re.split(r"[\[+]", section.split)[0], os.path.basename(folder.rstrip("/"))
        saved = {str(saved.split or (name if name == asked else "train")): saved}
    parts = datasets.ReadInstruction.from_spec(section.split).to_absolute(
        {name: split.num_rows for name, split in saved.items()}
    )
    return datasets.concatenate_datasets([saved[part.splitname].select(range(part.from_, part.to)) for part in parts])
