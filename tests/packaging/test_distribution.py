"""The wheel and the sdist hold every package, and the wheel works where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import aiovec

pytestmark = pytest.mark.slow
pytest.importorskip("build")

ROOT = Path(__file__).resolve().parents[2]
# What pip says where no registry can be reached.
UNREACHABLE = re.compile(
    r"from versions: none|NewConnectionError|Failed to establish|ConnectTimeoutError|"
    r"Temporary failure in name resolution|Max retries exceeded"
)


def package_files() -> set[str]:
    """Return the path inside a wheel of every file of the packages that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "src", "adapters", "migrate"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [line for line in listed.stdout.splitlines() if (ROOT / line).exists()]
    return {file.partition("/")[2] for file in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the files are listed by git")
def test_the_sdist_and_the_wheel_hold_every_file_of_every_package(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    native = {name for name in held if "/_scan." in name}
    assert held - native == package_files()
    # One wheel serves all Pythons: it holds nothing that was compiled for one of them.
    assert "-py3-none-" in wheel.name
    assert wheel.stem.endswith("-py3-none-any") is not bool(native)
    with tarfile.open(sdist) as packed:
        names = {member.name.partition("/")[2] for member in packed.getmembers()}
    assert package_files() <= {name.partition("/")[2] for name in names}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"} <= names


def test_a_machine_without_a_compiler_builds_it_too(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", str(source)]
    environment = {**os.environ, "CC": str(tmp_path / "no compiler")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "built without its native scan" in done.stdout + done.stderr
    environment["AIOVEC_NATIVE"] = "require"
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode != 0


@pytest.mark.parametrize("name", sorted(one.name for one in (ROOT / "distributions").iterdir()))
def test_a_distribution_of_a_bridge_holds_nothing_but_its_extra(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path]
    subprocess.run([*command, ROOT / "distributions" / name], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert all(".dist-info/" in held for held in archive.namelist())
        (metadata,) = (held for held in archive.namelist() if held.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    assert {f"Name: {name}", f"Version: {aiovec.__version__}"} <= set(lines)
    (requires,) = (line for line in lines if line.startswith("Requires-Dist: "))
    extra = re.search(rf"aiovec\[(\w+)\].*>={re.escape(aiovec.__version__)}", requires)
    assert extra is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert extra[1] in project["optional-dependencies"]


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## {re.escape(aiovec.__version__)}\b", text, re.MULTILINE)


@pytest.mark.soak
@pytest.mark.timeout(900)  # it downloads what the wheel requires
def test_in_a_fresh_environment_the_readme_and_the_command_run(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "fresh")
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = tmp_path / "fresh" / scripts / ("python.exe" if os.name == "nt" else "python")
    # Ours without what would lead a new Python back to the modules of this one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "AIOVEC_", "COV_")) and name != "VIRTUAL_ENV"
    }
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-compile"]
    installed = subprocess.run(
        [*pip, str(wheel)], env=environment, capture_output=True, text=True
    )  # fmt: skip
    if installed.returncode and UNREACHABLE.search(installed.stderr):
        pytest.skip("no package registry can be reached to install what the wheel requires")
    assert installed.returncode == 0, installed.stderr

    readme = (ROOT / "README.md").read_text("utf-8")
    example = re.search(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert example is not None
    for arguments, last in (
        (["-W", "error", "-c", example[1]], ""),
        (["-c", "import aiovec; print(aiovec.__file__)"], f"aiovec{os.sep}__init__.py\n"),
        (["-m", "aiovec", "--version"], f"aiovec {aiovec.__version__}\n"),
        (["-m", "aiovec", "doctor"], "doctor: nothing is wrong\n"),
    ):
        done = subprocess.run(
            [python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith(last)
        assert "-W" not in arguments or done.stderr == ""
