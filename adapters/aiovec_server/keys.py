"""API keys: read from the environment and a file, kept as digests, compared in constant time."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from aiovec.backend.server import ServerSettings
from aiovec.errors import ConfigError

from .access import Access

SHORTEST = 16
"""Characters of the shortest key: no fewer can be guessed over a network in a lifetime."""
LONGEST = 512
_READ = "read:"
_WRITE = "write:"
# What a header may carry without quotes. Neither a space nor a comma, which separate keys.
_KEY = re.compile(r"[!-+\--~]+")


class Keys:
    """The keys of a server. Without any, whoever reaches it may read and write."""

    def __init__(self, keys: Iterable[tuple[str, Access]] = ()) -> None:
        # A secret of this process: nobody can prepare a key whose digest begins like another's.
        self._salt = secrets.token_bytes(32)
        self._digests = [(self._digest(key), access) for key, access in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self)} API keys>"

    def access(self, given: str) -> Access:
        """Return what a key allows. It is compared with each, and takes the same time for all."""
        digest = self._digest(given)
        found = Access.NONE
        for known, access in self._digests:
            # Never "and", nor a return: neither may depend on how much of a key is right.
            found = max(found, Access(int(hmac.compare_digest(known, digest)) * int(access)))
        return found

    def _digest(self, key: str) -> bytes:
        return blake2b(key.encode("utf-8", "replace"), key=self._salt).digest()


def keys_of(settings: ServerSettings) -> Keys:
    """Return the keys that the settings name. ConfigError where one cannot be used."""
    found: dict[str, Access] = {}
    variable = settings.api_keys_env
    text = os.environ.get(variable, "")
    for number, entry in enumerate(re.split(r"[\s,]+", text.strip()), 1):
        if entry:
            _add(found, entry, f"key {number} of {variable}", variable)
    if settings.api_keys_file:
        place = settings.api_keys_file
        for number, line in enumerate(_lines(place), 1):
            entry = line.strip()
            if entry and not entry.startswith("#"):
                _add(found, entry, f"the key in line {number} of {place}", "api_keys_file")
    if (text.strip() or settings.api_keys_file) and not found:
        raise ConfigError(
            f"{variable if text else settings.api_keys_file} holds no API key; put one in, or "
            "leave it unset",
            key=variable if text else "retrieval.server.api_keys_file",
        )
    return Keys(found.items())


def _add(found: dict[str, Access], entry: str, place: str, name: str) -> None:
    key, access = entry, Access.WRITE
    if entry.startswith(_READ):
        key, access = entry.removeprefix(_READ), Access.READ
    elif entry.startswith(_WRITE):
        key = entry.removeprefix(_WRITE)
    # The key itself is never in a message.
    accepted = f"{SHORTEST} to {LONGEST} visible ASCII characters without a comma"
    if not SHORTEST <= len(key) <= LONGEST or _KEY.fullmatch(key) is None:
        raise ConfigError(f"{place} must be {accepted}", key=name, accepted=accepted)
    if found.setdefault(key, access) is not access:
        raise ConfigError(f"{place} is there twice, for reading alone and for writing", key=name)


def _lines(place: str) -> list[str]:
    try:
        return Path(place).read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as exc:  # it is no text
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(
            f"the API keys cannot be read from {place}: {reason}",
            file=place,
            key="retrieval.server.api_keys_file",
        ) from exc
