"""The line of a TOML file that names the backend in use.

Running apps follow the mark in the old store; the line is for apps that start later. Only this line
is replaced. If the edit would change anything else that ``tomllib`` reads, the file stays
unchanged.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiovec.backend.config import RetrievalSettings
from aiovec.backend.files import flush_folder
from aiovec.backend.place import find_place
from aiovec.backend.plugin import backend_names, plugin_of
from aiovec.backend.threads import in_thread
from aiovec.errors import ConfigError, MigrationError

from .places import OpenPlace, locate

_SECTION, _KEY = "retrieval", "backend"
_HEADER = re.compile(r"\s*\[([^\[\]]*)\]")
_LINE = re.compile(rf"(\s*{_KEY}\s*=\s*)(['\"])[^'\"]*\2")
_MARK = b"\xef\xbb\xbf"  # the byte order mark that some editors on Windows write


class TomlFile:
    """A TOML file, read and written in a thread."""

    def __init__(self, file: Path) -> None:
        self.path: str = str(file)
        """The file's absolute path."""
        self._file = file

    async def current(self) -> str:
        """Return the backend that the file names."""
        return await in_thread(backend_in, self._file)

    async def check(self, source: OpenPlace, target: OpenPlace) -> None:
        """Raise AiovecError if the file lacks one of the stores, or does not select the source."""
        await in_thread(self._check, source, target)

    async def flip(self, target: OpenPlace) -> str:
        """Write the target's backend into the file, or return what the user must write by hand."""
        return await in_thread(self._flip, target)

    def _check(self, source: OpenPlace, target: OpenPlace) -> None:
        for place in (source, target):
            self._check_leads(place)
        self._check_alone(target)
        present = backend_in(self._file)
        if present != source.configured:
            raise MigrationError(
                f"{self._file} names the backend {present!r}, which is not the source; after the "
                "switch, apps would miss the rows in it"
            )

    def _check_leads(self, place: OpenPlace) -> None:
        if place.configured not in backend_names():
            raise MigrationError(
                f"no backend of {self._file} has its store at {place.backend.target}; write that "
                "address into the file, or name a backend of the file"
            )
        address = locate(place.configured, self._file).create().target
        if address != place.backend.target:
            raise MigrationError(
                f"{self._file} configures {address} for the backend {place.configured!r}, but this "
                f"run uses {place}: write that address back into the file"
            )

    def _check_alone(self, target: OpenPlace) -> None:
        """Raise MigrationError if the target's address comes from an environment variable.

        An app that starts without the variable would use another store after the switch.
        """
        name = target.configured
        place = find_place(config=self._file, backend=name, environment=False)
        address = place.create().target
        if address == target.backend.target:
            return
        keys = {"", f"__{plugin_of(name).address_key}".upper()}
        keys = {f"AIOVEC_RETRIEVAL{key}" for key in keys}
        variables = [name for name in sorted(os.environ) if name.upper() in keys]
        raise MigrationError(
            f"{' and '.join(variables) or 'the environment'} sets the backend {name!r} to "
            f"{target.backend.target}, but {self._file} sets it to {address}, which apps without "
            "the variable would use after the switch; write the address into the file, or unset "
            "the variable"
        )

    def _flip(self, target: OpenPlace) -> str:
        self._check_leads(target)
        self._check_alone(target)
        backend = target.configured
        real = Path(os.path.realpath(self._file))
        by_hand = f'write {_KEY} = "{backend}" under [{_SECTION}] in {self._file}'
        content, text, document = _read(real)
        if _backend_of(real, document) == backend:
            return ""
        try:
            edited = with_backend(text, document, backend)
            _replace(real, content, (_MARK if content.startswith(_MARK) else b"") + edited.encode())
        except (ValueError, OSError):  # the line is not found, or the file cannot be written
            return by_hand
        return ""


def backend_in(file: Path) -> str:
    """Return the backend that the file names, or the default. Ignores the environment."""
    _, _, document = _read(file)
    return _backend_of(file, document)


def with_backend(text: str, document: dict[str, Any], backend: str) -> str:
    """Return the text with only the backend's line changed; raise ValueError if impossible."""
    lines = text.split("\n")
    inside, header = False, None
    for number, line in enumerate(lines):
        if match := _HEADER.match(line):
            inside = match[1].strip() == _SECTION
            header = number if inside else header
        elif inside and (match := _LINE.match(line)):
            quote = match[2]
            lines[number] = f"{match[1]}{quote}{backend}{quote}{line[match.end() :]}"
            break
    else:
        if header is None or _KEY in document.get(_SECTION, {}):
            raise ValueError("no such line")
        ending = "\r" if lines[header].endswith("\r") else ""
        lines.insert(header + 1, f'{_KEY} = "{backend}"{ending}')
    edited = "\n".join(lines)
    wanted = {**document, _SECTION: {**document.get(_SECTION, {}), _KEY: backend}}
    if tomllib.loads(edited) != wanted:
        raise ValueError("more than the line would change")
    return edited


def _read(file: Path) -> tuple[bytes, str, dict[str, Any]]:
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror or exc}", file=str(file)) from exc
    try:
        text = content.decode("utf-8-sig")
        return content, text, tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError is a ValueError too
        raise ConfigError(f"{file}: is not TOML: {exc}", file=str(file)) from exc


def _backend_of(file: Path, document: dict[str, Any]) -> str:
    section = document.get(_SECTION, {})
    default = RetrievalSettings.keys[_KEY].default
    backend = section.get(_KEY, default) if isinstance(section, dict) else None
    if not isinstance(backend, str):
        raise ConfigError(
            f"{file}: {_SECTION}.{_KEY} must be the name of a backend", file=str(file),
            key=f"{_SECTION}.{_KEY}",
        )  # fmt: skip
    return backend


def _replace(file: Path, content: bytes, edited: bytes) -> None:
    """Replace the file with the edited content in one step; keep its mode and owner."""
    new = file.with_name(f".{file.name}.new")
    try:
        # The file may hold secrets, so nobody else may read the new file before its mode is set.
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(edited)
            stream.flush()
            os.fsync(stream.fileno())
        status = file.stat()
        created = new.stat()
        if (created.st_uid, created.st_gid) != (status.st_uid, status.st_gid):
            shutil.chown(new, status.st_uid, status.st_gid)
        shutil.copymode(file, new)
        if file.read_bytes() != content:
            raise OSError("it was changed at this moment")
        os.replace(new, file)
    finally:
        with suppress(OSError):
            new.unlink()
    with suppress(OSError):
        flush_folder(file.parent)
