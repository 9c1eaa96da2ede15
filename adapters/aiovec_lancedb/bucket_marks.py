"""The mark of a migration and its notes in object storage: an object each, written on condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from aiovec.errors import StoreBusyError

from .lease import Bucket, tag_of, translating
from .marks import Marks, Noted, ids_of, table_of_lock, text_of

_FOLDER = ".aiovec"
_RECORD = f"{_FOLDER}/_move.json"
_NOTES = f"{_FOLDER}/_moves"
# Attempts at a change that others were in the way of.
_ATTEMPTS = 20
_DIGITS = 20


class BucketMarks(Marks):
    poll = 0.2

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._opened: Any = None
        # The newest note of each table that this store knows of.
        self._known: dict[str, int] = {}

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = self._bucket.store()
        return self._opened

    def read(self) -> bytes | None:
        with translating(self._bucket):
            found = self._get(_RECORD)
        return None if found is None else found[1]

    def _get(self, name: str) -> tuple[dict[str, str], bytes] | None:
        try:
            found = obstore.get(self._store, name)
        except FileNotFoundError:
            return None
        return tag_of(found.meta), bytes(found.bytes())

    def change(self, change: Callable[[bytes | None], bytes | None]) -> None:
        with translating(self._bucket):
            for _ in range(_ATTEMPTS):
                found = self._get(_RECORD)
                text = change(None if found is None else found[1])
                if text is None:
                    return
                mode: Any = "create" if found is None else found[0]
                try:
                    obstore.put(self._store, _RECORD, text, mode=mode)
                except (AlreadyExistsError, PreconditionError):
                    continue  # by another, or by this one, whose answer was lost
                return
        raise StoreBusyError("other processes change the mark all the time", 0.0)

    def locked_tables(self) -> list[str]:
        with translating(self._bucket):
            found = obstore.list_with_delimiter(self._store, _FOLDER)["objects"]
        names = [str(one["path"]).rpartition("/")[2] for one in found]
        return [table for name in names if (table := table_of_lock(name)) is not None]

    def _prefix(self, folder: str, table: str) -> str:
        return f"{_NOTES}/{folder}/{table}"

    def _numbers(self, prefix: str, since: int) -> Iterator[int]:
        """The numbers of the notes above one, in their order."""
        offset = f"{prefix}/{since:0{_DIGITS}}"
        found = [
            int(str(one["path"]).rpartition("/")[2])
            for chunk in obstore.list(self._store, prefix, offset=offset)
            for one in chunk
        ]
        yield from sorted(number for number in found if number > since)

    def note(self, folder: str, table: str, ids: Sequence[str]) -> None:
        prefix = self._prefix(folder, table)
        text = text_of(ids)
        with translating(self._bucket):
            while True:
                # Without a gap, so that a number that was told never gets one below it later.
                number = self._known.get(prefix, -1) + 1
                if number:
                    try:
                        name = f"{prefix}/{number:0{_DIGITS}}"
                        obstore.put(self._store, name, text, mode="create")
                    except AlreadyExistsError:
                        pass
                    else:
                        self._known[prefix] = number
                        return
                self._known[prefix] = self._newest(prefix)

    def _newest(self, prefix: str) -> int:
        since = max(0, self._known.get(prefix, 0))
        return max(self._numbers(prefix, since), default=since)

    def newest(self, folder: str, table: str) -> int:
        with translating(self._bucket):
            return self._newest(self._prefix(folder, table))

    def noted(self, folder: str, table: str, since: int, until: int, limit: int) -> Noted:
        prefix = self._prefix(folder, table)
        ids: dict[str, None] = {}
        reached = since
        with translating(self._bucket):
            for number in self._numbers(prefix, since):
                if number > until or len(ids) >= limit:
                    break
                found = self._get(f"{prefix}/{number:0{_DIGITS}}")
                ids.update(dict.fromkeys(ids_of(b"" if found is None else found[1])))
                reached = number
            else:
                reached = until
        return Noted(list(ids), reached, reached >= until)

    def folders(self) -> list[str]:
        with translating(self._bucket):
            found = obstore.list_with_delimiter(self._store, _NOTES)["common_prefixes"]
        return [str(path).rpartition("/")[2] for path in found]

    def forget(self, folder: str) -> None:
        with translating(self._bucket):
            for chunk in obstore.list(self._store, f"{_NOTES}/{folder}"):
                obstore.delete(self._store, [str(one["path"]) for one in chunk])
