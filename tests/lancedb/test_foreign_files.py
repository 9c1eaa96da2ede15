"""Foreign files and folders, such as those of a file manager, next to the store's own."""

from __future__ import annotations

from asyncio import to_thread
from pathlib import Path

from aiovec import Schema, connect


async def test_upkeep_ignores_foreign_files_among_the_pins(tmp_path: Path) -> None:
    pins = tmp_path / "notes" / ".aiovec" / "readers" / "notes"
    folder, file = pins / "folder", pins / ".DS_Store"
    await to_thread(folder.mkdir, parents=True)
    await to_thread(file.touch)
    async with connect(f"lancedb://{tmp_path / 'notes'}") as store:
        await store.create_table("notes", Schema(2))
        for n in range(3):
            await store.insert("notes", [{"id": f"r{n}", "embedding": [1, n]}])
        await store.optimize("notes")
        assert await store.count("notes") == 3
    assert await to_thread(lambda: sorted(pins.iterdir())) == [file, folder]
