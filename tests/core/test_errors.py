"""The tree of errors: exported, drawn in full, picklable, each with its facts."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest
from tests.harness.cases import case
from tests.harness.errors import EVERY

import aiovec
from aiovec import errors

# Arguments that only choose the words of a message.
WORDS = {"message", "hint", "reason", "embedder", "own"}


def _classes() -> list[type[errors.AiovecError]]:
    return [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.AiovecError) and cls.__module__ == errors.__name__
    ]


def test_every_error_class_is_listed_here() -> None:
    assert {type(error) for _, error, _ in EVERY} == set(_classes())


def test_every_class_is_exported() -> None:
    names = {cls.__name__ for cls in _classes()}
    assert set(errors.__all__) == names
    assert names <= set(aiovec.__all__)
    assert all(getattr(aiovec, name) is getattr(errors, name) for name in names)


def test_the_tree_drawn_at_the_top_is_complete() -> None:
    drawn = re.findall(r"^[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)
    assert sorted(["AiovecError", *drawn]) == sorted(cls.__name__ for cls in _classes())
    assert all(
        cls is errors.AiovecError or cls.__bases__[0] is errors.AiovecError for cls in _classes()
    )


def test_an_error_carries_its_facts_and_pickles() -> None:
    for _, error, _ in EVERY:
        cls = type(error)
        with case(cls):
            facts = inspect.signature(cls).parameters.keys() - WORDS
            assert vars(error).keys() >= facts
            assert str(error).strip()
            for again in (
                pickle.loads(pickle.dumps(error)),
                copy.copy(error),
                copy.deepcopy(error),
            ):
                assert type(again) is cls
                assert (str(again), vars(again)) == (str(error), vars(error))
    error = errors.EmbeddingError("default", "no", model="m", row=7, id="x", status=429)
    assert (error.embedder, error.model, error.row, error.id, error.status) == (
        "default", "m", 7, "x", 429,
    )  # fmt: skip


def test_an_error_of_another_package_has_facts_of_its_own() -> None:
    """Also in a module whose annotations are classes and not texts."""
    source = """
class FullError(errors.AiovecError):
    _text = "{left} bytes are left"
    left: int
"""
    names = {"errors": errors, "__name__": __name__}
    exec(compile(source, "another.py", "exec", dont_inherit=True), names)
    error: Any = names["FullError"](3)  # type: ignore[operator]
    assert (str(error), error.left) == ("3 bytes are left", 3)


def test_messages_stay_short() -> None:
    ids = [f"id {n}" for n in range(10_000)]
    assert len(str(errors.DuplicateIdError("notes", ids))) < 500
    assert len(str(errors.InvalidArgumentError("x", "y" * 10_000, "short"))) < 500
    text = "x" * 100_000
    assert len(str(errors.FilterError("bad", text=text, position=50_000))) < 500


def test_errors_about_values_are_value_errors() -> None:
    values = {
        errors.ModelMismatchError, errors.DimensionMismatchError, errors.InvalidVectorError,
        errors.InvalidRowError, errors.DuplicateIdError, errors.FilterError,
        errors.InvalidNameError,
    }  # fmt: skip
    assert {cls for cls in _classes() if issubclass(cls, ValueError)} >= values


async def test_an_error_about_a_taken_name_says_what_to_do() -> None:
    async with aiovec.connect(":memory:") as store:
        for name in ("a", "b"):
            await store.create_table(name, aiovec.Schema(2))
        with pytest.raises(
            aiovec.TableExistsError, match="'b' already exists; choose another name"
        ):
            await store.rename_table("a", "b")
