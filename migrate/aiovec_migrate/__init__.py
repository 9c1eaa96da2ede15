"""Moves tables between any two stores while the app goes on reading and writing.

    outcome = await aiovec_migrate.run("sqlite", "lancedb", config="aiovec.toml",
                                       options=Options(switch=True))

``aiovec migrate`` is the same from the command line.
"""

from __future__ import annotations

from .api import abort, finish, plan, rollback, run, status, sync, verify
from .events import Event, Listener
from .model import Identity, Options, Phase, RunState, TableState
from .runner import Migration, Outcome, Transform

__all__ = [
    "Event",
    "Identity",
    "Listener",
    "Migration",
    "Options",
    "Outcome",
    "Phase",
    "RunState",
    "TableState",
    "Transform",
    "abort",
    "finish",
    "plan",
    "rollback",
    "run",
    "status",
    "sync",
    "verify",
]
