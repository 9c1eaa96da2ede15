"""Standard input and output."""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from queue import Full, Queue

from ..errors import AiovecError

_READ_BYTES = 256 * 1024
_PARTS_AHEAD = 4
# C0 without tab and line feed, DEL, C1 in UTF-8.
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class InputStream:
    """Standard input or a pipe, read ahead by a thread that a stopped import leaves behind.

    What was read before ``seek(0)`` is read once more.
    """

    closed = False

    def __init__(self, fd: int) -> None:
        self._parts: Queue[bytes | OSError] = Queue(_PARTS_AHEAD)
        self._pending = bytearray()
        self._kept: bytearray | None = bytearray()
        self._ended = self._stopped = False
        # A descriptor of its own, which nobody closes while the thread reads it.
        threading.Thread(target=self._read_ahead, args=(os.dup(fd),), daemon=True).start()

    def _read_ahead(self, fd: int) -> None:
        try:
            while part := os.read(fd, _READ_BYTES):
                self._parts.put(part)
            self._parts.put(b"")
        except OSError as exc:
            self._parts.put(exc)

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

    def stop(self) -> None:
        """Let whoever waits for the other end give up."""
        self._stopped = True
        with suppress(Full):  # else nobody waits
            self._parts.put_nowait(b"")

    def close(self) -> None:
        self.closed = True

    def _take(self, size: int) -> bytes:
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        if self._kept is not None:
            self._kept += taken
        return taken

    def _more(self) -> bool:
        if self._ended:
            return False
        part = self._parts.get()
        if self._stopped:
            raise AiovecError("stopped")
        if isinstance(part, OSError):
            raise part
        self._pending += part
        self._ended = not part
        return not self._ended


class OutputStream:
    """Standard output, written without a buffer."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)  # so that closing this one leaves the process's own open
        self.is_terminal = os.isatty(fd)
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write all of it. BrokenPipeError where nobody reads any more."""
        if self.is_terminal:  # which stored text must not drive
            data = _CONTROL.sub(_REPLACEMENT, bytes(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._fd)
