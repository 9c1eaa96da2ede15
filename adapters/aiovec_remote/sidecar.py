"""A server of one's own: started at the first connect, shared by processes, restarted if it died.

It ends by itself when no client has used it for ``idle_timeout``: see ``SidecarFolder``, by which
the system tells it of clients, also of those that were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from aiovec._http.sidecar import (
    LOG_SIZE,
    Lock,
    RunningServer,
    SharedServer,
    SidecarFolder,
    digest_of,
)
from aiovec.backend.config import load_settings
from aiovec.backend.threads import in_daemon_thread
from aiovec.errors import AiovecError, ConfigError, StoreBusyError

_HEALTH = 5.0  # seconds that a server may take to say that it is well
_LOOK = 0.02  # seconds between two looks at a server that starts


class Sidecar:
    """The server of a TOML file."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._folder = SidecarFolder.of(config)
        self._turn = asyncio.Lock()
        self._server: RunningServer | None = None
        self._doubted = False
        self._using: Lock | None = None
        self._closed = False
        self._life = threading.Lock()

    async def server(self) -> SharedServer:
        """Return the running server; it is started if there is none."""
        # Each time: a process of another user may have got the port of a server that has ended, and
        # must be told neither rows nor that they are stored.
        found = self._trusted()
        if found is None:
            async with self._turn:
                found = self._trusted()
                if found is None:
                    self._doubted = False
                    self._server = found = await in_daemon_thread(self._find)
        return found.told

    def _trusted(self) -> RunningServer | None:
        found = self._server
        return found if found is not None and not self._doubted and found.is_alive() else None

    def is_server(self, port: int | None) -> bool:
        """Return whether a port is that of the server that was found, which lives.

        Asked behind connecting to it, this says that the connection is one to the server.
        """
        found = self._server
        return found is not None and found.told.port == port and found.is_alive()

    def lost(self) -> None:
        """Look for the server again before the next request; others may still be connecting."""
        self._doubted = True

    def close(self) -> None:
        """Let the server end, unless others use it."""
        with self._life:
            self._closed = True
            using, server = self._using, self._server
            self._using = self._server = None
        for one in (using, server):
            if one is not None:
                one.close()

    def _find(self) -> RunningServer:
        self._folder.prepare()
        try:
            self._use()
            return self._searched()
        except OSError as exc:  # a file system without locks, or a full disk
            raise ConfigError(
                f"a server cannot be started by means of {self._folder.path}: {exc.strerror}; "
                "start `aiovec serve` yourself, and leave autostart out",
                key="retrieval.server.autostart",
            ) from exc

    def _searched(self) -> RunningServer:
        folder = self._folder
        settings = load_settings(self._config).server
        patience = settings.start_timeout + settings.shutdown_timeout + _HEALTH
        with folder.searching() as search:
            began = time.monotonic()
            # Others may be starting it, one after another.
            if not search.take(within=2 * patience):
                raise StoreBusyError(
                    "other processes have been starting the server all the time",
                    time.monotonic() - began,
                )
            for found in self._tries(time.monotonic() + patience):
                if found is not None:
                    return found
                time.sleep(_LOOK)
        state = folder.state()
        process = "" if state is None else f" (process {state.pid})"
        raise AiovecError(
            f"the server{process} does not answer within {patience:g} s; its log is {folder.log}"
        )

    def _use(self) -> None:
        """Tell the server of this client, before it is looked for: it may be about to end."""
        with self._life:
            if self._using is None and not self._closed:
                self._using = self._folder.using()

    def _tries(self, deadline: float) -> Iterator[RunningServer | None]:
        """Yield None until the server answers, then the server."""
        folder = self._folder
        child: _Child | None = None
        while time.monotonic() < deadline:
            if not folder.is_served():
                if child is None:
                    child = _Child(self._config, folder)
                elif child.ended():
                    if folder.is_served():
                        continue  # by one that began at the same moment
                    if child.failed():
                        raise child.failure()
                    child = None  # it ran, and was ended before it was seen
            # A server that was started by other settings notices that by itself, and ends.
            elif (
                (server := folder.server()) is not None
                and server.told.digest == digest_of(self._config)
                and _is_well(server)
            ):
                yield server
            yield None


class _Child:
    """A server that this process started. It outlives the process."""

    def __init__(self, config: Path, folder: SidecarFolder) -> None:
        self._log = folder.log
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > LOG_SIZE:
                self._log.replace(self._log.with_suffix(".1"))
        if not sys.executable:
            raise ConfigError(
                "this program does not say where its Python is, so it cannot start a server; start "
                "`aiovec serve` yourself, and leave autostart out",
                key="retrieval.server.autostart",
            )
        number = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _CAREFULLY, 0o600)
        try:
            self._from = os.fstat(number).st_size
            self._process = subprocess.Popen(
                # -P: a module in the current folder must not take the place of ours.
                [sys.executable, "-P", "-m", "aiovec_server", "--config", str(config), "--sidecar"],
                stdin=subprocess.DEVNULL,
                stdout=number,
                stderr=number,
                # Ctrl+C in the terminal of the app, or its end, is not that of the server.
                start_new_session=True,
                creationflags=_DETACHED,
            )
        finally:
            os.close(number)
        # When it ends, it is no zombie for as long as this process lives.
        threading.Thread(target=self._process.wait, name="aiovec-server", daemon=True).start()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def failed(self) -> bool:
        """Return whether it ended by itself, with an error, and not by a signal."""
        return (self._process.returncode or 0) > 0

    def failure(self) -> AiovecError:
        """Return the error of a server that did not start."""
        with self._log.open("rb") as file:
            file.seek(self._from)
            said = file.read(100_000).decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it said nothing")
        return AiovecError(
            f"the server could not be started: {last.removeprefix('error: ')} (its log is "
            f"{self._log})"
        )


def _is_well(server: RunningServer) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.told.port, timeout=_HEALTH)
    try:
        connection.connect()
        if not server.is_alive():
            return False
        key = {"Authorization": f"Bearer {server.told.key}"}
        connection.request("GET", "/health", headers=key)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


_CAREFULLY = getattr(os, "O_NOFOLLOW", 0)
_DETACHED = 0
if sys.platform == "win32":
    _DETACHED = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
