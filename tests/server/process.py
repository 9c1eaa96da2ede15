"""A server in another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = 60  # seconds; a second on an idle machine


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without aiovec's own variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIOVEC_")}
    return {**kept, **(extra or {})}


class Served:
    """A running ``aiovec serve``."""

    def __init__(self, process: subprocess.Popen[str], facts: dict[str, Any]) -> None:
        self.process = process
        self.url: str = facts["url"]
        self.port = int(self.url.rpartition(":")[2])
        self.facts = facts

    def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a request and return the JSON of its response."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=body if isinstance(body, bytes | None) else json.dumps(body).encode(),
            headers={"content-type": "application/json", **(headers or {})},
        )
        text = self.text(request)
        return json.loads(text) if text else None

    def text(self, request: urllib.request.Request | str) -> str:
        """Send a request, or GET a path, and return the text of the response."""
        whole = self.url + request if isinstance(request, str) else request
        with urllib.request.urlopen(whole, timeout=START) as answer:
            return str(answer.read(), "utf-8")

    def stop(self, kind: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(kind)
        return self.process.wait(START)


@contextmanager
def serving(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Start ``aiovec serve`` on a free port, and kill it at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aiovec", "serve", "--port", "0", "--json", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            assert process.stderr is not None
            raise AssertionError(f"it did not start: {process.stderr.read()}")
        yield Served(process, json.loads(line))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
