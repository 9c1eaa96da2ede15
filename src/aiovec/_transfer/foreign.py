"""Reading what others wrote, which may be damaged, cut, or made to do harm.

The libraries that read a format raise whatever they stumble over, from KeyError to MemoryError. One
place turns all of it into an error that names the file; one place holds what a file may ask for.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from ..errors import AiovecError, ConfigError

# Longer lines are rejects. A vector of 8,192 numbers takes 200 KB.
LONGEST_LINE = 16 * 2**20
# What is read ahead of a write: rows of large texts come in smaller chunks.
BYTES_AT_ONCE = 32 * 2**20

_MESSAGE_LENGTH = 300


class reading:  # noqa: N801 - reads as a statement
    """Let what a file's reader stumbles over be told by the file's name.

    ``at`` is where in the file the reading is, for the message.
    """

    def __init__(self, path: Path, at: str = "") -> None:
        self._path = path
        self.at = at

    def __enter__(self) -> reading:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, AiovecError) or not isinstance(error, Exception):
            return
        at = f" at {self.at}" if self.at else ""
        raise ConfigError(
            f"{self._path} cannot be read{at}: {_reason(error)}. Write the file again, or export "
            "it in another format",
            file=str(self._path),
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "a value in it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:_MESSAGE_LENGTH].rstrip(".")
    return text or f"it is damaged ({type(error).__name__})"
