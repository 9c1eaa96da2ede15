"""Models in ONNX format, from a folder or a package."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case
from tests.embed.models import onnx_folder
from tests.harness.command import run

import aiovec
from aiovec import ConfigError, Embed, EmbeddingError, ModelMismatchError, Schema

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

SCHEMA = Schema(fields={"body": str}, embed=Embed("body"))
POOLING = "1_Pooling/config.json"
PROMPTS = "config_sentence_transformers.json"
MEAN = {POOLING: {"pooling_mode": "mean", "embedding_dimension": 2}}


def model(folder: Path, **keys: Any) -> dict[str, object]:
    return {"kind": "onnx", "model": str(folder), **keys}


async def vector_of(text: str, embedder: Any) -> list[float]:
    """Return the vector that a table makes of a text."""
    async with aiovec.connect(":memory:", embedder=embedder) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": "a", "body": text}])
        (row,) = await store.get("notes", ["a"], include_vector=True)
        return np.asarray(row.vector).tolist()


def switches(mode: str) -> dict[str, Any]:
    """Return the file that older versions of sentence-transformers write."""
    modes = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    return {f"pooling_mode_{each}": each == mode for each in modes} | {
        "word_embedding_dimension": 2
    }


def modules(*names: str) -> list[dict[str, str]]:
    paths = ("", "pool", "2_Normalize")
    types = (f"sentence_transformers.models.{name}" for name in names)
    return [{"type": kind, "path": path} for kind, path in zip(types, paths, strict=False)]


# The folder's files, the settings, and the vector of "cat dog", whose words have (3, 0) and (0, 4).
MADE: dict[str, tuple[Mapping[str, Any], dict[str, Any], list[float]]] = {
    "a mean": (MEAN, {}, [0.6, 0.8]),
    "a mean by older files": ({POOLING: switches("mean_tokens")}, {}, [0.6, 0.8]),
    "the first token": ({POOLING: switches("cls_token")}, {}, [1, 0]),
    "the last token": ({POOLING: switches("lasttoken")}, {}, [0, 1]),
    "the last token by newer files": (
        {POOLING: {"pooling_mode": "lasttoken"}}, {}, [0, 1]
    ),
    "a setting": ({}, {"pooling": "mean"}, [0.6, 0.8]),
    "a setting in place of a file": (MEAN, {"pooling": "cls"}, [1, 0]),
    "no scaling, and another folder": (
        {"modules.json": modules("Transformer", "Pooling"), "pool/config.json": MEAN[POOLING]},
        {}, [1.5, 2],
    ),
    "scaling": (
        {
            "modules.json": modules("Transformer", "Pooling", "Normalize"),
            "pool/config.json": MEAN[POOLING],
        },
        {}, [0.6, 0.8],
    ),
    "a length of one token": (
        {**MEAN, "sentence_bert_config.json": {"max_seq_length": 1}}, {}, [1, 0]
    ),
    "the tokenizer's length": (
        {**MEAN, "tokenizer_config.json": {"model_max_length": 1}}, {}, [1, 0]
    ),
    "the model's length": (
        {**MEAN, "tokenizer_config.json": {"model_max_length": 10**30},
         "config.json": {"max_position_embeddings": 1}},
        {}, [1, 0],
    ),
    "a set length": (MEAN, {"max_tokens": 1}, [1, 0]),
    "a prompt": (
        {**MEAN, PROMPTS: {"prompts": {"document": "dog "}}}, {"pooling": "cls"}, [0, 1]
    ),
    "a passage's prompt": (
        {**MEAN, PROMPTS: {"prompts": {"passage": "dog "}}}, {"pooling": "cls"}, [0, 1]
    ),
    "a set prefix": (
        {**MEAN, PROMPTS: {"prompts": {"document": "cat "}}},
        {"document_prefix": "dog ", "max_tokens": 1}, [0, 1],
    ),
}  # fmt: skip


async def test_a_vector_is_made_as_the_folder_and_the_settings_say(tmp_path: Path) -> None:
    for number, (name, (files, keys, expected)) in enumerate(MADE.items()):
        folder = onnx_folder(tmp_path / str(number), files=files)
        with case(name):
            assert await vector_of("cat dog", model(folder, **keys)) == pytest.approx(expected)
    whole = onnx_folder(
        tmp_path / "whole", [[0, 0], [3, 4]], output="sentence_embedding", files=MEAN
    )
    (whole / "onnx").mkdir()
    (whole / "model.onnx").rename(whole / "onnx" / "model_int8.onnx")  # as hubs have it
    assert await vector_of("cat", f"onnx:{whole}") == pytest.approx([0.6, 0.8])


async def test_a_query_gets_its_own_prompt(tmp_path: Path) -> None:
    files = {**MEAN, PROMPTS: {"prompts": {"query": "dog "}}}
    folder = onnx_folder(tmp_path / "model", files=files)
    for keys, nearest in (({}, "dog"), ({"query_prefix": "cat "}, "cat")):
        cls = model(folder, pooling="cls", **keys)
        async with aiovec.connect(":memory:", embedder=cls) as store:
            await store.create_table("notes", SCHEMA)
            await store.insert("notes", [{"id": body, "body": body} for body in ("cat", "dog")])
            (hit,) = await store.search("notes", "cat", limit=1)
            assert (hit.id, hit.score) == (nearest, pytest.approx(1))


async def test_a_model_is_known_by_its_files_not_by_its_folder(tmp_path: Path) -> None:
    folder, place = onnx_folder(tmp_path / "model", files=MEAN), tmp_path / "notes.db"
    async with aiovec.connect(place, embedder=model(folder)) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": "a", "body": "cat"}])
    shutil.copytree(folder, tmp_path / "copy")
    for described in (model(tmp_path / "copy"), model(folder, query_prefix="dog ")):
        async with aiovec.connect(place, embedder=described) as store:
            assert await store.search("notes", "cat")
    changed = onnx_folder(tmp_path / "other", [[0, 0], [0, 3], [4, 0]], files=MEAN)
    shutil.copyfile(changed / "model.onnx", folder / "model.onnx")
    large = tmp_path / "large"  # whose weights are in a second file
    shutil.copytree(tmp_path / "copy", large)
    (large / "model.onnx_data").write_bytes(b"weights")
    for described in (model(folder), model(tmp_path / "copy", pooling="cls"), model(large)):
        async with aiovec.connect(place, embedder=described) as store:
            with case(described), pytest.raises(ModelMismatchError, match="onnx-"):
                await store.search("notes", "cat")


async def test_a_model_in_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "small_model_of_tests"
    onnx_folder(package / "model", files=MEAN)
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    place = tmp_path / "notes.db"
    named = "onnx:package:small_model_of_tests/model"
    async with aiovec.connect(place, embedder=named) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": "a", "body": "cat"}, {"id": "b", "body": "dog"}])
    async with aiovec.connect(place) as store:  # by the table's description
        (hit,) = await store.search("notes", "dog", limit=1)
        assert hit.id == "b"
    with pytest.raises(ConfigError, match="the package no_such_package is not installed"):
        await aiovec.connect(":memory:", embedder="onnx:package:no_such_package")


async def test_a_folder_that_only_the_table_names_is_not_loaded(tmp_path: Path) -> None:
    folder = onnx_folder(tmp_path / "model", files=MEAN)
    for number, recipe in enumerate(
        ({"kind": "onnx"}, {"kind": "onnx", "model": str(folder)},
         {"kind": "onnx", "model": "package:../model"})
    ):  # fmt: skip
        place = tmp_path / f"{number}.db"
        schema = Schema(2, model="m", fields={"body": str}, embed=Embed("body", recipe=recipe))
        async with aiovec.connect(place) as store:
            await store.create_table("notes", schema)
            with (
                case(recipe),
                pytest.raises(EmbeddingError, match="folder that only a table names"),
            ):
                await store.search("notes", "cat")


async def test_a_relative_folder_starts_at_the_toml_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_folder(tmp_path / "models" / "small", files=MEAN)
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval.embedders.default]\nkind = "onnx"\nmodel = "models/small"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with aiovec.connect(":memory:", config=config) as store:
        await store.create_table("notes", SCHEMA)
        assert (await store.schema("notes")).dim == 2


async def test_an_unusable_folder_is_refused_when_the_store_opens(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({POOLING: switches("max_tokens")}, "pooling is .*known are mean, cls, lasttoken"),
        ({POOLING: {"pooling_mode": ["mean", "cls"]}}, "pooling is"),
        ({POOLING: {"pooling_mode": "mean", "include_prompt": False}}, "pooling is"),
        ({"modules.json": modules("Transformer", "Dense")}, "modules.json has .*'Dense'"),
        ({"modules.json": [3]}, "no ONNX model can be read"),
        ({"config.json": []}, "no ONNX model can be read"),
    ]
    for number, (files, words) in enumerate(cases):
        folder = onnx_folder(tmp_path / str(number), files=files)
        with case(files), pytest.raises(ConfigError, match=words) as caught:
            await aiovec.connect(":memory:", embedder=model(folder))
        assert caught.value.key == "retrieval.embedders.default.model"
    for missing in ("model.onnx", "tokenizer.json"):
        folder = onnx_folder(tmp_path / f"without {missing}", files=MEAN)
        (folder / missing).unlink()
        with (
            case(missing),
            pytest.raises(ConfigError, match=f"No such file.*{missing}.*expected a"),
        ):
            await aiovec.connect(":memory:", embedder=model(folder))
    folder = onnx_folder(tmp_path / "two", files=MEAN)
    for name in ("a.onnx", "b.onnx"):
        shutil.copyfile(folder / "model.onnx", folder / name)
    await (await aiovec.connect(":memory:", embedder=model(folder))).close()
    (folder / "model.onnx").unlink()
    with pytest.raises(ConfigError, match="several ONNX files, and none"):
        await aiovec.connect(":memory:", embedder=model(folder))
    with pytest.raises(ConfigError, match=r"model is missing; the kind 'onnx' needs it"):
        await aiovec.connect(":memory:", embedder="onnx")


async def test_an_unusable_model_is_refused_at_its_first_use(tmp_path: Path) -> None:
    deep = [[[0, 0]], [[1, 0]], [[0, 1]]]
    cases = {
        "an unknown input": onnx_folder(tmp_path / "1", inputs=("input_ids", "pixels"), files=MEAN),
        "no pooling": onnx_folder(tmp_path / "2", files={"config.json": {"hidden_size": 2}}),
        "a wrong shape": onnx_folder(tmp_path / "3", deep, files=MEAN),
        "no model": onnx_folder(tmp_path / "4", files=MEAN),
        "no tokenizer": onnx_folder(tmp_path / "5", files=MEAN),
    }
    (cases["no model"] / "model.onnx").write_bytes(b"no model")
    (cases["no tokenizer"] / "tokenizer.json").write_text("{}")
    words = {
        "an unknown input": "has the inputs .*pixels",
        "no pooling": r"shape \(1, 1, 2\) .*pooling set to one of mean",
        "a wrong shape": r"shape \(1, 1, 1, 2\)",
    }
    for name, folder in cases.items():
        async with aiovec.connect(":memory:", embedder=model(folder)) as store:
            await store.create_table("notes", SCHEMA)
            expected = words.get(name, "no ONNX model can be read")
            with case(name), pytest.raises(EmbeddingError, match=expected) as caught:
                await store.insert("notes", [{"id": "a", "body": "cat"}])
            assert not caught.value.retryable
    short = onnx_folder(tmp_path / "6", files=MEAN)
    async with aiovec.connect(":memory:", embedder=model(short, dim=3)) as store:
        await store.create_table("notes", SCHEMA)
        with pytest.raises(EmbeddingError, match="vectors of 2 numbers, but dim is 3"):
            await store.insert("notes", [{"id": "a", "body": "cat"}])


async def test_a_search_does_not_wait_for_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()
    onnxruntime = types.ModuleType("onnxruntime")

    class Session:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def get_inputs(self) -> Any:
            return [types.SimpleNamespace(name="input_ids")]

        def get_outputs(self) -> Any:
            return [types.SimpleNamespace(name="sentence_embedding")]

        def run(self, _: Any, inputs: Any) -> Any:
            if inputs["input_ids"].tolist() == [[2]]:  # dog
                started.set()
                go_on.wait(60)
            return [np.float32([[1, 2]])]

    class Options:
        def add_session_config_entry(self, *_: Any) -> None: ...

    onnxruntime.InferenceSession = Session  # type: ignore[attr-defined]
    onnxruntime.SessionOptions = Options  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime)
    folder = onnx_folder(tmp_path / "model", files=MEAN)
    async with aiovec.connect(":memory:", embedder=model(folder)) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": "a", "body": "cat"}])
        slow = asyncio.create_task(store.insert("notes", [{"id": "b", "body": "dog"}]))
        await asyncio.to_thread(started.wait)
        assert [hit.id for hit in await store.search("notes", "cat cat")] == ["a"]
        assert not slow.done()
        go_on.set()
        await slow


def test_commands_take_a_folder_and_keep_how_the_table_pools(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for text in ("cat dog", "dog cat"):
        (tmp_path / "notes" / f"{text}.txt").write_text(text)
    folder, store = onnx_folder(tmp_path / "model"), ("-s", tmp_path / "notes.db")
    keys = json.dumps(model(folder, pooling="cls"))
    assert run("import", tmp_path / "notes", *store, "--embedder", keys).code == 0
    found = run(
        "search", "dog", *store, "--by", "vector", "--limit", 1, "--embedder", f"onnx:{folder}"
    )
    assert (found.code, "dog cat.txt" in found.out) == (0, True), found.err
    alone = run("search", "dog", *store, "--by", "vector")
    assert "no model is loaded from a folder that only a table names" in alone.err
