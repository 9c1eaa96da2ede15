"""A request to an endpoint: its table, its query string, the names in its path."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from starlette.requests import Request

from aiovec import VectorStore

from .models import Model
from .once import WriteKeys
from .problems import RequestError

_HALF_ENCODED = re.compile(rb"#|%(?![0-9A-Fa-f]{2})")


class Call:
    """One request, as an endpoint sees it."""

    __slots__ = ("request", "store", "uses_older_names", "writes")

    def __init__(self, request: Request, store: VectorStore, writes: WriteKeys) -> None:
        self.request = request
        self.store = store
        self.writes = writes
        """The writes under keys that are under way."""
        self.uses_older_names = False
        """The body names its arguments as older clients do."""

    @property
    def table(self) -> str:
        return self.segment("table")

    def segment(self, name: str) -> str:
        """Return a part of the path that is a name, in which no character needs care."""
        found: str = self.request.path_params[name]
        return found

    def query_arguments(self, model: type[Model]) -> dict[str, Any]:
        """Return the arguments of the query string, which may have this model's keys only."""
        text = self.request.scope["query_string"]
        if not text:
            return {}
        try:
            pairs = parse_qsl(
                text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64
            )
        except ValueError as exc:
            raise RequestError(400, f"the query string cannot be read: {exc}") from exc
        return model.of_query(pairs).arguments()

    def last_segment(self, name: str) -> str:
        """Return the last part of the path, as the client encoded it.

        Clients and proxies take ``.``, ``..`` and bare slashes for a way through folders, so an id
        of that kind might name another row on its way here. It is refused, and goes in a body.
        """
        found = self.segment(name)
        raw = self.request.scope.get("raw_path") or quote(found).encode()
        last = raw.partition(b"?")[0].rpartition(b"/")[2]
        whole = not _HALF_ENCODED.search(last) and unquote_to_bytes(last) == found.encode()
        if not whole or found in ("", ".", ".."):
            raise RequestError(
                400,
                f"the path cannot carry the {name} {found!r} safely: encode its slashes as %2F and "
                "every # and %, or name it in a body, as DELETE .../records does",
            )
        return found
