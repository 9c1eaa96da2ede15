"""The work behind ``make`` and ``.ci/run``. ``nox -l`` lists the sessions.

What follows ``--`` goes to the tool: ``nox -s tests-3.13 -- -m slow -k filter``.
"""

from __future__ import annotations

import shutil
import subprocess

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]


def _runs(version: str) -> bool:
    """Return whether an interpreter runs: a name on PATH may be a shim that does not."""
    found = shutil.which(f"python{version}")
    return found is not None and subprocess.run([found, "-V"], capture_output=True).returncode == 0


# What the contract suite imports; the extra `test` would bring pyarrow.
LIGHT = "blockbuster hypothesis psutil pytest pytest-asyncio pytest-timeout pytest-xdist".split()
PYTHONS = [version for version in ("3.11", "3.12", "3.13", "3.14") if _runs(version)]


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Check with ruff, mypy --strict and the import rules, by the oldest Python.

    NumPy's types of its newest release differ, which older Pythons do not get.
    """
    session.install("--no-compile", "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", "--strict")
    session.run("lint-imports")


@nox.session(name="format")
def format_(session: nox.Session) -> None:
    """Let ruff mend and format."""
    session.install("--no-compile", "-e", ".[dev]")
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
    """Run the default and the slow tests; AIOVEC_LOOP=uvloop takes uvloop's event loop."""
    session.install("--no-compile", "-e", ".[dev]")
    options = session.posargs or ["-m", "not soak"]
    # The processes share the cores: NumPy's own threads would only wait for each other, busily.
    session.run("pytest", "-n", "logical", *options, env={"OPENBLAS_NUM_THREADS": "1"})


@nox.session(python=PYTHONS[0])
def ci(session: nox.Session) -> None:
    """Lint, and run the default and the slow tests, in one environment and whatever fails first."""
    failed = []
    for name, part in {"lint": lint, "tests": tests}.items():
        try:
            part(session)
        except CommandFailed as error:
            failed.append(f"{name}: {error}")
    if failed:
        session.error("; ".join(failed))


@nox.session
def soak(session: nox.Session) -> None:
    """Run the campaigns of kills, faults and fuzzing in full, which takes hours."""
    session.install("--no-compile", "-e", ".[dev]")
    session.run("pytest", "-m", "soak", "--timeout", "3600", *session.posargs)


@nox.session(python=PYTHONS[0])
def light(session: nox.Session) -> None:
    """Run the contract suite on SQLite in an environment without pyarrow."""
    session.install("--no-compile", "-e", ".", *LIGHT)
    session.run("pytest", "-n", "logical", *(session.posargs or ["tests/contract/test_sqlite.py"]))


@nox.session(python=PYTHONS[0])
def bridges(session: nox.Session) -> None:
    """Run the tests of the bridges to other frameworks, with these frameworks."""
    session.install("--no-compile", "-e", ".[test,bridges]")
    session.run(
        "pytest",
        "-m",
        "not soak",
        *(session.posargs or ["tests/bridges", "tests/docs/test_pages.py"]),
    )


@nox.session(python=PYTHONS[0])
def crewai(session: nox.Session) -> None:
    """Run the tests of the bridge to CrewAI, whose versions of other packages are its own."""
    session.install("--no-compile", "-e", ".[test,crewai]")
    session.run("pytest", "-m", "not soak", *(session.posargs or ["tests/bridges/test_crewai.py"]))


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
    session.install("--no-compile", "-e", ".[test,mcp]", *framework.split())
    session.run("pytest", *(session.posargs or ["tests/bridges/test_agents.py"]))


@nox.session(python=PYTHONS[0])
def imports(session: nox.Session) -> None:
    """Run the tests of imports from other stores, with the libraries of these stores."""
    session.install("--no-compile", "-e", ".[test,imports]")
    session.run("pytest", "-m", "not soak", *(session.posargs or ["tests/imports"]))


@nox.session(python=PYTHONS[0])
def ray(session: nox.Session) -> None:
    """Run the tests of loads and indexes by Ray, on a cluster of two nodes on this machine."""
    session.install("--no-compile", "-e", ".[test,ray]", "moto[server]")
    session.run("pytest", "-m", "not soak", "-n", "0", *(session.posargs or ["tests/ray"]))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks."""
    session.install("--no-compile", "-e", ".[dev,bench]")
    session.run("python", "-m", "bench", *session.posargs)
