"""Change the key of a TOML file that names the backend in use, and nothing else.

tomlkit keeps comments, order, line ends and spelling. Python's own parser reads the edited text
again, and it is used only if all but this key is the same: a file that tomlkit would write in
another way is refused and stays as it is. The new file replaces the old one in one step, with its
mode and its owner.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Item, SingleKey, Table, Whitespace

from aiovec.backend.files import flush_folder
from aiovec.errors import ConfigError, MigrationError

from .host import Host
from .locate import Place, check_leads

SECTION, KEY = "retrieval", "backend"
VARIABLES = ("AIOVEC_RETRIEVAL__BACKEND", "AIOVEC_RETRIEVAL")

# Someone who edits the file at this very moment is waited for so often.
_ATTEMPTS = 3
# Windows refuses to replace a file while another process reads it, which takes a moment.
_SECONDS_FOR_READERS = 2.0
_MARK = b"\xef\xbb\xbf"  # that some editors of Windows put before the text


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of backend in a TOML file; nothing was done where ``kept`` is None.

    ``file`` is the real file behind any link, ``kept`` what it was before.
    """

    file: Path
    before: str
    after: str
    kept: Path | None = None


class TomlFile:
    """A TOML file as the cut-over uses it: every look at the disk happens in a thread.

    The path is absolute.
    """

    def __init__(self, file: Path, host: Host) -> None:
        self._file = file
        self._host = host

    @property
    def path(self) -> str:
        return str(self._file)

    async def check(self, origin: Place, goal: Place) -> None:
        await self._host.in_thread(self._check, origin, goal)

    async def flip(self, goal: Place) -> None:
        await self._host.in_thread(self._flip, goal)

    def _check(self, origin: Place, goal: Place) -> None:
        present = backend_in(self._file)
        if present != origin.configured:
            raise MigrationError(
                f"{self._file} names the backend {present!r}, not {origin.configured!r}: it was "
                "changed since the run began"
            )
        for place in (origin, goal):
            check_leads(place.configured, place.identity, self._file)
        check(self._file, goal.configured)

    def _flip(self, goal: Place) -> None:
        check_leads(goal.configured, goal.identity, self._file)
        flip(self._file, goal.configured)


def backend_in(file: Path) -> str:
    """The backend that the file names, or the default where it names none. No environment."""
    _, document = _parsed(file, _read(file))
    return _backend_of(file, document)


def check(file: Path, backend: str) -> Flip:
    """Return what ``flip`` would do. MigrationError if it could not. Changes nothing."""
    real = Path(os.path.realpath(file))
    content = _read(real)
    before, _ = _edited(real, content, backend)
    if before != backend:
        _check_replaceable(real)
    return Flip(real, before, backend)


def flip(file: Path, backend: str) -> Flip:
    """Let the file name this backend: the old one is kept beside it, the new one replaces it whole.

    Nothing is done where it names the backend already. A file that somebody changes meanwhile is
    read anew, so that no edit is lost. MigrationError where it cannot be done; then the file is
    as it was.
    """
    real = Path(os.path.realpath(file))
    for _ in range(_ATTEMPTS):
        content = _read(real)
        before, edited = _edited(real, content, backend)
        if before == backend:
            return Flip(real, before, backend)
        _check_replaceable(real)
        try:
            kept = _replace(real, content, edited, backend)
        except OSError as exc:
            raise MigrationError(
                f"{real} cannot be replaced: {exc.strerror or exc}; it was not changed. "
                f"{_by_hand(backend)}"
            ) from exc
        if kept is not None:
            return Flip(real, before, backend, kept)
    raise MigrationError(
        f"{real} was changed by another program at each try to replace it; their changes are kept"
    )


def edited(text: str, backend: str) -> str:
    """The text of a TOML file that names this backend; ValueError where it cannot be edited."""
    document = tomllib.loads(text)
    result = _with_backend(text, backend)
    wanted = _changed(document, backend)
    if not _same(tomllib.loads(result), wanted):
        raise ValueError("the place of the key was not found")
    return result


