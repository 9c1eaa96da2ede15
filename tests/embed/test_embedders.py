"""An app's embedders: their descriptions, calls and failures."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case, toml_value
from tests.embed.models import stand_in

import aiovec
from aiovec import ConfigError, Embed, EmbeddingError, Schema, VectorStore, sync

SCHEMA = Schema(2, fields={"body": str}, embed=Embed("body"))

Toml = Callable[[str], Path]


@pytest.fixture
def toml(tmp_path: Path) -> Toml:
    def write(text: str) -> Path:
        path = tmp_path / "aiovec.toml"
        path.write_text("[retrieval.embedders.default]\n" + text)
        return path

    return write


class Plain:
    """A plain embedder of two dimensions; ``answer`` makes what it returns."""

    model = "m"
    dim = 2

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer or lengths

    def __call__(self, texts: list[str]) -> Any:
        return self.answer(texts)


class Awaited(Plain):
    """An awaited embedder of two dimensions."""

    async def __call__(self, texts: list[str]) -> Any:  # type: ignore[override]
        return self.answer(texts)


def lengths(texts: list[str]) -> Any:
    return [[float(len(text)), 1.0] for text in texts]


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "body": f"text {n}"} for n in range(start, start + count)]


async def opened(embedder: Any) -> VectorStore:
    store = await aiovec.connect(":memory:", embedders={"default": embedder})
    await store.create_table("notes", SCHEMA)
    return store


def imported(toml: Toml, monkeypatch: pytest.MonkeyPatch, embedder: Any, keys: str) -> Path:
    """Write a TOML file that names an app's embedder by its module, with these keys."""
    module = types.ModuleType("their_embedder")
    module.embed = embedder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_embedder", module)
    return toml(f'kind = "their_embedder:embed"\n{keys}\n')


# Answers


def raises(error: type[BaseException]) -> Callable[[list[str]], Any]:
    def fail(_: list[str]) -> Any:
        raise error("such a thing")

    return fail


WRONG: dict[str, Callable[[list[str]], Any]] = {
    "endless": lambda _: itertools.repeat([1.0, 2.0]),
    "a set": lambda texts: {(1.0, float(n)) for n in range(len(texts))},
    "NaN": lambda texts: [[1.0, float("nan")]] * len(texts),
    "zeros": lambda texts: [[0.0, -0.0]] * len(texts),
    "letters": lambda texts: ["12"] * len(texts),
    "huge": lambda texts: [[10**400, 2]] * len(texts),
    "a generator that fails": lambda texts: (next(iter([])) for _ in texts),
    "StopIteration": raises(StopIteration),
    "CancelledError": raises(asyncio.CancelledError),
    "ValueError": raises(ValueError),
}


