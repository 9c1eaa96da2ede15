"""The recipe of an embedder that a table keeps, and the limits of a stranger's recipe."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import case
from tests.embed.models import stand_in
from tests.embed.service import DIM, Service

import aiovec
from aiovec import (
    ConfigError,
    Embed,
    EmbeddingError,
    Field,
    InvalidArgumentError,
    InvalidVectorError,
    Schema,
)

FIELDS: dict[str, Any] = {"body": Field(str, text=True)}
ROWS = [{"id": "zip", "body": "reading zip files"}, {"id": "net", "body": "opening a socket"}]


async def a_table(target: Path, recipe: Any, *, model: str = "m", dim: int = DIM) -> None:
    """Create a table with this recipe of its embedder, as a stranger may."""
    schema = Schema(dim, model=model, fields=FIELDS, embed=Embed("body", recipe=recipe))
    async with aiovec.connect(target) as store:
        await store.create_table("notes", schema)
        await store.insert("notes", [{**row, "embedding": [1.0] * dim} for row in ROWS])


def bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_a_recipe_keeps_what_decides_the_vectors_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", "sk-0123456789abcdef")
    async with Service() as service:
        described: dict[str, Any] = {
            "kind": "openai", "model": "m", "dim": DIM, "api_key_env": "THEIR_KEY", "timeout": 3.0,
            "base_url": service.url.replace("//", "//me:hidden@"), "query_prefix": "q: ",
        }  # fmt: skip
        async with aiovec.connect(tmp_path / "notes.db", embedder=described) as store:
            await store.create_table("notes", Schema(fields=FIELDS, embed=Embed("body")))
            embed = (await store.schema("notes")).embed
        assert embed is not None
        assert embed.recipe == {
            "kind": "openai", "api_key_env": "THEIR_KEY", "query_prefix": "q: ",
            "base_url": service.url.replace("//", "//***@"),
        }  # fmt: skip
    held = bytes_in(tmp_path)
    assert b"THEIR_KEY" in held
    assert b"hidden" not in held
    assert b"0123456789abcdef" not in held


async def test_a_given_embedder_comes_before_the_tables(tmp_path: Path) -> None:
    def ones(texts: list[str]) -> Any:
        return [[1.0, 2.0] for _ in texts]

    await a_table(tmp_path / "notes.db", {"kind": "demo"}, dim=2)
    given = aiovec.embedder(ones, model="m", dim=2)
    async with aiovec.connect(tmp_path / "notes.db", embedder=given) as store:
        (hit, _) = await store.search("notes", "any", include_vector=True)
        assert hit.score < 1
        # A table of the same schema may describe its embedder in another way.
        same = Schema(2, model="m", fields=FIELDS, embed=Embed("body"))
        await store.create_table("notes", same, exist_ok=True)
        assert hash(same) == hash(await store.schema("notes"))


# A stranger's table


async def test_a_host_that_only_the_table_names_gets_no_text_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    monkeypatch.setenv("THEIR_KEY", "sk-0123456789abcdef")
    async with Service() as service:
        for number, (keys, reason) in enumerate(
            (
                ({"base_url": service.url}, service.url),
                ({"base_url": service.url, "api_key_env": "OPENAI_API_KEY"}, service.url),
                ({"base_url": "http://api.openai.com/v1"}, "http://api.openai.com"),
                ({"base_url": "https://api.openai.com:1/v1"}, "api.openai.com:1"),
                ({"base_url": "https://api.openai.com@example.com/v1"}, "example.com"),
                ({"base_url": "https://api.openai.com.example.com/v1"}, "example.com"),
                ({"api_key_env": "THEIR_KEY"}, "THEIR_KEY"),
                ({"base_url": "ftp://example.com"}, "does not describe correctly"),
            )
        ):
            path = tmp_path / f"{number}.db"
            await a_table(path, {"kind": "openai", **keys})
            async with aiovec.connect(path) as store:
                for call in (
                    store.search("notes", "secret words"),
                    store.search_hybrid("notes", "secret words"),
                    store.insert("notes", [{"id": "c", "body": "secret words"}]),
                    store.update("notes", {"body": "secret words"}, ids="zip"),
                ):
                    with case(keys), pytest.raises(EmbeddingError) as caught:
                        await call
                    for words in (reason, "embedder=", "[retrieval.embedders.default]"):
                        assert words in str(caught.value), keys
                    assert "0123456789abcdef" not in str(caught.value)
                assert await store.count("notes") == 2
                assert len(await store.search_text("notes", "socket")) == 1
        assert not service.connections
        # The same service, once the app names it.
        described = {"kind": "openai", "model": "m", "dim": DIM, "base_url": service.url}
        async with aiovec.connect(tmp_path / "0.db", embedder=described) as store:
            (hit, _) = await store.search("notes", "secret words")
            assert hit.score < 1
        assert [request.texts for request in service.requests] == [["secret words"]]


async def test_a_table_may_name_the_default_service_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name, keys in (("a", {}), ("b", {"base_url": "https://api.openai.com/v1"})):
        await a_table(tmp_path / f"{name}.db", {"kind": "openai", **keys})
        async with aiovec.connect(tmp_path / f"{name}.db") as store:
            with pytest.raises(EmbeddingError, match="OPENAI_API_KEY holds no key"):
                await store.search("notes", "words")


def write_untrusted_code(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "their_code.py").write_text("open('ran', 'w').close()\ndef embed(texts): ...\n")


async def test_code_or_a_folder_that_only_the_table_names_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log: list[Any] = []
    for name in ("fastembed", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, stand_in(log, DIM))
    write_untrusted_code(tmp_path)
    for number, (kind, model, reason) in enumerate(
        (
            ("their_code:embed", "m", "their_code:embed"),
            ("os:getcwd", "m", "no code is run"),
            ("sentence-transformers", "mine", "a folder"),
            ("sentence-transformers", str(tmp_path), "a folder"),
            ("sentence-transformers", "../mine", "a folder"),
            ("fastembed", r"\\host\share\model", "a folder"),
            ("sentence-transformers", "org/small", ""),
            ("fastembed", "small", ""),
        )
    ):
        path = tmp_path / f"{number}.db"
        await a_table(path, {"kind": kind}, model=model)
        async with aiovec.connect(path) as store:
            if reason:
                with case(kind), pytest.raises(EmbeddingError, match=reason):
                    await store.search("notes", "words")
            else:
                assert await store.search("notes", "words")
    assert "ran" not in os.listdir(tmp_path)
    # Nothing is downloaded because a table says so.
    offline = {"local_files_only": True}
    loads = [entry[1:3] for entry in log if entry[0] == "load"]
    assert loads == [("org/small", offline), ("small", offline)]


async def test_an_invalid_recipe_is_refused(tmp_path: Path) -> None:
    wrong: tuple[Any, ...] = (
        {}, [], "demo", {"model": "m"}, {"kind": "demo", "api_key": "sk-secret"}, {"kind": 3},
        {"kind": "openai", "base_url": ["x"]},
    )  # fmt: skip
    for recipe in wrong:
        with case(recipe), pytest.raises(InvalidArgumentError, match="recipe"):
            Embed("body", recipe=recipe)
        form = {"dim": 2, "fields": {"body": "text"}, "embed": {"field": "body", "recipe": recipe}}
        with case(recipe), pytest.raises(InvalidArgumentError, match="recipe"):
            Schema.from_json(json.dumps(form))


# A schema without dim


async def test_a_schema_without_dim_gets_it_from_the_embedder() -> None:
    calls: list[list[str]] = []

    async def pairs(texts: list[str]) -> Any:
        calls.append(list(texts))
        return [[float(len(text)), 1.0] for text in texts]

    schema = Schema(fields=FIELDS, embed=Embed("body"))
    assert Schema.from_json(schema.to_json()) == schema
    async with aiovec.connect(":memory:", embedder=aiovec.embedder(pairs, model="m")) as store:
        assert calls == []
        for _ in range(2):
            await store.create_table("notes", schema, exist_ok=True)
        await store.insert("notes", ROWS)
        stored = await store.schema("notes")
        assert (stored.dim, stored.model, len(calls)) == (2, "m", 2)  # once for the length
    async with aiovec.connect(":memory:") as store:
        with pytest.raises(EmbeddingError, match=r"the length of its vectors.*Schema\(dim"):
            await store.create_table("notes", schema)
        assert await store.tables() == []
    for make in (lambda: Schema(fields=FIELDS), schema.to_arrow):
        with pytest.raises(InvalidArgumentError, match="dim"):
            make()
    fails = aiovec.embedder(lambda texts: [[[1]]], model="m")
    async with aiovec.connect(":memory:", embedder=fails) as store:
        with pytest.raises(EmbeddingError, match="not a vector of some numbers"):
            await store.create_table("notes", schema)


# Embedders of an app


async def test_a_table_without_an_embedder_says_what_to_do() -> None:
    async with aiovec.connect(":memory:", embedder="demo") as store:
        await store.create_table("docs", Schema(3, fields={"title": Field(str, text=True)}))
        for call in (store.search("docs", "hello"), store.search_hybrid("docs", "hello")):
            with pytest.raises(InvalidVectorError) as caught:
                await call
            for words in ("no embedder", "search_text()", "Schema(embed=Embed('title'))"):
                assert words in str(caught.value)
        with pytest.raises(InvalidVectorError) as caught:
            await store.insert("docs", [{"id": "z", "vector": [1, 2, 3], "title": "x"}])
        for words in ("row 0 (id 'z')", "'embedding'", "it has 'vector'", "vector='vector'"):
            assert words in str(caught.value)
        assert await store.count("docs") == 0


async def test_hybrid_searches_take_the_weight_of_the_embedder(tmp_path: Path) -> None:
    """Every process that opens the table takes it, also without the embedder."""

    class Mine:
        model, dim, weight = "mine", DIM, 0.9

        def __call__(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, float(len(text))] + [1.0] * (DIM - 2) for text in texts]

    def plain(texts: list[str]) -> list[list[float]]:
        return Mine()(texts)

    embedders: dict[str, Any] = {
        "mine": Mine(), "other": aiovec.embedder(plain, model="mine", dim=DIM), "demo": "demo",
        **({"local": "local"} if find_spec("wordllama") else {}),
    }  # fmt: skip
    tables: dict[str, tuple[Schema, float]] = {
        "none": (Schema(DIM, fields=FIELDS), 0.5),
        "demo": (Schema(fields=FIELDS, embed=Embed("body", "demo")), 0.5),
        "other": (Schema(fields=FIELDS, embed=Embed("body", "other")), 0.65),
        "mine": (Schema(fields=FIELDS, embed=Embed("body", "mine")), 0.9),
        "named": (Schema(fields=FIELDS, embed=Embed("body", "mine", weight=0.2)), 0.2),
    }
    if find_spec("wordllama") is not None:
        local = Embed("body", "local")
        tables["english"] = Schema(fields=FIELDS, embed=local, analyzer="english"), 0.5
        tables["german"] = Schema(fields=FIELDS, embed=local, analyzer="german"), 0.2
    words = [f"wool {'hat ' * n}" for n in range(8)]
    async with aiovec.connect(tmp_path / "w.db", embedders=embedders) as store:
        for name, (schema, _) in tables.items():
            await store.create_table(name, schema)
            rows = [{"id": f"{n}", "body": text} for n, text in enumerate(words)]
            if schema.embed is None:
                rows = [{**row, "embedding": [1.0] * DIM} for row in rows]
            await store.insert(name, rows)
    async with aiovec.connect(tmp_path / "w.db") as store:
        for name, (_, weight) in tables.items():
            with case(name):
                schema = await store.schema(name)
                query = [float(n + 1) for n in range(schema.dim)]
                hits = await store.search_hybrid(name, "wool hat", query)
                fusion = aiovec.Weighted(weight, 1 - weight)
                assert hits == await store.search_hybrid(name, "wool hat", query, fusion=fusion)
    for wrong in (-0.1, 2, True, "0.5"):
        with case(wrong), pytest.raises(InvalidArgumentError, match="weight"):
            Embed("body", weight=wrong)  # type: ignore[arg-type]
        Mine.weight = wrong  # type: ignore[assignment]
        with case(wrong), pytest.raises(ConfigError, match="weight"):
            aiovec.connect(tmp_path / "w.db", embedder=Mine())
