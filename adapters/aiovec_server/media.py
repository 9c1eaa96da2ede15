"""Media types: those of a body by its Content-Type, those of an answer by Accept."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.requests import Request

from aiovec._http.ipc import ARROW

from .problems import RequestError

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
PROBLEM = "application/problem+json"
OF_ROWS = (JSON, ARROW)

_MOST_RANGES = 64
_CHARSET = re.compile(r"\s*(charset=\"?utf-?8\"?\s*)?", re.IGNORECASE)


def body_type(request: Request, accepted: Sequence[str]) -> str:
    """Return the media type of the body, which is one of the accepted ones.

    A body without one is refused: a browser sends it for a page of another origin without asking.
    """
    given = request.headers.get("content-type", "")
    kind, _, parameters = given.partition(";")
    kind = kind.strip().lower()
    if kind not in accepted or not _CHARSET.fullmatch(parameters):
        raise RequestError(
            415,
            f"the body's Content-Type is {given[:100] or 'missing'}; it has to be "
            f"{' or '.join(accepted)}, in UTF-8",
            accepted=accepted,
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body must have no Content-Encoding", accepted=accepted)
    return kind


def answer_type(request: Request, offered: Sequence[str]) -> str:
    """Return the media type of the answer: the first of Accept that it can have.

    The first one that is offered is the default.
    """
    accept = ",".join(request.headers.getlist("accept")).lower() or "*/*"
    for part in accept.split(",", _MOST_RANGES)[:_MOST_RANGES]:
        wanted = part.partition(";")[0].strip()
        for kind in offered:
            if wanted in (kind, kind.partition("/")[0] + "/*", "*/*"):
                return kind
    raise RequestError(
        406, "the answer can be " + " or ".join(offered) + "; Accept names none", accepted=offered
    )
