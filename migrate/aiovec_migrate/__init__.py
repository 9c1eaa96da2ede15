"""Move tables between any two stores while apps keep reading and writing.

    report = await aiovec_migrate.run("sqlite", "lancedb", config="aiovec.toml",
                                      options=Options(switch=True))

``aiovec migrate`` does the same from the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .events import Event, Listener, Options

if TYPE_CHECKING:
    from .api import Status, abort, forget, plan, run, status, verify
    from .migration import Report, TableReport
    from .planning import Plan
else:
    # ``api`` imports Arrow, which would slow down the command list of ``aiovec --help``.
    def __getattr__(name):
        if name not in __all__:  # Python then tries to import a submodule
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from . import api
        except ImportError as exc:
            from aiovec.backend import needs_arrow

            raise needs_arrow(exc) or exc from exc
        return getattr(api, name)


__all__ = [
    "Event",
    "Listener",
    "Options",
    "Plan",
    "Report",
    "Status",
    "TableReport",
    "abort",
    "forget",
    "plan",
    "run",
    "status",
    "verify",
]
