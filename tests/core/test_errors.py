"""The tree of errors: exported, drawn in full, picklable, each with its facts."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest
from tests.harness.cases import case

import aiovec
from aiovec import errors

EVERY: dict[type[errors.AiovecError], tuple[tuple[Any, ...], dict[str, Any]]] = {
    errors.AiovecError: (("something failed",), {}),
    errors.ConfigError: (("bad",), {"file": "a.toml", "key": "dim", "accepted": "a number"}),
    errors.BackendNotInstalledError: (("lancedb", "aiovec[lancedb]"), {}),
    errors.ExtensionUnavailableError: (("no extensions", "install pysqlite3"), {}),
    errors.InvalidArgumentError: (("limit", 0, "at least 1"), {}),
    errors.InvalidNameError: (("No", "table", "lower case"), {}),
    errors.TableNotFoundError: (("notes", ["a", "b"]), {}),
    errors.TableExistsError: (("notes",), {}),
    errors.SchemaMismatchError: (("notes", ["dim is 3, not 4"]), {}),
    errors.ModelMismatchError: (("notes", "one", "two"), {}),
    errors.DimensionMismatchError: ((3, 4), {"row": 7, "id": "x"}),
    errors.InvalidVectorError: (("is zero",), {"row": 7, "id": "x"}),
    errors.InvalidRowError: (("must be text",), {"row": 7, "id": "x", "field": "name"}),
    errors.DocumentError: (("a.pdf", "it is encrypted"), {}),
    errors.EmbeddingError: (
        ("default", "HTTP 429"),
        {"model": "m", "row": 7, "id": "x", "status": 429, "retryable": True},
    ),
    errors.DuplicateIdError: (("notes", ["x"]), {"within_call": True}),
    errors.FilterError: (("bad",), {"text": "a = ", "position": 4, "expected": "a value"}),
    errors.UnsupportedError: (("text", "toy"), {"table": "notes"}),
    errors.StoreClosedError: (("notes.db",), {}),
    errors.StoreBusyError: (("another process writes", 1.5), {"in_part": True}),
    errors.StoreFullError: (("notes.db", "the disk is full"), {"in_part": True}),
    errors.OutcomeUnknownError: (("notes.db", "disk I/O error"), {}),
    errors.StoreMovedError: (("notes.db", "lancedb:///notes"), {}),
    errors.StoreReplacedError: (("notes.db", "the file was removed"), {}),
    errors.StoreUnreachableError: (("s3://notes", "timed out"), {}),
    errors.StorePermissionError: (("notes.db", "/data is write-protected"), {}),
    errors.ChangesPrunedError: ((7,), {}),
    errors.CorruptStoreError: (("notes.db", "is no database"), {}),
    errors.MigrationError: (("it cannot go on",), {}),
}


def _classes() -> list[type[errors.AiovecError]]:
    return [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.AiovecError) and cls.__module__ == errors.__name__
    ]


def test_every_error_class_is_listed_here() -> None:
    assert set(EVERY) == set(_classes())


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
    for cls, (args, kwargs) in EVERY.items():
        error = cls(*args, **kwargs)
        parameters = list(inspect.signature(cls).parameters)
        for name, value in [*zip(parameters, args, strict=False), *kwargs.items()]:
            with case((cls, name)):
                if name not in ("message", "hint"):
                    assert vars(error)[name] == value
        assert str(error).strip()
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            with case(cls):
                assert type(again) is cls
                assert str(again) == str(error)
                assert vars(again) == vars(error)


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
