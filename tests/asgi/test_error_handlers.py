"""aiovec's errors as answers of apps of FastAPI, Starlette and Litestar."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.websockets import WebSocketDisconnect

from aiovec import InvalidArgumentError, Schema, StoreBusyError, StoreFullError, TableNotFoundError
from aiovec.asgi import add_error_handlers, get_store, lifespan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

SCHEMA = Schema(2, fields={"year": int})


async def run(request: Any, what: str) -> Any:
    """One call of a store for each status."""
    store = get_store(request)
    if what == "busy":
        raise StoreBusyError("another process writes to /srv/x.db", 1.5)
    if what == "full":
        raise StoreFullError("/srv/x.db", "the disk is full")
    if what == "other":
        raise RuntimeError("/srv/x.db")
    await store.create_table("notes", SCHEMA, exist_ok=True)
    if what == "missing":
        return await store.count("absent")
    row = {"id": "1", "embedding": [1, 0], "year": 1}
    if what == "row":
        row["year"] = "late"
    return [await store.insert("notes", [row]) for _ in range(2)]


def fastapi_app() -> FastAPI:
    app = FastAPI(lifespan=lifespan(":memory:"))
    add_error_handlers(app)
    routes = APIRouter()

    @routes.get("/{what}")
    async def get(request: Request, what: str) -> Any:
        return await run(request, what)

    app.include_router(routes)
    return app


def starlette_app() -> Starlette:
    async def get(request: Request) -> JSONResponse:
        return JSONResponse(await run(request, request.path_params["what"]))

    app = Starlette(
        routes=[Mount("/", routes=[Route("/{what}", get)])], lifespan=lifespan(":memory:")
    )
    add_error_handlers(app)
    return app


def litestar_app() -> Litestar:
    @litestar_get("/{what:str}")
    async def get(request: LitestarRequest[Any, Any, Any]) -> Any:
        return await run(request, request.path_params["what"])

    app = Litestar([get], lifespan=[lifespan(":memory:")], logging_config=None)
    add_error_handlers(app)
    return app


@contextmanager
def client_of(make: Callable[[], Any]) -> Iterator[Any]:
    kind: Any = LitestarClient if make is litestar_app else TestClient
    with kind(make(), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("make", [fastapi_app, starlette_app, litestar_app])
def test_each_framework_answers_with_problems(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    wanted = {
        "missing": (404, "TableNotFoundError", {"table": "absent", "tables": ["notes"]}),
        "row": (422, "InvalidRowError", None),
        "twice": (409, "DuplicateIdError", {"table": "notes", "ids": ["1"], "within_call": False}),
        "busy": (503, "StoreBusyError", None),
        "full": (507, "StoreFullError", {"reason": "the disk is full", "in_part": False}),
    }
    with client_of(make) as client:
        for what, (status, name, facts) in wanted.items():
            caplog.clear()
            answer = client.get(f"/{what}")
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            document = answer.json()
            assert (document["status"], document["error"]) == (status, name)
            assert facts is None or document["facts"] == facts
            assert "srv" not in answer.text
            logged = [r for r in caplog.records if r.name == "aiovec.asgi"]
            assert [r.exc_info is not None for r in logged] == [True] * (status >= 500)
        assert client.get("/busy").headers["retry-after"] == "1"
        other = client.get("/other")
        assert (other.status_code, "problem" in other.headers["content-type"]) == (500, False)


def test_an_answer_to_head_has_no_body() -> None:
    with client_of(starlette_app) as client:
        answer = client.head("/missing")
    assert (answer.status_code, answer.content) == (404, b"")
    assert int(answer.headers["content-length"]) > 100


def test_ones_own_handlers_go_first() -> None:
    async def mine(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"mine": True}, 410)

    for before in (True, False):
        app = FastAPI()
        if before:
            app.add_exception_handler(TableNotFoundError, mine)
        add_error_handlers(app)
        if not before:
            app.add_exception_handler(TableNotFoundError, mine)

        @app.get("/")
        async def get() -> None:
            raise TableNotFoundError("x")

        assert TestClient(app).get("/").status_code == 410


def test_a_web_socket_is_closed_unless_it_was(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    add_error_handlers(app)

    @app.websocket("/{closes}")
    async def socket(websocket: WebSocket, closes: bool) -> None:
        await websocket.accept()
        if closes:
            await websocket.close()
        raise StoreFullError("/srv/x.db", "full")

    client = TestClient(app)
    with client.websocket_connect("/0") as one, pytest.raises(WebSocketDisconnect) as caught:
        one.receive_text()
    assert (caught.value.code, caught.value.reason) == (1011, "The store is full")
    caplog.clear()
    with client.websocket_connect("/1") as one:
        assert one.receive()["code"] == 1000
    assert "StoreFullError: status 1011" in caplog.text


@pytest.mark.parametrize("app", [None, object(), "app", {}])
def test_what_is_no_app_is_refused(app: object) -> None:
    with pytest.raises(InvalidArgumentError, match="FastAPI, Starlette or Litestar"):
        add_error_handlers(app)