def variable_that_holds() -> tuple[str, str] | None:
    """The environment variable that says which backend is in use, and what it says."""
    import json

    present = {name.upper(): name for name in os.environ}
    for variable in VARIABLES:
        name = present.get(variable)
        value = os.environ.get(name, "") if name is not None else ""
        if name is None or not value:
            continue
        if variable.endswith(KEY.upper()):
            return name, value
        with contextlib.suppress(ValueError, AttributeError):
            held = json.loads(value).get(KEY)
            if held:
                return name, str(held)
    return None


# The text


def _with_backend(text: str, backend: str) -> str:
    """Return the text with the key set; ValueError where tomlkit does not keep the rest as it is.

    A missing key goes first into its table. tomlkit itself adds at the end, after comments that may
    belong to the next table, so its bodies are edited here.
    """
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as exc:
        raise ValueError(str(exc)) from exc
    if document.as_string() != text:
        raise ValueError("tomlkit would also write other parts of the file differently")
    newline = "\r\n" if "\r\n" in text[: text.find("\n") + 1] else "\n"
    assignment = f"{KEY} = {tomlkit.string(backend).as_string()}{newline}"
    parts = [
        (at, key, part)
        for at, (key, part) in enumerate(document.body)
        if key is not None and key.key == SECTION and isinstance(part, (Table, InlineTable))
    ]
    for _, _, part in parts:
        body = part.value.body
        for at, (key, value) in enumerate(body):
            if key is not None and key.key == KEY:
                body[at] = key, _spelled_like(value, backend)
                return document.as_string()
    for _, _, part in parts:
        if isinstance(part, Table) and not part.is_super_table():  # [retrieval]
            lead = part.trivia.indent.rpartition("\n")[2] if part.trivia.trail else newline
            part.value.body.insert(0, (None, Whitespace(lead + assignment)))
            return document.as_string()
    for at, key, part in parts:
        if isinstance(part, InlineTable):  # retrieval = { dim = 3 }
            first = tomlkit.string(backend)
            first.trivia.indent = " "
            rest = part.value.body or [(None, Whitespace(" "))]
            part.value.body[:] = [(SingleKey(KEY), first), *rest]
            return document.as_string()
        if key.is_dotted():  # retrieval.dim = 3
            document.body.insert(at, (None, Whitespace(f"{SECTION}.{assignment}")))
            return document.as_string()
    gap = "" if not text or text.endswith("\n") else newline
    blank = newline if text.strip() else ""
    return f"{text}{gap}{blank}[{SECTION}]{newline}{assignment}"


def _spelled_like(old: Item, backend: str) -> Item:
    """Return the value in the quotes of the old one, with its comment and the space around it."""
    literal = old.as_string().startswith("'") and not re.search(r"['\x00-\x1f\x7f]", backend)
    value = tomlkit.string(backend, literal=literal)
    for part in ("indent", "comment_ws", "comment", "trail"):
        setattr(value.trivia, part, getattr(old.trivia, part))
    return value


def _changed(document: Mapping[str, Any], backend: str) -> dict[str, Any]:
    section = document.get(SECTION, {})
    return {**document, SECTION: {**section, KEY: backend}}


