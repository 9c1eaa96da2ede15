"""Answers of a server that are none: each as the error it means."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from aiovec._embed.failures import retry_after_of
from aiovec._http.problems import error_of, was_begun
from aiovec.backend.contract import StaleTableError
from aiovec.errors import AiovecError, ConfigError, InvalidArgumentError

_PROBLEM = "application/problem+json"
_BUSY = frozenset({429, 503})
LONGEST_PROBLEM = 1_000_000


class LostError(Exception):
    """A request without an answer. ``sent`` tells whether the server may have got it, ``silent``
    that it was waited for to the end of the time that it had, ``after`` the seconds that a proxy
    asks to wait."""

    def __init__(
        self, reason: str, *, sent: bool, silent: bool = False, after: float | None = None
    ) -> None:
        self.sent = sent
        self.silent = silent
        self.after = after
        super().__init__(reason)


class StaleRepeatError(StaleTableError):
    """A write that may have been done was repeated, and the table is in another state now."""


class RefusedError(Exception):
    """An answer by which the server did nothing and may do it later."""

    def __init__(self, reason: str, after: float | None) -> None:
        self.after = after
        super().__init__(reason)


class TooLargeError(Exception):
    """An answer of more bytes than are read."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the server's answer has more than {most:,} bytes")


class LateError(Exception):
    """An answer by which the server has given a call up because it took too long."""


async def refuse(response: aiohttp.ClientResponse, target: str, size: int, *, writes: bool) -> None:
    """Raise what an answer with another status than 200 means; ``size`` is the request's."""
    status = response.status
    after = retry_after_of(response.headers)
    data = await read_part(response, LONGEST_PROBLEM)
    if 300 <= status < 400:
        raise ConfigError(
            f"{target} answers with a redirect (HTTP {status}), which is not followed; use the "
            "address of the aiovec server itself",
            key="target",
        )
    if response.content_type != _PROBLEM:
        text = f"HTTP {status} with {response.content_type}"
        if status >= 500 or status in _BUSY:  # the server behind it may have done the call
            raise LostError(f"a proxy says {text}", sent=True, after=after)
        raise not_a_server(target, text)
    problem = json_object(data)
    if was_begun(problem):
        raise LostError("the server stopped before the call had ended", sent=True)
    error = error_of(problem, target=target)
    if status == 412:
        raise StaleTableError
    if status in _BUSY and _is_passing(problem):
        raise RefusedError(str(error), after)
    if status == 504:
        raise LateError(str(error))
    if writes and status >= 500 and not problem.get("error"):  # it failed anywhere in the write
        raise LostError(f"the server says HTTP {status}: {error}", sent=True, after=after)
    raise error if problem.get("error") else _plain(status, str(error), target, size)


def not_a_server(target: str, reason: str) -> ConfigError:
    """Return the error for an address where something else answers."""
    return ConfigError(
        f"what answers at {target} is no aiovec server of this version ({reason})", key="target"
    )


def _plain(status: int, detail: str, target: str, size: int) -> AiovecError:
    """Return the error for a problem of HTTP alone."""
    if status in (401, 403):
        return ConfigError(
            f"the server at {target} refuses the call: {detail}; set api_key in "
            "[retrieval.remote], or AIOVEC_RETRIEVAL__REMOTE__API_KEY",
            key="retrieval.remote.api_key",
        )
    if status == 426:
        return ConfigError(
            f"{target}: {detail}; install the same version of aiovec here and there", key="target"
        )
    if status == 413:
        return InvalidArgumentError(
            "the call", f"{size:,} bytes", f"smaller, for the server at {target}: {detail}"
        )
    return AiovecError(f"the server at {target} says HTTP {status}: {detail}")


async def read_part(response: aiohttp.ClientResponse, most: int) -> bytearray:
    """Return the body; of one of more bytes a part that has more, and close the connection."""
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > most:
            response.close()
            break
    return data


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytearray:
    """Return the body; of one of more bytes raise TooLargeError, and close the connection."""
    if (response.content_length or 0) > most:
        response.close()
        raise TooLargeError(most)
    data = await read_part(response, most)
    if len(data) > most:
        raise TooLargeError(most)
    return data


def json_object(data: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        return {}
    return found if type(found) is dict else {}


def _is_passing(problem: dict[str, Any]) -> bool:
    """Return whether a refusal is one of the moment: limits, and a store that is busy or closes."""
    return problem.get("error", "") in ("", "StoreBusyError", "StoreClosedError")
