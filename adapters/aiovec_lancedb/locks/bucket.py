"""Conditional writes in a bucket, for tables' first versions, migration marks and leases."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PreconditionError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from aiovec.backend import cleaned, secrets_in
from aiovec.errors import AiovecError, CorruptStoreError

from ..errors import translate

_TIMEOUTS = {"timeout": "5s", "connect_timeout": "5s"}
_RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
# Options of the HTTP client, which LanceDB accepts among the storage options.
_CLIENT = frozenset(
    {
        "allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type",
        "http1_only", "http2_keep_alive_interval", "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle", "http2_max_frame_size", "http2_only", "pool_idle_timeout",
        "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url",
        "randomize_addresses", "read_timeout", "timeout", "user_agent",
    }
)  # fmt: skip
_PREFIXES = ("aws_", "google_", "azure_")

_FAILURES = (BaseError, OSError, ValueError)


class Bucket:
    """The objects of one store. The methods make requests, so never call them on the event loop."""

    def __init__(self, url: str, shown: str, options: Mapping[str, str]) -> None:
        self._url = url
        self._shown = shown
        self._options = options

    @cached_property
    def _store(self) -> Any:
        """The client. Creating it makes no request."""
        config: dict[str, str] = {}
        client: dict[str, str] = dict(_TIMEOUTS)
        named = {key.lower(): value for key, value in os.environ.items()}
        # The client reads other environment variables itself, but not these.
        client |= {k: named[p + k] for p in _PREFIXES for k in _CLIENT if named.get(p + k)}
        for key, value in self._options.items():
            name = key.lower()
            bare = next((name[len(p) :] for p in _PREFIXES if name.startswith(p)), name)
            if bare in _CLIENT:
                client[bare] = value
            elif self._knows(name, value):  # the client rejects some of LanceDB's options
                config[name] = value
        return self._client(config, client)

    def _client(self, config: dict[str, str], client: dict[str, str]) -> Any:
        options: Any = {"config": config, "client_options": client, "retry_config": _RETRIES}
        return from_url(self._url, **options)

    def _knows(self, key: str, value: str) -> bool:
        try:
            self._client({key: value}, {})
        except UnknownConfigurationKeyError:
            return False
        except Exception:  # noqa: BLE001 - a known key that needs other options
            return True
        return True

    def get(self, path: str) -> tuple[bytes | None, Any]:
        """Return an object's content, and the mode with which ``put`` replaces only this version of
        the object. If the object does not exist, return None and the mode that creates it."""
        with self._translated():
            try:
                answer = obstore.get(self._store, path)
            except FileNotFoundError:
                return None, "create"
            tag: Mapping[str, Any] = answer.meta
            version = {key: tag[key] for key in ("e_tag", "version") if tag.get(key) is not None}
            return bytes(answer.bytes()), version

    def put(self, path: str, content: bytes, mode: Any = "create") -> bool:
        """Write an object; return False if another process has changed it, or if an earlier request
        of this call, whose response was lost, has written it."""
        with self._translated():
            try:
                obstore.put(self._store, path, content, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def folders(self, path: str) -> set[str]:
        """Return the names of the folders directly below this path."""
        with self._translated():
            prefixes = obstore.list_with_delimiter(self._store, path)["common_prefixes"]
            return {name.rstrip("/").rpartition("/")[2] for name in prefixes}

    def files(self, path: str) -> list[str]:
        """Return the paths of all objects below this path, relative to it."""
        return [name for name, _ in self.times(path, path)]

    def times(self, path: str, below: str) -> list[tuple[str, float]]:
        """Return the path and modification time of each object below ``below``; the paths are
        relative to ``path``."""
        with self._translated():
            pages = obstore.list(self._store, below)
            return [
                (entry["path"].removeprefix(path), entry["last_modified"].timestamp())
                for page in pages
                for entry in page
            ]

    def pieces(self, path: str, size: int) -> Iterator[bytes]:
        """Yield an object's content in pieces; raise CorruptStoreError if the object is missing."""
        with self._translated():
            try:
                answer = obstore.get(self._store, path)
            except FileNotFoundError as exc:
                raise CorruptStoreError(self._shown, f"the file {path} is missing") from exc
            yield from map(bytes, answer.stream(min_chunk_size=size))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate each error that the object storage raises in the block."""
        try:
            yield
        except AiovecError:
            raise
        except _FAILURES as exc:
            cleaned(exc, secrets_in(self._url, self._options))
            if isinstance(exc, NotSupportedError):
                raise AiovecError(
                    f"{self._shown}: this object storage does not support conditional writes, "
                    "which new tables and migrations need"
                ) from exc
            raise translate(exc, self._shown) from exc
