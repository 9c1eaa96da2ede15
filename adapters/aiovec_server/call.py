"""A request to an endpoint: its table, its arguments, its body."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.requests import Request

from aiovec import VectorStore
from aiovec.asgi import get_store
from aiovec.errors import ConfigError

from .models import Model
from .once import WriteKeys
from .problems import RequestError

_HALF_ENCODED = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Call:
    """One request, as an endpoint sees it."""

    __slots__ = ("_store", "query", "request", "writes")

    def __init__(self, request: Request, store: VectorStore | None, writes: WriteKeys) -> None:
        self.request = request
        self.writes = writes
        """The writes under keys that are under way."""
        self.query: dict[str, Any] = {}
        """The arguments of the query string, once ``read_query`` has checked them."""
        self._store = store

    @property
    def store(self) -> VectorStore:
        return get_store(self.request) if self._store is None else self._store

    @property
    def store_or_none(self) -> VectorStore | None:
        """The store; None where the app has none."""
        try:
            return self.store
        except ConfigError:
            return None

    @property
    def table(self) -> str:
        table: str = self.request.path_params["table"]
        return table

    def segment(self, name: str) -> str:
        """Return a part of the path that is a name, in which no character needs care."""
        found: str = self.request.path_params[name]
        return found

    def read_query(self, model: type[Model]) -> None:
        """Check and keep the arguments of the query string, which may have these keys only."""
        text = self.request.scope["query_string"]
        if not text:
            return
        try:
            pairs = parse_qsl(
                text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64
            )
        except ValueError as exc:
            raise RequestError(400, f"the query string cannot be read: {exc}") from exc
        self.query = model.of_query(pairs).arguments()

    def last_segment(self, name: str) -> str:
        """Return the last part of the path, as the client encoded it.

        Clients and proxies take ``.``, ``..`` and bare slashes for a way through folders, so an id
        of that kind might name another row on its way here. It is refused, and goes in a body.
        """
        found: str = self.request.path_params[name]
        raw = self.request.scope.get("raw_path")
        if raw is not None:
            last = raw.partition(b"?")[0].rsplit(b"/", 1)[1]
            if b"#" in last:
                raise RequestError(400, f"the {name} in the path has a # in it; encode it as %23")
            if _HALF_ENCODED.search(last):
                raise RequestError(400, f"the {name} in the path has a % in it; encode it as %25")
            try:
                encoded = unquote_to_bytes(last).decode()
            except UnicodeDecodeError as exc:
                raise RequestError(400, f"the {name} in the path is not valid UTF-8") from exc
            bare = encoded != found
        else:
            bare = "/" in found
        if bare or not found or found in (".", ".."):
            raise RequestError(
                400,
                f"the path cannot carry the {name} {found!r} safely: encode its slashes as %2F, or "
                "name it in a body, as POST .../delete does",
            )
        return found
