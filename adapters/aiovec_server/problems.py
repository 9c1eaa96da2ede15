"""Errors of a request itself, and how every error is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core
from starlette.responses import Response

from aiovec import errors
from aiovec.errors import AiovecError

TYPE = "application/problem+json"


class RequestError(Exception):
    """A request that cannot be answered, for a reason that lies in HTTP: its status and a hint."""

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **facts: Any
    ) -> None:
        self.status = status
        self.detail = detail
        self.headers = headers
        self.facts = facts
        super().__init__(detail)


_STATUS: Mapping[type[AiovecError], int] = {
    errors.TableNotFoundError: 404,
    errors.TableExistsError: 409,
    errors.DuplicateIdError: 409,
    errors.SchemaMismatchError: 409,
    errors.UnsupportedError: 501,
    errors.StoreBusyError: 503,
    errors.StoreClosedError: 503,
    errors.StoreFullError: 507,
}


def response_of(error: AiovecError | RequestError) -> Response:
    """Return the answer to an error, as problem+json (RFC 9457)."""
    if isinstance(error, RequestError):
        body = {"type": "about:blank", "title": "", "status": error.status, "detail": error.detail}
        body |= {"facts": error.facts} if error.facts else {}
        return _response(error.status, body, error.headers)
    status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 0)
    status = status or (422 if isinstance(error, ValueError) else 503)
    return _response(
        status,
        {
            "type": "about:blank", "title": type(error).__name__, "status": status,
            "detail": str(error), "error": type(error).__name__,
        },
    )  # fmt: skip


def _response(
    status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    text = pydantic_core.to_json(body, inf_nan_mode="null", fallback=repr)
    return Response(text, status, dict(headers or {}), TYPE)
