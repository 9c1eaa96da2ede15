"""The right to do the upkeep of a table in a bucket, where no file can be locked."""

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

# Seconds after which a holder that has not renewed the lease counts as dead: the default
# busy_timeout.
_SECONDS = 30.0


class UpkeepLease:
    """A lease on a table's upkeep: an object in the bucket that names the lease's holder and end.

    The lease only saves work: upkeep is correct even if two processes do it. So the times may
    come from different clocks, and a holder that loses the lease continues.
    """

    def __init__(self, bucket: Bucket, table: str) -> None:
        self._bucket = bucket
        self._path = f"{FOLDER}/{table}.upkeep"
        self._owner = uuid.uuid4().hex

    def take(self, seconds: float = _SECONDS) -> bool:
        """Take or renew the lease; return False if another holder has it. Makes 1 or 2 requests."""
        text, mode = self._bucket.get(self._path)
        with suppress(ValueError, TypeError, KeyError):  # an unreadable lease counts as expired
            lease = json.loads(text or b"")
            if lease["owner"] != self._owner and lease["until"] > time.time():
                return False
        new = {"owner": self._owner, "until": time.time() + seconds}
        return self._bucket.put(self._path, json.dumps(new).encode(), mode)

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Renew the lease while the block runs, and release it afterwards."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(_SECONDS / 3)
                with suppress(AiovecError):
                    await in_thread(self.take)

        task = asyncio.ensure_future(renew())

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])
            await self.give_back()

        try:
            yield
        finally:
            await to_its_end(end())

    async def give_back(self) -> None:
        """Release the lease, if it is held. If this fails, the lease expires later."""
        with suppress(AiovecError):
            await to_its_end(in_thread(self.take, 0.0))
