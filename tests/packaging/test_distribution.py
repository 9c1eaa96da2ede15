"""The wheel and the sdist hold every package, and the wheel works where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec_sqlite.copies.kernel.build import DIGEST, LIBRARY, compilers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("src", "adapters", "migrate")

# What pip says where no registry can be reached. A version that does not exist is no such case:
# then pip lists those that do.
UNREACHABLE = re.compile(
    r"from versions: none|NewConnectionError|Failed to establish|ConnectTimeoutError|"
    r"Temporary failure in name resolution|Max retries exceeded"
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def packages() -> list[Path]:
    """The folder of every package of the distribution."""
    return [
        folder
        for source in SOURCES
        if (ROOT / source).is_dir()
        for folder in sorted((ROOT / source).iterdir())
        if (folder / "__init__.py").is_file()
    ]


def package_files() -> set[str]:
    """The path inside a wheel of every file that belongs into it."""
    return {
        file.relative_to(folder.parent).as_posix()
        for folder in packages()
        for file in folder.rglob("*")
        if file.is_file()
        and "__pycache__" not in file.parts
        and file.suffix != ".pyc"
        and file not in (LIBRARY, DIGEST)  # made by the build, where there is a compiler
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_the_packages_are_found() -> None:
    assert {"aiovec", "aiovec_sqlite"} <= {folder.name for folder in packages()}


def test_the_wheel_holds_every_file_of_every_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    made = {f"aiovec_sqlite/copies/kernel/{file.name}" for file in (LIBRARY, DIGEST)}
    native = held & made
    assert held - native == package_files()
    assert native in (set(), made)
    # One wheel serves all Pythons: it holds nothing that was compiled for one of them.
    assert wheel.stem.endswith("-py3-none-any") is not bool(native)
    assert "-py3-none-" in wheel.stem
    assert bool(native) is bool(compilers())


def test_a_machine_without_a_compiler_builds_it_too(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4
        archive.extractall(tmp_path, **safely)
    (source,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", str(source)]
    environment = {**os.environ, "CC": str(tmp_path / "no compiler")}
    done = subprocess.run(
        [*command], check=False, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "built without its native scan" in done.stdout + done.stderr
    (found,) = (source / "dist").glob("*.whl")
    assert found.stem.endswith("-py3-none-any")
    environment["AIOVEC_NATIVE"] = "require"
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode != 0


def test_every_package_is_typed() -> None:
    assert {f"{folder.name}/py.typed" for folder in packages()} <= package_files()


def test_the_sdist_holds_every_package_and_what_its_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers()}
    sources = {
        folder.parent.relative_to(ROOT).joinpath(name).as_posix()
        for folder in packages()
        for name in package_files()
        if name.startswith(f"{folder.name}/")
    }
    assert sources <= held
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"} <= held
    assert Path(__file__).relative_to(ROOT).as_posix() in held


def test_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        entry_points = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
        license_text = archive.read(name.replace("METADATA", "licenses/LICENSE")).decode()
    assert metadata["Name"] == "aiovec"
    assert metadata["Version"] == aiovec.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in license_text
    assert "aiovec = aiovec._cli:main" in entry_points
    for backend in ("lancedb", "sqlite"):
        assert f"{backend} = aiovec_{backend}.plugin:" in entry_points


# Only a machine without the native scan uses these.
KERNELS = {"kernels"}
# Runtimes of models, one of which an app chooses: they take up to gigabytes.
MODELS = {"fastembed", "sentence-transformers"}


def test_all_brings_every_extra_that_an_app_may_use() -> None:
    extras = project()["project"]["optional-dependencies"]
    (brought,) = extras["all"]
    named = set(re.fullmatch(r"aiovec\[(.*)\]", brought)[1].split(","))  # type: ignore[index]
    assert named == set(extras) - {"all", "bench", "dev"} - MODELS - KERNELS


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## {re.escape(aiovec.__version__)}\b", text, re.MULTILINE)


def test_every_package_is_under_the_import_rules_and_the_type_check() -> None:
    tools = project()["tool"]
    names = {folder.name for folder in packages()}
    assert names == set(tools["importlinter"]["root_packages"])
    contracts = tools["importlinter"]["contracts"]
    for name in names - {"aiovec"}:
        # Nobody may import it sideways or back, and it has rules of its own.
        assert any(
            contract["source_modules"] == ["aiovec"] and name in contract["forbidden_modules"]
            for contract in contracts
        )
        assert any(contract["source_modules"] == [name] for contract in contracts)
    checked = set(tools["mypy"]["files"])
    assert {folder.parent.name for folder in packages()} <= checked


# A fresh environment


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The Python of a new environment that has the wheel and what it requires, nothing else."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = folder / scripts / ("python.exe" if os.name == "nt" else "python")
    installed = subprocess.run(
        # By our pip. Compiling all of what is installed takes longer than what is imported of it.
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--no-compile",
            "--disable-pip-version-check",
            str(wheel),
        ],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode and UNREACHABLE.search(installed.stderr):
        pytest.skip("no package registry can be reached to install what the wheel requires")
    assert installed.returncode == 0, installed.stderr
    return python


def clean_environment() -> Mapping[str, str]:
    """Ours without what would lead a new Python back to the modules of this one."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "AIOVEC_", "COV_")) and name != "VIRTUAL_ENV"
    }


def run_fresh(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def first_example() -> str:
    """The first Python example of the README."""
    found = re.search(r"^```python\n(.*?)^```", readme(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


@pytest.mark.timeout(900)  # it downloads what the wheel requires
def test_the_first_example_of_the_readme_runs_from_the_wheel(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(first_example(), "utf-8")
    finished = run_fresh(fresh, "-W", "error", "example.py", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""


@pytest.mark.timeout(900)
def test_the_command_runs_from_the_wheel(fresh: Path, tmp_path: Path) -> None:
    where = run_fresh(fresh, "-c", "import aiovec; print(aiovec.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(fresh.parents[1])

    command = fresh.with_name("aiovec" + sysconfig.get_config_var("EXE"))
    version = subprocess.run(
        [command, "--version"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout == f"aiovec {aiovec.__version__}\n"

    doctor = run_fresh(fresh, "-m", "aiovec", "doctor", cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stdout
    assert doctor.stdout.endswith("doctor: nothing is wrong\n")
