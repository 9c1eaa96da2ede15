"""The line of a TOML file that says which backend is in use, changed and nothing else.

Comments, order, line ends, spelling and the file's mode stay. The edited text is parsed again and
taken only where it says the same but for this one key, so a spelling that is not understood here
ends in a refusal, never in a broken file.
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

from aiovec.backend import flush_folder
from aiovec.errors import ConfigError, MigrationError

from .host import Host

KeyPath = tuple[str, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
# Up to two quotes may stand before the closing three.
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL)
_PLAIN_VALUE = re.compile(r"[^,\]}#\n\r]*[^,\]}#\n\r \t]")
_PLAIN_IN_ARRAY = re.compile(r"[^\[\]{}\"'#]+")


@dataclass(frozen=True, slots=True)
class Header:
    """``[a.b]``, or ``[[a.b]]`` where it is one of an ``array``."""

    path: KeyPath
    start: int
    end: int
    array: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value: the whole ``path``, where the key begins, and the value's span.

    ``at_root`` tells that no header stands before it.
    """

    path: KeyPath
    key: int
    start: int
    end: int
    at_root: bool


def scan(text: str, *, inside: KeyPath) -> Iterator[Header | Entry]:
    """The headers and entries in their order; also those within the inline table ``inside``.

    ValueError where the text is not understood.
    """
    prefix: KeyPath = ()
    at, at_root = 0, True
    while True:
        at = _after(_BLANK, text, at)
        if at == len(text):
            return
        if text[at] == "[":
            header = _header(text, at)
            prefix, at, at_root = header.path, header.end, False
            yield header
            continue
        entry = _entry(text, at, prefix, at_root)
        yield entry
        if entry.path == inside and text[entry.start] == "{":
            yield from _within(text, entry)
        at = entry.end


def _header(text: str, at: int) -> Header:
    array = text.startswith("[[", at)
    brackets = 2 if array else 1
    path, end = _key(text, at + brackets)
    closing = _after(_SPACE, text, end)
    if not text.startswith("]" * brackets, closing):
        raise ValueError(f"no end of the header at character {at}")
    return Header(path, at, closing + brackets, array)


def _within(text: str, table: Entry) -> Iterator[Entry]:
    at, last = table.start + 1, table.end - 1
    while True:
        at = _after(_BLANK, text, at)
        if at >= last:
            return
        if text[at] == ",":
            at += 1
            continue
        entry = _entry(text, at, table.path, table.at_root)
        yield entry
        at = entry.end


def _entry(text: str, at: int, prefix: KeyPath, at_root: bool) -> Entry:
    path, end = _key(text, at)
    equals = _after(_SPACE, text, end)
    if not text.startswith("=", equals):
        raise ValueError(f"no = after the key at character {at}")
    start = _after(_SPACE, text, equals + 1)
    return Entry((*prefix, *path), at, start, _value_end(text, start), at_root)


def _key(text: str, at: int) -> tuple[KeyPath, int]:
    parts: list[str] = []
    while True:
        at = _after(_SPACE, text, at)
        end = _string_end(text, at)
        if end is None:
            bare = _BARE_KEY.match(text, at)
            if bare is None:
                raise ValueError(f"no key at character {at}")
            parts.append(bare[0])
            end = bare.end()
        else:
            parts.append(str(tomllib.loads(f"key = {text[at:end]}")["key"]))
        dot = _after(_SPACE, text, end)
        if not text.startswith(".", dot):
            return tuple(parts), end
        at = dot + 1


def _value_end(text: str, at: int) -> int:
    end = _string_end(text, at)
    if end is not None:
        return end
    if text[at : at + 1] not in ("[", "{"):
        plain = _PLAIN_VALUE.match(text, at)
        if plain is None:
            raise ValueError(f"no value at character {at}")
        return plain.end()
    depth = 0
    while at < len(text):
        end = _string_end(text, at)
        if end is not None:
            at = end
        elif text[at] in "[{":
            depth, at = depth + 1, at + 1
        elif text[at] in "]}":
            depth, at = depth - 1, at + 1
            if depth == 0:
                return at
        elif text[at] == "#":
            at = _after(_BLANK, text, at)
        else:
            at = _after(_PLAIN_IN_ARRAY, text, at)
    raise ValueError("an array or an inline table does not end")