def _same(one: Any, other: Any) -> bool:
    """Equal in value and in type, a NaN to a NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one != one and other != other)  # two NaNs


# The file


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ConfigError(f"{file}: cannot be read: {reason}", file=str(file)) from exc


def _parsed(file: Path, content: bytes) -> tuple[str, dict[str, Any]]:
    try:
        text = content.decode("utf-8-sig")
        return text, tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError is a ValueError too
        raise ConfigError(f"{file}: is not TOML: {exc}", file=str(file)) from exc


def _backend_of(file: Path, document: Mapping[str, Any]) -> str:
    section = document.get(SECTION, {})
    backend = section.get(KEY, _default()) if isinstance(section, dict) else None
    if not isinstance(backend, str):
        raise ConfigError(
            f"{file}: {SECTION}.{KEY} must be the name of a backend", file=str(file),
            key=f"{SECTION}.{KEY}",
        )  # fmt: skip
    return backend


def _default() -> str:
    from aiovec.backend.config import RetrievalSettings

    return str(RetrievalSettings.model_fields[KEY].default)


def _edited(file: Path, content: bytes, backend: str) -> tuple[str, bytes]:
    """The backend that the file names, and its content as it has to be."""
    text, document = _parsed(file, content)
    before = _backend_of(file, document)
    if before == backend:
        return before, content
    try:
        result = edited(text, backend)
    except (ValueError, RecursionError) as exc:
        raise MigrationError(
            f"{file}: the key {SECTION}.{KEY} is written in a way that cannot be changed safely "
            f"({exc}); the file was not changed. {_by_hand(backend)}"
        ) from exc
    mark = _MARK if content.startswith(_MARK) else b""
    return before, mark + result.encode()


def _by_hand(backend: str) -> str:
    return f'To change it by hand, write the line {KEY} = "{backend}" under [{SECTION}]'


def _check_replaceable(file: Path) -> None:
    """Refuse early what the system would refuse later."""
    folder = file.parent
    effective = bool(os.supports_effective_ids)  # it lists os.access or nothing
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise MigrationError(
            f"{file} cannot be replaced: this user may not write in {folder}; it was not changed"
        )
    try:
        found = file.stat()
        if not found.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            raise MigrationError(
                f"{file} cannot be replaced: it is read-only; make it writable, or name the new "
                "backend by hand"
            )
        if found.st_dev != folder.stat().st_dev:
            raise MigrationError(
                f"{file} cannot be replaced, because the file itself is mounted; mount its folder "
                "instead"
            )
    except OSError as exc:
        raise MigrationError(f"{file} cannot be reached: {exc.strerror or exc}") from exc


def _replace(file: Path, content: bytes, edited: bytes, backend: str) -> Path | None:
    """Put the edited content in the file's place; the path of the old one.

    None, and nothing done, where the file does not hold ``content`` any more.
    """
    with contextlib.ExitStack() as undone:
        kept = _unused(file, content, backend)
        if not kept.exists():
            _write_like(file, content, kept)
            undone.callback(_remove, kept)
        new = file.with_name(f".{file.name}.new")
        _remove(new)  # of a run that was killed
        undone.callback(_remove, new)
        _write_like(file, edited, new)
        # From here to the replacement there is a moment in which an edit would be lost, as there
        # is for every editor.
        if file.read_bytes() != content:
            return None
        _rename(new, file)
        undone.pop_all()
    with contextlib.suppress(OSError):  # the new content is there, so this is no failure
        flush_folder(file.parent)
    return kept


def _unused(file: Path, content: bytes, backend: str) -> Path:
    """A name beside the file that is free, or that holds just this content already."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", backend)
    for number in _counting():
        path = file.with_name(f"{file.name}.before-{safe}{number}")
        if not os.path.lexists(path):
            return path
        with contextlib.suppress(OSError):
            if not path.is_symlink() and path.read_bytes() == content:
                return path
    raise AssertionError  # never: the numbers do not end


def _counting() -> Iterator[str]:
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


def _write_like(model: Path, content: bytes, path: Path) -> None:
    """Write a file, durably, that has the mode and, where it may be, the owner of another."""
    status = model.stat()
    # A file may hold secrets, so until its mode is known to be right nobody else reads it.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    mine = path.stat()
    if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
        try:
            shutil.chown(path, status.st_uid, status.st_gid)
        except PermissionError:
            # It can stand where everybody may read it; else the app might not any more.
            if not status.st_mode & stat.S_IROTH:
                raise
    os.chmod(path, stat.S_IMODE(status.st_mode))


def _rename(new: Path, file: Path) -> None:
    until = time.monotonic() + _SECONDS_FOR_READERS
    while True:
        try:
            os.replace(new, file)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
