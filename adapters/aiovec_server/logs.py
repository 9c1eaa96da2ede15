"""The process's log: lines of JSON on standard error, which a thread writes.

So a pipe or a terminal that stalls holds no request up.
"""

from __future__ import annotations

import atexit
import json
import logging
import logging.handlers
import os
import time
from functools import cache
from queue import SimpleQueue

ACCESS = logging.getLogger("aiovec.access")
"""Logs requests; each record has its facts as ``facts``."""

MOST_WAITING = 10_000
"""Lines that wait for the thread; further ones are dropped."""

_GATHERED = 0.05  # seconds: to wake the thread for each line would cost more than the line
_AT_END = 2.0  # seconds that the process waits at its end for a pipe that stalls


class _JsonFormatter(logging.Formatter):
    """A record as a line. JSON escapes what a client chose, so that a line is one line."""

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        facts: dict[str, object] = {"time": f"{second}.{int(record.msecs):03}Z"}
        if (given := getattr(record, "facts", None)) is not None:
            facts.update(given)
        else:
            facts |= {"level": record.levelname.lower(), "logger": record.name}
            facts["message"] = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=repr)


class _Handler(logging.handlers.QueueHandler):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # the thread formats it

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.queue.qsize() < MOST_WAITING:  # type: ignore[attr-defined]  # a SimpleQueue's
            super().enqueue(record)


class _Listener(logging.handlers.QueueListener):
    def dequeue(self, block: bool) -> logging.LogRecord:
        if self.queue.empty():  # type: ignore[attr-defined]
            time.sleep(_GATHERED)
        return super().dequeue(block)


class _Stderr(logging.Handler):
    """Writes to the file, and without a lock: a pipe that stalls would hold up the process's end,
    where Python asks for the locks of handlers and streams."""

    def handle(self, record: logging.LogRecord) -> bool:
        data = self.format(record).encode() + b"\n"
        while data:
            try:
                data = data[os.write(2, data) :]
            except BlockingIOError:  # whoever shares the terminal made it non-blocking
                time.sleep(_GATHERED)
            except OSError:  # closed, or a full disk: a server serves on
                break
        return True


@cache
def _handler() -> logging.Handler:
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler, writer = _Handler(queue), _Stderr()
    writer.setFormatter(_JsonFormatter())
    _Listener(queue, writer).start()

    def wait() -> None:
        deadline = time.monotonic() + _AT_END
        while not queue.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.01)  # for the line that was taken last

    atexit.register(wait)
    return handler


def log_to_stderr() -> None:
    """Write what is logged in this process to standard error."""
    logging.getLogger().addHandler(_handler())


def log_requests() -> None:
    """Write a line for each request to standard error."""
    ACCESS.setLevel(logging.INFO)
    ACCESS.propagate = False
    ACCESS.addHandler(_handler())
