"""The folder by which the processes of a user share one server for a TOML file.

It is this user's alone, in the folder for files of running programs, and holds

``lock``    locked by the server as long as it lives
``socket``  where it listens; on Windows, ``state`` with a port of loopback and a key
``log``     what the server says; ``log.1`` is the log before

Its name is a digest of the TOML file, its path, and the settings of the environment. So a server
serves the settings that it was started with; others start another one, and it ends when idle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..backend.files import try_lock
from ..errors import ConfigError

KEY_VARIABLE = "AIOVEC_AUTOSTART_KEY"
"""Environment variable in which the server finds its key; without one, its socket needs none."""

_OVERRIDES = "AIOVEC_RETRIEVAL__"
_OF_CLIENTS = "AIOVEC_RETRIEVAL__REMOTE__"
_CONNECTING = 5.0


@dataclass(frozen=True, slots=True)
class SharedAddress:
    """Where a shared server listens: a socket in the folder, or a port with a key."""

    socket: str | None
    port: int = 0
    key: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.socket is None else "http://localhost"


class SharedFolder:
    """The folder of the server of one TOML file. ConfigError where it cannot be used."""

    def __init__(self, config: Path) -> None:
        self.config = Path(os.path.abspath(config))
        upper = {name.upper(): value for name, value in os.environ.items()}
        overrides = {
            name: value
            for name, value in sorted(upper.items())
            if name.startswith(_OVERRIDES) and not name.startswith(_OF_CLIENTS)
        }
        digest = hashlib.sha256(json.dumps([str(self.config), overrides]).encode())
        with contextlib.suppress(OSError):  # loading the settings reports the fault
            digest.update(self.config.read_bytes())
        user = os.geteuid() if sys.platform != "win32" else os.environ.get("USERNAME", "")
        parent = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        self._parent = Path(parent) / f"aiovec-{user}"
        self.path = self._parent / digest.hexdigest()[:16]
        self.log = self.path / "log"
        self._socket = self.path / "socket"
        self._state = self.path / "state"
        self._lock: int | None = None

    def prepare(self) -> None:
        """Make the folder, and check that it is this user's alone."""
        try:
            for path in (self._parent, self.path):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = os.lstat(path)
                ours = sys.platform == "win32" or (
                    status.st_uid == os.geteuid() and not status.st_mode & 0o077
                )
                if not stat.S_ISDIR(status.st_mode) or not ours:
                    raise PermissionError(0, "another user can open it")
        except OSError as exc:
            raise ConfigError(
                f"a server cannot be started by means of the folder {self.path}: {exc.strerror}; "
                "start `aiovec serve` yourself, and leave autostart out",
                key="retrieval.server.autostart",
            ) from exc

    # For clients

    def address(self) -> SharedAddress | None:
        """Return where the server listens; None if none answers there."""
        if os.name != "nt":
            with socket.socket(socket.AF_UNIX) as tried, contextlib.suppress(OSError):
                tried.settimeout(_CONNECTING)
                tried.connect(str(self._socket))
                return SharedAddress(str(self._socket))
            return None
        try:
            port, key = json.loads(self._state.read_text())
            socket.create_connection(("127.0.0.1", port), _CONNECTING).close()
        except (OSError, ValueError, TypeError):
            return None
        return SharedAddress(None, port, key)

    # For the server

    def claim(self) -> bool:
        """Become the server of the folder until the process ends. False where another one is."""
        self.prepare()
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not try_lock(self._lock):
            return False
        self.withdraw()
        return True

    @property
    def socket(self) -> str | None:
        """The path of the socket to listen at; None where a port of loopback is needed."""
        return None if os.name == "nt" else str(self._socket)

    def new_key(self) -> str:
        """Return the key of a server that listens at a port."""
        return secrets.token_urlsafe(32)

    def publish(self, port: int, key: str) -> None:
        """Tell clients of the port and the key."""
        self._state.write_text(json.dumps([port, key]))

    def withdraw(self) -> None:
        """Take away what tells clients where the server is."""
        self._socket.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
