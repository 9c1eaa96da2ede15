"""Values that a reader hands on at once: so many, or so many bytes."""

from __future__ import annotations

from collections.abc import Iterator

from aiovec_import.sources import BYTES_AT_ONCE, in_parts


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
