"""The OpenAPI document: each endpoint's parameters, body, answers and problems, with examples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiovec._http.ipc import ARROW

from ..media import JSON, JSON_LINES, PROBLEM
from ..models import AN_ID, Model
from ..once import HEADER, RETRY_HEADER, STATE_HEADER

if TYPE_CHECKING:
    from .declaring import Endpoint

Json = Mapping[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
MAYBE_COUNT: Json = {"type": ["integer", "null"], "minimum": 0}
ANYTHING: Json = {}
BYTES: Json = {"type": "string", "format": "binary"}

_RECORD: Json = {
    "type": "object",
    "properties": {"id": TEXT},
    "additionalProperties": True,
}
_ROW: Json = {**_RECORD, "properties": {"id": AN_ID}}
"""A record that is written."""
EXAMPLE_RECORD: Json = {
    "id": "note-1", "embedding": [0.6, 0.8, 0.0], "year": 2024, "body": "A walk by the sea.",
}  # fmt: skip
EXAMPLE_SCHEMA: Json = {
    "dim": 3,
    "fields": {"year": "int", "body": {"type": "text", "text": True}},
}
_LINE = '{"id": "note-1", "embedding": [0.6, 0.8, 0.0], "year": 2024}\n'


def schema_of(model: type[Model]) -> dict[str, Any]:
    """Return the JSON schema of a body, without the titles that repeat its keys."""
    found = model.model_json_schema()
    found.pop("title")
    found.pop("description", None)
    for key in found.get("properties", {}).values():
        del key["title"]
    return found


def listed(items: Json) -> Json:
    return {"type": "array", "items": items}


def an_object(properties: Mapping[str, Json]) -> Json:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of an endpoint where all went well."""

    schema: Json | None
    """None where the answer has no body."""
    example: Any = None
    kinds: Sequence[str] = (JSON,)
    about: str = "Done"

    def content(self) -> dict[str, Any]:
        if self.schema is None:
            return {}
        found: dict[str, Any] = {}
        for kind in self.kinds:
            if kind == JSON:
                found[kind] = {"schema": self.schema, "example": self.example}
            elif kind == JSON_LINES:
                found[kind] = {"schema": TEXT, "example": _LINE}
            else:
                found[kind] = {"schema": BYTES}
        return found


def counted(name: str) -> Answer:
    return Answer(an_object({name: COUNT}), {name: 2})


_HIT: Json = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "score": {"type": ["number", "null"]},
        "distance": {"type": ["number", "null"]},
        "fields": {"type": "object"},
        "vector": listed({"type": "number"}),
        "ranks": {"type": "object"},
        "highlights": {"type": "object"},
    },
    "required": ["id", "score", "distance", "fields"],
}
_EXAMPLE_HIT: Json = {
    "id": "note-1", "score": 0.96, "distance": 0.04,
    "fields": {"year": 2024, "body": "A walk by the sea."},
}  # fmt: skip
HITS = Answer(
    an_object({"hits": listed(_HIT)}), {"hits": [_EXAMPLE_HIT]}, (JSON, JSON_LINES, ARROW)
)
HITS_OF_MANY = Answer(
    an_object({"results": listed(an_object({"hits": listed(_HIT)}))}),
    {"results": [{"hits": [_EXAMPLE_HIT]}]},
    (JSON, JSON_LINES, ARROW),
)
RECORDS = Answer(
    an_object({"records": listed(_RECORD)}),
    {"records": [EXAMPLE_RECORD]},
    (JSON, JSON_LINES, ARROW),
)
STREAM = Answer(TEXT, None, (JSON_LINES, ARROW))
TABLE = Answer(
    an_object({"name": TEXT, "rows": MAYBE_COUNT, "schema": {"type": "object"}}),
    {"name": "notes", "rows": 0, "schema": EXAMPLE_SCHEMA},
)
NOTHING = Answer(None)
ROWS_BODY: Json = {
    JSON: {"schema": listed(_ROW), "example": [EXAMPLE_RECORD]},
    JSON_LINES: {"schema": TEXT, "example": _LINE},
    ARROW: {"schema": BYTES},
}

_PROBLEM: Json = {
    "type": "object",
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "error": TEXT,
        "facts": {"type": "object"},
    },
    "required": ["type", "title", "status", "detail"],
}
_REASONS = {
    400: "The request cannot be read, or lacks a confirmation",
    401: "No API key, or an unknown one",
    403: "The API key, the host or the origin may not do this",
    404: "There is no such table",
    406: "The answer cannot have a media type that Accept names",
    408: "The request took too long to arrive",
    409: "Something exists already, or is of another schema or model, or was cancelled",
    412: "The table is not in the state that If-Match names",
    413: "The body is too large",
    415: "The body's media type is not accepted",
    422: "An argument, a filter, a row or a vector is not accepted, or the backend lacks this",
    429: "Too many calls at once; try again after Retry-After",
    500: "The server or its store failed",
    502: "The embedder failed",
    503: "The store cannot answer now; try again after Retry-After",
    504: "The call took too long",
    507: "The store is full",
}
_ALWAYS = (400, 401, 403, 422, 429, 500, 503, 504)


