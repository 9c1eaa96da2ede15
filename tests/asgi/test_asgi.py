"""The store in web apps: real frameworks, a real store in memory, HTTP and web sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.di import Provide
from litestar.testing import AsyncTestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket
from starlette.websockets import WebSocketDisconnect

from aiovec import ConfigError, Schema, StoreClosedError, VectorStore
from aiovec.asgi import add_error_handlers, get_store, lifespan

with warnings.catch_warnings():
    # It announces the successor of httpx, which is not what is tested here.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

Store = Annotated[VectorStore, Depends(get_store)]


@asynccontextmanager
async def serving(app: Any, *, knows_state: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """What a server does: the lifespan, its state in the scope of each request, and requests."""
    state: dict[str, Any] = {}
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}}
    if knows_state:
        scope["state"] = state
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    running = asyncio.ensure_future(app(scope, to_app.get, from_app.put))

    async def asked(what: str) -> None:
        await to_app.put({"type": f"lifespan.{what}"})
        answer = await from_app.get()
        if answer["type"] != f"lifespan.{what}.complete":
            await asyncio.wait([running])
            error = running.exception()
            raise error if error is not None else RuntimeError(answer)

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)} if knows_state else scope, receive, send)

    await asked("startup")
    try:
        transport = httpx.ASGITransport(app=with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    finally:
        await asked("shutdown")
        await running


async def tables_of(request: Any) -> JSONResponse:
    return JSONResponse(await get_store(request).tables())


def fastapi_app(**options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(":memory:"), **options)
    seen: list[VectorStore] = []
    app.state.seen = seen

    @app.post("/tables/{name}")
    async def create(name: str, store: Store) -> list[str]:
        seen.append(store)
        await store.create_table(name, Schema(4))
        return await store.tables()

    @app.get("/tables")
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

    mounted = FastAPI()

    @mounted.get("/tables")
    async def tables_again(store: Store) -> list[str]:
        return await store.tables()

    app.mount("/mounted", mounted)
    return app


async def test_fastapi() -> None:
    app = fastapi_app()
    async with serving(app) as client:
        assert (await client.post("/tables/notes")).json() == ["notes"]
        for path in ("/tables", "/direct", "/mounted/tables"):
            assert (await client.get(path)).json() == ["notes"], path
    with pytest.raises(StoreClosedError):
        await app.state.seen[0].tables()


async def test_the_request_is_no_parameter_of_the_api() -> None:
    async with serving(fastapi_app()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert "parameters" not in paths["/tables"]["get"]
    assert [p["name"] for p in paths["/tables/{name}"]["post"]["parameters"]] == ["name"]


def test_fastapi_web_socket() -> None:
    with (
        TestClient(fastapi_app()) as client,
        client.websocket_connect("/socket") as socket,
    ):
        client.post("/tables/notes")
        assert socket.receive_json() in ([], ["notes"])


async def test_an_app_may_start_again() -> None:
    app = fastapi_app()
    for _ in range(2):
        async with serving(app) as client:
            assert (await client.get("/tables")).json() == []


async def test_dependencies_can_be_overridden(tmp_path: Path) -> None:
    app = fastapi_app()

    class Other:
        async def tables(self) -> list[str]:
            return ["other"]

    app.dependency_overrides[get_store] = Other
    async with serving(app) as client:
        assert (await client.get("/tables")).json() == ["other"]


def starlette_app(**options: Any) -> Starlette:
    async def socket(websocket: StarletteWebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(await get_store(websocket).tables())
        await websocket.close()

    inner = Starlette(routes=[Route("/tables", tables_of)])
    return Starlette(
        routes=[
            Route("/tables", tables_of),
            WebSocketRoute("/socket", socket),
            Mount("/routes", routes=[Route("/tables", tables_of)]),
            Mount("/app", app=inner),
        ],
        **options,
    )


async def test_starlette() -> None:
    async with serving(starlette_app(lifespan=lifespan(":memory:"))) as client:
        for path in ("/tables", "/routes/tables", "/app/tables"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (200, []), path


def test_starlette_web_socket() -> None:
    with (
        TestClient(starlette_app(lifespan=lifespan(":memory:"))) as client,
        client.websocket_connect("/socket") as socket,
    ):
        assert socket.receive_json() == []


@pytest.mark.parametrize("closes", ["handler", "client"])
def test_an_error_behind_the_end_of_a_web_socket(
    closes: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was told by a second error, of a socket that cannot be closed twice."""

    async def socket(websocket: StarletteWebSocket) -> None:
        await websocket.accept()
        if closes == "handler":
            await websocket.close()
        else:
            with suppress(WebSocketDisconnect):
                await websocket.receive_text()
        await get_store(websocket).count("absent")

    app = Starlette(routes=[WebSocketRoute("/socket", socket)], lifespan=lifespan(":memory:"))
    add_error_handlers(app)
    with TestClient(app) as client, client.websocket_connect("/socket") as one:
        if closes == "client":
            one.close()
        else:
            assert one.receive()["code"] == 1000
        until = time.monotonic() + 10
        while "TableNotFoundError: status 1011" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.01)


