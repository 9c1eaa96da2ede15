"""Embedding models: vectors of two models never meet in one table."""

from __future__ import annotations

import pytest
from tests.contract.base import ContractBase
from tests.harness.values import DIM, small_rows, vectors

from aiovec import Schema, VectorStore
from aiovec.errors import ModelMismatchError


class ModelsContract(ContractBase):
    """``model=`` on writes and on searches."""

    async def test_another_model_is_refused(self, store: VectorStore) -> None:
        await store.create_table("notes", Schema(DIM, model="one"))
        await store.insert("notes", small_rows(2), model="one")
        query = vectors(1)[0]
        for call in (
            lambda: store.insert("notes", small_rows(2, start=5), model="two"),
            lambda: store.upsert("notes", small_rows(2, start=5), model="two"),
            lambda: store.insert("notes", [], model="two"),
            lambda: store.search("notes", query, model="two"),
            lambda: store.search_many("notes", [query], model="two"),
        ):
            with pytest.raises(ModelMismatchError) as caught:
                await call()
            assert isinstance(caught.value, ValueError)
            assert (caught.value.table, caught.value.expected, caught.value.given) == (
                "notes", "one", "two",
            )  # fmt: skip
        assert await store.count("notes") == 2

    async def test_the_tables_model_or_none_is_fine(self, store: VectorStore) -> None:
        await store.create_table("notes", Schema(DIM, model="one"))
        await store.insert("notes", small_rows(1), model="one")
        await store.insert("notes", small_rows(1, start=1))
        await store.upsert("notes", small_rows(3), model="one")
        query = vectors(1)[0]
        assert len(await store.search("notes", query, model="one")) == 3
        assert len(await store.search("notes", query)) == 3
        (hits,) = await store.search_many("notes", [query], model="one")
        assert len(hits) == 3

    async def test_a_table_without_a_model_takes_any(self, store: VectorStore) -> None:
        await store.create_table("notes", Schema(DIM))
        await store.insert("notes", small_rows(2), model="one")
        await store.upsert("notes", small_rows(3), model="two")
        assert len(await store.search("notes", vectors(1)[0], model="three")) == 3
