"""The folder by which the processes of a machine share one server.

It lies beside the TOML file and holds

``server``   locked by the server as long as it lives, so that the system tells when it died
``port.N``   locked by the server as long as the port N is its own: no other process has got it
``start``    locked by whoever looks for the server, so that two never start one each
``clients``  locked, shared, by each process that uses the server
``state``    where the server listens, and the key that it asks for
``log``      what the server says; ``log.1`` is the part before

Locks, unlike a process id in a file, never outlive their process and never mean another one. Only
the owner can read the folder: who knows the key may read and write all tables.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from ..backend.config import ENV_DELIMITER, ENV_PREFIX
from ..errors import ConfigError

LOG_SIZE = 1024 * 1024
"""Bytes of the log, and as many of the part before."""

_KEY = "retrieval.server.autostart"
_OVERRIDES = f"{ENV_PREFIX}RETRIEVAL{ENV_DELIMITER}"
_OF_CLIENTS = f"{_OVERRIDES}REMOTE{ENV_DELIMITER}"
_LARGEST_STATE = 10_000


@dataclass(frozen=True, slots=True)
class SharedServer:
    """A server that is shared, as its file ``state`` tells of it."""

    pid: int
    port: int
    key: str
    digest: str
    """Of the settings by which it was started."""

    started: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __repr__(self) -> str:
        return f"<server {self.pid} at {self.url}>"


class Lock:
    """A lock on a file, which ends with the process."""

    def __init__(self, path: Path, *, above: int = 0) -> None:
        number = os.open(path, os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o600)
        self._file: int | None = _above(above, number)

    def take(self, *, shared: bool = False, within: float = 0.0) -> bool:
        """Take the lock, and return whether it was free, or became free within some seconds."""
        if self._file is None:
            return False
        deadline = time.monotonic() + within
        while not _try_lock(self._file, shared=shared):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def give_back(self) -> None:
        """Let others take the lock."""
        if self._file is not None:
            _unlock(self._file)

    def is_held(self) -> bool:
        """Return whether another process holds the lock, alone."""
        number = self._file  # another thread may close it
        if number is None:
            return False
        if not _try_lock(number, shared=True):
            return True
        _unlock(number)
        return False

    def close(self) -> None:
        """Give the lock back and close the file; a second time, nothing."""
        number, self._file = self._file, None
        if number is not None:
            try:
                # At once, also where a child process that was forked has a copy of the file.
                _unlock(number)
            finally:
                os.close(number)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        number = getattr(self, "_file", None)
        if number is not None:
            os.close(number)  # without unlocking: this may be a child process with a copy


class RunningServer:
    """A server that is shared, and whether it still is the one that told where it listens.

    Of a server that is killed, the system closes the files in the order of their numbers, or in the
    opposite one. That of the port is opened between those of the locks, so one of these is free
    before anybody else can get the port. The second one is a file of the port, so that the next
    server does not speak for the port of the one before.
    """

    def __init__(self, folder: SidecarFolder, told: SharedServer) -> None:
        self.told = told
        self._locks = Lock(folder.path / "server"), Lock(folder.of_port(told.port))

    def is_alive(self) -> bool:
        """Return whether the port is the server's. Of a connection, ask behind connecting."""
        return all(lock.is_held() for lock in self._locks)

    def close(self) -> None:
        for lock in self._locks:
            lock.close()


