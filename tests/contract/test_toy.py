"""The contract suite on the toy backend: the suite asks for nothing that few lines cannot give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from tests.contract.base import open_store
from tests.contract.contract import BackendContract
from tests.harness.values import DIM, small_rows
from tests.toy_backend import ToyBackend

from aiovec import AiovecError, Schema
from aiovec.backend import Backend, Found, TableHandle, VectorQuery


class TestToy(BackendContract):
    deviations: ClassVar[Mapping[str, str]] = {"loop time": "the toy works on the event loop"}
    persistent = False
    slow = frozenset({
        "test_large_arguments", "test_large_rows", "test_limits_beyond_4096",
        "test_a_loop_that_is_closed_without_an_end", "test_a_loop_that_ends_while_calls_run",
        "test_a_loop_that_ends_while_the_store_closes", "test_large_filters", "test_many_queries",
        "test_many_rows_in_and_out", "test_large_keyword_searches", "test_long_phrases_do_not_hang",
        "test_a_filter_never_starves_a_keyword_search",
        "test_groups_of_keyword_and_hybrid_searches", "test_a_filter_never_starves_a_search",
        "test_groups", "test_highlights_of_a_word_that_a_text_repeats",
        "test_hybrid_fuses_the_two_searches", "test_rows_that_nobody_else_holds",
        "test_state_machine", "test_many_rows_are_ordered_by_a_payload", "test_cancelled_reads",
        "test_random_texts_match_the_oracle", "test_many_filters_at_once",
        "test_groups_far_down_the_ranking", "test_fuzzed_queries_match_the_oracle",
        "test_distinct_of_thousands_of_values_while_rows_come",
    })  # fmt: skip

    def make_backend(self, path: Path) -> Backend:
        return ToyBackend()


class CarelessToy(ToyBackend):
    """Loses a part of its answers."""

    def __init__(self, spoil: Callable[[list[Found]], list[Found]]) -> None:
        super().__init__()
        self._spoil = spoil

    async def search(self, table: TableHandle, queries: Sequence[VectorQuery]) -> list[Found]:
        return self._spoil(await super().search(table, queries))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found[1:],
        lambda found: [replace(one, measures=one.measures[1:]) for one in found],
        lambda found: [replace(one, measures=[0.0, *one.measures]) for one in found],
    ],
    ids=["an answer", "a distance", "a row"],
)
async def test_answers_that_cannot_be_paired_are_refused(
    spoil: Callable[[list[Found]], list[Found]],
) -> None:
    """A3: a backend that loses a row or an answer never has it taken for its neighbour."""
    store = await open_store(CarelessToy(spoil))
    await store.create_table("notes", Schema(DIM))
    rows = small_rows(5)
    await store.insert("notes", rows)
    with pytest.raises(AiovecError, match="the backend gave"):
        await store.search_many("notes", [row["embedding"] for row in rows[:3]], limit=2)
    await store.close()
