"""Follow a folder of documents, or one document."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

from aiovec import VectorStore
from aiovec.backend.threads import begin_in_thread, in_thread
from aiovec.documents import SUFFIXES
from aiovec.errors import AiovecError, ConfigError

from .documents import DocumentImport
from .feeds import AT_ONCE, SourceFeed
from .folders import Documents, documents_in
from .sources import NO_LIST, Wanted
from .syncing import Item

# The watcher delivers events once a step has passed without a new event, or at the latest after
# the debounce time.
_STEP_MS, _DEBOUNCE_MS = 50, 400
# The watcher may start after the first scan, so the folder is scanned again this long after the
# watcher's start.
_SETTLED_MS = 1000

State = tuple[int, ...]


class FolderFeed(SourceFeed):
    """Follows a folder of documents, or one document.

    The system's events only mean that something may have changed. The feed finds changed files by
    their times, sizes and inodes. So events need not be exact, and a lost event only delays a
    change by up to ``every`` seconds.
    """

    def __init__(self, store: VectorStore, wanted: Wanted, every: float, document: str) -> None:
        self._wanted = wanted
        super().__init__(store, wanted.sources[0], self._job(Documents()), every, document)
        self._place = Path(self.source).expanduser()
        self._states: dict[str, State] = {}
        self._watcher = threading.Event()
        self._watcher.set()
        self._top: State = ()
        self._is_copied = False

    def _job(self, documents: Documents) -> DocumentImport:
        return DocumentImport.of(self._wanted, documents, NO_LIST)

    async def begin(self) -> None:
        self._tell_change = partial(asyncio.get_running_loop().call_soon_threadsafe, self._wake.set)
        try:
            await in_thread(import_module, "watchfiles")
        except ImportError as exc:
            raise ConfigError(
                'a folder needs watchfiles, which is missing; pip install "aiovec[documents]"'
            ) from exc
        await self._job(Documents()).find(self.store)

    async def _step(self) -> bool:
        if not self._stands_by:
            await in_thread(self._watch)
        present = await in_thread(documents_in, self._wanted)
        states = await in_thread(_states, present)
        states = await in_thread(_with_lost, present, states, self._states)
        again = self._is_time_for_refused()
        if states and self._is_copied and states == self._states and not again:
            return False
        job = self._job(present)
        await job.find(self.store)
        if not states:
            self._states = await self._stored(job)
            if self._states:
                raise AiovecError(
                    f"no document is left of {len(self._states):,}; it may be unmounted, so "
                    f"nothing is deleted from the table {self.table!r}: if all are to go, delete "
                    "them from the table"
                )
            return False
        before = self._states
        if again:
            before = {name: state for name, state in before.items() if name not in self.refused}
        if not (self._is_copied and job.load.exists):
            before = await self._stored(job)
            states = await in_thread(_with_lost, present, states, before)
        lost = sorted(before.keys() - states.keys())
        waits = await in_thread(self._is_loss, lost, len(lost), len(before))
        if waits:
            states |= {name: before[name] for name in lost}
        names = sorted(
            name for name in before.keys() | states.keys() if before.get(name) != states.get(name)
        )
        for name in names:
            self.refused.pop(name, None)
        await self._bring(
            job, present.chunks_of([name for name in names if name in states], AT_ONCE)
        )
        await self._create(job)
        absent = [Item(name, name) for name in names if not present.has(name)]
        for start in range(0, len(absent), AT_ONCE):
            await self._apply(job, absent[start : start + AT_ONCE])
        self._states, self._is_copied, self._waits = states, True, waits
        return bool(names)

    async def _stored(self, job: DocumentImport) -> dict[str, State]:
        """Return the names of the stored documents, with a state that differs from every file's."""
        if not job.load.exists:
            return {}
        stored, _ = await job.rows_without(self.store, lambda _: False)
        return {name: () for name in stored.values() if self.document in ("", name)}

    def _watch(self) -> None:
        """Watch the path in a thread, unless a thread already watches the same file or folder."""
        top = state_of(self._place)[3:]
        if self._watcher.is_set() or top != self._top:
            self._watcher.set()
            self._watcher, self._top = threading.Event(), top
            begin_in_thread(partial(_watched, self._place, self._watcher, self._tell_change))

    async def close(self) -> None:
        self._watcher.set()
        await super().close()


def _states(documents: Documents) -> dict[str, State]:
    return {source: state_of(path) for source, path in documents.files.items()}


def _with_lost(
    documents: Documents, states: Mapping[str, State], before: Mapping[str, State]
) -> dict[str, State]:
    """Return the states, plus the previous states of documents in unreadable folders."""
    lost = before.keys() - states.keys() if states else ()
    return {**states, **{source: before[source] for source in lost if documents.has(source)}}


def state_of(path: Path) -> State:
    """Return a state that changes whenever the file does; zeros if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0, 0, 0)
    # A program that preserves the modification time and the size, such as rsync, changes the ctime.
    changed = status.st_mtime_ns, status.st_ctime_ns, status.st_size
    return *changed, status.st_ino, status.st_dev


def _watched(place: Path, stop: threading.Event, tell: Callable[[], object]) -> None:
    """Report changes below a path until ``stop`` is set or an error occurs."""
    from watchfiles import watch

    reported = False
    # Errors: the system has no watches left, the folder was removed, or the event loop is closed.
    with suppress(OSError, RuntimeError):
        for changes in watch(
            place,
            watch_filter=_may_matter,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            stop_event=stop,
            rust_timeout=_SETTLED_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            if changes or not reported:
                tell()
                reported = True
    stop.set()


def _may_matter(_: object, path: str) -> bool:
    """Return whether a change may concern documents, not only a store in the same folder."""
    name = Path(path)
    return name.suffix.lower() in SUFFIXES or name.name == ".gitignore" or not os.path.isfile(path)
