"""Which SQLite is taken, and what is said where none can load extensions."""

from __future__ import annotations

import json
import os
import shutil
import site
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sqlite.support import ROOT, run_code

import aiovec_sqlite.driver as driver_module

# Blocks a module as if it were not installed; sqlite3 as many Pythons ship it.
WITHOUT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import sqlite3
if {plain!r}:
    class Connection:
        pass
    sqlite3.Connection = Connection
import asyncio, json, aiovec
async def main():
    try:
        async with aiovec.connect(sys.argv[1]) as store:
            await store.create_table("t", aiovec.Schema(4, fields={{"n": int}}))
            await store.insert("t", [
                {{"id": f"x{{n}}", "embedding": [1, n, 0, 0], "n": n, "extra": "ü"}}
                for n in range(50)])
            await store.update("t", {{"n": 7}}, where="n > 40")
            await store.delete("t", ["x0"])
            where = "n < 30 AND payload.extra LIKE 'ü%'"
            hits = await store.search("t", [1, 0, 0, 0], limit=3, where=where)
            from aiovec_sqlite.driver import load_driver
            print(json.dumps({{
                "driver": load_driver().__name__, "ids": [hit.id for hit in hits],
                "count": await store.count("t", "n = 7")}}))
    except aiovec.AiovecError as exc:
        print(json.dumps({{"error": type(exc).__name__, "text": str(exc),
                           "cure": getattr(exc, "cure", None)}}))
asyncio.run(main())
"""


def outcome(code: str, tmp_path: Path) -> dict[str, object]:
    done = run_code(code, str(tmp_path / "notes.db"))
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_neither_driver_can_load_extensions(tmp_path: Path) -> None:
    blocked = ["pysqlite3", "pysqlite3.dbapi2"]
    told = outcome(WITHOUT.format(blocked=blocked, plain=True), tmp_path)
    assert told["error"] == "ExtensionUnavailableError"
    assert "without loadable extensions" in str(told["text"])
    assert "pip install pysqlite3" in str(
        told["cure"]
    ) or "use a Python that loads extensions" in str(told["cure"])
    assert list(tmp_path.iterdir()) == []


def test_sqlite_vec_is_missing(tmp_path: Path) -> None:
    told = outcome(WITHOUT.format(blocked=["sqlite_vec"], plain=False), tmp_path)
    assert told["error"] == "ExtensionUnavailableError"
    assert "pip install sqlite-vec" in str(told["cure"])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 0  # nothing was begun


@pytest.mark.parametrize(
    ("system", "machine", "libc", "expected"),
    [
        ("Linux", "x86_64", "glibc", "pip install pysqlite3"),
        ("Linux", "x86_64", "", "distribution's python3"),
        ("Linux", "aarch64", "glibc", "distribution's python3"),
        ("Darwin", "arm64", "", "pip install pysqlite3"),
        ("Darwin", "x86_64", "", "brew install python"),
        ("Windows", "AMD64", "", "pip install pysqlite3"),
        ("Windows", "ARM64", "", "python.org"),
        ("FreeBSD", "amd64", "", "a Python that loads"),
    ],
)
def test_the_cure_fits_the_platform(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, libc: str, expected: str
) -> None:
    monkeypatch.setattr(driver_module.platform, "system", lambda: system)
    monkeypatch.setattr(driver_module.platform, "machine", lambda: machine)
    monkeypatch.setattr(driver_module.platform, "libc_ver", lambda: (libc, "1"))
    assert expected in driver_module._cure()


def _other_python() -> str:
    """A Python of this version whose own sqlite3 loads extensions."""
    if hasattr(sqlite3.Connection, "enable_load_extension"):
        return sys.executable
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    probe = (
        "import sqlite3, sys; "
        f"sys.exit('{version}' != '%d.%d' % sys.version_info[:2] "
        "or not hasattr(sqlite3.Connection, 'enable_load_extension') "
        f"or sqlite3.sqlite_version_info < {driver_module.OLDEST_SQLITE})"
    )
    for name in ("/usr/bin/python3", f"/usr/bin/python{version}", shutil.which("python3") or ""):
        if os.path.exists(name) and not subprocess.run([name, "-c", probe]).returncode:
            return name
    pytest.skip(f"no Python {version} is here whose own sqlite3 can load extensions")


def test_pythons_own_sqlite3(tmp_path: Path) -> None:
    """The same store on another SQLite, and each reads what the other wrote."""
    paths = [str(ROOT / "src"), str(ROOT / "adapters"), *site.getsitepackages()]
    code = WITHOUT.format(blocked=["pysqlite3", "pysqlite3.dbapi2"], plain=False)
    done = subprocess.run(
        [_other_python(), "-c", code, str(tmp_path / "own.db")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {"driver": "sqlite3", "ids": ["x1", "x2", "x3"], "count": 10}
    here = outcome(WITHOUT.format(blocked=[], plain=False), tmp_path)
    assert {**here, "driver": "sqlite3"} == told
    code = (
        "import asyncio, sys, aiovec\n"
        "async def main():\n"
        "    async with aiovec.connect(sys.argv[1]) as store:\n"
        "        print(await store.count('t'), len(await store.search('t', [1, 0, 0, 0])))\n"
        "asyncio.run(main())"
    )
    done = run_code(code, str(tmp_path / "own.db"))
    assert done.stdout == "49 10\n", done.stderr
