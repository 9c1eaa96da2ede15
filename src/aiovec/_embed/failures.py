"""Failures of embedders, which show whether a retry or a smaller batch might help."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from .._tools.redaction import cleaned, without_secrets
from ..errors import AiovecError

# Exceptions after which a retry is useless: programming errors and rejected values.
_LASTING = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError,
    NotImplementedError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
_LONGEST_REASON = 300


@dataclass(eq=False)
class Failure(Exception):  # noqa: N818 - never leaves the package
    """A call that returned no vectors.

    If ``retryable``, the same call may succeed later. ``retry_after`` is the number of seconds to
    wait, if the service named one. If ``divisible``, a single text might be the cause.
    """

    reason: str
    _: KW_ONLY
    retryable: bool = False
    divisible: bool = False
    status: int | None = None
    retry_after: float | None = None
    cause: BaseException | None = None


def failure_of(error: Exception) -> Failure:
    """Return the failure for an embedder's exception."""
    if isinstance(error, Failure):
        return error
    with contextlib.suppress(Exception):  # the exception's str() may raise
        cleaned(error, ())
    name, message = type(error).__name__, str(error)
    reason = as_reason(f"{name}: {message}" if message else name)
    response = getattr(error, "response", None)
    status = _status_of(error) or _status_of(response)
    if status is not None:
        failure = of_status(status, reason, getattr(response, "headers", None))
        failure.cause = error
        return failure
    lasting = isinstance(error, (*_LASTING, AiovecError))
    divisible = isinstance(error, _LASTING)
    return Failure(reason, retryable=not lasting, divisible=divisible, cause=error)


def of_status(status: int, reason: str, headers: Any) -> Failure:
    """Return the failure for an HTTP status."""
    return Failure(
        reason,
        # A timeout, a conflict, a rate limit, or a fault of the service.
        retryable=status in (408, 409, 425, 429) or status >= 500,
        # A refused body, length or value, perhaps because of a single text.
        divisible=status in (400, 413, 422),
        status=status,
        retry_after=_retry_after(headers),
    )


def as_reason(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a service's message on one line, shortened and without secrets."""
    line = without_secrets(" ".join(text[:65_536].split()), secrets)
    if len(line) > _LONGEST_REASON:
        line = line[: _LONGEST_REASON - 1]
        line = (line.rpartition(" ")[0] or line) + "…"
    return line


def _retry_after(headers: Any) -> float | None:
    """Return the seconds in a ``Retry-After`` header; None if there is none."""
    value = headers.get("retry-after", "") if hasattr(headers, "get") else ""
    return float(value) if isinstance(value, str) and value.isdecimal() else None


def _status_of(thing: object) -> int | None:
    for name in ("status_code", "status"):
        status = getattr(thing, name, None)
        if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
            return status
    return None
