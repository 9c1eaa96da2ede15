"""The progress of a run, for a server that shows it: the entry point group ``aiovec.runs``."""

from __future__ import annotations

from typing import Any

from .api import status


async def progress(journal: str) -> dict[str, Any] | None:
    """Return the progress of the run that a journal holds, as JSON; None if it holds none.

    It names no place of this machine. ``lag`` are the changes that are still to be carried over,
    ``left`` the seconds that the copy still takes.
    """
    state = await status(journal=journal)
    if state is None:
        return None
    return {
        "run": state.run,
        "phase": str(state.phase),
        "over": state.phase.over,
        "switches": state.options.switch,
        "verifies": state.options.verify,
        "from": state.source.backend,
        "to": state.target.backend,
        "started": state.started,
        "changed": state.changed,
        "rate": state.rate,
        "lag": state.lag,
        "left": state.left,
        "longestPause": state.longest_pause,
        "tables": [
            {
                "name": table.name,
                "rows": table.rows,
                "total": table.total,
                "copied": table.copied,
                "indexed": table.indexed,
                "verified": table.verified,
            }
            for table in state.tables.values()
        ],
    }
