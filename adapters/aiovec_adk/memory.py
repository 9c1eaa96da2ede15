"""A table of events and facts as an ADK ``BaseMemoryService``."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from google.adk.events.event import Event
from google.adk.memory.base_memory_service import BaseMemoryService, SearchMemoryResponse
from google.adk.memory.memory_entry import MemoryEntry
from google.adk.sessions.session import Session

from aiovec import Embed, F, Field, Hit, Schema, Table, TableNotFoundError, new_id
from aiovec.bridge import (
    Bridge,
    Closable,
    StoreOrTarget,
    best_search,
    create_memory,
    in_store,
    table_without_vectors,
)

# ``text`` is embedded, ``words`` are searched, ``entry`` is the JSON of the ``MemoryEntry``. All
# three are null in a deleted entry.
_FIELDS = {
    "app": Field(str, nullable=False),
    "user": Field(str, nullable=False, index="btree"),
    "session": Field(str),
    "at": Field(datetime),
    "text": Field(str),
    "words": Field(str, text=True),
    "entry": Field(str),
}
_MEMORY = Schema(fields=_FIELDS, embed=Embed("text"), analyzer="english", vector_nullable=True)
_DELETED = dict.fromkeys(("session", "at", "text", "words", "entry"))
# A search asks for this many times ``limit``, so that the first of equal memories are the earliest.
_MORE = 4
_LATEST = datetime.max.replace(tzinfo=UTC)
# The most words of a query: an agent may pass a whole message.
_MOST_WORDS = 64
# Han and Kana are written without spaces, so each letter counts as a word, and several letters in a
# row as a phrase.
_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


class AiovecMemoryService(Closable, BaseMemoryService):
    """The memories of all apps and users, in one table of an aiovec store.

    ``store`` is a store from ``aiovec.connect`` or ``aiovec.sync.connect``, or a target such as
    ``"memory.db"``, which is opened with the ``options`` of ``connect``, such as
    ``embedder="local"``. The first write creates the table. With an embedder, searches find
    memories by meaning and by words; without one, by words only.

    ``search`` has additional arguments for each search, such as ``rerank=Decay("at", "7d")`` and
    ``max_distance``. A search returns the ``limit`` best memories, equal ones in the order of time.
    """

    def __init__(
        self,
        store: StoreOrTarget = ":memory:",
        table: str = "adk_memories",
        *,
        limit: int = 10,
        search: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._bridge = Bridge(store, table, lambda dim: table_without_vectors(_FIELDS), **options)
        self._search, self._limit = {**(search or {})}, limit
        most = limit * _MORE
        if {"rerank", "diversity"} & self._search.keys():
            self._search.setdefault("fetch_k", max(40, most))
        self._search["limit"] = max(limit, min(most, self._search.get("fetch_k") or most))

    async def add_session_to_memory(self, session: Session) -> None:
        """Add a session's events that have text; skip events that are stored or were deleted."""
        await self.add_events_to_memory(
            app_name=session.app_name,
            user_id=session.user_id,
            events=session.events,
            session_id=session.id,
        )

    async def add_events_to_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        events: Sequence[Event],
        session_id: str | None = None,
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Add events that have text; skip events that are stored or were deleted."""
        entries = [
            MemoryEntry(
                id=event.id,
                content=event.content,
                author=event.author,
                timestamp=datetime.fromtimestamp(event.timestamp, UTC).isoformat(),
                custom_metadata={**(custom_metadata or {})},
            )
            for event in events
            if event.content
        ]
        all_rows = [_row(app_name, user_id, entry, session_id) for entry in entries]
        rows = {row["id"]: row for row in all_rows if row["text"]}

        async def add(table: Table) -> None:
            # A session is added again after each turn, so known events are not embedded again.
            known = await table.exists(list(rows))
            new = [row for id, row in rows.items() if id not in known]
            await table.insert(new, on_conflict="skip")

        if rows:
            await self._write(add)

    async def add_memory(
        self,
        *,
        app_name: str,
        user_id: str,
        memories: Sequence[MemoryEntry],
        custom_metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Add facts. A fact replaces an earlier one with the same id."""
        entries = [
            each.model_copy(
                update={
                    "id": each.id or new_id(),
                    "custom_metadata": {**(custom_metadata or {}), **each.custom_metadata},
                }
            )
            for each in memories
        ]
        rows = [_row(app_name, user_id, entry) for entry in entries]
        await self._write(lambda table: table.upsert(rows))

    @in_store
    async def search_memory(
        self, *, app_name: str, user_id: str, query: str
    ) -> SearchMemoryResponse:
        """Return the memories of an app's user that best match a query, the best first."""

        async def search(table: Table) -> Sequence[Hit]:
            where = [F.app == app_name, F.user == user_id, F.entry.is_not_null()]
            words = _query_of(query)
            if best_search(await table.schema()) == "text":
                return await table.search_text(words, where=where, **self._search)
            return await table.search_hybrid(words, query, where=where, **self._search)

        hits = await self._bridge.read(search, ()) if query.strip() else ()
        in_order = [
            hit
            for _, equal in groupby(hits, key=lambda hit: hit.score)
            for hit in sorted(equal, key=lambda hit: hit["at"] or _LATEST)
        ]
        entries = [MemoryEntry.model_validate_json(hit["entry"]) for hit in in_order[: self._limit]]
        return SearchMemoryResponse(memories=entries)

    async def delete_memory(
        self, *, app_name: str, user_id: str, memory_id: str | None = None
    ) -> None:
        """Delete a memory. Adding its session again does not bring it back."""
        if memory_id:
            id = _id(app_name, user_id, memory_id)
            await self._bridge.read(lambda table: table.update(_DELETED, ids=id), 0)

    async def _write(self, act: Callable[[Table], Awaitable[object]]) -> None:
        async def attempt(table: Table) -> None:
            try:
                await act(table)
            except TableNotFoundError:
                await create_memory(table, _MEMORY)
                await act(table)

        await self._bridge.aio(attempt)


def _id(app: str, user: str, memory: str) -> str:
    """Return the id of a row, unique for the app, the user and the memory."""
    return hashlib.sha256(json.dumps([app, user, memory]).encode()).hexdigest()


def _row(app: str, user: str, entry: MemoryEntry, session: str | None = None) -> dict[str, Any]:
    parts = entry.content.parts or ()
    text = " ".join(part.text for part in parts if part.text and not part.thought)
    return {
        "id": _id(app, user, str(entry.id)), "app": app, "user": user, "session": session,
        "at": _time_of(entry.timestamp), "text": text, "words": _spaced(text),
        "entry": entry.model_dump_json(exclude_none=True, fallback=str),
    }  # fmt: skip


def _time_of(timestamp: str | None) -> datetime | None:
    """Parse an entry's ISO time, or return None. A time without a zone is local time, as in ADK."""
    with suppress(ValueError):
        return datetime.fromisoformat(timestamp or "").astimezone(UTC)
    return None


def _spaced(text: str) -> str:
    """Return a text with spaces around the letters of scripts that are written without spaces."""
    return re.sub(f"[{_UNSPACED}]", r" \g<0> ", unicodedata.normalize("NFC", text))


def _query_of(words: str) -> str:
    """Return a query with each word in quotes, so that no word is read as query syntax."""
    parts = re.findall(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+", unicodedata.normalize("NFC", words))
    return " ".join(f'"{_spaced(part)}"' for part in dict.fromkeys(parts[:_MOST_WORDS]))
