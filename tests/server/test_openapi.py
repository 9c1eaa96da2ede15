"""Requests made from the OpenAPI document, right ones and wrong ones: none is a server's error."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from starlette.testclient import TestClient
from tests.server.apps import ROWS, SCHEMA

import aiovec_server.endpoints
from aiovec_server import create_app

URL = "http://localhost:4002"
_CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
OPERATIONS = [
    (endpoint.method, endpoint.path.replace(":path", ""))
    for endpoint in aiovec_server.endpoints.ENDPOINTS
]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(":memory:"), base_url=URL) as made:
        yield made


@pytest.fixture(scope="module")
def schema(client: TestClient) -> Any:
    document = copy.deepcopy(client.get("/openapi.json").json())
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "table":  # else hardly a request would find one
                    parameter["schema"] = {"type": "string", "enum": ["notes", "notes", "none"]}
    return schemathesis.openapi.from_dict(document)


def begin(client: TestClient) -> None:
    """Let the table be there, with rows."""
    if client.get("/tables/notes/count").json() == {"count": len(ROWS)}:
        return
    for table in client.get("/tables").json()["tables"]:
        client.delete(f"/tables/{table['name']}", params={"confirm": table["name"]})
    assert client.post("/tables", json={"name": "notes", "schema": SCHEMA}).status_code == 201
    assert client.post("/tables/notes/records", json=ROWS).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_is_a_server_error(
    client: TestClient, schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @hypothesis.settings(
        max_examples=4, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=cases)
    def check(case: schemathesis.Case) -> None:
        begin(client)
        request = case.as_transport_kwargs(base_url=URL)
        request.pop("cookies", None)
        if isinstance(request.get("data"), (bytes, str)):
            request["content"] = request.pop("data")
        response = client.request(**request)
        case.validate_response(response, checks=_CHECKS)

    try:
        check()
    except hypothesis.errors.Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing is wrong where nothing can be given
