"""The sections ``[retrieval.embedders.<name>]``, and the embedders that they make."""

from __future__ import annotations

import re
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import ConfigError, Embed, EmbeddingError, Schema, sync
from aiovec._settings.embedders import EmbedderSettings

ROOT = Path(__file__).parents[2]
SECTION = "[retrieval.embedders.default]\n"

Toml = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path) -> Toml:
    def write(text: str) -> Path:
        path = tmp_path / "aiovec.toml"
        path.write_text(SECTION + text)
        return path

    return write


def schema(dim: int) -> Schema:
    return Schema(dim, fields={"body": str}, embed=Embed("body"))


def test_the_page_lists_every_key_with_its_default() -> None:
    page = (ROOT / "docs/CONFIGURATION.md").read_text(encoding="utf-8").split("## Embedders")[1]
    listed = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, re.MULTILINE))
    found = {key: tomllib.loads(f"v = {text}")["v"] for key, text in listed.items()}
    assert found == EmbedderSettings().model_dump()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kind = "ollama"', "embedders.default.kind: must be 'openai', 'fastembed', "),
        ('kind = "ollama"', "'demo' or 'package.module:callable', not 'ollama'"),
        ("batch_size = 0", "embedders.default.batch_size: must be a whole number from 1 to 2_048"),
        ('modle = "x"', "did you mean 'model'"),
        ('api_key = "sk-secret-123456"', "did you mean 'api_key_env'"),
        ('base_url = "ftp://x"', "embedders.default.base_url: must be text like"),
        ("timeout = 0.0", "embedders.default.timeout: must be a number"),
    ],
)
async def test_faults_name_the_key(text: str, words: str, toml: Toml) -> None:
    with pytest.raises(ConfigError) as caught:
        await aiovec.connect(":memory:", config=toml(text))
    assert words in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "retrieval.embedders.default.model: the kind 'openai' needs it"),
        ('model = "x"', "retrieval.embedders.default.dim: the kind 'openai' needs it"),
        ('kind = "no_such_module_x:y"', "'no_such_module_x' cannot be imported"),
        ('kind = "json:nothing"', "the module 'json' has no 'nothing'"),
        ('kind = "json:loads"', "has no attribute model"),
        ('kind = "json:loads"\nmodel = "m"', "has no attribute dim"),
    ],
)
async def test_what_no_embedder_can_be_made_of(text: str, words: str, toml: Toml) -> None:
    async with aiovec.connect(":memory:", config=toml(text)) as store:
        with pytest.raises(ConfigError) as caught:
            await store.create_table("notes", schema(4))
        assert words in str(caught.value)
        await store.create_table("vectors", Schema(4))  # others go on


async def test_the_environment_describes_an_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__EMBEDDERS__DEFAULT__KIND", "demo")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__EMBEDDERS__DEFAULT__BATCH_SIZE", "7")
    async with aiovec.connect(":memory:") as store:
        await store.create_table("notes", schema(256))
        await store.insert("notes", [{"id": "a", "body": "a compressed file"}])
        assert store._embedders._batchers["default"].limits.batch_size == 7


async def test_the_demo_needs_nothing(toml: Toml) -> None:
    async with aiovec.connect(":memory:", config=toml('kind = "demo"')) as store:
        await store.create_table("notes", schema(256))
        bodies = ["reading zip files", "opening a socket", "walking through a tree"]
        await store.insert("notes", [{"id": body, "body": body} for body in bodies])
        hits = await store.search("notes", "how to open sockets", limit=1)
        assert hits[0].id == "opening a socket"
        assert (await store.schema("notes")).model == "aiovec-demo-hash-256"


