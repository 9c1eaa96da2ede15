"""Readings of one CSV file have places of their own: pyarrow reads ahead in a thread."""

from __future__ import annotations

import io
import threading

from aiovec_import.csv_files import CheckedFile


def test_a_reading_that_was_left_moves_no_other() -> None:
    file, lock = io.BytesIO(b'id,"a"\n1,2\n'), threading.Lock()
    left, again = (CheckedFile(file, lock, "\n,,") for _ in range(2))
    assert left.read(5) == b'id,"a'
    assert again.read(7) == b'id,"a"\n'
    assert left.read(5) == b'"\n1,2'
    assert again.read(5) == b"1,2\n\n"
    assert [again.read(9), again.read(9), left.read(9)] == [b",,", b"", b"\n\n,,"]
