"""Apps that a migration cannot lead to the new store are told where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import aiovec
import aiovec_migrate
from aiovec import Schema, StoreMovedError

pytest.importorskip("lancedb", reason="the other side of the move is LanceDB")

TOML = '[retrieval]\nbackend = "sqlite"\nsqlite_path = "a.db"\nlancedb_url = "a.lance"\n'


@pytest.mark.slow
async def test_who_is_held_on_the_old_place_is_told_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a path, by a TOML of its own, or by a place of its own in the environment."""
    config, other = tmp_path / "aiovec.toml", tmp_path / "other.toml"
    config.write_text(TOML)
    other.write_text(TOML)
    row = {"id": "a", "embedding": [1, 0]}
    async with (
        aiovec.connect(config=config) as follows,
        aiovec.connect(tmp_path / "a.db") as by_path,
        aiovec.connect(config=other) as by_file,
    ):
        await follows.create_table("notes", Schema(2))
        await follows.insert("notes", [row])
        with monkeypatch.context() as patched:
            patched.setenv("AIOVEC_RETRIEVAL__LANCEDB_URL", str(tmp_path / "own.lance"))
            by_variable = await aiovec.connect(config=config)
            assert await by_variable.count("notes") == 1
        options = aiovec_migrate.Options(switch=True)
        await aiovec_migrate.run(config=config, target="lancedb", options=options)
        assert await follows.count("notes") == 1
        assert follows.backend_name == "lancedb"
        for held in (by_path, by_file):
            for call in (held.count("notes"), held.upsert("notes", [row])):
                with pytest.raises(StoreMovedError, match=r"a\.lance"):
                    await call
        with monkeypatch.context() as patched:
            patched.setenv("AIOVEC_RETRIEVAL__LANCEDB_URL", str(tmp_path / "own.lance"))
            with pytest.raises(StoreMovedError, match=r"a\.lance"):
                await by_variable.upsert("notes", [row])
        await by_variable.close()
    assert not (tmp_path / "own.lance").exists()
