"""The page at ``/``: static files, and the endpoints under ``/page`` that only they ask for."""

from __future__ import annotations

import mimetypes
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from aiovec.backend.server import ServerSettings

from ..call import Call
from ..endpoints.declaring import Endpoint
from .endpoints import data_endpoints

# The registry of Windows may call it a text, which no browser runs.
mimetypes.add_type("text/javascript", ".js")
_STATIC = StaticFiles(packages=[(__name__, "static")])
_PATHS = ("/", "/assets/{name}")
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
    files = [Endpoint("GET", path, _send, query=None, open=True) for path in _PATHS]
    return [*files, *data_endpoints(page_writes=settings.page_writes)]


async def _send(call: Call, options: dict[str, Any]) -> Response:
    name = call.request.path_params.get("name", "index.html")
    answer = await _STATIC.get_response(name, call.request.scope)
    answer.headers.update(_HEADERS)
    return answer
