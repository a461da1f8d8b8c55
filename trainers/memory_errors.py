"""Errors of full memory and full disks, which torch and safetensors report in their own words."""

import contextlib
import errno
import os
from collections.abc import Iterator

import torch
from safetensors import SafetensorError

from schemas.errors import EngineError


@contextlib.contextmanager
def translate_memory_errors() -> Iterator[None]:
    """Inside the block, errors of full memory become EngineError, and errors of a full disk become OSError.

    On a CPU torch has no error class for full memory, and safetensors reports a failed write as an error of its own: so
    the texts of the messages decide.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            cause = "there is not enough memory for this model and batch"
            remedy = (
                "lower optimizer.batch_size (and raise accumulation by as much), lower max_length, or set "
                "optimizer.gradient_checkpointing: true"
            )
            raise EngineError("stages", None, cause, remedy) from None
        if "No space left" in str(error) or "unexpected pos" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise
