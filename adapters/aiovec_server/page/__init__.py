"""The page at ``/``: static files, and the endpoints under ``/page`` that only they ask for."""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aiovec import VectorStore
from aiovec.backend.server import ServerSettings

from ..endpoints.declaring import routes_of
from .endpoints import page_endpoints

# Not the system's, which may have others.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No script of the page makes markup of a text, so the browser may refuse that altogether.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # A new version of the server is seen at once; the ETag spares the bytes.
    "cache-control": "no-cache",
}


def routes_of_page(store: VectorStore | None, settings: ServerSettings) -> list[Route]:
    """Return the routes of the page's files and endpoints.

    Without a store it serves the one of the app's lifespan. With ``page_writes`` the page offers
    to delete rows and to optimize tables; it does so by the server's endpoints, whose keys decide.
    """
    endpoints = page_endpoints(page_writes=settings.page_writes)
    return [*_FILES, *routes_of(endpoints, store)]


def _route(name: str, body: bytes) -> Route:
    """Return the route of one file: no path of a request ever becomes the path of a file."""
    kind = _TYPES[Path(name).suffix]
    headers = {**_HEADERS, "etag": f'"{blake2b(body, digest_size=12).hexdigest()}"'}

    async def send(request: Request) -> Response:
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=kind, headers=headers)

    return Route("/" if name == "index.html" else f"/assets/{name}", send)


# Read with the module, for an app may be made where the event loop runs.
_FILES = [
    _route(file.name, file.read_bytes()) for file in files(__package__).joinpath("static").iterdir()
]