def _responses(endpoint: Endpoint) -> dict[str, dict[str, Any]]:
    """Return the answers of an endpoint by their status."""
    statuses = set(_ALWAYS)
    if "{table}" in endpoint.path:
        statuses |= {404, 412, 502}
    if endpoint.body is not None:
        statuses |= {408, 413, 415}
    if len(endpoint.answer.kinds) > 1:
        statuses.add(406)
    if endpoint.writes:
        statuses |= {409, 507}
    if "vector" in str(endpoint.body) or endpoint.method == "POST":
        statuses.add(409)  # another model's vector
    found: dict[str, dict[str, Any]] = {
        str(endpoint.status): {
            "description": endpoint.answer.about,
            **({"content": endpoint.answer.content()} if endpoint.answer.schema else {}),
        }
    }
    for status in sorted(statuses):
        found[str(status)] = PROBLEMS[status]
    return found


def _example(status: int) -> dict[str, Any]:
    if status == 404:
        return {
            "type": "urn:aiovec:error:TableNotFoundError", "title": "No such table",
            "status": 404, "detail": "there is no table 'notes'; the tables are: none",
            "error": "TableNotFoundError", "facts": {"table": "notes", "tables": []},
        }  # fmt: skip
    if status == 422:
        return {
            "type": "urn:aiovec:error:InvalidArgumentError", "title": "Invalid argument",
            "status": 422, "detail": "topK must be a whole number of at least 1, not 0",
            "error": "InvalidArgumentError",
            "facts": {
                "argument": "topK", "value": 0, "expected": "a whole number of at least 1",
            },
        }  # fmt: skip
    phrase = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": phrase, "status": status, "detail": _REASONS[status]}


PROBLEMS: Mapping[int, dict[str, Any]] = {
    status: {
        "description": about,
        "content": {PROBLEM: {"schema": _PROBLEM, "example": _example(status)}},
    }
    for status, about in _REASONS.items()
}

_TABLE_NAME = {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,62}$"}
_SEGMENTS: Mapping[str, Json] = {
    "table": {"schema": _TABLE_NAME, "example": "notes"},
    "id": {
        "schema": {"type": "string", "minLength": 1, "maxLength": 512},
        "example": "note-1",
        "description": "The record's id, each character but letters, digits, -, _ and ~ encoded.",
    },
    "field": {"schema": TEXT, "example": "year"},
    "index": {"schema": TEXT, "example": "embedding_idx"},
    "key": {"schema": {"type": "string", "pattern": "^[!-~]{1,200}$"}, "example": "4f5d0b0e"},
}


_ONCE: list[dict[str, Any]] = [
    {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": "Names this write, so that it can be repeated without being done twice. "
        "The same key with another request is refused.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
        "example": "4f5d0b0e-6a0c-4f0e-9a3c-0a8f6a4f7c11",
    },
    {
        "name": RETRY_HEADER,
        "in": "header",
        "required": False,
        "description": "1 where the request is repeated because its answer was lost.",
        "schema": {"type": "string", "enum": ["0", "1"]},
    },
]


_STATE: dict[str, Any] = {
    "name": STATE_HEADER,
    "in": "header",
    "required": False,
    "description": "The ETag of GET /tables/{table}: the call is refused by 412 if the table has "
    "another schema meanwhile.",
    "schema": {"type": "string", "maxLength": 200},
}


def openapi(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """Return the document, in which what stands in many places is one component."""
    paths: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for endpoint in endpoints:
        name = endpoint.handler.__name__
        if name in names:
            name = f"{name}_by_{endpoint.method.lower()}"
        names.add(name)
        path = re.sub(r":\w+", "", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, name)
    schemas = {"Problem": _PROBLEM, "Hit": _HIT, "Record": _RECORD}
    answers = {f"Problem{status}": problem for status, problem in PROBLEMS.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "aiovec", "summary": "A vector store over HTTP", "version": version},
        "paths": _referring(paths, {"schemas": schemas, "responses": answers}),
        "components": {
            "schemas": schemas,
            "responses": _referring(answers, {"schemas": schemas}),
        },
    }


def _operation(endpoint: Endpoint, name: str) -> dict[str, Any]:
    summary, _, description = (endpoint.handler.__doc__ or name).partition("\n")
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, **_SEGMENTS[name]}
        for name in re.findall(r"\{(\w+)", endpoint.path)
    ]
    parameters += [
        {
            "name": name,
            "in": "query",
            "required": name == "confirm",
            "description": schema.pop("description", ""),
            "schema": schema,
            "explode": False,  # a list is one value, with commas
        }
        for name, schema in schema_of(endpoint.query).get("properties", {}).items()
    ]
    if endpoint.writes:
        parameters += _ONCE
    if "{table}" in endpoint.path:
        parameters.append(_STATE)
    found: dict[str, Any] = {
        "summary": summary.rstrip("."),
        "operationId": name,
        "parameters": parameters,
        "responses": _responses(endpoint),
    }
    if text := "\n".join(line.strip() for line in description.strip().split("\n")):
        found["description"] = text
    if endpoint.body is not None:
        found["requestBody"] = {"required": endpoint.body_needed, "content": dict(endpoint.body)}
    return found


def _referring(value: Any, known: Mapping[str, Mapping[str, Any]]) -> Any:
    if isinstance(value, list):
        return [_referring(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    for section, parts in known.items():
        for name, part in parts.items():
            if value == part:
                return {"$ref": f"#/components/{section}/{name}"}
    return {key: _referring(item, known) for key, item in value.items()}
