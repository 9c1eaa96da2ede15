"""Single steps of a migration, for tests of how its stores behave during the migration."""

from __future__ import annotations

from aiovec_migrate.marks import (
    begin_move,
    end_move,
    fill,
    forget_move,
    pause_writers,
    reenter,
    resume_writers,
    set_moved,
)

__all__ = [
    "begin_move", "end_move", "fill", "forget_move", "pause_writers", "reenter", "resume_writers",
    "set_moved",
]  # fmt: skip
