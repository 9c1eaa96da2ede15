"""Checks of a request's Host, Origin and API key.

API keys are read from the environment and a file, and kept as digests.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from aiovec.backend.server import ServerSettings
from aiovec.errors import ConfigError, UnsupportedError

from .problems import RequestError


class Access(IntEnum):
    """The rights that requests need and API keys grant; a higher right includes lower rights."""

    NONE = 0
    READ = 1
    WRITE = 2


Keys = Mapping[bytes, Access]
"""The rights of a server's API keys, by each key's digest, so that a comparison does not reveal how
much of a key is correct. Without keys, every client that reaches the server may read and write."""

# Shorter keys could be guessed over a network. The characters are all that a header may contain
# without quotes, except space and comma, which separate keys.
_KEY = re.compile(r"[!-+\--~]{16,512}")
_ACCEPTED = "16 to 512 visible ASCII characters without a comma"
_FILE = "retrieval.server.api_keys_file"


def digest_of(key: str) -> bytes:
    return sha256(key.encode("utf-8", "replace")).digest()


def keys_of(settings: ServerSettings) -> Keys:
    """Return the rights of the API keys that the settings name.

    Raises ConfigError for an unusable key, or if every website may send requests without a key.
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
            raise ConfigError(f"{holder} holds no API key; add one, or remove it", key=name)
        for number, entry in enumerate(entries, 1):
            place = f"key {number} of {holder}"  # the key itself is never in a message
            access = Access.READ if entry.startswith("read:") else Access.WRITE
            key = entry.removeprefix(f"{access.name.lower()}:")
            if _KEY.fullmatch(key) is None:
                raise ConfigError(f"{place} must be {_ACCEPTED}", key=name)
            if granted.setdefault(digest_of(key), access) is not access:
                words = f"{place} is listed twice, for reading only and for writing"
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
    except (OSError, ValueError) as exc:  # ValueError: it is not text
        reason = exc.strerror if isinstance(exc, OSError) else exc
        words = f"the API keys cannot be read from {file}: {reason}"
        raise ConfigError(words, file=file, key=_FILE) from exc


_LOOPBACK = frozenset({"localhost", "localhost.localdomain"})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})
_USUAL_PORTS = {"http": ":80", "https": ":443"}
_FOREIGN = (
    "the request comes from a page of another origin; to let that page in, add its origin to "
    "cors_origins in [retrieval.server]"
)
_BEARER = 'Bearer realm="aiovec"'


class Security:
    """Checks a request's host name, its origin, and the rights of its API key."""

    def __init__(self, settings: ServerSettings) -> None:
        self._keys = keys_of(settings)
        self._origins = origins_of(settings)
        self._read_only = settings.read_only
        self._hosts = {_host(name) for name in [settings.host, *settings.allowed_hosts]} | _LOOPBACK
        self._any_host = "*" in settings.allowed_hosts
        # DNS rebinding needs a name, so an address is safe.
        self._any_address = settings.host.strip("[]") in _WILDCARDS

    def check(self, request: Request, needed: Access) -> None:
        """Raise an error if the request must be refused."""
        self._check_host(request)
        if self._is_foreign(request.headers, needed):
            raise RequestError(403, _FOREIGN)
        if needed is not Access.NONE and self._keys:
            self._check_key(request, needed)
        if needed is Access.WRITE and self._read_only:
            raise UnsupportedError("writing", "server's", "it was started with read_only")

    def _check_host(self, request: Request) -> None:
        """Refuse a request whose Host header names another host, as in a DNS rebinding attack."""
        given = request.headers.getlist("host")
        if not given and request.scope.get("http_version") == "1.0":
            return  # no browser uses HTTP/1.0
        if len(given) != 1 or not given[0]:
            raise RequestError(400, "a request needs one Host header")
        host = _host(given[0])
        if self._any_host or host in self._hosts:
            return
        with suppress(ValueError):
            if ipaddress.ip_address(host).is_loopback or self._any_address:
                return
        raise RequestError(
            421,
            "this server does not answer to the name in the Host header; add the name to "
            "allowed_hosts in [retrieval.server]",
        )

    def _is_foreign(self, headers: Headers, needed: Access) -> bool:
        """Return whether a page of another origin sent the request.

        Following a link to the web page is allowed. Pages on other ports of this machine belong to
        the same site but to a different origin.
        """
        origins = headers.getlist("origin")
        if not origins:
            sites = headers.getlist("sec-fetch-site")
            foreign = any(site in ("cross-site", "same-site") for site in sites)
            return foreign and needed is not Access.NONE
        origin, host = origins[0].lower(), headers.get("host", "").lower()
        # A browser leaves out the default port; a proxy may not.
        served = {f"{kind}://{host.removesuffix(port)}" for kind, port in _USUAL_PORTS.items()}
        return len(origins) > 1 or (
            "*" not in self._origins and origin not in served.union(self._origins)
        )

    def _check_key(self, request: Request, needed: Access) -> None:
        given = _credentials(request.headers)
        granted = Access.NONE
        if len(given) == 1:
            granted = self._keys.get(digest_of(given[0]), Access.NONE)
        request.scope["state"]["aiovec_access"] = granted.name.lower()
        if granted >= needed:
            return
        status, challenge = 401, _BEARER
        detail = "an API key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY"
        if granted is not Access.NONE:
            status, challenge = 403, f'{_BEARER}, error="insufficient_scope"'
            detail = "this API key may read only, and the request writes"
        elif given:
            detail = "the API key is not one of this server's"
        raise RequestError(status, detail, headers={"www-authenticate": challenge})


def origins_of(settings: ServerSettings) -> list[str]:
    """Return the origins whose pages may send requests, as browsers spell them."""
    return [origin.rstrip("/").lower() for origin in settings.cors_origins]


def cors(settings: ServerSettings) -> list[Middleware]:
    """Return the middleware that lets the pages of the configured origins read responses."""
    if not settings.cors_origins:
        return []
    chosen = Middleware(
        CORSMiddleware,
        allow_origins=origins_of(settings),
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=("X-Request-Id", "Retry-After", "ETag"),
    )
    return [chosen]


def _host(text: str) -> str:
    """Return the host name in a Host header or a setting, normalized and without its port."""
    text = text.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return text.rstrip(".")


def _credentials(headers: Headers) -> list[str]:
    """Return the distinct API keys in a request's X-API-Key and Authorization headers.

    Ignores Authorization schemes other than Bearer: they may be meant for a proxy.
    """
    keys = dict.fromkeys(headers.getlist("x-api-key"))
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            keys[key.strip()] = None
    return list(keys)
