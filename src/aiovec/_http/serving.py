"""The server's side of the remote backend: its calls by their names, their keys, their ends."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import asdict

from .._store.current import Engine
from .._store.store import VectorStore
from .._telemetry.calls import Operation
from ..backend.context import CallContext, WriteKey, calling
from ..backend.contract import ABILITIES
from ..backend.threads import wait_out
from ..errors import InvalidArgumentError
from . import arguments as given
from .reads import Reads, Upkeep
from .served import Call, Tables, Writes
from .wire import Message, WireError

# Calls that were cancelled before they came, which must not begin when they do.
_MOST_CANCELLED = 10_000

# Those of the store's abilities that a client has; the others need the store's files.
OFFERED = frozenset({
    "text", "indexes", "snapshots", "quantized", "power-loss", "once",
})  # fmt: skip


class ServedCalls:
    """The calls that remote backends make of one store."""

    def __init__(self, store: VectorStore) -> None:
        self.store = store
        reads = Reads(store)
        self.export = reads.export
        self._running: dict[str, asyncio.Future[Message]] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._calls: dict[str, Call] = {
            "open": self._open, "ping": self._ping, "cancel": self._cancel, "kept": self._kept
        }  # fmt: skip
        for part in (Tables(store), Writes(store), reads, Upkeep(store)):
            self._calls.update(part.calls())

    def knows(self, call: str) -> bool:
        """Return whether there is a call of this name, beside "export"."""
        return call in self._calls

    def store_mark(self) -> str:
        """Return a text that changes when the server has come to serve another store."""
        engine = self.store._current.engine
        text = "\0".join((engine.backend.name, engine.backend.target, *self._abilities(engine)))
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()

    async def run(
        self, call: str, asked: Message, key: WriteKey | None = None, *, retried: bool = False
    ) -> Message:
        """Return the answer to a call, which is cancelled with the task that awaits it.

        ``retried`` says that a call with this key may have been made before.
        """
        state = given.optional(asked.facts, "state", str)
        name = None if key is None else key.name
        if call != "kept":
            key = given.key_in(asked.facts) or key
        with calling(CallContext(state=state, key=key, retried=retried)):
            if name is None:
                return await self._calls[call](asked)
            return await self._cancellable(call, asked, name)

    async def _cancellable(self, call: str, asked: Message, name: str) -> Message:
        while (running := self._running.get(name)) is not None:
            await asyncio.wait([running])  # it is repeated by who lost its connection
        if name in self._cancelled:
            raise WireError("the call was cancelled")
        # In a task of its own, which ``_cancel`` can end without ending the request's.
        work = asyncio.ensure_future(_of(self._calls[call], asked))
        self._running[name] = work
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            work.cancel()
            await wait_out(work)
            raise
        finally:
            del self._running[name]
            if work.done() and not work.cancelled():
                work.exception()  # so that it counts as retrieved
        if work.cancelled():
            raise WireError("the call was cancelled")
        return work.result()

    async def _cancel(self, asked: Message) -> Message:
        """Cancel a write by its key and return when it has ended, wholly done or not at all.

        One that has not come yet will not begin.
        """
        name = given.one_of(asked.facts, "write", str)
        if not 0 < len(name) <= given.LONGEST_KEY:
            raise InvalidArgumentError("write", name, "the key of a write")
        self._cancelled[name] = None
        while len(self._cancelled) > _MOST_CANCELLED:
            self._cancelled.popitem(last=False)
        if (task := self._running.get(name)) is not None:
            task.cancel()
            await asyncio.wait([task])
        return Message()

    async def _kept(self, asked: Message) -> Message:
        """Tell what is known of a write that was done under a key."""
        key = given.key_in(asked.facts)
        if key is None:
            raise InvalidArgumentError("key", None, "the key of a write")

        async def look(engine: Engine) -> Message:
            kept = await engine.backend.kept(key)
            return Message({"kept": None if kept is None else asdict(kept)})

        return await self.store._call(Operation("ping"), look)

    def _abilities(self, engine: Engine) -> list[str]:
        return [name for name in ABILITIES if name in OFFERED and engine.backend.supports(name)]

    async def _open(self, asked: Message) -> Message:
        async def look(engine: Engine) -> Message:
            await engine.backend.ping()
            abilities = self._abilities(engine)
            return Message({"backend": engine.backend.name, "abilities": abilities})

        return await self.store._call(Operation("ping"), look)

    async def _ping(self, asked: Message) -> Message:
        await self.store.ping()
        return Message()


def key_of(name: str, call: str, body: bytes | bytearray | memoryview) -> WriteKey:
    """Return the key of a write: its name and the digest of what it asks for."""
    digest = hashlib.blake2b(call.encode() + b"\0", digest_size=16)
    digest.update(body)
    return WriteKey(name, digest.digest())


async def _of(call: Call, asked: Message) -> Message:
    return await call(asked)
