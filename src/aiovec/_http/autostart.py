"""The folder through which a user's processes share one server for a TOML file.

Only this user can open the folder. It is in the system's folder for runtime or temporary files, and
contains:

``lock``    locked by the server while it runs
``socket``  the socket; on Windows, ``state`` with a loopback port and a key
``log``     the server's log; ``log.1`` is the previous log

The folder's name is a digest of the TOML file's path, its content, and the settings in the
environment. So processes with other settings start another server, and the old server ends when it
is idle.
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
"""Environment variable with the server's key; a socket needs no key."""

_OVERRIDES = "AIOVEC_RETRIEVAL__"
_OF_CLIENTS = "AIOVEC_RETRIEVAL__REMOTE__"
_CONNECTING = 5.0


@dataclass(frozen=True, slots=True)
class SharedAddress:
    """The address of a shared server: a socket in the folder, or a port with a key."""

    socket: str | None
    port: int = 0
    key: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.socket is None else "http://localhost"


class SharedFolder:
    """The folder of one TOML file's server. Raises ConfigError if it cannot be used."""

    def __init__(self, config: Path) -> None:
        self.config = Path(os.path.abspath(config))
        upper = {name.upper(): value for name, value in os.environ.items()}
        overrides = {
            name: value
            for name, value in sorted(upper.items())
            if name.startswith(_OVERRIDES) and not name.startswith(_OF_CLIENTS)
        }
        digest = hashlib.sha256(json.dumps([str(self.config), overrides]).encode())
        with contextlib.suppress(OSError):  # loading the settings will report the error
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
        """Create the folder, and check that only this user can open it."""
        try:
            for path in (self._parent, self.path):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = os.lstat(path)
                private = sys.platform == "win32" or (
                    status.st_uid == os.geteuid() and not status.st_mode & 0o077
                )
                if not stat.S_ISDIR(status.st_mode) or not private:
                    raise PermissionError(0, "another user can open it")
        except OSError as exc:
            raise ConfigError(
                f"a server cannot be started with the folder {self.path}: {exc.strerror}; "
                "start `aiovec serve` yourself, and set autostart = false",
                key="retrieval.server.autostart",
            ) from exc

    # For clients

    def address(self) -> SharedAddress | None:
        """Return the address of the server; None if no server answers."""
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
        """Become the folder's server until the process ends; return False if another process is
        the server."""
        self.prepare()
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not try_lock(self._lock):
            return False
        self.withdraw()
        return True

    @property
    def socket(self) -> str | None:
        """The path of the socket to listen on; None if a loopback port is needed."""
        return None if os.name == "nt" else str(self._socket)

    def new_key(self) -> str:
        """Return a new key for a server that listens on a port."""
        return secrets.token_urlsafe(32)

    def publish(self, port: int, key: str) -> None:
        """Write the port and the key for clients."""
        self._state.write_text(json.dumps([port, key]))

    def withdraw(self) -> None:
        """Remove the socket and ``state``, so that clients no longer use the server."""
        self._socket.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
