"""The access log: one line of JSON for each request.

No query, header, body, id of a row or key is in it, and JSON escapes what else a client chose: its
line is one line. A thread writes, so that a terminal or a pipe that stalls holds no request up.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from queue import SimpleQueue
from typing import TextIO

from aiovec.backend import start_thread

from .observing import Observed

MOST_WAITING = 10_000
"""Lines that wait for the thread. More are dropped, and the next line says how many."""

_AT_END = 2.0
"""Seconds that the process waits at its end for the last lines, if a pipe stalls."""

_Lines = SimpleQueue[str | threading.Event | None]


class AccessLog:
    """Writes a line for each request that ended."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lines: _Lines = SimpleQueue()
        self._started = False
        self._dropped = 0

    def begun(self) -> None:
        pass

    def ended(self, observed: Observed) -> None:
        if not self._started:
            self._start()
        if self._lines.qsize() >= MOST_WAITING:
            self._dropped += 1
            return
        self._lines.put(self._line(observed))

    def flush(self, seconds: float = _AT_END) -> None:
        """Wait until all lines are written."""
        if self._started:
            written = threading.Event()
            self._lines.put(written)
            written.wait(seconds)

    def _start(self) -> None:
        self._started = True
        stream = self._stream or sys.stderr
        start_thread(threading.Thread(target=_write, args=(self._lines, stream), daemon=True))
        weakref.finalize(self, self._lines.put, None).atexit = False
        _LOGS.add(self)

    def _line(self, observed: Observed) -> str:
        now = time.time()
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        facts: dict[str, object] = {
            "time": f"{seconds}.{int(now * 1000) % 1000:03}Z",
            "request": observed.id,
            "client": observed.client,
            "method": observed.method,
            "route": observed.route,
            "table": observed.table,
            "status": observed.status,
            "ms": round(observed.seconds * 1000, 3),
            "received": observed.received,
            "sent": observed.sent,
        }
        if observed.access is not None:
            facts["key"] = observed.access
        if not observed.whole:
            facts["broken"] = True
        if self._dropped:
            facts["dropped"], self._dropped = self._dropped, 0
        return json.dumps(facts) + "\n"


def _write(lines: _Lines, stream: TextIO) -> None:
    """Write what comes, all that waits at once."""
    descriptor = _descriptor_of(stream)
    while True:
        waiting = [lines.get()]
        while not lines.empty():
            waiting.append(lines.get())
        text = "".join(line for line in waiting if isinstance(line, str))
        with suppress(OSError, ValueError):  # closed, or a full disk: a server serves on
            if descriptor is None:
                stream.write(text)
                stream.flush()
            else:
                _write_bytes(descriptor, text.encode())
        for entry in waiting:
            if isinstance(entry, threading.Event):
                entry.set()
        if None in waiting:
            return


def _descriptor_of(stream: TextIO) -> int | None:
    """Return the file beneath. While a thread is held up in the stream's own ``write``, it holds
    its lock, and Python would abort the process that ends then."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None  # a stream of a test or a notebook


def _write_bytes(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


_LOGS: weakref.WeakSet[AccessLog] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    for log in list(_LOGS):
        log.flush()