@pytest.mark.parametrize("kind", [Plain, Awaited])
async def test_a_wrong_answer_or_an_error_of_an_embedder_writes_nothing(
    kind: type[Plain], toml: Toml, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = kind()
    config = imported(toml, monkeypatch, embedder, "retries = 0")
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", SCHEMA)
        for name, answer in WRONG.items():
            with case(name):
                embedder.answer = answer
                for call in (store.insert("notes", rows(2)), store.search("notes", name)):
                    with pytest.raises(EmbeddingError):
                        await call
                assert await store.count("notes") == 0
        embedder.answer = lengths
        assert await store.insert("notes", rows(2)) == 2


async def test_a_generator_is_read_in_a_thread() -> None:
    """Libraries of local models return generators, which compute while they are read."""
    threads = set()

    def lazily(texts: list[str]) -> Iterator[list[float]]:
        for text in texts:
            threads.add(threading.current_thread())
            yield [float(len(text)), 1.0]
        texts.clear()  # the list is the embedder's own

    for kind in (Plain, Awaited):
        async with await opened(kind(lazily)) as store:
            assert await store.insert("notes", rows(200)) == 200
            (record,) = await store.get("notes", "r7")
            assert np.asarray(record.vector).tolist() == [6.0, 1.0]
    assert threads
    assert threading.main_thread() not in threads


async def test_tasks_share_the_calls_of_a_plain_embedder() -> None:
    calls: list[int] = []
    running = threading.Lock()

    def slowly(texts: list[str]) -> Any:
        assert running.acquire(blocking=False)
        calls.append(len(texts))
        time.sleep(0.01)
        running.release()
        return lengths(texts)

    async with await opened(Plain(slowly)) as store:
        tasks = [store.insert("notes", rows(1, n)) for n in range(64)]
        assert await asyncio.gather(*tasks) == [1] * 64
        assert sum(calls) == 64
        assert len(calls) < 64
        await store.insert("notes", rows(3, 10_000) + rows(150, 20_000))
        assert max(calls) == 64  # the largest request


async def test_a_key_in_an_exception_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_API_KEY", "sk-0123456789abcdef")
    said = "refused: sk-0123456789abcdef"

    def fail(_: list[str]) -> Any:
        try:
            raise ValueError(said)
        except ValueError as exc:
            raise KeyError(said) from exc

    async with await opened(Plain(fail)) as store:
        with pytest.raises(EmbeddingError) as caught:
            await store.insert("notes", rows(1))
        shown = "".join(traceback.format_exception(caught.value))
        assert "refused" in shown
        assert "0123456789abcdef" not in shown


# Time


async def test_the_time_that_ended_is_named(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedder refuses whole batches slowly, so their halves have little time left."""

    async def refuses(texts: list[str]) -> list[list[float]]:
        if len(texts) == 1:
            await asyncio.sleep(60)
        await asyncio.sleep(0.2)
        raise ValueError("too many")

    keys = 'model = "m"\ndim = 2\ntimeout = 1.0\ntotal_timeout = 1.0'
    config = imported(toml, monkeypatch, refuses, keys)
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", SCHEMA)
        with pytest.raises(EmbeddingError, match="within the total_timeout of 1 s"):
            await store.insert("notes", [{"id": str(n), "body": f"a{n}"} for n in range(4)])


async def test_a_hanging_embedder_times_out(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    come_back = threading.Event()

    def hangs(texts: list[str]) -> Any:
        come_back.wait(120)
        return lengths(texts)

    keys = 'model = "m"\ndim = 2\ntimeout = 0.1\nretries = 0'
    config = imported(toml, monkeypatch, hangs, keys)
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", SCHEMA)
        with pytest.raises(EmbeddingError, match=r"the timeout of 0\.1 s") as caught:
            await store.insert("notes", [{"id": "a", "body": "hang"}])
        assert caught.value.retryable
        come_back.set()
        assert await store.count("notes") == 0


async def test_a_local_model_has_as_long_as_it_needs(
    toml: Toml, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = stand_in([])
    library.TextEmbedding.passage_embed = lambda _, texts, **__: (  # type: ignore[attr-defined]
        time.sleep(0.2) or lengths(texts)
    )
    monkeypatch.setitem(sys.modules, "fastembed", library)
    limits = "timeout = 0.01\ntotal_timeout = 0.01\nretries = 0"
    config = toml(f'kind = "fastembed"\nmodel = "small"\ndim = 2\n{limits}')
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", SCHEMA)
        assert await store.insert("notes", rows(3)) == 3


# Descriptions


KINDS = "must be 'openai', 'local', 'fastembed', "
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "ollama"}, f"default.kind: {KINDS}"),
    ({"kind": 3}, f"default.kind: {KINDS}"),
    ({"batch_size": 0}, "default.batch_size: must be a whole number"),
    ({"modle": "x"}, "did you mean 'model'"),
    ({"api_key": "sk-secret-1"}, "did you mean 'api_key_env'"),
    ({"base_url": "ftp://x"}, "base_url: must be an address that"),
    ({"timeout": 0.0}, "default.timeout: must be a number above 0"),
    ({"kind": "openai"}, "default.model is missing; the kind 'openai' needs it"),
    ({"kind": "openai", "model": "m"}, "default.dim is missing; the kind 'openai' needs it"),
    ({"kind": "no_such_module_x:y"}, "no_such_module_x:y cannot be imported"),
    ({"kind": "json:nothing"}, "json:nothing cannot be imported"),
    ({"kind": "json:loads"}, "needs an attribute model"),
    ({"kind": "tests.embed.broken:y"}, "cannot be imported: at import"),
    *(
        ({"kind": kind, "model": "m", "dim": 2}, f'pip install "aiovec[{kind}]"')
        for kind in ("fastembed", "onnx", "sentence-transformers")
    ),
]


async def test_a_faulty_description_is_refused_by_its_key(
    toml: Toml, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("fastembed", "onnxruntime", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    for keys, words in FAULTS:
        config = toml("\n".join(f"{key} = {toml_value(value)}" for key, value in keys.items()))
        for options in ({"config": config}, {"embedders": {"default": keys}}, {"embedder": keys}):
            with case((keys, options)):
                with pytest.raises(ConfigError, match=re.escape(words)) as caught:
                    await aiovec.connect(":memory:", **options)
                assert "sk-secret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "aiohttp", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=re.escape('pip install "aiovec[openai]"')):
        await aiovec.connect(":memory:", embedder={"kind": "openai", "model": "m", "dim": 2})


async def test_an_argument_that_is_no_embedder_is_refused_at_connect() -> None:
    for options, words in (
        ({"embedder": lengths}, r"needs an attribute model.*aiovec\.embedder\(fn, model="),
        ({"embedder": 3}, "a kind such as 'demo'.*not 3"),
        ({"embedder": "ollama"}, "'ollama' is not a kind of embedder"),
        ({"embedders": {"kind": "demo"}}, r"names to embedders: \{'default': \{'kind': 'demo'\}\}"),
        ({"embedder": "demo", "embedders": {"default": "demo"}}, "not both"),
        ({"embedders": ["demo"]}, "must map names to embedders"),
    ):
        with case(options), pytest.raises(ConfigError, match=words):
            await aiovec.connect(":memory:", **options)  # type: ignore[arg-type]
    makers: list[dict[str, Any]] = [
        {"fn": 3, "model": "m"}, {"fn": lengths, "model": ""},
        {"fn": lengths, "model": "m", "dim": 0},
    ]  # fmt: skip
    for given in makers:
        with case(given), pytest.raises(ConfigError):
            aiovec.embedder(given.pop("fn"), **given)


async def test_an_embedder_without_the_attribute_dim_tells_its_length() -> None:
    class Bare:
        model = "m"

        def __call__(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, 2.0, 3.0] for _ in texts]

    async with aiovec.connect(":memory:", embedder=Bare()) as store:  # type: ignore[arg-type]
        await store.create_table("notes", Schema(fields={"body": str}, embed=Embed("body")))
        assert (await store.schema("notes")).dim == 3


async def test_a_table_of_an_unknown_embedder_names_the_section_to_write(toml: Toml) -> None:
    async with aiovec.connect(":memory:", config=toml('kind = "demo"')) as store:
        third = Schema(256, fields={"body": str}, embed=Embed("body", using="three"))
        await store.create_table("notes", third)
        with pytest.raises(EmbeddingError, match=r"'three': .*retrieval\.embedders\.three"):
            await store.insert("notes", rows(1))


async def test_an_embedder_is_described_by_file_argument_or_environment(
    toml: Toml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = Schema(256, fields={"body": str}, embed=Embed("body"))
    bodies = ["reading zip files", "opening a socket", "walking through a tree"]

    async def used(target: Path | str, **options: Any) -> None:
        async with aiovec.connect(target, **options) as store:
            await store.create_table("notes", schema)
            await store.insert("notes", [{"id": body, "body": body} for body in bodies])
            (hit,) = await store.search("notes", "how to open sockets", limit=1)
            assert hit.id == "opening a socket"
            assert (await store.schema("notes")).model == "aiovec-demo-hash-256"

    await used(":memory:", config=toml('kind = "demo"'))
    described: Any = {"default": {"kind": "demo", "batch_size": 8}}
    # An app's own description comes before that of the file.
    config = toml('kind = "openai"\nmodel = "none"\ndim = 2\nbase_url = "http://127.0.0.1:9"')
    await used(tmp_path / "notes.db", embedders=described, config=config)
    async with aiovec.connect(":memory:", embedder="demo", embedders={"mine": Plain()}) as store:
        for using, dim in (("default", 256), ("mine", 2)):
            embed = Embed("body", using=using)
            await store.create_table(using, Schema(fields={"body": str}, embed=embed))
            await store.insert(using, rows(2))
            assert len(await store.search(using, "text 1")) == 2
            assert (await store.schema(using)).dim == dim

    def search() -> list[str]:
        with sync.connect(tmp_path / "notes.db", embedders=described) as plain:
            return [hit.id for hit in plain.search("notes", "zipped", limit=1)]

    assert await asyncio.to_thread(search) == ["reading zip files"]
    monkeypatch.setenv("AIOVEC_RETRIEVAL__EMBEDDERS__DEFAULT__KIND", "demo")
    await used(":memory:")


def saved_model(folder: Path, name: str = "embeddings", **tensor: Any) -> Path:
    """Write a folder as model2vec does, with three words and their vectors of two numbers."""
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir()
    words = tokenizers.models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.array([[0, 0], [3, 0], [0, 4]], dtype="<f4")
    described = {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24], **tensor}
    header = json.dumps({"__metadata__": {}, name: described}).encode()
    parts = (len(header).to_bytes(8, "little"), header, vectors.tobytes())
    (folder / "model.safetensors").write_bytes(b"".join(parts))
    return folder


async def test_a_static_model_needs_no_service_and_no_download(tmp_path: Path) -> None:
    pytest.importorskip("wordllama")
    place = tmp_path / "notes.db"
    schema = Schema(fields={"body": str}, embed=Embed("body"))
    bodies = ["a cat sleeps on the sofa", "the stock market fell", " "]
    async with aiovec.connect(place, embedder="local") as store:
        await store.create_table("notes", schema)
        await store.insert("notes", [{"id": body, "body": body} for body in bodies])
        made = await store.schema("notes")
        assert (made.dim, made.model) == (256, "wordllama-l2-supercat-256")
    async with aiovec.connect(place) as store:  # by the table's description
        for query, id in (("kittens on a couch", bodies[0]), ("shares lost value", bodies[1])):
            (hit,) = await store.search("notes", query, limit=1, include_vector=True)
            assert hit.id == id
            assert np.linalg.norm(np.asarray(hit.vector)) == pytest.approx(1)


async def test_a_static_model_is_loaded_from_a_folder_the_app_names(tmp_path: Path) -> None:
    model = {"kind": "local", "model": str(saved_model(tmp_path / "model"))}
    async with aiovec.connect(tmp_path / "notes.db", embedder=model) as store:
        await store.create_table("notes", Schema(fields={"body": str}, embed=Embed("body")))
        bodies = ("cat", "cat dog", "dog cat dog dog cat cat cat cat")
        rows = [{"id": str(n), "body": body} for n, body in enumerate(bodies)]
        await store.insert("notes", rows)
        stored = await store.get("notes", ["0", "1", "2"], include_vector=True)
        vectors = np.array([row.vector for row in stored])
        share = 12 / math.hypot(12, 15)
        expected = np.array([[1, 0], [0.6, 0.8], [15 * share / 12, share]])
        assert vectors == pytest.approx(expected)
    async with aiovec.connect(tmp_path / "notes.db") as store:  # a stranger's file may name it
        with pytest.raises(EmbeddingError, match="no model is loaded from a folder"):
            await store.search("notes", "dog")


UNREADABLE: list[tuple[dict[str, Any], dict[str, Any], bytes | None, str]] = [
    # Keys of the description, the file's claims about its tensor, its bytes, and the error.
    ({"dim": 3}, {}, None, "dim is 3, but the model .* has 2"),
    ({}, {"name": "weights"}, None, "has no tensor 'embeddings'"),
    ({}, {"shape": [3, 2000]}, None, "no static model can be read"),
    ({}, {"shape": [10**30, 2]}, None, "no static model"),
    ({}, {"dtype": "I64"}, None, "no static model can be read"),
    ({}, {"data_offsets": [-999, 24]}, None, "positive"),
    ({}, {"data_offsets": []}, None, "no static model"),
    ({"model": "/"}, {}, None, "No such file"),
    ({}, {}, b"\xff" * 100, "is not a safetensors file"),
    ({}, {}, b"\x01\0\0\0\0\0\0\x001", "no static model"),
    ({}, {}, b'\x04\0\0\0\0\0\0\0"ab"', "no static model"),
]


async def test_a_static_model_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for number, (options, tensor, content, words) in enumerate(UNREADABLE):
        folder = saved_model(tmp_path / str(number), **tensor)
        if content is not None:
            (folder / "model.safetensors").write_bytes(content)
        described: Any = {"kind": "local", "model": str(folder), **options}
        with case((options, tensor, content)), pytest.raises(ConfigError, match=words):
            await aiovec.connect(":memory:", embedder=described)


async def test_a_static_model_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    described: Any = {"kind": "local", "model": str(folder)}
    (folder / "tokenizer.json").write_text("{}")
    async with aiovec.connect(":memory:", embedder=described) as store:
        await store.create_table("notes", Schema(fields={"body": str}, embed=Embed("body")))
        with pytest.raises(EmbeddingError, match="no static model can be read") as caught:
            await store.insert("notes", [{"id": "1", "body": "cat"}])
        assert not caught.value.retryable
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"no static model can be read .*tokenizer\.json"):
        await aiovec.connect(":memory:", embedder=described)


async def test_an_apps_embedder_gets_the_kind_of_each_text(
    toml: Toml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Embedder(Plain):
        model = "theirs"

        def __call__(self, texts: list[str], *, kind: str = "") -> Any:
            return [[float(len(text)), 1.0 + (kind == "query")] for text in texts]

    config = imported(toml, monkeypatch, Embedder, "")
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": "a", "body": "abc"}])
        (hit,) = await store.search("notes", "abc", include_vector=True)
        assert np.asarray(hit.vector).tolist() == [3.0, 1.0]
        assert hit.score < 0.99999  # the query's vector is another one
        assert (await store.schema("notes")).model == "theirs"


async def test_local_models_run_in_a_thread(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("fastembed", "sentence-transformers"):
        log: list[Any] = []
        monkeypatch.setitem(sys.modules, kind.replace("-", "_"), stand_in(log))
        config = toml(f'kind = "{kind}"\nmodel = "small"\ndim = 2\nquery_prefix = "q: "')
        async with aiovec.connect(":memory:", config=config) as store:
            await store.create_table("notes", SCHEMA)
            assert not log  # loaded at the first use
            calls = [store.insert("notes", rows(1, n)) for n in range(8)]
            await asyncio.gather(*calls, store.search("notes", "words"))
            assert [entry[:2] for entry in log if entry[0] == "load"] == [("load", "small")]
            assert threading.main_thread() not in {entry[3] for entry in log}
            assert ["q: words"] in [entry[1] for entry in log if entry[0] == "query"]
            assert await store.count("notes") == 8
        config = toml(f'kind = "{kind}"\nmodel = "missing"\ndim = 2')
        async with aiovec.connect(":memory:", config=config) as store:
            await store.create_table("notes", SCHEMA)
            with pytest.raises(EmbeddingError, match="missing is not supported"):
                await store.insert("notes", rows(1))
