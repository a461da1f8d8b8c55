"""Finds in vLLM's log why an engine died, and how far its start is.

vLLM's own exception says only that its engine core is gone. The cause is in the output of the engine's processes.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

# A line that gives the cause: the exit code of a worker, or the last line of a Python traceback, with or without the
# prefix that vLLM puts before lines of its processes.
_ERROR_LINE = re.compile(
    r"(Worker proc .+ died unexpectedly \(exit code: -?\d+\)|\b[A-Za-z_.]*(?:Error|Exception): .+$)"
)


# vLLM's message after the weights are loaded: by the loader of safetensors, and by any other.
_WEIGHTS_LOADED = re.compile(r"(Loading weights|Model loading) took")


class EngineLog:
    """The log files that Ray keeps of this process, from this moment on. Processes of the engine write to them too."""

    def __init__(self) -> None:
        # vLLM logs to standard output. Fatal errors of native code are written to standard error.
        self._files = [Path(os.readlink(f"/proc/self/fd/{number}")) for number in (1, 2)]
        self._starts = [file.stat().st_size if file.is_file() else 0 for file in self._files]

    def __str__(self) -> str:
        return str(self._files[0])

    def first_error(self) -> str:
        """Returns the first line that gives a cause, since later ones are its consequences; "" where there is none."""
        for text in self._texts():
            if error := next((match[1] for line in text.splitlines() if (match := _ERROR_LINE.search(line))), ""):
                return error
        return ""

    def has_loaded_weights(self) -> bool:
        """Returns whether the engine has loaded its weights; False where vLLM is set to log too little."""
        return any(_WEIGHTS_LOADED.search(text) for text in self._texts())

    def _texts(self) -> Iterator[str]:
        for path, start in zip(self._files, self._starts, strict=True):
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(start)
                    yield file.read().decode(errors="replace")
