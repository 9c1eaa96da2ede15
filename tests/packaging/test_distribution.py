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
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import aiovec

pytestmark = pytest.mark.slow
pytest.importorskip("build")

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
REPOSITORY = PROJECT["tool"]["aiovec"]["repository"]
URLS = {
    "Homepage": REPOSITORY,
    "Documentation": "https://{}.github.io/{}/".format(*REPOSITORY.split("/")[-2:]),
    "Source": REPOSITORY,
    "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
    "Issues": f"{REPOSITORY}/issues",
}
DISTRIBUTIONS = {
    "aiovec-haystack": [
        "haystack_integrations/components/retrievers/aiovec",
        "haystack_integrations/document_stores/aiovec",
    ],
    "langchain-aiovec": ["langchain_aiovec"],
    "llama-index-vector-stores-aiovec": ["llama_index/vector_stores/aiovec"],
    "llm-aiovec": ["llm_aiovec"],
}
# What pip says where no registry can be reached.
UNREACHABLE = re.compile(
    r"from versions: none|NewConnectionError|Failed to establish|ConnectTimeoutError|"
    r"Temporary failure in name resolution|Max retries exceeded"
)


def files_of_git(*folders: str) -> set[str]:
    command = ["git", "ls-files", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line for line in listed.stdout.splitlines() if (ROOT / line).exists()}


def package_files() -> set[str]:
    """Return the path inside a wheel of every file of the packages that git knows."""
    return {file.partition("/")[2] for file in files_of_git("src", "adapters", "migrate")}


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
    assert files_of_git() <= names  # all that its own Makefile, tests and docs need


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


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_registry_shows_addresses_and_a_readme_without_relative_links(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    metadata = metadata_of(wheel)
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert urls == URLS
    text = metadata.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == len(re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text("utf-8")))
    assert [link for link in links if not link.startswith("https://")] == []
    tag = f"{URLS['Source']}/blob/v{aiovec.__version__}/"
    files = [link.removeprefix(tag).partition("#")[0] for link in links if link.startswith(tag)]
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []
    with tarfile.open(sdist) as packed:
        (member,) = (held for held in packed.getmembers() if held.name.endswith("/PKG-INFO"))
        file = packed.extractfile(member)
        assert file is not None
        source = message_from_bytes(file.read())
    assert source.get_all("Project-URL") == metadata.get_all("Project-URL")


def test_every_file_that_names_the_projects_address_names_the_same() -> None:
    owner = URLS["Source"].removeprefix("https://github.com/").split("/")[0]
    named = re.compile(r"https://(?:raw\.githubusercontent|github)\.com/[\w-]+/aiovec[\w.-]*")
    pages = re.compile(r"https://[\w-]+\.github\.io/aiovec")
    files = [ROOT / "mkdocs.yml", ROOT / "SECURITY.md", *(ROOT / ".github").rglob("*.yml")]
    files += [file for file in (ROOT / "distributions").rglob("*") if file.is_file()]
    addresses = 0
    for file in files:
        text = file.read_text("utf-8")
        assert set(named.findall(text)) <= {URLS["Source"]}, file
        assert {page + "/" for page in pages.findall(text)} <= {URLS["Documentation"]}, file
        addresses += text.count(f"{owner}/aiovec")
    assert addresses


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distribution_holds_module_that_its_framework_expects(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path]
    folder = ROOT / "distributions" / name
    subprocess.run([*command, folder], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    modules = {name.rpartition("/")[0] for name in held}
    assert modules == set(DISTRIBUTIONS[name])
    files = ("__init__.py", "py.typed")
    assert held == {f"{module}/{file}" for module in modules for file in files}
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["Version"]) == (name, aiovec.__version__)
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert urls.pop("Documentation").startswith(URLS["Documentation"])
    assert urls.items() <= URLS.items()
    major, minor = map(int, aiovec.__version__.split(".")[:2])
    requires, *others = metadata.get_all("Requires-Dist", [])
    bounds = rf"aiovec(?:\[(\w+)\])?<{major}\.{minor + 1},>={re.escape(aiovec.__version__)}"
    extra = re.fullmatch(bounds, requires)
    assert extra is not None
    assert extra[1] is None or extra[1] in PROJECT["project"]["optional-dependencies"]
    # Only the plug-in of llm requires its framework directly, since aiovec has no code for it.
    is_plugin = name == "llm-aiovec"
    assert bool(others) == (extra[1] is None) == is_plugin
    with zipfile.ZipFile(wheel) as archive:
        entries = [file for file in archive.namelist() if file.endswith("/entry_points.txt")]
        texts = [archive.read(file).decode().split() for file in entries]
    assert texts == [["[llm]", "aiovec", "=", "llm_aiovec"]] * is_plugin


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
        [*pip, f"{wheel}[local]"], env=environment, capture_output=True, text=True
    )  # fmt: skip
    if installed.returncode and UNREACHABLE.search(installed.stderr):
        pytest.skip("no package registry can be reached to install what the wheel requires")
    assert installed.returncode == 0, installed.stderr

    readme = (ROOT / "README.md").read_text("utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (example,) = (program for program in programs if "asyncio.run" in program)
    for arguments, last in (
        (["-W", "error", "-c", example], ""),
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
