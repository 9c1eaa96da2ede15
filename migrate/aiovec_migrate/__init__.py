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
    # ``api`` imports Arrow, for which the command list of ``aiovec --help`` must not wait.
    def __getattr__(name):
        if name not in __all__:  # Python finds the package's modules itself
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
