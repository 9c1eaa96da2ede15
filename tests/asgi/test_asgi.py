"""The store in real web frameworks, over HTTP and web sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.di import Provide
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.websockets import WebSocketDisconnect

import aiovec
from aiovec import Schema, StoreBusyError, StoreFullError, TableNotFoundError, VectorStore
from aiovec.asgi import add_error_handlers, get_store, lifespan

with warnings.catch_warnings():
    # It warns of the successor of httpx.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

Store = Annotated[VectorStore, Depends(get_store)]


async def tables_of(request: Any) -> JSONResponse:
    return JSONResponse(await get_store(request).tables())


async def target_of(request: Any) -> JSONResponse:
    return JSONResponse(get_store(request).target)


def fastapi_app() -> FastAPI:
    app = FastAPI(lifespan=lifespan(":memory:"))
    mounted = FastAPI()
    seen: list[VectorStore] = []
    app.state.seen = seen

    @app.post("/tables/{name}")
    async def create(name: str, store: Store) -> list[str]:
        seen.append(store)
        await store.create_table(name, Schema(4))
        return await store.tables()

    @app.get("/tables")
    @mounted.get("/tables")
    async def tables(store: Store) -> list[str]:
        return await store.tables()

    @app.get("/direct")
    async def direct(request: Request) -> list[str]:
        return await get_store(request).tables()

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, store: Store) -> None:
        await websocket.accept()
        await websocket.send_json(await store.tables())
        await websocket.close()

    app.mount("/mounted", mounted)
    return app


def test_fastapi_handlers_get_the_store() -> None:
    app = fastapi_app()
    for _ in range(2):  # it may start again
        with TestClient(app) as client:
            assert client.get("/tables").json() == []
            assert client.post("/tables/notes").json() == ["notes"]
            for path in ("/tables", "/direct", "/mounted/tables"):
                assert client.get(path).json() == ["notes"], path
            with client.websocket_connect("/socket") as socket:
                assert socket.receive_json() == ["notes"]
            paths = client.get("/openapi.json").json()["paths"]
            assert "parameters" not in paths["/tables"]["get"]  # the request is none
        with pytest.raises(aiovec.StoreClosedError):
            asyncio.run(app.state.seen[-1].tables())

    class Other:
        async def tables(self) -> list[str]:
            return ["other"]

    app.dependency_overrides[get_store] = Other
    with TestClient(app) as client:
        assert client.get("/tables").json() == ["other"]


@asynccontextmanager
async def own_lifespan(app: Any) -> AsyncIterator[Mapping[str, Any]]:
    async with lifespan(":memory:")(app) as state:
        yield {"mine": 1, **state}


@asynccontextmanager
async def stateless_lifespan(app: Any) -> AsyncIterator[None]:
    async with lifespan(":memory:")(app):
        yield


def starlette_app(**options: Any) -> Starlette:
    async def scope_alone(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse(await get_store(scope).tables())(scope, receive, send)

    inner = Starlette(routes=[Route("/tables", tables_of)])
    routes = [
        Route("/tables", tables_of),
        Mount("/routes", routes=[Route("/tables", tables_of)]),
        Mount("/app", app=inner),
        Mount("/scope", app=scope_alone),
    ]
    return Starlette(routes=routes, **options)


def test_starlette_handlers_get_the_store() -> None:
    for of in (lifespan(":memory:"), own_lifespan):
        with TestClient(starlette_app(lifespan=of)) as client:
            for path in ("/tables", "/routes/tables", "/app/tables", "/scope/tables"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()) == (200, []), path
    with TestClient(starlette_app(lifespan=stateless_lifespan)) as client:
        assert client.get("/tables").json() == []


def test_a_mounted_app_has_its_own_store(tmp_path: Path) -> None:
    inner = Starlette(routes=[Route("/target", target_of)])

    @asynccontextmanager
    async def both(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with lifespan(":memory:")(app) as state, lifespan(tmp_path / "x.db")(inner):
            yield state

    outer = Starlette(routes=[Route("/target", target_of), Mount("/app", app=inner)], lifespan=both)
    with TestClient(outer) as client:
        assert ":memory:" in client.get("/target").json()
        assert "x.db" in client.get("/app/target").json()


async def test_a_second_store_of_one_app_is_refused(tmp_path: Path) -> None:
    """Otherwise all handlers would get the last one."""
    first, second = lifespan(tmp_path / "a.db"), lifespan(tmp_path / "b.db")
    app = FastAPI()
    async with first(app):
        with pytest.raises(aiovec.ConfigError, match=r"a\.db.*aiovec\.connect"):
            async with second(app):
                pass
        assert not (tmp_path / "b.db").exists()
    async with second(app):
        assert "b.db" in get_store({"app": app}).target


# Litestar 3 wants dependencies marked with a name that older ones of Litestar 2 do not have.
@pytest.mark.filterwarnings("ignore:.*Inferred dependency field")
def test_litestar_handlers_get_the_store() -> None:
    @litestar_get("/tables")
    async def tables(request: LitestarRequest[Any, Any, Any]) -> list[str]:
        return await get_store(request).tables()

    async def provide_store(request: LitestarRequest[Any, Any, Any]) -> VectorStore:
        return get_store(request)

    @litestar_get("/injected", dependencies={"store": Provide(provide_store)})
    async def injected(store: VectorStore) -> list[str]:
        return await store.tables()

    app = Litestar([tables, injected], lifespan=[lifespan(":memory:")], logging_config=None)
    with LitestarClient(app) as client:
        assert client.get("/tables").json() == client.get("/injected").json() == []


def test_config_is_passed_on_and_a_store_that_cannot_open_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nsqlite_path = "x.db"')
    with TestClient(starlette_app(lifespan=lifespan(config=file))) as client:
        assert client.get("/tables").json() == []
    assert (tmp_path / "x.db").exists()
    app = starlette_app(lifespan=lifespan(config=tmp_path / "missing.toml"))
    with pytest.raises(aiovec.ConfigError, match=r"missing\.toml"), TestClient(app):
        pytest.fail("it started")


def test_a_request_without_the_lifespan_is_refused() -> None:
    with pytest.raises(aiovec.ConfigError, match="lifespan"):
        TestClient(starlette_app()).get("/tables")
    with pytest.raises(aiovec.ConfigError, match="lifespan"):
        get_store({"type": "http"})


@pytest.mark.slow
def test_asgi_imports_no_framework() -> None:
    program = (
        "import inspect, sys, aiovec.asgi\n"
        "inspect.signature(aiovec.asgi.get_store)\n"
        "class App:\n    def add_exception_handler(self, cls, handler): pass\n"
        "aiovec.asgi.add_error_handlers(App())\n"
        "names = {'starlette', 'fastapi', 'litestar', 'httpx'}\n"
        "sys.exit(', '.join(names & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Errors as answers

SCHEMA = Schema(2, fields={"year": int})


async def run(request: Any, kind: str) -> Any:
    """One call of a store for each status."""
    store = get_store(request)
    if kind == "busy":
        raise StoreBusyError("another process writes to /srv/x.db", 1.5)
    if kind == "full":
        raise StoreFullError("/srv/x.db", "the disk is full")
    if kind == "other":
        raise RuntimeError("/srv/x.db")
    await store.create_table("notes", SCHEMA, exist_ok=True)
    if kind == "missing":
        return await store.count("absent")
    if kind == "filter":
        return await store.count("notes", (aiovec.F.id == "1") & aiovec.where("yeer = 1"))
    row = {"id": "1", "embedding": [1, 0], "year": 1}
    if kind == "row":
        row["year"] = "late"
    return [await store.insert("notes", [row]) for _ in range(2)]


def failing_fastapi() -> FastAPI:
    app = FastAPI(lifespan=lifespan(":memory:"))
    add_error_handlers(app)
    routes = APIRouter()

    @routes.get("/{kind}")
    async def get(request: Request, kind: str) -> Any:
        return await run(request, kind)

    app.include_router(routes)
    return app


def failing_starlette() -> Starlette:
    async def get(request: Request) -> JSONResponse:
        return JSONResponse(await run(request, request.path_params["kind"]))

    app = Starlette(
        routes=[Mount("/", routes=[Route("/{kind}", get)])], lifespan=lifespan(":memory:")
    )
    add_error_handlers(app)
    return app


def failing_litestar() -> Litestar:
    @litestar_get("/{kind:str}")
    async def get(request: LitestarRequest[Any, Any, Any]) -> Any:
        return await run(request, request.path_params["kind"])

    app = Litestar([get], lifespan=[lifespan(":memory:")], logging_config=None)
    add_error_handlers(app)
    return app


@contextmanager
def client_of(make: Callable[[], Any]) -> Iterator[Any]:
    kind: Any = LitestarClient if make is failing_litestar else TestClient
    with kind(make(), raise_server_exceptions=False) as client:
        yield client


LOGGED = {"busy": [("WARNING", False)], "full": [("ERROR", True)]}
"""The level of what an error logs, and whether with a traceback: a busy store is no fault."""


@pytest.mark.parametrize("make", [failing_fastapi, failing_starlette, failing_litestar])
def test_each_framework_answers_with_problems(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    wanted = {
        "missing": (404, "TableNotFoundError", {"table": "absent", "tables": ["notes"]}),
        "filter": (
            422,
            "FilterError",
            {"text": "yeer = 1", "position": 0, "expected": "one of id, year, payload.<key>"},
        ),
        "row": (422, "InvalidRowError", None),
        "twice": (409, "DuplicateIdError", {"table": "notes", "ids": ["1"], "within_call": False}),
        "busy": (503, "StoreBusyError", None),
        "full": (507, "StoreFullError", {"reason": "the disk is full", "in_part": False}),
    }
    with client_of(make) as client:
        for path, (status, name, facts) in wanted.items():
            caplog.clear()
            answer = client.get(f"/{path}")
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
            document = answer.json()
            assert (document["status"], document["error"]) == (status, name)
            assert facts is None or document["facts"] == facts
            assert "srv" not in answer.text
            logged = [r for r in caplog.records if r.name == "aiovec.asgi"]
            assert [(r.levelname, bool(r.exc_info)) for r in logged] == LOGGED.get(path, [])
        assert client.get("/busy").headers["retry-after"] == "1"
        other = client.get("/other")
        assert (other.status_code, "problem" in other.headers["content-type"]) == (500, False)


def test_an_answer_to_head_has_no_body() -> None:
    with client_of(failing_starlette) as client:
        answer = client.head("/missing")
    assert (answer.status_code, answer.content) == (404, b"")
    assert int(answer.headers["content-length"]) > 100


def test_an_apps_own_error_handler_comes_first() -> None:
    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"mine": True}, 410)

    for before in (True, False):
        app = FastAPI()
        if before:
            app.add_exception_handler(TableNotFoundError, on_error)
        add_error_handlers(app)
        if not before:
            app.add_exception_handler(TableNotFoundError, on_error)

        @app.get("/")
        async def get() -> None:
            raise TableNotFoundError("x")

        assert TestClient(app).get("/").status_code == 410


def test_an_error_closes_a_web_socket_that_is_open(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    add_error_handlers(app)

    @app.websocket("/{closes}")
    async def socket(websocket: WebSocket, closes: bool) -> None:
        await websocket.accept()
        if closes:
            await websocket.close()
        raise StoreFullError("/srv/x.db", "full")

    client = TestClient(app)
    with client.websocket_connect("/0") as opened, pytest.raises(WebSocketDisconnect) as caught:
        opened.receive_text()
    assert (caught.value.code, caught.value.reason) == (1011, "The store is full")
    caplog.clear()
    with client.websocket_connect("/1") as opened:
        assert opened.receive()["code"] == 1000
    assert "StoreFullError: status 1011" in caplog.text


@pytest.mark.parametrize("app", [None, object(), "app", {}])
def test_an_object_that_is_no_app_is_refused(app: object) -> None:
    with pytest.raises(aiovec.InvalidArgumentError, match="FastAPI, Starlette or Litestar"):
        add_error_handlers(app)
