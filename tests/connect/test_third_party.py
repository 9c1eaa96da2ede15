"""A backend of another package, installed as pip installs one, works without a change of aiovec:
opened by its scheme, configured by its section, examined, shown, and migrated to and from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = '''
"""Tables in one JSON file a folder: slow, small, and not ours."""

from pathlib import Path

from aiovec.backend.paths import path_of_url
from aiovec.backend.plugin import BackendPlugin, Finding
from aiovec.backend.settings import BackendSettings


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
        path = path_of_url(target) if "://" in target else target
        return str(Path(base or "", path).absolute())

    def findings(self, address):
        return [Finding("drawer", f"stands at {address}" if address else "installed")]
'''

STORE = '''
from pathlib import Path

from aiovec.backend.plugin import plugin_of
from aiovec_sqlite import SqliteBackend


class DrawerBackend(SqliteBackend):
    """Keeps its rows as SQLite does, so that the test is of the way to a backend."""

    name = "drawer"

    def __init__(self, address, settings):
        super().__init__(Path(address) / "drawer.bin", plugin_of("sqlite").settings())
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
    paths = [
        str(site),
        str(Path(__file__).parents[2]),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "aiovec.toml").write_text(
        '[retrieval]\nbackend = "sqlite"\nsqlite_path = "notes.db"\n'
        '[retrieval.drawer]\nurl = "drawer"\ncolour = "red"\n'
    )
    (folder / "wrong.toml").write_text('[retrieval.drawer]\ncolor = "blue"\n')
    return folder


# Opens it, and runs commands one after another.
PROGRAM = """
import asyncio, aiovec, json, sys
from aiovec import Schema
from tests.harness.command import run

async def fill():
    async with aiovec.connect("cupboard://drawer") as store:
        assert (store.backend_name, store.target) == ("drawer", sys.argv[1])
    async with aiovec.connect() as store:
        await store.create_table("notes", Schema(2, fields={"n": int}))
        rows = [{"id": str(n), "embedding": [n, 1], "n": n} for n in range(50)]
        await store.insert("notes", rows)

    try:
        await aiovec.connect("x.db", config="wrong.toml")
    except aiovec.ConfigError as exc:
        assert exc.key == "retrieval.drawer.color", exc
        assert "colour" in exc.accepted

asyncio.run(fill())
for command in json.loads(sys.argv[2]):
    done = run(*command.split())
    print(json.dumps([done.code, done.out, done.err]))
"""


@pytest.mark.slow
def test_it_is_opened_configured_shown_and_migrated_to_and_from(
    folder: Path, environment: dict[str, str]
) -> None:
    commands = [
        "migrate run --to drawer --switch", "tables --json", "doctor --json",
        "migrate run --to lancedb --switch", "tables --json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "drawer"), json.dumps(commands)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, _, _ in results] == [0] * len(commands), results
    _, tables, doctor, _, moved = [out for _, out, _ in results]
    assert json.loads(tables)["tables"][0]["rows"] == 50
    assert (folder / "drawer" / "colour").read_text() == "red"
    stands = [one["value"] for one in json.loads(doctor)["findings"] if one["subject"] == "drawer"]
    assert stands == [f"stands at {folder / 'drawer'}"]
    assert json.loads(moved)["tables"][0]["rows"] == 50
    assert 'backend = "lancedb"' in (folder / "aiovec.toml").read_text()
