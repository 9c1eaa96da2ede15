"""A migrator in a separate process, which kills itself at a step.

python -m tests.migrate.victim '["CONFIG", "TARGET", "STEP"]'
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from .support import switched


async def main(config: str, target: str, fatal: str) -> None:
    async def step(name: str) -> None:
        if name == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    await switched(config, target, step=step)


if __name__ == "__main__":
    asyncio.run(main(*json.loads(sys.argv[1])))
