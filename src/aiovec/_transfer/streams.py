"""Standard input and output: read and written once, in a thread that a cancelled call can stop."""

from __future__ import annotations

import os
import re
import select
import stat
import threading
from types import TracebackType
from typing import Self

from ..errors import AiovecError, ConfigError
from .foreign import LONGEST_LINE

# How long a thread waits for a pipe before it looks whether it has been stopped.
_WAIT_MS = 200
_READ_BYTES = 256 * 1024
# Of what comes while it is looked for the vectors: the rows themselves need less.
_MOST_KEPT = 8 * LONGEST_LINE
# A pipe that can be written takes this much without blocking.
_PIPE_BYTES: int = getattr(select, "PIPE_BUF", 512)
# C0 without tab and line feed, DEL, C1 in UTF-8.
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class _Stream:
    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)  # so that closing this one leaves the process's own open
        self.closed = False
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let a thread that waits for the other end give up."""
        self._stopped.set()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._fd)

    def flush(self) -> None:
        """Nothing is held back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, event: str) -> None:
        if not hasattr(select, "poll"):  # Windows: a thread that waits there cannot be stopped
            return
        poll = select.poll()
        poll.register(self._fd, getattr(select, event))
        while not poll.poll(_WAIT_MS):
            if self._stopped.is_set():
                break
        if self._stopped.is_set():
            raise AiovecError("stopped")


class InputStream(_Stream):
    """Standard input or a pipe. What was read before ``seek(0)`` is read once more."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._pending = bytearray()
        self._kept: bytearray | None = bytearray()
        self._ended = False
        self.count = 0  # bytes that came in

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only at the end."""
        while len(self._pending) < size and self._more():
            pass
        return self._take(size)

    def readline(self, limit: int) -> bytes:
        """Return a line with its end, or as many bytes as the limit."""
        looked = 0
        while True:
            end = self._pending.find(b"\n", looked, limit)
            if end >= 0:
                return self._take(end + 1)
            looked = len(self._pending)
            if looked >= limit or not self._more():
                return self._take(limit)

    def seek(self, position: int) -> int:
        """Go back to the beginning, once: what comes then is not kept."""
        if position or self._kept is None:
            raise OSError("a stream can go back to its beginning once")
        self._pending[:0] = self._kept
        self._kept = None
        return 0

    def _take(self, size: int) -> bytes:
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        if self._kept is not None:
            if len(self._kept) > _MOST_KEPT:
                raise ConfigError(
                    f"no vector was found in the first {_MOST_KEPT // 2**20} MiB that came; give a "
                    "--schema, or import from a file",
                    key="--schema",
                )
            self._kept += taken
        return taken

    def _more(self) -> bool:
        if self._ended:
            return False
        self._wait("POLLIN")
        part = os.read(self._fd, _READ_BYTES)
        self._pending += part
        self.count += len(part)
        self._ended = not part
        return not self._ended


class OutputStream(_Stream):
    """Standard output."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.is_terminal = os.isatty(self._fd)
        self._may_block = not stat.S_ISREG(os.fstat(self._fd).st_mode)

    def write(self, data: bytes) -> int:
        """Write all of it. BrokenPipeError where nobody reads any more."""
        if self.is_terminal:  # which stored text must not drive
            data = _CONTROL.sub(_REPLACEMENT, bytes(data))
        view = memoryview(data)
        while view:
            if self._may_block:
                self._wait("POLLOUT")
            try:
                written = os.write(self._fd, view[:_PIPE_BYTES] if self._may_block else view)
            except BlockingIOError:
                continue
            view = view[written:]
        return len(data)
