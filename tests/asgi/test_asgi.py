"""The store in web apps: real frameworks, a real store in memory, HTTP and web sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.di import Provide
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from aiovec import ConfigError, Schema, StoreClosedError, VectorStore
from aiovec.asgi import get_store, lifespan

with warnings.catch_warnings():
    # It announces the successor of httpx, which is not what is tested here.
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


def test_fastapi() -> None:
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
        with pytest.raises(StoreClosedError):
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


def test_starlette() -> None:
    for of in (lifespan(":memory:"), own_lifespan):
        with TestClient(starlette_app(lifespan=of)) as client:
            for path in ("/tables", "/routes/tables", "/app/tables", "/scope/tables"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()) == (200, []), path
    with TestClient(starlette_app(lifespan=stateless_lifespan)) as client:
        assert client.get("/tables").json() == []


def test_a_mounted_app_with_a_store_of_its_own(tmp_path: Path) -> None:
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
    """Its handlers would all get the last one."""
    first, second = lifespan(tmp_path / "a.db"), lifespan(tmp_path / "b.db")
    app = FastAPI()
    async with first(app):
        with pytest.raises(ConfigError, match=r"a\.db.*aiovec\.connect"):
            async with second(app):
                pass
        assert not (tmp_path / "b.db").exists()
    async with second(app):
        assert "b.db" in get_store({"app": app}).target


# Litestar 3 wants dependencies marked with a name that older ones of Litestar 2 do not have.
@pytest.mark.filterwarnings("ignore:.*Inferred dependency field")
def test_litestar() -> None:
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
    with pytest.raises(ConfigError, match=r"missing\.toml"), TestClient(app):
        pytest.fail("it started")


def test_without_a_lifespan() -> None:
    with pytest.raises(ConfigError, match="lifespan"):
        TestClient(starlette_app()).get("/tables")
    with pytest.raises(ConfigError, match="lifespan"):
        get_store({"type": "http"})


@pytest.mark.slow
def test_no_framework_is_imported() -> None:
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
