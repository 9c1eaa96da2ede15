"""A migrator in a process of its own, which says each step that it comes to and may kill itself.

    python -m tests.migrate.victim COMMAND CONFIG JSON

The JSON may name ``source``, ``target``, ``options``, ``die``: the step's name and at which of its
occurrences, ``stall``: the same and the seconds for which it stands still there, and ``limits``:
those that are not the product's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

import aiovec_migrate
from aiovec import AiovecError
from aiovec_migrate import Options
from aiovec_migrate.host import RealHost
from aiovec_migrate.limits import Limits


def say(*facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def die() -> NoReturn:
    """At once, as by ``kill -9``."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    raise AssertionError("it lives on")


class Steps:
    def __init__(self, die: Sequence[Any], stall: Sequence[Any]) -> None:
        self._die = tuple(die)
        self._stall, self._seconds = tuple(stall[:2]), stall[2]
        self._seen: Counter[str] = Counter()

    async def __call__(self, name: str) -> None:
        self._seen[name] += 1
        say("step", name)
        now = (name, self._seen[name])
        if now == self._stall:
            time.sleep(self._seconds)  # noqa: ASYNC251 - nothing of it goes on
        if now == self._die:
            die()


async def main(command: str, config: str, told: dict[str, Any]) -> None:
    step = Steps(told.get("die", (None, 0)), told.get("stall", (None, 0, 0.0)))
    host = RealHost(Limits(**told.get("limits", {})))
    try:
        if command == "run":
            await aiovec_migrate.run(
                told.get("source"),
                told.get("target"),
                config=config,
                options=Options(**told.get("options", {})),
                host=host,
                step=step,
            )
        elif command == "rollback":
            await aiovec_migrate.rollback(config=config, host=host, step=step)
        elif command == "abort":
            await aiovec_migrate.abort(config=config, step=step)
        else:
            await aiovec_migrate.finish(config=config, step=step)
    except AiovecError as error:
        say("error", type(error).__name__, str(error))
        sys.exit(3)
    say("done", command)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
