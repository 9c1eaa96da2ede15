"""``AiovecMemoryService``, as ADK's agents and tools use it."""

from __future__ import annotations

import asyncio
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.adk", reason="needs aiovec[adk]")

from google.adk.events.event import Event
from google.adk.memory.memory_entry import MemoryEntry
from google.adk.sessions.session import Session
from google.genai import types

import aiovec
from aiovec import Decay
from aiovec_adk import AiovecMemoryService

ANA: dict[str, Any] = {"app_name": "app", "user_id": "ana"}


def event(id: str, text: str, days: float = 0, author: str = "user") -> Event:
    content = types.Content(role="user", parts=[types.Part(text=text)])
    at = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    return Event(id=id, author=author, timestamp=at, content=content)


def session(*events: Event, id: str = "s", app_name: str = "app", user_id: str = "ana") -> Session:
    return Session(id=id, app_name=app_name, user_id=user_id, events=[*events])


async def texts(service: AiovecMemoryService, query: str, **scope: Any) -> list[str]:
    found = await service.search_memory(query=query, **{**ANA, **scope})
    return [str((memory.content.parts or [])[0].text) for memory in found.memories]


async def test_the_events_of_a_session_are_found_by_their_words() -> None:
    calls = types.Content(parts=[types.Part(function_call=types.FunctionCall(name="wool"))])
    wool = event("a", "Ana knits with wool.", author="model")
    others = event("b", "Python is a language."), Event(id="c", author="m", content=calls)
    async with AiovecMemoryService() as service:
        assert await texts(service, "wool") == []
        await service.add_session_to_memory(session())
        await service.add_session_to_memory(session(wool, *others, Event(id="d", author="user")))
        assert await texts(service, "nowhere") == await texts(service, " ") == []
        assert await texts(service, "PYTHON?") == ["Python is a language."]
        (memory,) = (await service.search_memory(query="wool -knits", **ANA)).memories
        assert (memory.id, memory.author) == ("a", "model")
        assert memory.content == wool.content
        assert datetime.fromisoformat(memory.timestamp or "").timestamp() == wool.timestamp
        assert await texts(service, "wool", user_id="ben") == []
        assert await texts(service, "wool", app_name="other") == []
        await service.add_session_to_memory(session(event("e", "A secret."), app_name="app/ben"))
        assert await texts(service, "secret", app_name="app", user_id="ben/ana") == []


async def test_events_are_added_once_and_what_was_deleted_does_not_come_back() -> None:
    first, second = event("a", "Ana knits."), event("b", "Ana sews.")
    async with AiovecMemoryService() as service:
        await service.add_session_to_memory(session(first))
        await service.add_events_to_memory(**ANA, events=[second, second])
        await service.add_events_to_memory(**ANA, events=[event("a", "Changed.")], session_id="s")
        assert sorted(await texts(service, "ana changed")) == ["Ana knits.", "Ana sews."]
        await service.delete_memory(app_name="app", user_id="ben", memory_id="a")
        await service.delete_memory(**ANA, memory_id="absent")
        await service.delete_memory(**ANA)
        assert len(await texts(service, "ana")) == 2
        await service.delete_memory(**ANA, memory_id="a")
        await service.add_session_to_memory(session(first, second))
        assert await texts(service, "ana knits") == ["Ana sews."]


async def test_many_memories_may_be_ordered_by_age() -> None:
    events = [event(f"e{n}", f"Ana knits {n}.", days=60 - n) for n in range(60)]
    async with AiovecMemoryService(limit=50, search={"rerank": Decay("at", "1d", 1)}) as service:
        await service.add_session_to_memory(session(*events))
        found = await service.search_memory(query="ana knits", **ANA)
        assert [memory.id for memory in found.memories] == [f"e{n}" for n in range(59, 9, -1)]


@pytest.mark.parametrize("options", [{}, {"embedder": "demo"}])
async def test_equal_memories_come_in_the_order_of_time(options: dict[str, Any]) -> None:
    events = [event(f"e{n}", "Ana knits.", days=20 - n) for n in range(20)]
    async with AiovecMemoryService(limit=9, **options) as service:
        await service.add_session_to_memory(session(*events[::-1]))
        await service.add_memory(**ANA, memories=[MemoryEntry(content=events[0].content)])
        found = await service.search_memory(query="ana knits", **ANA)
        assert [memory.id for memory in found.memories] == [f"e{n}" for n in range(9)]


