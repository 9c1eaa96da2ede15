"""The right to look after a table in a bucket, where no file can be locked."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import AiovecError

from .local import FOLDER

if TYPE_CHECKING:
    from .bucket import Bucket

# Seconds for which others take a holder that does not renew it for dead.
_SECONDS = 60.0


class UpkeepLease:
    """An object that says who looks after a table, and until when.

    It saves work and nothing else: upkeep is also right beside another one. So its times may be
    those of different clocks, and a holder that loses it goes on.
    """

    def __init__(self, bucket: Bucket, table: str) -> None:
        self._bucket = bucket
        self._path = f"{FOLDER}/{table}.upkeep"
        self._owner = uuid.uuid4().hex

    def take(self, seconds: float = _SECONDS) -> bool:
        """Take or renew the lease; return False while another holds it. Makes two requests."""
        text, mode = self._bucket.get(self._path)
        with suppress(ValueError, TypeError, KeyError):  # what is unreadable holds nobody off
            found = json.loads(text or b"")
            if found["owner"] != self._owner and found["until"] > time.time():
                return False
        new = {"owner": self._owner, "until": time.time() + seconds}
        return self._bucket.put(self._path, json.dumps(new).encode(), mode)

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Renew the lease while the block runs, and then give it back."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(_SECONDS / 3)
                with suppress(AiovecError):
                    await in_thread(self.take)

        task = asyncio.ensure_future(renew())

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])
            await in_thread(self.take, 0.0)

        try:
            yield
        finally:
            with suppress(AiovecError):
                await to_its_end(end())
