"""The work behind ``make`` and ``.ci/run``. ``nox -l`` lists the sessions.

Arguments after ``--`` go to the tool: ``nox -s tests-3.13 -- -m slow -k filter``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "uv|virtualenv"  # a venv's pip may not know --group
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]


def _runs(version: str) -> bool:
    """Return whether an interpreter runs: a name on PATH may be a shim that does not."""
    found = shutil.which(f"python{version}")
    return found is not None and subprocess.run([found, "-V"], capture_output=True).returncode == 0


# The packages that the contract suite imports; the group `test` would bring pyarrow and NumPy 2.
LIGHT = (
    "anyio blockbuster hypothesis numpy<2 psutil pytest pytest-asyncio pytest-timeout pytest-xdist"
).split()
LINT = "ruff check .", "ruff format --check .", "mypy --strict", "lint-imports", "codespell"
PYTHONS = [version for version in ("3.11", "3.12", "3.13", "3.14") if _runs(version)]


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Check with ruff, mypy --strict, the import rules and a spell checker, on the oldest Python.

    Newer Pythons get newer releases of NumPy, whose types differ.
    """
    session.install("--no-compile", "-e", ".", "--group", "dev")
    for command in LINT:
        session.run(*command.split())


@nox.session(name="format")
def format_(session: nox.Session) -> None:
    """Fix and format the code with ruff."""
    session.install("--no-compile", "-e", ".", "--group", "dev")
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel."""
    session.install("build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist", ".", silent=True)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the default and the slow tests; AIOVEC_LOOP=uvloop runs them on uvloop's event loop."""
    session.install("--no-compile", "-e", ".", "--group", "dev")
    session.run("python", "-m", "tests", *(session.posargs or ["-m", "not soak"]))


@nox.session(python=PYTHONS[0])
def ci(session: nox.Session) -> None:
    """Run a part of .ci/run: ``-- lint``, or ``-- tests`` without campaigns."""
    session.install("--no-compile", "-e", ".", "--group", "dev")
    for command in LINT if session.posargs == ["lint"] else ():
        session.run(*command.split())
    if session.posargs == ["tests"]:
        session.run("python", "-m", "tests", "-m", "not soak")


@nox.session
def soak(session: nox.Session) -> None:
    """Run the campaigns of kills, faults and fuzzing; ``-- --minutes 30`` cuts them short."""
    session.install("--no-compile", "-e", ".", "--group", "dev")
    session.run("pytest", "-m", "soak", "--timeout", "3600", *session.posargs)


@nox.session(python=PYTHONS[0])
def light(session: nox.Session) -> None:
    """Run the contract suite on SQLite in an environment without pyarrow, and with NumPy 1."""
    session.install("--no-compile", "-e", ".", *LIGHT)
    session.run("python", "-m", "tests", *(session.posargs or ["tests/contract/test_sqlite.py"]))


@nox.session(python=PYTHONS[0])
def bridges(session: nox.Session) -> None:
    """Check the types of the bridges and run their tests, with their frameworks."""
    session.install("--no-compile", "-e", ".", "--group", "bridges")
    packages = "haystack langchain langgraph llamaindex mcp".split()
    folders = [f"adapters/aiovec_{name}" for name in packages]
    cache = Path(session.create_tmp(), "mypy")  # the cache of `lint` lacks the frameworks
    session.run("mypy", "--strict", f"--cache-dir={cache}", *folders)
    session.run(
        "pytest",
        "-m",
        "not soak",
        *(session.posargs or ["tests/bridges", "tests/docs/test_pages.py"]),
    )


# The tests that frameworks publish: base classes in their packages and, for LangGraph's stores,
# tests in its sources. LlamaIndex and mem0 publish none, and CrewAI's tests are only for its own
# classes. To add a framework, add a line here, and its differences in scripts/suites.py.
SUITES = {
    "tests/bridges/test_langchain.py": "TestVectorStore or TestByteStore or TestDocumentIndex",
    "tests/bridges/test_haystack.py": "TestSync or TestAsync",
}
SOURCES = {
    "langgraph-checkpoint": ["tests/test_store.py"],
    "langgraph-checkpoint-sqlite": ["tests/test_store.py", "tests/test_async_store.py"],
}


@nox.session(python=PYTHONS[0])
def suites(session: nox.Session) -> None:
    """Run the newest frameworks' own tests; tests that show known differences must still fail."""
    added = ("hatchling", "pytest-mock", *SOURCES)
    session.install("--upgrade", "--no-compile", "-e", ".", "--group", "bridges", *added)
    for file, names in SUITES.items():
        session.run("pytest", "-m", "not soak", file, "-k", names)
    folder = Path(session.create_tmp()).resolve()
    # Six thousand concurrent calls take longer than the usual timeout on a busy machine.
    env = {
        "PYTHONPATH": str(Path("scripts").resolve()),
        "AIOVEC_RETRIEVAL__SQLITE__BUSY_TIMEOUT": "1200",
    }
    for package, files in SOURCES.items():
        shutil.rmtree(folder / package, ignore_errors=True)
        session.install("pip")
        got = (
            "--no-deps",
            "--no-binary",
            ":all:",
            "--no-build-isolation",
            "-d",
            str(folder / package),
        )
        session.run("python", "-m", "pip", "download", "--quiet", *got, package)
        (packed,) = (folder / package).iterdir()
        shutil.unpack_archive(packed, folder / package, filter="data")
        session.chdir(folder / package / packed.name.removesuffix(".tar.gz"))
        session.run("python", "-m", "pytest", "-p", "suites", "-o", "addopts=", *files, env=env)


