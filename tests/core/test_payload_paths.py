"""Paths into the payload as text: what is written is read back."""

from __future__ import annotations

from itertools import product

from aiovec._core.patch import path_text
from aiovec._input.selection import path_of


def test_a_path_that_was_written_as_text_is_read_back() -> None:
    keys = ["".join(letters) for length in range(4) for letters in product('."a ', repeat=length)]
    assert "" in keys
    for path in [(key,) for key in keys] + [*product(keys[:21], repeat=2)]:
        assert tuple(path_of(path_text(path), 32)) == path, path_text(path)
