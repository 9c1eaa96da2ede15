"""A switch replaces the line ``backend`` of ``[retrieval]``, and changes nothing else."""

from __future__ import annotations

import asyncio
import os
import tomllib
from pathlib import Path

import pytest

import aiovec
import aiovec_migrate
from aiovec import AiovecError, Schema
from aiovec_migrate import Event

from .support import SWITCH, WAYS, a_store, named, switched

PLACES = "sqlite_path = 'notes.db'\nlancedb_url = 'notes.lance'\n"
LAYOUT = (
    "\ufeff# backend = 'no'\r\n[ retrieval ] # here\r\n\tbackend\t=\t'sqlite' # or 'x'\r\n"
    "\r\n[retrieval.sqlite]\r\n# backend = 'sqlite'\r\n"
)
SAMPLE = Path(__file__).parents[2] / "config" / "aiovec.toml"


async def there_and_back(config: Path, text: bytes) -> tuple[bytes, bytes]:
    """Return the TOML file after a switch, and after the switch back."""
    await asyncio.to_thread(config.write_bytes, text)
    for place in ("notes.db", "notes.lance"):
        assert not config.with_name(place).exists()
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", Schema(2))
        [source] = [name for name, _ in WAYS.values() if name == store.backend_name]
    target = "lancedb" if source == "sqlite" else "sqlite"
    await switched(config, target)
    after_switch = await asyncio.to_thread(config.read_bytes)
    assert tomllib.loads(after_switch.decode("utf-8-sig"))["retrieval"]["backend"] == target
    await switched(config, source)
    return after_switch, await asyncio.to_thread(config.read_bytes)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LAYOUT, ("'sqlite' # or", "'lancedb' # or")),
        # Without the line, the backend is SQLite.
        pytest.param(
            "# nothing\n[retrieval] # the store\n",
            ("store\n", 'store\nbackend = "lancedb"\n'),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["layout", "no line"],
)
async def test_one_line_is_replaced(tmp_path: Path, before: str, after: tuple[str, str]) -> None:
    config = tmp_path / "aiovec.toml"
    places = PLACES.replace("\n", "\r\n") if "\r" in before else PLACES
    at = before.index("[retrieval.") if "[retrieval." in before else len(before)
    text = before[:at] + places + before[at:]
    after_switch, after_return = await there_and_back(config, text.encode())
    assert after_switch == text.replace(*after, 1).encode()
    # If the line was missing, it now names the old backend.
    assert after_return in (text.encode(), after_switch.replace(b'"lancedb"', b'"sqlite"'))


@pytest.mark.slow
async def test_the_sample_file_is_flipped_in_one_line(tmp_path: Path) -> None:
    """If the path is a link, the file that it leads to is replaced, and keeps its mode."""
    sample = await asyncio.to_thread(SAMPLE.read_bytes)
    real, link = tmp_path / "real.toml", tmp_path / "aiovec.toml"
    real.touch(0o640)
    if os.name != "nt":
        link.symlink_to(real.name)
    settings = tomllib.loads(sample.decode())["retrieval"]
    assert settings["backend"] == "sqlite"
    text = sample
    for key, name in (("sqlite_path", "notes.db"), ("lancedb_url", "notes.lance")):
        text = text.replace(f'\n{key} = "{settings[key]}"'.encode(), f'\n{key} = "{name}"'.encode())
    after_switch, after_return = await there_and_back(link, text)
    assert after_switch == text.replace(b'\nbackend = "sqlite"', b'\nbackend = "lancedb"', 1)
    assert after_return == text
    if os.name != "nt":
        assert link.is_symlink()
        assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("reason", ["no line", "no permission"])
async def test_the_command_says_what_to_write_if_it_cannot_change_the_file(
    tmp_path: Path, reason: str
) -> None:
    """Apps follow the mark anyway, even if they start later."""
    config = await a_store(tmp_path, "sqlite")
    if reason == "no line":
        text = "retrieval = { backend = 'sqlite', sqlite_path = 'notes.db', lancedb_url = 'n' }\n"
        await asyncio.to_thread(config.write_text, text)
    else:
        await asyncio.to_thread((tmp_path / ".aiovec.toml.new").mkdir)
    text = await asyncio.to_thread(config.read_text)
    events: list[Event] = []
    async with aiovec.connect(config=config) as store:
        assert (await switched(config, "lancedb", listener=events.append)).switched
        assert (await store.count("notes"), store.backend_name) == (38, "lancedb")
    [warning] = [event.text for event in events if event.kind == "warning"]
    assert 'write backend = "lancedb" under [retrieval]' in warning
    assert await asyncio.to_thread(config.read_text) == text
    async with aiovec.connect(config=config) as later:
        assert (await later.count("notes"), later.backend_name) == (38, "lancedb")
    if reason == "no line":
        await asyncio.to_thread(config.write_text, text.replace("'sqlite'", "'lancedb'"))
    else:
        await asyncio.to_thread((tmp_path / ".aiovec.toml.new").rmdir)
    assert (await switched(config, "lancedb")).switched
    assert named(config) == "lancedb"


@pytest.mark.parametrize(
    ("text", "words"), [("[retrieval\n", "is not TOML"), ("[retrieval]\nbackend = 3\n", "backend")]
)
async def test_a_file_that_cannot_be_flipped_stays(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "aiovec.toml"
    await asyncio.to_thread(config.write_text, text)
    async with aiovec.connect(tmp_path / "notes.db") as store:
        await store.create_table("notes", Schema(2))
    for call in (aiovec_migrate.plan, aiovec_migrate.run):
        with pytest.raises(AiovecError, match=words):
            await call(tmp_path / "notes.db", "lancedb", config=config, options=SWITCH)
    assert await asyncio.to_thread(config.read_text) == text
    names = await asyncio.to_thread(os.listdir, tmp_path)
    assert not [name for name in names if "lance" in name or name.endswith(".new")]