@asynccontextmanager
async def own_lifespan(app: Any) -> AsyncIterator[Mapping[str, Any]]:
    async with lifespan(":memory:")(app) as state:
        yield {"mine": 1, **state}


@asynccontextmanager
async def stateless_lifespan(app: Any) -> AsyncIterator[None]:
    async with lifespan(":memory:")(app):
        yield


async def test_a_lifespan_of_ones_own() -> None:
    async with serving(starlette_app(lifespan=own_lifespan)) as client:
        assert (await client.get("/app/tables")).json() == []


async def test_where_the_server_knows_no_state() -> None:
    async with serving(starlette_app(lifespan=stateless_lifespan), knows_state=False) as client:
        assert (await client.get("/tables")).json() == []


async def test_a_mounted_app_with_a_store_of_its_own(tmp_path: Path) -> None:
    async def target_of(request: Request) -> JSONResponse:
        return JSONResponse(get_store(request).target)

    inner = Starlette(routes=[Route("/target", target_of)])

    @asynccontextmanager
    async def both(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with lifespan(":memory:")(app) as state, lifespan(tmp_path / "x.db")(inner):
            yield state

    outer = Starlette(routes=[Route("/target", target_of), Mount("/app", app=inner)], lifespan=both)
    async with serving(outer) as client:
        assert ":memory:" in (await client.get("/target")).json()
        assert "x.db" in (await client.get("/app/target")).json()


async def test_a_second_store_of_one_app_is_refused(tmp_path: Path) -> None:
    """Its handlers would all get the last one. The same lifespan may run twice, as in tests."""
    first, second = lifespan(tmp_path / "a.db"), lifespan(tmp_path / "b.db")
    app = FastAPI()
    async with first(app):
        with pytest.raises(ConfigError, match=r"a\.db.*aiovec\.connect"):
            async with second(app):
                pass
        assert not (tmp_path / "b.db").exists()
        async with first(app):
            pass
    async with second(app):
        assert "b.db" in get_store({"app": app}).target


# Litestar 3 wants dependencies marked with a name that older ones of Litestar 2 do not have.
@pytest.mark.filterwarnings("ignore:.*Inferred dependency field")
async def test_litestar() -> None:
    @litestar_get("/tables")
    async def tables(request: LitestarRequest[Any, Any, Any]) -> list[str]:
        store = get_store(request)
        return await store.tables()

    async def provide_store(request: LitestarRequest[Any, Any, Any]) -> VectorStore:
        return get_store(request)

    @litestar_get("/injected", dependencies={"store": Provide(provide_store)})
    async def injected(store: VectorStore) -> list[str]:
        return await store.tables()

    app = Litestar([tables, injected], lifespan=[lifespan(":memory:")], logging_config=None)
    async with AsyncTestClient(app) as client:
        assert (await client.get("/tables")).json() == []
        assert (await client.get("/injected")).json() == []


async def test_config_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nsqlite_path = "x.db"')
    async with serving(starlette_app(lifespan=lifespan(config=file))) as client:
        assert (await client.get("/tables")).json() == []
    assert (tmp_path / "x.db").exists()


async def test_an_app_whose_store_cannot_open_does_not_start(tmp_path: Path) -> None:
    app = starlette_app(lifespan=lifespan(config=tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        async with serving(app):
            pytest.fail("it started")  # pragma: no cover


async def test_without_a_lifespan() -> None:
    transport = httpx.ASGITransport(app=starlette_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(ConfigError, match="lifespan"):
            await client.get("/tables")
    with pytest.raises(ConfigError, match="lifespan"):
        get_store({"type": "http"})


async def test_the_scope_itself_will_do() -> None:
    found: list[VectorStore] = []

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        found.append(get_store(scope))
        await JSONResponse(await found[0].tables())(scope, receive, send)

    app = Starlette(routes=[Mount("/", app=endpoint)], lifespan=lifespan(":memory:"))
    async with serving(app) as client:
        assert (await client.get("/x")).json() == []
    assert isinstance(found[0], VectorStore)


async def test_an_app_without_a_state_of_its_own() -> None:
    async with lifespan(":memory:")(object()) as state:
        assert await get_store({"type": "http", "state": state}).tables() == []


def test_no_framework_is_imported() -> None:
    program = (
        "import sys, aiovec.asgi, inspect\n"
        "inspect.signature(aiovec.asgi.get_store)\n"
        "names = {'starlette', 'fastapi', 'litestar', 'httpx'}\n"
        "sys.exit(', '.join(names & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
