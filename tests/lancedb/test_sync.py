"""The face without await, on LanceDB: another thread's event loop drives it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import aiovec.sync
from aiovec import DuplicateIdError

from .support import SMALL, numbered


def test_stores_in_several_threads(tmp_path: Path) -> None:
    target = f"lancedb://{tmp_path / 's'}"
    with aiovec.sync.connect(target) as store:
        store.create_table("notes", SMALL)
        store.insert("notes", numbered(3))
        with pytest.raises(DuplicateIdError):
            store.insert("notes", numbered(1))
        failures: list[BaseException] = []

        def write(start: int) -> None:
            try:
                with aiovec.sync.connect(target) as own:
                    for n in range(10):
                        own.insert("notes", numbered(1, start=start + n))
            except BaseException as exc:  # noqa: BLE001 - the test tells it
                failures.append(exc)

        threads = [threading.Thread(target=write, args=(1_000 * n,)) for n in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.count("notes") == 33
        (hit,) = store.search("notes", [1, 2_005, 2, 3], limit=1)
        assert hit.id == "r02005"
        assert sum(batch.num_rows for batch in store.export("notes", batch_size=7)) == 33
