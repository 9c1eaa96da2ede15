"""Write the stores of the present version into its file."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile

import aiovec

from . import DELETED, FOLDER, NOTES, TARGETS, TEXT_ROWS, TEXTS, notes


async def write(target: str) -> None:
    async with aiovec.connect(target, embedder="demo") as store:
        await store.create_table("notes", NOTES)
        await store.insert("notes", notes())
        await store.delete("notes", DELETED)
        await store.create_table("texts", TEXTS)
        await store.insert("texts", TEXT_ROWS)


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    for target in TARGETS:
        asyncio.run(write(target))
    shutil.make_archive(str(FOLDER / aiovec.__version__), "zip", folder)
    os.chdir(FOLDER)