async def test_facts_are_added_and_replaced() -> None:
    def fact(text: str, **more: Any) -> MemoryEntry:
        return MemoryEntry(content=types.Content(parts=[types.Part(text=text)]), **more)

    async with AiovecMemoryService() as service:
        await service.add_memory(**ANA, memories=[fact("Ana knits.", id="f"), fact("Ana sews.")])
        changed = fact("Ana weaves.", id="f", author="tool", timestamp="2026-01-31T12:00:00+00:00",
                       custom_metadata={"n": [1]})  # fmt: skip
        await service.add_memory(**ANA, memories=[changed], custom_metadata={"ttl": "7d"})
        assert sorted(await texts(service, "ana")) == ["Ana sews.", "Ana weaves."]
        for time in ("yesterday", "2026-01-31T12:00:00"):  # its form is free
            await service.add_memory(**ANA, memories=[fact("Ana spins.", id="g", timestamp=time)])
            (memory,) = (await service.search_memory(query="spins", **ANA)).memories
            assert memory.timestamp == time
        (memory,) = (await service.search_memory(query="weaves", **ANA)).memories
        assert memory == changed.model_copy(update={"custom_metadata": {"ttl": "7d", "n": [1]}})


@pytest.mark.parametrize(
    ("text", "query", "is_found"),
    [
        ("私の名前は太郎です", "太郎", True), ("私の名前は太郎です", "天気", False),
        ("我喜欢机器学习", "机器学习", True), ("我喜欢机器学习", "天气预报", False),
        ("제 이름은 민수입니다", "민수입니다", True), ("Меня зовут Алексей", "Алексей", True),
        ("太郎 works at ABC Corp", "ABC", True), ("私はPythonでADKを使う", "python", True),
        ("私はPythonでADKを使う", "を使", True), ("私はPythonでADKを使う", "Java", False),
        ("I like to code in Python.", "thon", False), ("私はPythonでADKを使う", "thon", False),
        (unicodedata.normalize("NFD", "私はCaféで"), "café", True),
        ("Meet at the Café", unicodedata.normalize("NFD", "Café"), True),
        (unicodedata.normalize("NFD", "プログラミング"), "プログラミング", True),
    ],
)  # fmt: skip
async def test_words_are_found_in_every_script(text: str, query: str, is_found: bool) -> None:
    async with AiovecMemoryService() as service:
        await service.add_session_to_memory(session(event("a", text)))
        assert await texts(service, query) == [text] * is_found


async def test_the_best_memories_come_first_and_are_bounded() -> None:
    notes = [event(f"n{n}", f"note {n} about work") for n in range(20)]
    notes.append(event("b", "the backlog note about work"))
    async with AiovecMemoryService() as service:
        await service.add_session_to_memory(session(*notes))
        found = await texts(service, "work backlog note")
        assert (found[0], len(found)) == ("the backlog note about work", 10)
        ready = ["The deploy status is ready.", "The deploy is ready.", "Ready."]
        events = [event(text, text) for text in ready[::-1]]
        await service.add_session_to_memory(session(*events, user_id="ben"))
        assert await texts(service, "deploy status ready", user_id="ben") == ready
        words = " ".join(f"word{n}" for n in range(5000))  # a whole message
        assert await texts(service, f"backlog {words}") == ["the backlog note about work"]


async def test_with_an_embedder_memories_are_found_by_meaning_and_newer_ones_preferred(
    tmp_path: Path,
) -> None:
    facts = event("old", "Ana lives in Paris.", days=4000), event("new", "Ana now lives in Lisbon.")
    options: dict[str, Any] = {"embedder": "demo", "search": {"rerank": Decay("at", "7d")}}
    async with AiovecMemoryService(tmp_path / "memory.db", **options) as service:
        await service.add_session_to_memory(session(*facts))
        assert (await texts(service, "where does Ana live?"))[0] == "Ana now lives in Lisbon."
        assert await texts(service, "living") != []  # the search matches parts of words
        await service.delete_memory(**ANA, memory_id="new")
        assert await texts(service, "where does Ana live?") == ["Ana lives in Paris."]
    async with aiovec.connect(tmp_path / "memory.db", embedder="demo") as store:
        assert await texts(AiovecMemoryService(store), "Ana") == ["Ana lives in Paris."]


def test_threads_with_event_loops_of_their_own_share_a_service(tmp_path: Path) -> None:
    async def use(number: int) -> None:
        for n in range(20):
            fact = event(f"{number}-{n}", f"fact {n}")
            await service.add_session_to_memory(session(fact, id=f"{number}-{n}"))
            assert await texts(service, "fact")

    with AiovecMemoryService(tmp_path / "memory.db") as service, ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda number: asyncio.run(use(number)), range(3)))
