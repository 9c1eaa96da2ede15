"""A backend of another package, installed as pip installs one, works without a change of aiovec:
opened by its scheme, configured by its section, examined, shown, and migrated to and from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = '''
"""Tables in one JSON file a folder: slow, small, and not ours."""

from aiovec.backend import BackendPlugin, BackendSettings, Finding, Location, path_of_url
from aiovec_sqlite.plugin import SqlitePlugin
from pathlib import Path


class DrawerSettings(BackendSettings):
    """Where the drawer stands."""

    url: str = ""
    colour: str = "grey"


class DrawerPlugin(BackendPlugin):
    name = "drawer"
    schemes = ("cupboard",)
    install = "drawers"
    settings = DrawerSettings

    def create(self, address, settings):
        from .store import DrawerBackend

        return DrawerBackend(address, settings)

    def locate(self, target, base=None):
        folder = Path(base or "", path_of_url(target) if "://" in target else target).absolute()
        return Location(self.name, str(folder), path=folder, folder=folder)

    def findings(self, location):
        if location is None:
            return [Finding("drawer", "installed")]
        return [Finding("drawer", f"stands at {location.path}")]
'''

STORE = '''
from pathlib import Path

from aiovec_sqlite.settings import SqliteSettings
from aiovec_sqlite.store import SqliteBackend


class DrawerBackend(SqliteBackend):
    """Keeps its rows as SQLite does, so that the test is of the way to a backend."""

    name = "drawer"

    def __init__(self, address, settings):
        super().__init__(Path(address) / "drawer.bin", SqliteSettings())
        self._colour = settings.colour
        self._folder = address

    async def open(self):
        await super().open()
        Path(self._folder, "colour").write_text(self._colour)

    @property
    def target(self):
        return self._folder

    @property
    def address(self):
        return f"drawer://{self._folder}"
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the package is installed."""
    site = tmp_path / "site"
    package = site / "drawers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(PACKAGE)
    (package / "store.py").write_text(STORE)
    info = site / "drawers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: drawers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[aiovec.backends]\ndrawer = drawers.plugin:DrawerPlugin\n"
    )
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "aiovec.toml").write_text(
        '[retrieval]\nbackend = "sqlite"\nsqlite_path = "notes.db"\n'
        '[retrieval.drawer]\nurl = "drawer"\ncolour = "red"\n'
    )
    return folder


# Runs commands one after another, and prints as JSON what each of them printed.
COMMANDS = """
import contextlib, io, json, sys
from aiovec._cli import main

printed = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["aiovec", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                sys.exit(f"{words}: {ended.code} {out.getvalue()}")
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def aiovec(folder: Path, environment: dict[str, str], *commands: str) -> list[str]:
    """What each of the commands printed, all of one process."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([command.split() for command in commands])],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    printed: list[str] = json.loads(done.stdout)
    return printed


def python(folder: Path, environment: dict[str, str], code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_opened_configured_and_shown(folder: Path, environment: dict[str, str]) -> None:
    told = python(
        folder,
        environment,
        """
        import asyncio, aiovec
        from aiovec import Schema

        async def main():
            async with aiovec.connect("cupboard://drawer") as store:
                print(store.backend_name, store.target)
                await store.create_table("notes", Schema(2))
                await store.insert("notes", [{"id": "a", "embedding": [1, 0]}])

        asyncio.run(main())
        """,
    )
    assert told.split() == ["drawer", str(folder / "drawer")]
    text = (folder / "aiovec.toml").read_text().replace('"sqlite"', '"drawer"')
    (folder / "aiovec.toml").write_text(text)
    (tables,) = aiovec(folder, environment, "tables --json")
    (table,) = json.loads(tables)["tables"]
    assert (table["name"], table["rows"]) == ("notes", 1)
    assert (folder / "drawer" / "colour").read_text() == "red"
    info, plain, doctor = aiovec(
        folder, environment, "info drawer://drawer notes", "doctor", "doctor --json"
    )
    assert "drawer" in info
    assert "drawer" in plain
    stands = [one["value"] for one in json.loads(doctor)["findings"] if one["subject"] == "drawer"]
    assert stands == [f"stands at {folder / 'drawer'}"]


@pytest.mark.slow
def test_a_wrong_key_of_its_section_is_named(folder: Path, environment: dict[str, str]) -> None:
    with (folder / "aiovec.toml").open("a") as stream:
        stream.write('color = "blue"\n')
    told = python(
        folder,
        environment,
        """
        import asyncio, aiovec

        async def main():
            try:
                await aiovec.connect()
            except aiovec.ConfigError as exc:
                print(exc.key, "colour" in exc.accepted)

        asyncio.run(main())
        """,
    )
    assert told.split() == ["retrieval.drawer.color", "True"]


@pytest.mark.slow
def test_it_is_planned_and_migrated_to_and_from(folder: Path, environment: dict[str, str]) -> None:
    python(
        folder,
        environment,
        """
        import asyncio, aiovec
        from aiovec import Schema

        async def main():
            async with aiovec.connect() as store:
                await store.create_table("notes", Schema(2, fields={"n": int}))
                rows = [{"id": str(n), "embedding": [n, 1], "n": n} for n in range(50)]
                await store.insert("notes", rows)

        asyncio.run(main())
        """,
    )
    plan, _ = aiovec(
        folder, environment, "migrate plan --to drawer --json", "migrate run --to drawer --switch"
    )
    assert "drawer" in json.dumps(json.loads(plan))
    assert 'backend = "drawer"' in (folder / "aiovec.toml").read_text()
    _, tables, _ = aiovec(
        folder,
        environment,
        "migrate finish",
        "tables --json",
        "migrate run --to lancedb --switch",
    )
    (table,) = json.loads(tables)["tables"]
    assert table["rows"] == 50
    assert 'backend = "lancedb"' in (folder / "aiovec.toml").read_text()
    (tables,) = aiovec(folder, environment, "tables --json")
    (table,) = json.loads(tables)["tables"]
    assert table["rows"] == 50
