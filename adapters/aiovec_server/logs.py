"""The process's log: lines of JSON on standard error, which a thread writes.

So a pipe or a terminal that stalls holds no request up.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import time
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue

ACCESS = logging.getLogger("aiovec.access")
"""Logs requests; each record has its facts as ``facts``."""

MOST_WAITING = 10_000
"""Lines that wait for the thread; further ones are dropped."""

_GATHERED = 0.05  # seconds: waking the thread for each line would cost more than the line
_AT_END = 2.0  # seconds that the process waits at its end for a pipe that stalls


class _Waiting(QueueHandler):
    """Queues the records as they are: the thread formats them."""

    queue: SimpleQueue[logging.LogRecord]

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.queue.qsize() < MOST_WAITING:
            self.queue.put_nowait(record)


class _Thread(QueueListener):
    """Takes no lock while it writes: at its end the process takes the locks of all handlers."""

    queue: SimpleQueue[logging.LogRecord]

    def dequeue(self, block: bool) -> logging.LogRecord:
        record = self.queue.get(block)
        if self.queue.empty():
            time.sleep(_GATHERED)
        return record

    def handle(self, record: logging.LogRecord) -> None:
        data = _line(record)
        while data:
            try:
                data = data[os.write(2, data) :]
            except BlockingIOError:  # another process that shares the terminal made it non-blocking
                time.sleep(_GATHERED)
            except OSError:  # closed, or a full disk: a server serves on
                return

    def stop(self) -> None:
        self.enqueue_sentinel()
        if self._thread is not None:
            self._thread.join(_AT_END)


def _line(record: logging.LogRecord) -> bytes:
    """Return a record as a line: JSON escapes what a client chose."""
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


def log_to_stderr() -> None:
    """Write what is logged in this process, and each request, to standard error."""
    waiting: SimpleQueue[logging.LogRecord] = SimpleQueue()
    thread = _Thread(waiting)
    thread.start()
    atexit.register(thread.stop)
    logging.getLogger().addHandler(_Waiting(waiting))
    ACCESS.setLevel(logging.INFO)
