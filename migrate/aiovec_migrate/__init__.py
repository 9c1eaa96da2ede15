"""Moves tables between any two stores while the app goes on reading and writing.

    outcome = await aiovec_migrate.run("sqlite", "lancedb", config="aiovec.toml",
                                       options=Options(switch=True))

``aiovec migrate`` is the same from the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .limits import Limits
from .state import Event, Identity, Listener, Options, Phase, RunState, TableState

if TYPE_CHECKING:
    from .api import abort, finish, forget, plan, rollback, run, status, sync, verify
    from .host import RealHost
    from .migration import Migration, Outcome, Transform
else:
    # They import Arrow, which ``aiovec --help`` must not wait for when it asks for the command.
    def __getattr__(name):
        if name not in __all__:  # a module of the package too, which Python finds by itself
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import api, migration

        return getattr(api if hasattr(api, name) else migration, name)


__all__ = [
    "Event",
    "Identity",
    "Limits",
    "Listener",
    "Migration",
    "Options",
    "Outcome",
    "Phase",
    "RealHost",
    "RunState",
    "TableState",
    "Transform",
    "abort",
    "finish",
    "forget",
    "plan",
    "rollback",
    "run",
    "status",
    "sync",
    "verify",
]