def _string_end(text: str, at: int) -> int | None:
    """The end of the string that begins here; None where none does."""
    for opening, pattern in (
        ('"""', _LONG_BASIC), ("'''", _LONG_LITERAL), ('"', _BASIC), ("'", _LITERAL),
    ):  # fmt: skip
        if text.startswith(opening, at):
            found = pattern.match(text, at)
            if found is None:
                raise ValueError(f"no end of the string at character {at}")
            return found.end()
    return None


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


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

    async def flip(self, backend: str) -> None:
        await self._host.in_thread(flip, self._file, backend)


def backend_in(file: Path) -> str:
    """The backend that the file names, or the default where it names none. No environment."""
    _, document = _parsed(file, _read(file))
    return _backend_of(file, document)


def check(file: Path, backend: str) -> Flip:
    """What ``flip`` would do; MigrationError where it could not. Changes nothing."""
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
                f"{real} cannot be replaced: {exc.strerror or exc}; it is as it was. "
                f"{_by_hand(backend)}"
            ) from exc
        if kept is not None:
            return Flip(real, before, backend, kept)
    raise MigrationError(
        f"{real} was changed by somebody else each time it was about to be replaced; "
        "it is as they left it"
    )


def edited(text: str, backend: str) -> str:
    """The text of a TOML file that names this backend; ValueError where it cannot be edited."""
    document = tomllib.loads(text)
    result = _with_backend(text, backend)
    wanted = _changed(document, backend)
    if result is None or not _same(tomllib.loads(result), wanted):
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


def _with_backend(text: str, backend: str) -> str | None:
    """The text with the key set; None where no place for it is known."""
    quoted = '"' + backend.replace("\\", "\\\\").replace('"', '\\"') + '"'
    newline = "\r\n" if "\r\n" in text[: text.find("\n") + 1] else "\n"
    parts = list(scan(text, inside=(SECTION,)))
    for part in parts:
        if isinstance(part, Entry) and part.path == (SECTION, KEY):
            old = text[part.start : part.end]
            literal = old.startswith("'") and not re.search(r"['\x00-\x1f\x7f]", backend)
            return text[: part.start] + (f"'{backend}'" if literal else quoted) + text[part.end :]
    assignment = f"{KEY} = {quoted}"
    for part in parts:
        if isinstance(part, Header) and part.path == (SECTION,) and not part.array:
            indent = re.match(r"[ \t]*", text[text.rfind("\n", 0, part.start) + 1 :])
            line_end = text.find("\n", part.end)
            if line_end < 0:
                return text + newline + assignment + newline
            lead = indent[0] if indent is not None else ""
            return f"{text[: line_end + 1]}{lead}{assignment}{newline}{text[line_end + 1 :]}"
    for part in parts:
        if not isinstance(part, Entry):
            continue
        if part.path == (SECTION,) and text[part.start] == "{":
            inner = text[part.start + 1 : part.end - 1]
            between = ", " if inner.strip() else " "
            rest = text[part.start + 1 :].lstrip(" ")
            return f"{text[: part.start + 1]} {assignment}{between}{rest}"
        if part.path[0] == SECTION and part.at_root:
            line = text.rfind("\n", 0, part.key) + 1
            return f"{text[:line]}{SECTION}.{assignment}{newline}{text[line:]}"
    gap = "" if not text or text.endswith("\n") else newline
    blank = newline if text.strip() else ""
    return f"{text}{gap}{blank}[{SECTION}]{newline}{assignment}{newline}"


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
    from aiovec.backend import RetrievalSettings

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
            f"({exc}); the file is as it was. {_by_hand(backend)}"
        ) from exc
    mark = _MARK if content.startswith(_MARK) else b""
    return before, mark + result.encode()


def _by_hand(backend: str) -> str:
    return f'By hand it is the line {KEY} = "{backend}" under [{SECTION}]'


def _check_replaceable(file: Path) -> None:
    """Refuse early what the system would refuse later."""
    folder = file.parent
    effective = bool(os.supports_effective_ids)  # it lists os.access or nothing
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise MigrationError(
            f"{file} cannot be replaced: this user may not write in {folder}; it is as it was"
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
                f"{file} cannot be replaced, since it is mounted by itself; mount its folder"
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
