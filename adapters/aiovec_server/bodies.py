"""Bodies of requests and answers: JSON, JSON Lines and Arrow IPC streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core
from starlette.responses import Response

from aiovec import Hit, Record
from aiovec.backend import off_loop

from .call import SMALL_BODY, Call
from .problems import RequestError

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"


class JsonBytes(Response):
    """A body that is JSON already."""

    media_type = JSON


def json_response(value: object, status: int = 200) -> Response:
    """Answer with a value that is small."""
    return JsonBytes(dump(value), status)


def dump(value: object) -> bytes:
    """Return a value as JSON, with null for what JSON has no number for."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def load(text: bytes) -> Any:
    """Return the value of a JSON text."""
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as exc:
        raise RequestError(400, f"the body is not JSON: {exc}") from exc


async def body_json(call: Call) -> Any:
    """Return the JSON value of the request's body."""
    content_type(call, (JSON,))
    text = await call.request.body()
    return await off_loop(0 if len(text) <= SMALL_BODY else len(text), load, text)


def content_type(call: Call, accepted: tuple[str, ...]) -> str:
    """Return the body's media type, which is one of the accepted ones.

    No other is taken, nor none: a page of another origin can send those without being asked.
    """
    given = call.request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    kind = _ALIASES.get(kind, kind)
    if kind not in accepted:
        raise RequestError(
            415,
            f"the body's Content-Type is {given or 'missing'}; accepted here: "
            + ", ".join(accepted),
            headers={"accept": ", ".join(accepted)},
            accepted=list(accepted),
        )
    return kind


_ALIASES: Mapping[str, str] = {
    "application/jsonl": JSON_LINES,
    "application/jsonlines": JSON_LINES,
    "application/json-lines": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "application/ndjson": JSON_LINES,
}


def hit_json(hit: Hit) -> dict[str, Any]:
    """Return a hit as the mapping that JSON is made of."""
    found: dict[str, Any] = {
        "id": hit.id, "score": hit.score, "distance": hit.distance, "fields": dict(hit.fields),
    }  # fmt: skip
    if hit.vector is not None:
        found["vector"] = hit.vector.tolist()
    if hit.ranks:
        found["ranks"] = {name: rank.to_dict() for name, rank in hit.ranks.items()}
    if hit.highlights:
        found["highlights"] = dict(hit.highlights)
    return found


def record_json(record: Record) -> dict[str, Any]:
    return record.to_dict()
