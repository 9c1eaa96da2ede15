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
    """Return the media type of the answer: of those that it can have, the one that Accept prefers.

    The first one is the default.
    """
    accept = ",".join(request.headers.getlist("accept")).lower() or "*/*"
    ranges = [_range(text) for text in accept.split(",")[:_MOST_RANGES]]

    def quality(kind: str) -> float:
        """Return how much a media type is wanted, by the most exact range that it is in."""
        names = ("*/*", kind.partition("/")[0] + "/*", kind)
        found = [(names.index(name), wanted) for name, wanted in ranges if name in names]
        return max(found, default=(0, 0.0))[1]

    chosen = max(offered, key=quality)
    if not quality(chosen):
        raise RequestError(
            406,
            "the answer can be " + " or ".join(offered) + "; Accept names none",
            accepted=offered,
        )
    return chosen


def _range(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    weights = [one[2:] for one in parameters if one.startswith("q=")]
    try:
        return kind, float(weights[0]) if weights else 1.0
    except ValueError:
        return kind, 0.0
