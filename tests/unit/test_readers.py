"""What readers of files keep in memory, and where they are in a file."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

from aiovec_import.csv_files import CheckedFile
from aiovec_import.sources import BYTES_AT_ONCE, in_parts


def test_a_reading_that_was_left_moves_no_other() -> None:
    """pyarrow reads a CSV file ahead in a thread."""
    file, lock = io.BytesIO(b'id,"a"\n1,2\n'), threading.Lock()
    left, again = (CheckedFile(file, lock, "\n,,") for _ in range(2))
    assert left.read(5) == b'id,"a'
    assert again.read(7) == b'id,"a"\n'
    assert left.read(5) == b'"\n1,2'
    assert again.read(5) == b"1,2\n\n"
    assert [again.read(9), again.read(9), left.read(9)] == [b",,", b"", b"\n\n,,"]


def test_large_values_are_read_a_few_at_once() -> None:
    values = [("a", BYTES_AT_ONCE), ("b", BYTES_AT_ONCE // 2), ("c", BYTES_AT_ONCE // 2), ("d", 1)]
    read: list[str] = []

    def reading() -> Iterator[tuple[str, int]]:
        for value, nbytes in values:
            read.append(value)
            yield value, nbytes

    parts = in_parts(reading(), 1_000)
    assert next(parts) == ["a"]
    assert read == ["a"]  # the others are not in memory yet
    assert [*parts] == [["b", "c"], ["d"]]
    assert [*in_parts(values, 3)][:2] == [["a"], ["b", "c"]]
    assert [len(part) for part in in_parts([("a", 1)] * 5, 2)] == [2, 2, 1]
