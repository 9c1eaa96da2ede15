"""The OpenAPI document, made of the endpoints and the models of their bodies and answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from aiovec._http.problems import MEDIA_TYPE

from ..call import JSON
from ..keys import Access
from ..models import NewRecords, Problem, schemas_of
from ..once import HEADER, RETRY_HEADER, STATE_HEADER

if TYPE_CHECKING:
    from .declaring import Endpoint

_BYTES = {"type": "string", "format": "binary"}
_KEY = {"type": "string", "pattern": "^[!-~]{1,200}$"}
_SEGMENTS: dict[str, Any] = {
    "table": {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,62}$"},
    "id": {"type": "string", "minLength": 1, "maxLength": 512},
    "key": _KEY,
}
_ONCE = (
    (HEADER, "Names this write, so that it can be repeated without being done twice.", _KEY),
    (
        RETRY_HEADER,
        "1 where the request is repeated because its answer was lost.",
        {"type": "string", "enum": ["0", "1"]},
    ),
)
_STATE = (
    STATE_HEADER,
    "The ETag of GET /tables/{table}: the call is refused with 412 if the schema has changed.",
    {"type": "string", "maxLength": 200},
)


_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


@cache
def openapi(endpoints: tuple[Endpoint, ...], version: str) -> dict[str, Any]:
    """Return the document, which must not be changed. To make it takes 50 ms."""
    models = [model for each in endpoints for model in (each.body, each.answer) if model]
    places, schemas = schemas_of([*dict.fromkeys(models), Problem])
    paths: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for endpoint in endpoints:
        path, method = re.sub(r":\w+", "", endpoint.path), endpoint.method.lower()
        name = endpoint.handler.__name__
        name = f"{name}_by_{method}" if name in names else name  # it has two methods
        names.add(name)
        paths.setdefault(path, {})[method] = _operation(endpoint, name, places)
    problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": places[Problem]}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "aiovec", "summary": "A vector store over HTTP", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": problem},
            "securitySchemes": _KEYS,
        },
        "security": [*({name: []} for name in _KEYS), {}],  # a server may have no keys
    }


def _operation(endpoint: Endpoint, name: str, places: dict[Any, Any]) -> dict[str, Any]:
    summary, _, description = (endpoint.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "summary": summary.rstrip("."),
        "description": "\n".join(line.strip() for line in description.strip().split("\n")),
        "operationId": name,
        "parameters": _parameters(endpoint),
        "responses": {
            str(endpoint.status): {"description": "Done"},
            "4XX": {"$ref": "#/components/responses/Problem"},
            "5XX": {"$ref": "#/components/responses/Problem"},
        },
    }
    if endpoint.access is Access.NONE:
        operation["security"] = []
    if endpoint.status != 204:
        schema = places.get(endpoint.answer)
        operation["responses"][str(endpoint.status)]["content"] = _contents(endpoint.kinds, schema)
    if (body := endpoint.body) is not None:
        contents = _contents(endpoint.body_kinds(), places[body], endpoint.example)
        needed = body is NewRecords or body.is_needed()
        operation["requestBody"] = {"required": needed, "content": contents}
    return operation


def _contents(kinds: Sequence[str], schema: Any, example: Any = None) -> dict[str, Any]:
    shown = {} if example is None else {"example": example}
    return {kind: {"schema": schema, **shown} if kind == JSON else {"schema": _BYTES}
            for kind in kinds}  # fmt: skip


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True,
         "schema": _SEGMENTS.get(name, {"type": "string"})}
        for name in re.findall(r"\{(\w+)", endpoint.path)
    ]  # fmt: skip
    query = {} if endpoint.query is None else endpoint.query.model_json_schema()
    for name, schema in query.get("properties", {}).items():
        # A list is one value, with commas.
        place = {"name": name, "in": "query", "required": name == "confirm", "explode": False}
        parameters.append({**place, "description": schema.pop("description", ""), "schema": schema})
    headers = list(_ONCE) if endpoint.access is Access.WRITE else []
    if "{table}" in endpoint.path:
        headers.append(_STATE)
    parameters += [
        {"name": name, "in": "header", "description": about, "schema": schema}
        for name, about, schema in headers
    ]
    return parameters
