"""Orders in which Lance's own would differ from the contract's."""

from __future__ import annotations

from pathlib import Path

from aiovec import Schema

from .support import opened


async def test_zeros_are_equal_whatever_their_sign(tmp_path: Path) -> None:
    schema = Schema(2, fields={"score": float})
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", schema)
        given = {"a": 0.0, "b": -0.0, "c": 0.0, "d": None, "e": -1.0, "f": 1.0}
        for id, score in given.items():
            await store.insert("notes", [{"id": id, "embedding": [1, 2], "score": score}])
        await store.upsert("notes", [{"id": "b", "embedding": [1, 3], "score": -0.0}])
        await store.update("notes", {"score": -0.0}, ids="c")
        await store.update("notes", {"score": -0.0, "key": 1}, ids="a")
        for descending, wanted in ((False, "eabcfd"), (True, "fabced")):
            found = await store.find("notes", order_by="score", descending=descending)
            assert "".join(record.id for record in found) == wanted
        assert await store.count("notes", "score = 0") == 3
