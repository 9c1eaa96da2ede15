"""A fork waits until no thread of the store is inside SQLite.

SQLite guards what a whole process shares, as the count of its memory, by mutexes. A thread that
holds one while the process is forked is not in the child, where the mutex stays locked: whatever
asks SQLite for memory there hangs.
"""

from __future__ import annotations

import os
import threading

from aiovec.errors import AiovecError

# Seconds that a fork waits for the work under way. Most takes milliseconds; a call that has to
# wait for a locked file, or scans a large one, may take longer.
_LONGEST_WAIT = 2.0


class Gate:
    """Counts the threads that are inside SQLite, and lets nobody in while the process is forked.

    Who goes inside does so by ``with``.
    """

    def __init__(self, longest_wait: float = _LONGEST_WAIT) -> None:
        self._longest_wait = longest_wait
        self._inside = 0
        self._changed = threading.Condition(threading.Lock())
        self.forked_amid = False
        """This process was forked while a thread was inside, so SQLite cannot be used here."""

    def __enter__(self) -> None:
        with self._changed:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Let nobody in, and wait for those who are inside."""
        self._changed.acquire()
        self._changed.wait_for(lambda: not self._inside, self._longest_wait)

    def after_fork_in_parent(self) -> None:
        self._changed.release()

    def after_fork_in_child(self) -> None:
        amid = self.forked_amid or self._inside > 0
        self.__init__(self._longest_wait)  # type: ignore[misc]  # the threads of the parent are gone
        self.forked_amid = amid

    def check(self) -> None:
        """AiovecError where SQLite may hang in this process."""
        if self.forked_amid:
            raise AiovecError(
                "this process was forked while SQLite was at work in another thread, so SQLite "
                "cannot be used safely here; fork while no call of a store runs, or start "
                "processes with spawn or forkserver"
            )


GATE = Gate()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=GATE.before_fork,
        after_in_parent=GATE.after_fork_in_parent,
        after_in_child=GATE.after_fork_in_child,
    )
