"""The process's log: lines of JSON on standard error.

A thread writes them, so a pipe or terminal that stalls delays no request.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import time
from queue import SimpleQueue
from threading import Thread

ACCESS = logging.getLogger("aiovec.access")
"""The logger for requests; each record has an attribute ``facts``."""

MOST_WAITING = 10_000
"""Maximum number of records that wait to be written. While the queue is full, new records are
dropped."""

_GATHERED = 0.05  # seconds between writes: waking the thread costs more than writing a line
_AT_END = 2.0  # seconds that the process waits at exit for a stalled pipe


class _Waiting(logging.Handler):
    """Queues records unformatted; a separate thread formats and writes them.

    That thread holds no handler's lock while it writes, because the process acquires the locks of
    all handlers at exit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._thread = Thread(target=self._write_all, name="aiovec-log", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() < MOST_WAITING:
            self._queue.put(record)

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            if self._queue.empty():
                time.sleep(_GATHERED)
            try:
                line = _line(record)
            except Exception:  # noqa: BLE001 - a library's format may not fit its arguments
                line = _line(_without_words(record))
            _write(line)

    def _stop(self) -> None:
        self._queue.put(None)
        self._thread.join(_AT_END)


def _write(data: bytes) -> None:
    while data:
        try:
            data = data[os.write(2, data) :]
        except BlockingIOError:  # another process that shares the terminal made it non-blocking
            time.sleep(_GATHERED)
        except OSError:  # the stream is closed or the disk full; keep serving
            return


def _line(record: logging.LogRecord) -> bytes:
    """Return a record as one line: JSON escapes line breaks in strings from a client."""
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    facts: dict[str, object] = {"time": f"{second}.{int(record.msecs):03}Z"}
    if (given := getattr(record, "facts", None)) is not None:
        facts.update(given)
    else:
        facts |= {"level": record.levelname.lower(), "logger": record.name}
        facts["message"] = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        facts["exception"] = logging.Formatter().formatException(record.exc_info)
    return (json.dumps(facts, default=repr) + "\n").encode()


def _without_words(record: logging.LogRecord) -> logging.LogRecord:
    place, number = record.pathname, record.lineno
    words = f"{place}:{number} logs a record that cannot be formatted"
    return logging.LogRecord(record.name, record.levelno, place, number, words, (), None)


def log_to_stderr() -> None:
    """Write this process's log, including each request, to standard error."""
    logging.getLogger().addHandler(_Waiting())
    ACCESS.setLevel(logging.INFO)
