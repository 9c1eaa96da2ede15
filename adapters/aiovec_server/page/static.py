"""The files of the page, read once and given with their type, their ETag and a strict policy."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No script of the page makes markup of a text, so the browser may refuse that altogether.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # A new version of the server is seen at once; the ETag spares the bytes.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file of the page as it is sent."""

    body: bytes
    compressed: bytes
    kind: str
    etag: str

    def answer(self, request: Request) -> Response:
        """Return the file, or 304 where the browser has it."""
        headers = {**HEADERS, "etag": self.etag}
        if self.etag in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        body = self.body
        if _GZIP.search(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            body = self.compressed
        return Response(body, media_type=self.kind, headers=headers)


def static_routes() -> list[Route]:
    """Return a route for each file: the page at ``/``, the rest below ``/assets``.

    No path of a request ever becomes the path of a file.
    """
    return [_route(path, file) for path, file in _FILES.items()]


def _route(path: str, file: StaticFile) -> Route:
    async def send(request: Request) -> Response:
        return file.answer(request)

    return Route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


def _file(name: str, body: bytes) -> StaticFile:
    kind = _TYPES[name[name.rindex(".") :]]
    # Weak: the compressed bytes are the same file.
    etag = f'W/"{blake2b(body, digest_size=12).hexdigest()}"'
    return StaticFile(body, gzip.compress(body, mtime=0), kind, etag)


def _tags(header: str) -> set[str]:
    return {tag.strip() for tag in header.split(",")}


def _read() -> Mapping[str, StaticFile]:
    folder = files(__package__).joinpath("static")
    names = sorted(entry.name for entry in folder.iterdir())
    return {
        "/" if name == "index.html" else f"/assets/{name}": _file(
            name, folder.joinpath(name).read_bytes()
        )
        for name in names
    }


# Read with the module, for an app may be made where the event loop runs.
_FILES = _read()
