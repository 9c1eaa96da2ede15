"""Targets as text: paths on this machine, and URLs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .._tools.redaction import URL, redacted
from ..errors import ConfigError

MEMORY = ":memory:"

PathText = str | os.PathLike[str]


def text_of(path: object, argument: str) -> str:
    """Return a path or URL argument as text, or raise ConfigError."""
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(
            f"{argument} must be a path or text, not {type(path).__name__}", key=argument
        )
    text = os.fsdecode(path)
    if not text:
        raise ConfigError(f"{argument} is empty", key=argument)
    return text


def is_url(text: str) -> bool:
    """Return whether a target is a URL, not a path."""
    return URL.match(text) is not None


def path_of_url(text: str) -> str:
    """Return the path in ``scheme://path``; nothing is decoded.

    Raises ConfigError if the URL has a user with a password, or no path.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise ConfigError(
            f"{redacted(text)}: a {scheme}:// target is a path on this machine, without a user or "
            "a password",
            key="target",
        )
    if not rest:
        raise ConfigError(f"{redacted(text)}: names no path; write {scheme}:///path")
    if os.name == "nt" and re.match(r"/[A-Za-z]:([/\\]|$)", rest):
        return rest[1:]  # on Windows, /C:/data is C:/data
    return rest


def local_path(text: str, base: Path | None = None) -> str:
    """Return the absolute path, with ``~`` expanded.

    A relative path starts at ``base``, or at the current folder; raises ConfigError if the current
    folder was removed. URLs and ``:memory:`` are returned unchanged.
    """
    if text == MEMORY or is_url(text):
        return text
    trailing = text.endswith(("/", os.sep))
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and expanded == text:
        raise ConfigError(
            f"{text} begins with the home folder of a user that does not exist; write ./{text} "
            "for a path here"
        )
    try:
        path = os.path.abspath(os.path.join(base or "", expanded))
    except FileNotFoundError:
        raise ConfigError(
            f"{text} is relative to the current folder, which was removed; use an absolute path"
        ) from None
    # A trailing slash means a folder, even if it does not exist yet.
    return path + os.sep if trailing and not path.endswith(os.sep) else path
