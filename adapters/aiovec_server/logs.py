"""The process's log: lines of JSON on standard error, which a thread writes.

So a pipe or a terminal that stalls holds no request up.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
from collections import deque

ACCESS = logging.getLogger("aiovec.access")
"""Logs requests; each record has its facts as ``facts``."""

MOST_WAITING = 10_000
"""Lines that wait for the thread; further ones are dropped."""

_GATHERED = 0.05  # seconds: to wake the thread for each line would cost more than the line
_AT_END = 2.0  # seconds that the process waits at its end for a pipe that stalls


class _Stderr(logging.Handler):
    """Hands records to a thread, which takes no lock while it writes: a pipe that stalls would hold
    up the process's end, where Python asks for the locks of handlers."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[logging.LogRecord] = deque()
        self._any = threading.Event()
        threading.Thread(target=self._write, name="aiovec-log", daemon=True).start()
        atexit.register(self._finish)

    def handle(self, record: logging.LogRecord) -> bool:
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(record)
            if not self._any.is_set():
                self._any.set()
        return True

    def format(self, record: logging.LogRecord) -> str:
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
        return json.dumps(facts, default=repr) + "\n"

    def _write(self) -> None:
        while True:
            self._any.wait()
            time.sleep(_GATHERED)
            self._any.clear()
            while self._waiting:
                data = self.format(self._waiting[0]).encode()
                while data:
                    try:
                        data = data[os.write(2, data) :]
                    except BlockingIOError:  # whoever shares the terminal made it non-blocking
                        time.sleep(_GATHERED)
                    except OSError:  # closed, or a full disk: a server serves on
                        break
                self._waiting.popleft()  # when it is written: ``_finish`` waits for that

    def _finish(self) -> None:
        deadline = time.monotonic() + _AT_END
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.01)


def log_to_stderr() -> None:
    """Write what is logged in this process, and each request, to standard error."""
    logging.getLogger().addHandler(_Stderr())
    ACCESS.setLevel(logging.INFO)