class SidecarFolder:
    """The folder of one TOML file. ConfigError where it cannot be used, or is another user's."""

    def __init__(self, path: Path, config: Path) -> None:
        self.path = path
        self.config = config
        self.log = path / "log"
        self._state = path / "state"
        self._server: Lock | None = None
        self._clients: Lock | None = None
        self._port: Lock | None = None
        self._digest = ""
        self._stamp: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Path) -> SidecarFolder:
        """Return the folder of a TOML file, as the environment of this process overrides it.

        Processes with other overrides mean other stores, or the same with other settings.
        """
        config = Path(os.path.abspath(config))
        name = f"{config.name}{_overrides()}.server"
        return cls(config.parent / ".aiovec" / name, config)

    def prepare(self) -> None:
        """Make the folder, and check that it is this user's alone."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = os.lstat(self.path)
        except OSError as exc:
            raise ConfigError(
                f"a server is started by means of a folder that cannot be used: {self.path}: "
                f"{exc.strerror}; start `aiovec serve` yourself, and leave autostart out",
                key=_KEY,
            ) from exc
        if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
            raise ConfigError(
                f"{self.path} must be a folder of this user that no other one can open; remove it, "
                "or start `aiovec serve` yourself, and leave autostart out",
                key=_KEY,
            )

    # For clients

    def searching(self) -> Lock:
        """Return the lock, not taken yet, of who looks for the server or starts it."""
        return Lock(self.path / "start")

    def using(self) -> Lock:
        """Return a lock that tells the server of a client until it is closed."""
        lock = Lock(self.path / "clients")
        lock.take(shared=True, within=60)
        return lock

    def is_served(self) -> bool:
        """Return whether a server lives; it may not listen yet."""
        with Lock(self.path / "server") as lock:
            return lock.is_held()

    def server(self) -> RunningServer | None:
        """Return the server of which the file tells. It may have been killed."""
        told = self.state()
        return None if told is None else RunningServer(self, told)

    def of_port(self, number: int) -> Path:
        """Return the file that a server at this port has locked."""
        return self.path / f"port.{number}"

    def state(self) -> SharedServer | None:
        """Return what the file says of the server. None where it says nothing that can be right."""
        try:
            number = os.open(self._state, os.O_RDONLY | _CAREFULLY)
        except OSError:
            return None
        try:
            if not _is_ours(os.fstat(number)):
                return None
            return _read_state(os.read(number, _LARGEST_STATE))
        finally:
            os.close(number)

    # For the server

    def claim(self) -> bool:
        """Become the server of the folder. False where another one lives."""
        self.prepare()
        lock = Lock(self.path / "server")
        if not lock.take(within=2.0):  # a client may be trying it
            lock.close()
            return False
        self._server, self._clients = lock, Lock(self.path / "clients")
        self._digest = digest_of(self.config)
        self._state.unlink(missing_ok=True)  # of a server that was killed
        for left in self.path.glob("port.*"):
            with contextlib.suppress(OSError):  # Windows: a client has it open
                left.unlink()
        return True

    def publish(self, port: int, key: str, socket: int = 0) -> None:
        """Tell clients where the server is: its port, whose file has the number ``socket``."""
        self._port = Lock(self.of_port(port), above=socket)
        self._port.take(within=2.0)  # a client may be trying it
        told = SharedServer(os.getpid(), port, key, self._digest, time.time())
        made = self.path / f"state.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            made.unlink()
        number = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump(asdict(told), file)
        made.replace(self._state)

    def any(self) -> bool:
        """Return whether a process uses the server. Keeps the log in its bounds, too."""
        self._bound_log()
        if self._clients is None or not self._clients.take():
            return True
        self._clients.give_back()
        return False

    def retire(self) -> bool:
        """Let no client find the server any more, unless one uses it; return whether it may end."""
        if self._clients is None or not self._clients.take():
            return False
        self._withdraw()
        self._clients.give_back()
        return True

    def is_outdated(self) -> bool:
        """Return whether the TOML file says something else than when the server was started."""
        try:
            found = self.config.stat()
        except OSError:
            return False
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp == self._stamp:
            return False
        digest = digest_of(self.config)
        if digest in ("", self._digest):  # unreadable, maybe half of it is written: look again
            self._stamp = stamp if digest else ()
            return False
        return True

    def stopping(self) -> None:
        """Tell clients, before the port is given back, that it will be."""
        self._withdraw()
        if self._port is not None:
            self._port.close()

    def leave(self) -> None:
        """Stop being the server of the folder."""
        self.stopping()
        if self._server is not None:
            self._server.close()
        if self._clients is not None:
            self._clients.close()

    def _withdraw(self) -> None:
        state = None if self._server is None else self.state()
        # Where somebody removed the folder, another server may have begun in a new one.
        if state is not None and state.pid == os.getpid():
            self._state.unlink(missing_ok=True)

    def _bound_log(self) -> None:
        with contextlib.suppress(OSError):
            here, there = os.fstat(2), os.stat(self.log)
            if here.st_size > LOG_SIZE and (here.st_dev, here.st_ino) == (
                there.st_dev,
                there.st_ino,
            ):
                shutil.copyfile(self.log, self.log.with_suffix(".1"))
                os.ftruncate(2, 0)  # it is appended to, so the next line is the first


def new_key() -> str:
    """Return an API key that nobody can guess."""
    return secrets.token_urlsafe(32)


def _overrides() -> str:
    """Return a mark for the keys that the environment sets; "" where it sets none of a server's."""
    upper = {name.upper(): value for name, value in os.environ.items()}
    found = {
        name: value
        for name, value in sorted(upper.items())
        if name.startswith(_OVERRIDES) and not name.startswith(_OF_CLIENTS)
    }
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    return f".{digest[:12]}" if found else ""


def digest_of(config: Path) -> str:
    """Return a digest of what a TOML file says, or "" where it cannot be read."""
    try:
        with config.open("rb") as file:
            retrieval = tomllib.load(file).get("retrieval")
    except (OSError, ValueError):
        return ""  # whoever loads the settings says what is wrong
    text = json.dumps(retrieval, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_state(text: bytes) -> SharedServer | None:
    try:
        told = json.loads(text)
        found = SharedServer(**told)
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = {"pid": int, "port": int, "key": str, "digest": str, "started": float}
    if any(type(getattr(found, name)) is not kind for name, kind in kinds.items()):
        return None
    if not (0 < found.port < 65_536 and found.pid > 1 and found.key.isprintable()):
        return None
    return found if found.key.isascii() and found.key else None


def _is_ours(found: os.stat_result) -> bool:
    if sys.platform == "win32":
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


_CAREFULLY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

if sys.platform == "win32":
    import msvcrt

    # Windows knows no shared locks here: each holder takes one byte, and the other kind takes all.
    _BYTES = 2**30

    def _try_lock(file: int, *, shared: bool) -> bool:
        os.lseek(file, secrets.randbelow(_BYTES) if shared else 0, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1 if shared else _BYTES)
        except OSError:
            return False
        return True

    def _above(number: int, file: int) -> int:
        return file  # the system gives back the locks of a process as it likes

    def _unlock(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        with contextlib.suppress(OSError):  # closing the file gives back a shared one
            msvcrt.locking(file, msvcrt.LK_UNLCK, _BYTES)

else:
    import fcntl

    def _try_lock(file: int, *, shared: bool) -> bool:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _above(number: int, file: int) -> int:
        """Return the file under a number above another one's."""
        if file > number:
            return file
        try:
            return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, number + 1)
        finally:
            os.close(file)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
