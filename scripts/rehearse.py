"""Rehearse a release: build everything from a clean clone, and use it as a user would.

``python scripts/rehearse.py`` uses the last commit. It installs each wheel alone into a new
environment, runs the README's whole program, ``aiovec doctor``, an import of the documentation and
a program for each framework, and checks the links in the README on the registry's page and in the
site.
"""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BRIDGES = {
    "aiovec_haystack": """
from haystack import Document
from haystack_integrations.components.retrievers.aiovec import AiovecKeywordRetriever
from haystack_integrations.document_stores.aiovec import AiovecDocumentStore
store = AiovecDocumentStore("notes.db", embedding_dim=384)
store.write_documents([Document(content="an event loop"), Document(content="a vector store")])
(hit,) = AiovecKeywordRetriever(store, top_k=1).run(query="loop")["documents"]
assert hit.content == "an event loop", hit
""",
    "langchain_aiovec": """
from langchain_aiovec import AiovecVectorStore
from langchain_core.embeddings import DeterministicFakeEmbedding
store = AiovecVectorStore(DeterministicFakeEmbedding(size=8), "notes.db")
store.add_texts(["an event loop", "a vector store"])
(hit,) = store.similarity_search("an event loop", k=1)
assert hit.page_content == "an event loop", hit
""",
    "llama_index_vector_stores_aiovec": """
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.vector_stores.aiovec import AiovecVectorStore
store = AiovecVectorStore("notes.db")
store.add([TextNode(id_="a", text="a", embedding=[1, 0]), TextNode(id_="b", embedding=[0, 1])])
hits = store.query(VectorStoreQuery(query_embedding=[1, 0.1], similarity_top_k=1))
assert hits.ids == ["a"], hits
""",
    "llm_aiovec": """
import llm
import sqlite_utils
from llm.cli import cli
from llm_aiovec import IndexedCollection
assert "aiovec" in cli.commands
class Lengths(llm.EmbeddingModel):
    model_id = "lengths"
    def embed_batch(self, texts):
        return ([len(text), 1.0] for text in texts)
notes = IndexedCollection("notes", sqlite_utils.Database("notes.db"), model=Lengths())
notes.embed_multi([("a", "an event loop"), ("b", "a vector store in one file")])
(entry,) = notes.similar("one event loop", 1)
assert entry.id == "a", entry
""",
}
# Opens a store and creates a table with the model's length; nothing is downloaded.
FASTEMBED = """
import fastembed
import aiovec.sync
from aiovec import Embed, Schema
with aiovec.sync.connect(":memory:", embedder="fastembed") as store:
    schema = store.create_table("notes", Schema(fields={"body": str}, embed=Embed("body")))
    assert schema.dim == 384, schema
"""
# The caller's environment, without variables that would make Python use other modules or settings.
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PYTHON", "AIOVEC_")) and name != "VIRTUAL_ENV"
}


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=CLEAN, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        print(done.stdout)
        sys.exit(f"rehearse: FAILED: {' '.join(map(str, command))[:200]}")


def environment(folder: Path, *requirements: str | Path) -> Path:
    """Create an environment with these packages, and return the folder of its commands."""
    venv.create(folder, with_pip=True)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    run(commands / "python", "-m", "pip", "install", "-q", "pip>=25.1", cwd=folder)
    run(commands / "python", "-m", "pip", "install", "-q", *requirements, cwd=folder)
    return commands


def check_readme(wheel: Path, clone: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(name).decode()
    repository = tomllib.loads((clone / "pyproject.toml").read_text("utf-8"))["tool"]["aiovec"]
    own = re.escape(repository["repository"]).replace("github", "(?:github|raw.githubusercontent)")
    for link in re.findall(r"\]\(([^)\s]+)\)", str(email.message_from_string(text).get_payload())):
        if not link.startswith("https://"):
            sys.exit(f"rehearse: FAILED: the README of {wheel.name} has the relative link {link}")
        file = re.match(rf"{own}/(?:blob/)?v[^/]+/([^#]+)", link)
        if file is not None and not (clone / file[1]).exists():
            sys.exit(f"rehearse: FAILED: the README of {wheel.name} links {link}, which is no file")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clone, dist = folder / "clone", folder / "dist"
        print("rehearse: building from a clean clone", flush=True)
        run("git", "clone", "-q", ROOT, clone, cwd=folder)
        commands = environment(folder / "builder", "build", "twine")
        for project in (clone, *(clone / "distributions").iterdir()):
            run(commands / "python", "-m", "build", "--outdir", dist, project, cwd=folder)
        files = sorted(dist.iterdir())
        run(commands / "python", "-m", "twine", "check", "--strict", *files, cwd=folder)
        for wheel in sorted(dist.glob("*.whl")):
            print(f"rehearse: {wheel.name}", flush=True)
            check_readme(wheel, clone)
            distribution = wheel.name.partition("-")[0]
            work = folder / distribution
            extra = "" if distribution in BRIDGES else "[local]"  # as the README installs it first
            commands = environment(work, "--find-links", dist, f"{wheel}{extra}")
            if distribution in BRIDGES:
                run(commands / "python", "-c", BRIDGES[distribution], cwd=work)
                continue
            readme = (clone / "README.md").read_text("utf-8")
            blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
            programs = [block for block in blocks if "asyncio.run" in block]
            if len(programs) != 1:
                sys.exit(f"rehearse: FAILED: the README has {len(programs)} programs, not one")
            run(commands / "python", "-W", "error", "-c", programs[0], cwd=work)
            run(commands / "aiovec", "doctor", cwd=work)
            more = ("--find-links", dist, f"{wheel}[documents,fastembed]")
            run(commands / "python", "-m", "pip", "install", "-q", *more, cwd=work)
            stored = ("import", clone / "docs", "--embedder", "local", "-s", "docs.db")
            run(commands / "aiovec", *stored, cwd=work)
            run(commands / "aiovec", "search", "keep tenants apart", "-s", "docs.db", cwd=work)
            run(commands / "python", "-c", FASTEMBED, cwd=work)
        print("rehearse: the site", flush=True)
        run("make", "docs", f"PYTHON={sys.executable}", cwd=clone)
        run(sys.executable, clone / "scripts" / "links.py", "site", cwd=clone)
        print(f"rehearse: {len(files)} files were built, installed and used; nothing is wrong")


if __name__ == "__main__":
    main()
