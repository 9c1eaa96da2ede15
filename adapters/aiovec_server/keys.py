"""Rights, and API keys that give them: read from the environment and a file, kept as digests."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import IntEnum
from hashlib import sha256
from pathlib import Path

from aiovec.backend.server import ServerSettings
from aiovec.errors import ConfigError


class Access(IntEnum):
    """The right that a request needs, and a key gives; each includes those before it."""

    NONE = 0
    READ = 1
    WRITE = 2


Keys = Mapping[bytes, Access]
"""The access of each key of a server, by its digest, so a comparison does not reveal how
much of a key is right. Without keys, every client that reaches the server may read and write."""

# Fewer characters could be guessed over a network. What a header may carry without quotes; neither
# a space nor a comma, which separate keys.
_KEY = re.compile(r"[!-+\--~]{16,512}")
_ACCEPTED = "16 to 512 visible ASCII characters without a comma"
_FILE = "retrieval.server.api_keys_file"


def digest_of(key: str) -> bytes:
    return sha256(key.encode("utf-8", "replace")).digest()


def keys_of(settings: ServerSettings) -> Keys:
    """Return the keys that the settings name.

    ConfigError where one cannot be used, or where every website may ask and there is none.
    """
    variable, file = settings.api_keys_env, settings.api_keys_file
    texts = {}
    if text := os.environ.get(variable, "").strip():
        texts[variable] = text
    if file:
        texts[file] = _text_of(file)
    granted: dict[bytes, Access] = {}
    for holder, text in texts.items():
        name = variable if holder == variable else _FILE
        entries = re.findall(r"[^\s,]+", re.sub(r"(?m)^\s*#.*", "", text))
        if not entries:
            raise ConfigError(f"{holder} holds no API key; put one in, or leave it unset", key=name)
        for number, entry in enumerate(entries, 1):
            place = f"key {number} of {holder}"  # the key itself is never in a message
            access = Access.READ if entry.startswith("read:") else Access.WRITE
            key = entry.removeprefix(f"{access.name.lower()}:")
            if _KEY.fullmatch(key) is None:
                raise ConfigError(f"{place} must be {_ACCEPTED}", key=name)
            if granted.setdefault(digest_of(key), access) is not access:
                words = f"{place} is there twice, for reading alone and for writing"
                raise ConfigError(words, key=name)
    if not granted and any(origin.rstrip("/") == "*" for origin in settings.cors_origins):
        raise ConfigError(
            'cors_origins = ["*"] lets the pages of every website use the store, and no API key '
            f"protects it. Set one, of 16 characters or more, in {variable} or in the file that "
            "api_keys_file names; or list the origins, such as https://app.example.com",
            key="retrieval.server.cors_origins",
        )
    return granted


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text("utf-8-sig")
    except (OSError, ValueError) as exc:  # it is no text
        reason = exc.strerror if isinstance(exc, OSError) else exc
        words = f"the API keys cannot be read from {file}: {reason}"
        raise ConfigError(words, file=file, key=_FILE) from exc
