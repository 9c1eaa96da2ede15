"""A server of one's own: started at the first connect, shared by processes, restarted if it died.

It ends by itself when nobody has asked it anything for ``idle_timeout``.
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
_LOOK = 0.02  # seconds between two looks at a server that starts
_AGAIN = 1.0  # seconds after which a server is started again, if the last one left without a word
_DETACHED = 0
if sys.platform == "win32":
    _DETACHED = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP


class Autostart:
    """Finds the server of a TOML file, or starts it."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._turn = asyncio.Lock()
        self._found: SharedAddress | None = None

    async def server(self) -> SharedAddress:
        """Return where the server listens; it is started if there is none."""
        async with self._turn:
            if self._found is None:
                self._found = await in_daemon_thread(self._find)
            return self._found

    def lost(self) -> None:
        """Look for the server again before the next request."""
        self._found = None

    def _find(self) -> SharedAddress:
        folder = SharedFolder(self._config)
        folder.prepare()
        patience = load_settings(folder.config).server.start_timeout
        deadline = time.monotonic() + patience
        child: _Child | None = None
        while time.monotonic() < deadline:
            if (found := folder.address()) is not None:
                return found
            # One that finds another server in the folder ends with 0.
            if child is None or (child.ended() and time.monotonic() - child.began > _AGAIN):
                child = _Child(folder)
            time.sleep(_LOOK)
        raise StoreUnreachableError(
            "the shared server", f"it did not answer within {patience:g} s; its log is {folder.log}"
        )


class _Child:
    """A server that this process started. It outlives the process."""

    def __init__(self, folder: SharedFolder) -> None:
        self.began = time.monotonic()
        self._log = folder.log
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > _LOG_SIZE:
                self._log.replace(self._log.with_suffix(".1"))
        with self._log.open("ab") as log:
            self._from = os.fstat(log.fileno()).st_size
            self._process = subprocess.Popen(
                # -P: a module in the current folder must not take the place of ours.
                [sys.executable, "-P", "-m", "aiovec_server", "--config", str(folder.config),
                 "--shared"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # Ctrl+C in the terminal of the app, or its end, is not that of the server.
                start_new_session=True, creationflags=_DETACHED,
            )  # fmt: skip
        # When it ends, it is no zombie for as long as this process lives.
        threading.Thread(target=self._process.wait, name="aiovec-server", daemon=True).start()

    def ended(self) -> bool:
        """Return whether it ended; raise AiovecError with its last words if it failed."""
        code = self._process.poll()
        if code is None or code <= 0:  # it runs, another one serves, or it was killed
            return code is not None
        with self._log.open("rb") as file:
            file.seek(self._from)
            said = file.read(100_000).decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it said nothing")
        raise AiovecError(
            f"the server could not be started: {last.removeprefix('error: ')} (its log is "
            f"{self._log})"
        )
