"""Errors in a server's responses, translated to aiovec's errors."""

from __future__ import annotations

import json
from typing import Any, Literal

import aiohttp

from aiovec._http.problems import MEDIA_TYPE, error_of
from aiovec.backend.contract import StaleTableError
from aiovec.errors import AiovecError, ConfigError, InvalidArgumentError, StorePermissionError

from .codec import read_body

_BUSY = frozenset({429, 503})
# Names of a busy server's temporary errors. An error of HTTP itself has no name.
_PASSING = frozenset({"", "StoreBusyError", "StoreClosedError"})

Again = Literal["reachable", "free", "late", "never"]
"""The condition for a retry: the server is reachable, or has capacity for the call. "late" and
"never" allow no retry: the server's timeout ended the call, or the response came too slowly."""


class NoAnswerError(Exception):
    """The outcome of an attempt is unknown, or the server asked for a retry.

    ``sent`` is true if the server may have executed the call, ``again`` is the condition for a
    retry, and ``after`` is the number of seconds that the server asks the client to wait.
    """

    def __init__(self, reason: str, again: Again, *, sent: bool, after: float = 0.0) -> None:
        self.again = again
        self.sent = sent
        self.after = after
        super().__init__(reason)


async def refuse(response: aiohttp.ClientResponse, target: str, size: int, *, writes: bool) -> None:
    """Raise the error for an unsuccessful response; ``size`` is the length of the request body."""
    status = response.status
    if response.content_type != MEDIA_TYPE:
        text = f"HTTP {status} with {response.content_type}"
        if status >= 500 or status in _BUSY:  # the server may have executed the call
            raise NoAnswerError(f"a proxy says {text}", "reachable", sent=True)
        raise not_a_server(target, f"{text}, a redirect" if 300 <= status < 400 else text)
    problem = _json_object(await read_body(response))
    if problem.get("begun"):
        raise NoAnswerError("the server stopped before the call had ended", "reachable", sent=True)
    if status == 412:
        raise StaleTableError
    error, name = error_of(problem, target=target), problem.get("error")
    name = name if isinstance(name, str) else ""
    if status in _BUSY and name in _PASSING:
        after = response.headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() else 0.0
        raise NoAnswerError(str(error), "free", sent=False, after=seconds)
    if status == 504:
        raise NoAnswerError(str(error), "late", sent=True)
    if writes and status >= 500 and not name:  # the write may have failed at any step
        reason = f"the server says HTTP {status}: {error}"
        raise NoAnswerError(reason, "reachable", sent=True)
    raise error if name else _plain(status, str(error), target, size)


def not_a_server(target: str, reason: str) -> ConfigError:
    """Return the error for an address where another program answers."""
    return ConfigError(f"{target} is not an aiovec server of this version ({reason})", key="target")


def _plain(status: int, detail: str, target: str, size: int) -> AiovecError:
    """Return the error for a problem with HTTP itself."""
    if status in (401, 403):
        return StorePermissionError(
            target,
            f"{detail}; set api_key in [retrieval.remote], or AIOVEC_RETRIEVAL__REMOTE__API_KEY",
        )
    if status == 413:
        return InvalidArgumentError(
            "the call", f"{size:,} bytes",
            reason=f"the server at {target} refuses the call of {size:,} bytes: {detail}",
        )  # fmt: skip
    return AiovecError(f"the server at {target} says HTTP {status}: {detail}")


def _json_object(data: bytearray) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if type(value) is dict else {}
