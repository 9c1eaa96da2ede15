"""Media types: those of a body by its Content-Type, those of an answer by Accept."""

from __future__ import annotations

from collections.abc import Sequence

from .call import Call
from .problems import RequestError

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
PROBLEM = "application/problem+json"

_MOST_RANGES = 64


def body_type(call: Call, accepted: Sequence[str]) -> str:
    """Return the media type of the body, which is one of the accepted ones.

    A body without one is refused: a browser sends it for a page of another origin without asking.
    """
    given = call.request.headers.get("content-type", "")
    kind, _, parameters = given.partition(";")
    kind = kind.strip().lower()
    if kind not in accepted:
        raise RequestError(
            415,
            f"the body's Content-Type is {given[:100] or 'missing'}; it has to be "
            + " or ".join(accepted),
            accepted=accepted,
        )
    charset = parameters.lower().replace(" ", "").replace('"', "").partition("charset=")[2]
    if charset not in ("", "utf-8", "utf8"):
        raise RequestError(415, "the body's charset has to be UTF-8", accepted=accepted)
    if call.request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body must have no Content-Encoding", accepted=accepted)
    return kind


def answer_type(call: Call, offered: Sequence[str]) -> str:
    """Return the media type of the answer: of those that it can have, the one that Accept prefers.

    The first one is the default.
    """
    accept = ",".join(call.request.headers.getlist("accept"))
    if accept in ("", "*/*"):
        return offered[0]
    ranges = accept.lower().split(",")[:_MOST_RANGES]
    weights = [_range(text) for text in ranges]
    best, chosen = 0.0, None
    for kind in offered:
        quality = _quality(kind, weights)
        if quality > best:
            best, chosen = quality, kind
    if chosen is None:
        raise RequestError(
            406,
            "the answer can be " + " or ".join(offered) + "; Accept names none",
            accepted=offered,
        )
    return chosen


def _range(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return kind, quality


def _quality(kind: str, weights: Sequence[tuple[str, float]]) -> float:
    """Return how much a media type is wanted: by the most exact range that it is in."""
    found = dict(reversed(weights))
    for name in (kind, kind.partition("/")[0] + "/*", "*/*"):
        if name in found:
            return found[name]
    return 0.0
