"""From a target, or the settings, to a location: the backend and where it stores."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .._model.redaction import URL, redacted
from ..errors import ConfigError, InvalidArgumentError
from .plugin import backends, plugins

if TYPE_CHECKING:
    from .config import RetrievalSettings
    from .plugin import BackendPlugin, Location

MEMORY = ":memory:"


def _scheme_of(text: str) -> str | None:
    """Return the scheme of a URL in lower case; None for a path."""
    url = URL.match(text)
    return None if url is None else url[1].lower()


def locate(target: str, base: Path | None = None) -> Location:
    """Return the location that a target names: a path, or a URL of an installed backend.

    A relative path counts from ``base``, or from the current folder. Raises ConfigError if no
    backend accepts the target.
    """
    _check_text(target)
    scheme = _scheme_of(target)
    if scheme is None:
        return locate_path(target, base)
    return _plugin_for(scheme, target).locate(target, base)


def locate_path(path: str, base: Path | None = None) -> Location:
    """Return the location of a path, whose store belongs to the backend that takes paths."""
    for plugin in plugins():
        if plugin.takes_paths:
            return plugin.locate(path, base)
    raise ConfigError(
        "no installed backend stores at a path; if only aiovec's sources are on the path, install "
        "it with: pip install aiovec",
        key="target",
    )


def locate_configured(
    plugin: BackendPlugin, settings: RetrievalSettings, file: Path | None
) -> Location:
    """Return the location that the settings name for a backend.

    ``file`` is the TOML file that they come from; relative paths count from its folder.
    """
    location = plugin.locate_configured(settings, file)
    if location is not None:
        return location
    text = settings.address(plugin)
    base = None if file is None else file.parent
    _check_text(text)
    scheme = _scheme_of(text)
    if scheme is None:
        return plugin.locate(text, base)
    meant = _plugin_for(scheme, text)
    key = plugin.address_key
    if key is not None and meant.name not in {plugin.name, *plugin.delegates}:
        accepted = "a path" if plugin.takes_paths else f"an address of the {plugin.name} backend"
        raise ConfigError(
            f"{file}: retrieval.{key.name} must be {accepted}, not {redacted(text)!r}",
            file=str(file),
            key=f"retrieval.{key.name}",
            accepted=accepted,
        )
    return meant.locate(text, base)


def _check_text(text: str) -> None:
    if text[:5].lower() == "file:":
        raise ConfigError(
            f"{redacted(text)}: a file: URI is no target; write the path alone, and pass "
            "read_only=True to open it for reading only (a file of this name is ./file:...)",
            key="target",
            accepted="a path",
        )
    try:
        os.fsencode(text)
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"{redacted(text)!r}: is not valid Unicode (a lone surrogate)", key="target"
        ) from exc


def _plugin_for(scheme: str, target: str) -> BackendPlugin:
    found = backends()
    for backend in found:
        if backend.name == scheme:  # before the schemes: no other backend can take a name over
            return backend.usable()
    for backend in found:
        if backend.plugin is not None and scheme in backend.plugin.schemes:
            return backend.plugin
    known = [
        scheme
        for backend in found
        for scheme in (backend.name, *(backend.plugin.schemes if backend.plugin else ()))
    ]
    accepted = "a path, :memory:, " + ", ".join(f"{name}://" for name in known)
    raise ConfigError(
        f"{redacted(target)}: no installed backend has the scheme {scheme}://; a target is "
        f"{accepted}",
        key="target",
        accepted=accepted,
    )


def path_of_url(text: str) -> str:
    """Return the path in ``scheme://path`` as it is: no character of it is decoded.

    Raises ConfigError if the URL has a user with a password, or no path.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise ConfigError(
            f"{redacted(text)}: a {scheme}:// target is a path on this machine, without a user or "
            "a password",
            key="target", accepted=f"{scheme}:///path",
        )  # fmt: skip
    if not rest:
        raise ConfigError(f"{redacted(text)}: names no path; write {scheme}:///path")
    if os.name == "nt" and re.match(r"/[A-Za-z]:([/\\]|$)", rest):
        return rest[1:]  # on Windows, /C:/data is C:/data
    return rest


def path_of_copy(text: str, argument: str) -> str:
    """Return the path of a backup, which may be written as the target that opens it.

    Raises InvalidArgumentError for a URL of another machine: as a path it would be a folder "s3:".
    """
    if not is_url(text):
        return text
    location = locate(text)
    if location.path is None:
        raise InvalidArgumentError(
            argument, redacted(text),
            "a path on this machine; copy a backup elsewhere like any other folder or file",
        )  # fmt: skip
    return str(location.path)


def new_path_of(path: str | Path) -> Path:
    """Return the whole path of a copy to be made, or raise InvalidArgumentError. Reads the disk."""
    if not isinstance(path, (str, Path)):
        raise InvalidArgumentError("path", path, "a text or a pathlib.Path")
    try:
        target = Path(path_of_copy(path, "path") if isinstance(path, str) else path)
        target = target.expanduser().absolute()
        target.lstat()
    except (OSError, RuntimeError, ValueError) as exc:
        if isinstance(exc, InvalidArgumentError):
            raise
        if not isinstance(exc, OSError) or exc.errno == errno.ENAMETOOLONG:
            reason = f"path cannot be used: {exc}"
            expected = "a path that can be created"
            raise InvalidArgumentError("path", path, expected, reason=reason) from exc
    if not target.name:  # the root
        raise InvalidArgumentError("path", path, "a path that does not exist yet")
    return target


def is_url(text: str) -> bool:
    """Return whether a target is a URL, not a path."""
    return URL.match(text) is not None


def local_path(text: str, base: Path | None = None) -> str:
    """Return the path as an absolute one, with ``~`` expanded.

    A relative path counts from ``base``, or from the current folder; raises ConfigError if that
    was removed. URLs and ``:memory:`` stay as they are.
    """
    if text == MEMORY or is_url(text):
        return text
    trailing = text.endswith(("/", os.sep))
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and expanded == text:
        raise ConfigError(
            f"{text} begins with the home folder of a user that does not exist; write ./{text} "
            "for a path here",
            accepted="a path",
        )
    try:
        path = os.path.abspath(os.path.join(base or "", expanded))
    except FileNotFoundError:
        raise ConfigError(
            f"{text} is relative to the current folder, which was removed; use an absolute path",
            accepted="an absolute path",
        ) from None
    # A slash at the end marks a directory that does not exist yet.
    return path + os.sep if trailing and not path.endswith(os.sep) else path
