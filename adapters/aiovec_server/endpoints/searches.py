"""Searches: by vector, by text, by both, by a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from aiovec import Hit, Results, Tuning
from aiovec.backend import off_loop

from ..bodies import JsonBytes, body_json, dump, hit_json
from ..call import Call
from ..kinds import COUNT, FLAG, NUMBER, OBJECT, TEXT, TEXTS, VECTOR, Key, Keys
from ..problems import RequestError
from .declaring import Endpoints

ENDPOINTS = Endpoints()

_LIMIT = Key("topK", "limit", COUNT, "Hits, at most.", default=10, also=("limit",))
_COMMON = (
    _LIMIT,
    Key("filter", "where", TEXT, "A condition that hits meet.", also=("where",)),
    Key("select", "select", TEXTS, "Fields of the hits; all by default."),
    Key("includeVector", "include_vector", FLAG, "Give each hit's vector.", default=False),
    Key("minScore", "min_score", NUMBER, "Leave out hits with a lower score."),
    Key("groupBy", "group_by", TEXT, "A field; the hits are the best of each of its values."),
    Key("perGroup", "per_group", COUNT, "Hits of each group, at most.", default=1),
)
_NEAR = (
    Key("exact", "exact", FLAG, "Find the true nearest, not those of an index.", default=False),
    Key("tuning", "tuning", OBJECT, "The effort of an approximate search."),
    Key("maxDistance", "max_distance", NUMBER, "Leave out hits further away."),
    Key("model", "model", TEXT, "The model that made the vector."),
)
SEARCH = Keys(
    (
        Key("vector", "vector", VECTOR, "The vector to search for."),
        Key("text", "text", TEXT, "A text to search for, where the table has an embedder."),
        *_COMMON,
        *_NEAR,
    )
)


@ENDPOINTS.add("POST", "/tables/{table}/search", body=SEARCH)
async def search(call: Call) -> Response:
    """Return the rows nearest to a vector, best first."""
    options = SEARCH.of_body(await body_json(call))
    text = options.pop("text", None)
    if (text is None) == ("vector" not in options):
        raise RequestError(422, "the body needs a 'vector' or a 'text', one of them")
    if "tuning" in options:
        options["tuning"] = tuning_of(options["tuning"])
    vector = options.pop("vector", text)
    hits = await call.store.search(call.table, vector, **options)
    return await hits_response(hits)


def tuning_of(value: Mapping[str, Any]) -> Tuning:
    try:
        return Tuning(**value)  # the store checks the values
    except TypeError:
        known = ", ".join(Tuning.__dataclass_fields__)
        raise RequestError(422, f"'tuning' has a key that is not among {known}") from None


async def hits_response(hits: Results[Hit]) -> Response:
    effort = 20 * len(hits)
    return JsonBytes(await off_loop(effort, _hits_json, hits))


def _hits_json(hits: Results[Hit]) -> bytes:
    return b'{"hits":[' + b",".join([dump(hit_json(hit)) for hit in hits]) + b"]}"
