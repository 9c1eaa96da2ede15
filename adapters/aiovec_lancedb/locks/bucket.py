"""The mark of a migration in a bucket: an object beside the tables, written on condition.

Each change is conditional on the object that was read, so none is lost; no clock is compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
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
from aiovec.errors import AiovecError, StoreBusyError

from ..errors import translate
from .moves import Marks

_TIMEOUTS = {"timeout": "5s", "connect_timeout": "5s"}
_RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
# Options of the HTTP client, which LanceDB takes together with those of the storage.
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


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the objects lie; ``store()`` makes no request."""

    url: str = field(repr=False)
    shown: str
    options: Mapping[str, str] = field(repr=False)

    @property
    def secrets(self) -> frozenset[str]:
        return secrets_in(self.url, self.options)

    def store(self) -> Any:
        config: dict[str, str] = {}
        client: dict[str, str] = dict(_TIMEOUTS)
        named = {key.lower(): value for key, value in os.environ.items()}
        # The rest of the environment is read by the store itself, these it would forget.
        client |= {k: named[p + k] for p in _PREFIXES for k in _CLIENT if named.get(p + k)}
        for key, value in self.options.items():
            name = key.lower()
            bare = next((name[len(p) :] for p in _PREFIXES if name.startswith(p)), name)
            if bare in _CLIENT:
                client[bare] = value
            else:
                config[name] = value
        try:
            return self._made(config, client)
        except UnknownConfigurationKeyError:
            # LanceDB takes further options, which are of no use here.
            return self._made({k: v for k, v in config.items() if self._knows(k, v)}, client)

    def _made(self, config: dict[str, str], client: dict[str, str]) -> Any:
        options: Any = {"config": config, "client_options": client, "retry_config": _RETRIES}
        return from_url(self.url, **options)

    def _knows(self, key: str, value: str) -> bool:
        try:
            self._made({key: value}, {})
        except UnknownConfigurationKeyError:
            return False
        except Exception:  # noqa: BLE001 - known, and of no use by itself
            return True
        return True


@contextmanager
def translating(bucket: Bucket) -> Iterator[None]:
    """Let no error of the object storage pass untranslated."""
    try:
        yield
    except AiovecError:
        raise
    except NotSupportedError as exc:
        cleaned(exc, bucket.secrets)
        raise AiovecError(
            f"{bucket.shown}: this object storage does not support conditional writes, which a "
            "migration needs"
        ) from exc
    except _FAILURES as exc:
        cleaned(exc, bucket.secrets)
        raise translate(exc, bucket.shown) from exc


def tag_of(found: Mapping[str, Any]) -> dict[str, str]:
    return {key: found[key] for key in ("e_tag", "version") if found.get(key) is not None}


_RECORD = ".aiovec/_move.json"

# Attempts at a change that others were in the way of.
_MARK_ATTEMPTS = 20


class BucketMarks(Marks):
    """In a bucket: an object."""

    poll = 0.2

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._opened: Any = None

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = self._bucket.store()
        return self._opened

    def read(self) -> bytes | None:
        with translating(self._bucket):
            found = self._get(_RECORD)
        return None if found is None else found[1]

    def _get(self, name: str) -> tuple[dict[str, str], bytes] | None:
        try:
            found = obstore.get(self._store, name)
        except FileNotFoundError:
            return None
        return tag_of(found.meta), bytes(found.bytes())

    def change(self, change: Callable[[bytes | None], bytes | None]) -> None:
        with translating(self._bucket):
            for _ in range(_MARK_ATTEMPTS):
                found = self._get(_RECORD)
                text = change(None if found is None else found[1])
                if text is None:
                    return
                mode: Any = "create" if found is None else found[0]
                try:
                    obstore.put(self._store, _RECORD, text, mode=mode)
                except (AlreadyExistsError, PreconditionError):
                    continue  # by another, or by this one, whose answer was lost
                return
        raise StoreBusyError("other processes keep changing the mark of the migration", 0.0)