@nox.session(python=PYTHONS[0], reuse_venv=False)  # else an old wheel of this version would stay
def wheels(session: nox.Session) -> None:
    """Run the tests of the bridges on the built wheels, including those of distributions/."""
    session.install("build")
    folder = Path(session.create_tmp(), "wheels")
    shutil.rmtree(folder, ignore_errors=True)
    for project in (Path(), *Path("distributions").iterdir()):
        command = ("python", "-m", "build", "--wheel", "--outdir", str(folder), str(project))
        session.run(*command, silent=True)
    session.install(*map(str, folder.glob("*.whl")), "--group", "bridges")
    session.run("pytest", "-m", "not soak", *(session.posargs or ["tests/bridges"]))


@nox.session(python=PYTHONS[0], venv_backend="uv", reuse_venv=False)
def lowest(session: nox.Session) -> None:
    """Run the default and the bridges' tests with the lowest versions that we allow."""
    # Ray's versions are pinned, and the versions that crewai needs do not fit the others.
    extras = "haystack,lancedb,langchain,langgraph,llamaindex,local,mcp,openai,otel,remote,server"
    session.install("--resolution", "lowest-direct", "-e", f".[{extras}]", "--group", "bridges")
    # An old version may use features that a new version of another package deprecates.
    quiet = ("-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning")
    session.run("python", "-m", "tests", *quiet, *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "tests", *quiet, "-m", "not soak", "tests/bridges")


@nox.session
def sdist(session: nox.Session) -> None:
    """Run the default tests from the unpacked sdist, without git or any other file."""
    session.install("build")
    folder = Path(session.create_tmp()).resolve() / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--sdist", "--outdir", str(folder), ".", silent=True)
    (packed,) = folder.iterdir()
    shutil.unpack_archive(packed, folder, filter="data")
    session.chdir(folder / packed.name.removesuffix(".tar.gz"))
    session.install("--no-compile", "-e", ".", "--group", "test")
    session.run("python", "-m", "tests", *session.posargs)


@nox.session(python=PYTHONS[-1])
def coverage(session: nox.Session) -> None:
    """Write to coverage.txt which lines of the product the default and the slow tests run."""
    session.install("--no-compile", "-e", ".", "--group", "dev")
    session.run("coverage", "erase")
    options = session.posargs or ["-m", "not soak"]
    session.run("coverage", "run", "-m", "tests", *options)
    session.run("coverage", "combine", "-q")
    with open("coverage.txt", "w", encoding="utf-8") as report:
        session.run("coverage", "report", stdout=report)


@nox.session(venv_backend="none")
def constraints(session: nox.Session) -> None:
    """Write the newest versions that fit together into .ci/constraints.txt; needs uv."""
    source = Path(session.create_tmp(), "all.txt")
    source.write_text(f"-e {Path.cwd()}[all,ray]\n", "utf-8")
    groups = [f"--group={name}" for name in ("bench", "bridges", "dev", "docs", "imports")]
    command = ("uv", "pip", "compile", "--universal", "--upgrade", "--python-version", "3.11")
    options = ("--no-annotate", "--no-emit-package", "aiovec", "--no-emit-find-links", "--quiet")
    named = ("--custom-compile-command", "nox -s constraints", "-o", ".ci/constraints.txt")
    session.run(*command, *options, *groups, *named, str(source), external=True)


@nox.session(python=PYTHONS[0])
def crewai(session: nox.Session) -> None:
    """Run the tests of the CrewAI bridge; CrewAI needs its own versions of other packages."""
    session.install("--no-compile", "-e", ".[crewai]", "--group", "test")
    session.run("pytest", "-m", "not soak", *(session.posargs or ["tests/bridges/test_crewai.py"]))


@nox.session(python=PYTHONS[0])
@nox.parametrize("framework", ["adk", "mem0"])
def memories(session: nox.Session, framework: str) -> None:
    """Check the types of a bridge to a framework's memory and run its tests, with the framework."""
    groups = ("--group", "test", "--group", "types")
    session.install("--no-compile", "-e", f".[{framework}]", *groups)
    cache = Path(session.create_tmp(), "mypy")
    session.run("mypy", "--strict", f"--cache-dir={cache}", f"adapters/aiovec_{framework}")
    tests = [f"tests/bridges/test_{framework}.py", "tests/docs/test_pages.py"]
    session.run("pytest", "-m", "not soak", *(session.posargs or tests))


@nox.session(python=PYTHONS[0])
@nox.parametrize(
    "framework",
    [
        "agent-framework-core tenacity",
        "agno fastmcp",
        "google-adk",
        "openai-agents",
        "strands-agents",
    ],
)
def agents(session: nox.Session, framework: str) -> None:
    """Run the tests of frameworks that reach aiovec over the Model Context Protocol."""
    session.install("--no-compile", "-e", ".[mcp]", "--group", "test", *framework.split())
    session.run("pytest", *(session.posargs or ["tests/bridges/test_agents.py"]))


@nox.session(python=PYTHONS[0])
def imports(session: nox.Session) -> None:
    """Run the tests of imports from other stores, with the libraries of these stores."""
    session.install("--no-compile", "-e", ".", "--group", "imports")
    session.run("pytest", "-m", "not soak", *(session.posargs or ["tests/imports"]))


@nox.session(python=PYTHONS[0])
def ray(session: nox.Session) -> None:
    """Run the tests of imports and index builds by Ray, on a two-node cluster on this machine."""
    session.install("--no-compile", "-e", ".[ray]", "--group", "test", "moto[server]")
    session.run("pytest", "-m", "not soak", "-n", "0", *(session.posargs or ["tests/ray"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks."""
    session.install("--no-compile", "-e", ".", "--group", "dev", "--group", "bench")
    session.run("python", "-m", "bench", *session.posargs)
