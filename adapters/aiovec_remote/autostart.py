"""A private server that the clients of all processes share, and start or restart on demand.

It stops after ``idle_timeout`` seconds without a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from aiovec._http.autostart import SharedAddress, SharedFolder
from aiovec.backend.config import load_settings
from aiovec.backend.threads import in_daemon_thread
from aiovec.errors import AiovecError, StoreUnreachableError

_LOG_SIZE = 1024 * 1024
_LOOK = 0.02  # seconds between checks of a server that is starting
_AGAIN = 1.0  # seconds after which a server that died without a message is started again
_DETACHED = 0
if sys.platform == "win32":
    _DETACHED = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP


class Autostart:
    """Finds the server for a TOML file, or starts it."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._turn = asyncio.Lock()
        self._found: SharedAddress | None = None

    async def server(self) -> SharedAddress:
        """Return the address of the server; start a server if none runs."""
        async with self._turn:
            if self._found is None:
                self._found = await in_daemon_thread(self._find)
            return self._found

    def lost(self) -> None:
        """Make the next request look for the server again."""
        self._found = None

    def _find(self) -> SharedAddress:
        folder = SharedFolder(self._config)
        folder.prepare()
        patience = load_settings(folder.config).server.start_timeout
        deadline = time.monotonic() + patience
        again, process, log_size = 0.0, None, 0
        while (now := time.monotonic()) < deadline:
            if (address := folder.address()) is not None:
                return address
            if process is not None and (process.poll() or 0) > 0:  # a killed server is restarted
                raise AiovecError(
                    f"the server could not be started: {_last_words(folder.log, log_size)} (its "
                    f"log is {folder.log})"
                )
            # A server that finds another server in the folder exits with 0.
            if process is None or (process.poll() is not None and now > again):
                again = now + _AGAIN
                process, log_size = _start(folder)
            time.sleep(_LOOK)
        raise StoreUnreachableError(
            "the shared server", f"it did not answer within {patience:g} s; its log is {folder.log}"
        )


def _start(folder: SharedFolder) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server, which outlives this process. Return the server's process and the initial size
    of its log."""
    with contextlib.suppress(OSError):
        if folder.log.stat().st_size > _LOG_SIZE:
            folder.log.replace(folder.log.with_suffix(".1"))
    with folder.log.open("ab") as log:
        size = os.fstat(log.fileno()).st_size
        process = subprocess.Popen(
            # -P: a module in the current folder must not replace ours.
            [sys.executable, "-P", "-m", "aiovec", "serve", "--config", str(folder.config),
             "--shared"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            # Ctrl+C in the terminal of the app, or the end of the app, must not stop the server.
            start_new_session=True, creationflags=_DETACHED,
        )  # fmt: skip
    # The thread waits for the server, which would otherwise stay a zombie until this process ends.
    threading.Thread(target=process.wait, name="aiovec-server", daemon=True).start()
    return process, size


def _last_words(log: Path, start: int) -> str:
    """Return the last line that a server wrote to its log after the position ``start``."""
    with log.open("rb") as file:
        file.seek(start)
        said = file.read(100_000).decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(said) if line.strip()), "it said nothing")
    return last.removeprefix("error: ")
