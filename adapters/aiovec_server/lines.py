"""Lines of JSON for a terminal, a file or a pipe, which a thread writes.

So one that stalls holds no request up: its lines wait, and beyond a bound they are dropped. JSON
escapes whatever a client chose, so that a line is one line.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import TextIO

from aiovec.backend.threads import start_thread

MOST_WAITING = 10_000
"""Lines that wait for the thread. More are dropped, and the next line says how many."""

_GATHERED = 0.05
"""Seconds in which lines gather before they are written: to wake a thread for each would cost a
busy server more than the line."""

_AT_END = 2.0
"""Seconds that the process waits at its end for the last lines, if a pipe stalls."""

_Queue = SimpleQueue[str | threading.Event | None]


class Lines:
    """Writes lines to a stream; by default to standard error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._waiting: _Queue = SimpleQueue()
        self._started = False
        self._dropped = 0
        self._second = 0, ""  # of the last line, as a number and as text

    def put(self, facts: Mapping[str, object]) -> None:
        """Write facts as a line, later. Never waits."""
        self.put_members(_ENCODE(facts)[1:-1])

    def put_members(self, members: str) -> None:
        """As ``put``, with the facts as JSON already: the members of an object."""
        if not self._started:
            self._start()
        if self._waiting.qsize() >= MOST_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            members += f', "dropped": {self._dropped}'
            self._dropped = 0
        self._waiting.put(f'{{"time": "{self._now()}", {members}}}\n')

    def _now(self) -> str:
        now = time.time()
        second, text = self._second
        if int(now) != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            self._second = int(now), text
        return f"{text}.{int(now * 1000) % 1000:03}Z"

    def flush(self, seconds: float = _AT_END) -> None:
        """Wait until all lines are written."""
        if self._started:
            written = threading.Event()
            self._waiting.put(written)
            written.wait(seconds)

    def _start(self) -> None:
        self._started = True
        stream = self._stream or sys.stderr
        start_thread(threading.Thread(target=_write, args=(self._waiting, stream), daemon=True))
        weakref.finalize(self, self._waiting.put, None).atexit = False
        _ALL.add(self)


class LogHandler(logging.Handler):
    """A handler of ``logging`` that writes its records as such lines."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            facts: dict[str, object] = {
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
            if record.exc_info and record.exc_info[0] is not None:
                facts["exception"] = _FORMATTER.formatException(record.exc_info)
            self._lines.put(facts)
        except Exception:  # noqa: BLE001 - as every handler: a log that fails fails nothing else
            self.handleError(record)


def log_to_stderr() -> None:
    """Let what is logged in this process be lines on standard error."""
    logging.getLogger().addHandler(LogHandler(Lines()))


_FORMATTER = logging.Formatter()
_ENCODE = json.JSONEncoder(default=repr).encode


def _write(waiting: _Queue, stream: TextIO) -> None:
    """Write what comes, all that waits at once."""
    descriptor = _descriptor_of(stream)
    while True:
        entries = [waiting.get()]
        time.sleep(_GATHERED)
        while not waiting.empty():
            entries.append(waiting.get())
        text = "".join(line for line in entries if isinstance(line, str))
        with suppress(OSError, ValueError):  # closed, or a full disk: a server serves on
            if descriptor is None:
                stream.write(text)
                stream.flush()
            else:
                _write_bytes(descriptor, text.encode())
        for entry in entries:
            if isinstance(entry, threading.Event):
                entry.set()
        if None in entries:
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
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever shares the pipe or terminal made it non-blocking
            time.sleep(_GATHERED)


_ALL: weakref.WeakSet[Lines] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    for lines in list(_ALL):
        lines.flush()
