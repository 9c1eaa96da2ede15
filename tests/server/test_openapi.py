"""Valid and invalid requests generated from the OpenAPI document: none gets a 5xx."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from starlette.testclient import TestClient
from tests.server.apps import ROWS, SCHEMA

from aiovec.backend.server import ServerSettings
from aiovec_server import create_app

schemathesis = pytest.importorskip("schemathesis")
URL = "http://localhost:4002"


def begin(client: TestClient) -> None:
    """Restore the table and its rows."""
    if client.get("/tables/notes/count").json() == {"count": len(ROWS)}:
        return
    for table in client.get("/tables").json()["tables"]:
        client.delete(f"/tables/{table['name']}", params={"confirm": table["name"]})
    assert client.post("/tables", json={"name": "notes", "schema": SCHEMA}).status_code == 201
    assert client.post("/tables/notes/records", json=ROWS).status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("examples", [1, pytest.param(30, marks=pytest.mark.soak(minutes=15))])
def test_no_request_gets_a_server_error(examples: int) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    checked = [
        not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_schema_conformance,
    ]  # fmt: skip
    app = create_app(":memory:", settings=ServerSettings(access_log=False))
    with TestClient(app, base_url=URL) as client:
        document = client.get("/openapi.json").json()
        for methods in document["paths"].values():
            for operation in methods.values():
                for parameter in operation.get("parameters", ()):
                    if parameter["name"] == "table":  # else hardly any request would name one
                        parameter["schema"] = {"type": "string", "enum": ["notes", "none"]}
        schema = schemathesis.openapi.from_dict(document)

        @hypothesis.settings(
            max_examples=examples, derandomize=True, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(data=hypothesis.strategies.data())
        def check(operation: Any, mode: Any, data: Any) -> None:
            case = data.draw(operation.as_strategy(generation_mode=mode))
            begin(client)
            request = case.as_transport_kwargs(base_url=URL)
            request.pop("cookies", None)
            if isinstance(request.get("data"), (bytes, str)):
                request["content"] = request.pop("data")
            case.validate_response(client.request(**request), checks=checked)

        tried = 0
        for each in schema.get_all_operations():
            for mode in schemathesis.GenerationMode:
                try:
                    check(each.ok(), mode)
                    tried += 1
                except hypothesis.errors.Unsatisfiable:
                    assert mode is schemathesis.GenerationMode.NEGATIVE  # nothing can be wrong
        assert tried > 40