def test_a_callable_of_the_app(toml: Toml, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "their_embedder.py").write_text(
        "async def embed(texts):\n    return [[float(len(t)), 1.0] for t in texts]\n"
        "class Embedder:\n    model = 'theirs'\n    dim = 2\n"
        "    def __call__(self, texts, *, kind):\n"
        "        return [[float(len(t)), float(kind == 'query')] for t in texts]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "their_embedder", raising=False)
    config = toml('kind = "their_embedder:embed"\nmodel = "m"\ndim = 2')
    with sync.connect(":memory:", config=config) as store:
        store.create_table("notes", schema(2))
        store.insert("notes", [{"id": "a", "body": "abc"}])
        assert store.get("notes", "a")[0].vector.tolist() == [3.0, 1.0]
        assert store.schema("notes").model == "m"
    config = toml('kind = "their_embedder:Embedder"')
    with sync.connect(":memory:", config=config) as store:
        store.create_table("notes", schema(2))
        store.insert("notes", [{"id": "a", "body": "abc"}])
        assert store.schema("notes").model == "theirs"
        assert len(store.search("notes", "abcd")) == 1


# Neither package is installed where the tests run: what follows stands in for them.
STAND_INS = {
    "fastembed": """
import threading, time
import numpy as np
log = []
inside = 0
class TextEmbedding:
    def __init__(self, model_name):
        if model_name == "missing":
            raise ValueError("the model missing is not supported")
        log.append(("load", model_name, threading.current_thread().name))
    def _embed(self, texts, shift):
        global inside
        inside += 1
        assert inside == 1
        time.sleep(0.02)
        inside -= 1
        log.append((shift, list(texts), threading.current_thread().name))
        for text in texts:
            yield np.array([len(text), 1 + shift, 2], dtype=np.float32)
    def query_embed(self, query):
        return self._embed(query, 1)
    def passage_embed(self, texts, batch_size=1):
        return self._embed(texts, 0)
""",
    "sentence_transformers": """
import threading, time
import numpy as np
log = []
inside = 0
class SentenceTransformer:
    def __init__(self, name):
        if name == "missing":
            raise ValueError("the model missing is not supported")
        log.append(("load", name, threading.current_thread().name))
    def encode(self, texts, *, batch_size, show_progress_bar, convert_to_numpy, shift=0):
        global inside
        inside += 1
        assert inside == 1
        time.sleep(0.02)
        inside -= 1
        log.append((shift, list(texts), threading.current_thread().name))
        return np.array([[len(t), 1 + shift, 2] for t in texts], dtype=np.float32)
    def encode_query(self, texts, **options):
        return self.encode(texts, shift=1, **options)
""",
}


@pytest.fixture(params=["fastembed", "sentence-transformers"])
def stand_in(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    kind: str = request.param
    module = kind.replace("-", "_")
    (tmp_path / f"{module}.py").write_text(STAND_INS[module])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    return kind


async def test_local_models_run_in_a_thread(stand_in: str, toml: Toml) -> None:
    import asyncio

    config = toml(f'kind = "{stand_in}"\nmodel = "small"\ndim = 3\nquery_prefix = "q: "')
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", schema(3))
        assert stand_in.replace("-", "_") not in sys.modules  # loaded at the first use
        await asyncio.gather(
            *(store.insert("notes", [{"id": f"r{n}", "body": "x" * (n + 1)}]) for n in range(8)),
            store.search("notes", "words"),
        )
        log = sys.modules[stand_in.replace("-", "_")].log
        assert [entry[:2] for entry in log if entry[0] == "load"] == [("load", "small")]
        assert threading.main_thread().name not in {entry[2] for entry in log}
        assert ["q: words"] in [entry[1] for entry in log if entry[0] == 1]
        assert await store.count("notes") == 8


async def test_a_local_model_that_cannot_be_loaded(stand_in: str, toml: Toml) -> None:
    config = toml(f'kind = "{stand_in}"\nmodel = "missing"\ndim = 3')
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", schema(3))
        for _ in range(2):
            with pytest.raises(EmbeddingError, match="missing is not supported"):
                await store.insert("notes", [{"id": "a", "body": "x"}])


@pytest.mark.parametrize("kind", ["fastembed", "sentence-transformers", "openai"])
async def test_a_missing_package_is_named(
    kind: str, toml: Toml, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "aiohttp" if kind == "openai" else kind.replace("-", "_")
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    config = toml(f'kind = "{kind}"\nmodel = "m"\ndim = 3\nbase_url = "http://127.0.0.1:9"')
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", schema(3))
        with pytest.raises(EmbeddingError, match=re.escape(f'pip install "aiovec[{kind}]"')):
            await store.insert("notes", [{"id": "a", "body": "x"}])


# The same keys, given in Python


async def test_an_app_describes_an_embedder_with_the_keys_of_the_file(tmp_path: Path) -> None:
    described = {"default": {"kind": "demo", "batch_size": 8}}
    async with aiovec.connect(tmp_path / "notes.db", embedders=described) as store:
        lines = store.table("lines")
        await lines.create(schema(256))
        assert (await lines.schema()).model == "aiovec-demo-hash-256"
        await lines.insert({"id": ["1", "2"], "body": ["wool and silk", "an open door"]})
        assert [hit.id for hit in await lines.search("woollen", limit=1)] == ["1"]
    with sync.connect(tmp_path / "notes.db", embedders=described) as plain:
        assert [hit.id for hit in plain.search("lines", "doors", limit=1)] == ["2"]


async def test_what_an_app_describes_comes_before_the_file(toml: Toml) -> None:
    config = toml('kind = "no_such_module_x:y"')
    described = {"default": {"kind": "demo"}}
    async with aiovec.connect(":memory:", config=config, embedders=described) as store:
        await store.create_table("lines", schema(256))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kind": "zzz"}, "retrieval.embedders.default.kind: must be 'openai', 'fastembed', "),
        ({"kind": "zzz"}, "'demo' or 'package.module:callable', not 'zzz'"),
        ({"kind": 3}, "retrieval.embedders.default.kind: must be 'openai', 'fastembed', "),
        ({"batch_size": "8"}, "embedders.default.batch_size: must be a whole number"),
        ({"modle": "x"}, "did you mean 'model'"),
        ({"api_key": "sk-secret-123456"}, "did you mean 'api_key_env'"),
        ({7: "x"}, "connect(embedders=...): "),
    ],
)
async def test_faults_of_what_an_app_describes(keys: dict[Any, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await aiovec.connect(":memory:", embedders={"default": keys})
    assert str(caught.value).startswith("connect(embedders=...): ")
    assert words in str(caught.value)
    assert "sk-secret" not in str(caught.value)
