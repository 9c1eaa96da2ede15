"""The page at ``/``: static files, and the endpoints under ``/page`` that only they ask for."""

from __future__ import annotations

from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.responses import Response

from aiovec.backend.server import ServerSettings

from ..call import Call
from ..endpoints.declaring import Endpoint
from ..models import Anything
from .endpoints import data_endpoints

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


def page_endpoints(settings: ServerSettings) -> list[Endpoint]:
    """Return the endpoints of the page's files, which hold no data, and of its data.

    With ``page_writes`` the page offers to delete rows and to optimize tables; it does so by the
    server's endpoints, whose keys decide.
    """
    return [*_FILES, *data_endpoints(page_writes=settings.page_writes)]


def _file_endpoint(name: str, body: bytes) -> Endpoint:
    """Return the endpoint of one file: no path of a request ever becomes the path of a file."""
    kind = _TYPES[Path(name).suffix]
    headers = {**_HEADERS, "etag": f'"{blake2b(body, digest_size=12).hexdigest()}"'}

    async def send(call: Call, options: dict[str, Any]) -> Response:
        if headers["etag"] in call.request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=kind, headers=headers)

    path = "/" if name == "index.html" else f"/assets/{name}"
    return Endpoint("GET", path, send, query=Anything, open=True)


# Read with the module, for an app may be made where the event loop runs.
_FILES = [
    _file_endpoint(file.name, file.read_bytes())
    for file in files(__package__).joinpath("static").iterdir()
]
