"""Answers of a server that are none: each as the error it means."""

from __future__ import annotations

import json
from typing import Any, Literal

import aiohttp

from aiovec._embed.failures import retry_after_of
from aiovec._http.problems import error_of, was_begun
from aiovec.backend.contract import StaleTableError
from aiovec.errors import AiovecError, ConfigError, InvalidArgumentError

_PROBLEM = "application/problem+json"
_BUSY = frozenset({429, 503})
_LONGEST_PROBLEM = 1_000_000

Again = Literal["reachable", "free", "no: late", "no: silent", "no: large"]
"""What a further try waits for: a server that can be reached, or has room; or why there is none."""


class NoAnswerError(Exception):
    """A try without an outcome.

    ``sent`` tells whether the server may have done the call, ``again`` what a further try waits
    for, and ``after`` the seconds that the server or a proxy asks to wait.
    """

    def __init__(
        self, reason: str, again: Again, *, sent: bool, after: float | None = None
    ) -> None:
        self.again = again
        self.sent = sent
        self.after = after
        super().__init__(reason)


async def refuse(response: aiohttp.ClientResponse, target: str, size: int, *, writes: bool) -> None:
    """Raise what an answer means that is no success; ``size`` is the request's."""
    status = response.status
    after = retry_after_of(response.headers)
    data = await read_part(response, _LONGEST_PROBLEM)
    if 300 <= status < 400:
        raise ConfigError(
            f"{target} answers with a redirect (HTTP {status}), which is not followed; use the "
            "address of the aiovec server itself",
            key="target",
        )
    if response.content_type != _PROBLEM:
        text = f"HTTP {status} with {response.content_type}"
        if status >= 500 or status in _BUSY:  # the server behind it may have done the call
            raise NoAnswerError(f"a proxy says {text}", "reachable", sent=True, after=after)
        raise not_a_server(target, text)
    problem = _json_object(data)
    if was_begun(problem):
        raise NoAnswerError("the server stopped before the call had ended", "reachable", sent=True)
    error = error_of(problem, target=target)
    if status == 412:
        raise StaleTableError
    if status in _BUSY and _is_passing(problem):
        raise NoAnswerError(str(error), "free", sent=False, after=after)
    if status == 504:
        raise NoAnswerError(str(error), "no: late", sent=True)
    if writes and status >= 500 and not problem.get("error"):  # it failed anywhere in the write
        reason = f"the server says HTTP {status}: {error}"
        raise NoAnswerError(reason, "reachable", sent=True, after=after)
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
    """Return the body; of one of more bytes raise NoAnswerError, and close the connection."""
    data = bytearray()
    if (response.content_length or 0) <= most:
        data = await read_part(response, most)
        if len(data) <= most:
            return data
    response.close()
    raise NoAnswerError(f"the server's answer has more than {most:,} bytes", "no: large", sent=True)


def _json_object(data: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        return {}
    return found if type(found) is dict else {}


def _is_passing(problem: dict[str, Any]) -> bool:
    """Return whether a refusal is one of the moment: limits, and a store that is busy or closes."""
    return problem.get("error", "") in ("", "StoreBusyError", "StoreClosedError")
