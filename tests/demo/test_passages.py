"""The passages: the docstrings of the standard library, read and not imported."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from aiovec._demo import Passage, stdlib_passages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """The modules that taking the passages imported."""
    return set()


@pytest.fixture(scope="module")
def passages(imported: set[str]) -> list[Passage]:
    before = set(sys.modules)
    found = list(stdlib_passages())
    imported |= set(sys.modules) - before
    return found


def test_there_are_thousands_of_each_kind_under_distinct_names(passages: list[Passage]) -> None:
    assert 3_000 < len(passages) < 20_000
    assert len({passage.name for passage in passages}) == len(passages)
    kinds = [passage.kind for passage in passages]
    assert {kind: kinds.count(kind) > 100 for kind in set(kinds)} == {
        "module": True,
        "class": True,
        "function": True,
    }


def test_a_passage_is_the_docstring_that_stands_there(passages: list[Passage]) -> None:
    import inspect
    import json.decoder

    by_name = {passage.name: passage for passage in passages}
    found = by_name["json.decoder.JSONDecoder.decode"]
    function = json.decoder.JSONDecoder.decode
    assert found.module == "json.decoder"
    assert found.kind == "function"
    assert found.text == inspect.getdoc(function)
    assert found.length == len(found.text)
    assert found.line == inspect.getsourcelines(function)[1]
    assert by_name["json"].kind == "module"
    assert by_name["json"].line == 1
    assert by_name["json.decoder.JSONDecoder"].kind == "class"


def test_tests_applications_and_private_things_are_left_out(passages: list[Passage]) -> None:
    skipped = {"test", "tests", "idlelib", "site-packages", "lib2to3", "turtledemo"}
    for passage in passages:
        assert not skipped.intersection(passage.module.split("."))
        assert not any(part.startswith("_") for part in passage.name.split("."))


def test_nothing_is_imported(passages: list[Passage], imported: set[str]) -> None:
    # antigravity opens a browser when it is imported, this prints a poem.
    dangerous = {"antigravity", "this", "tkinter", "turtle"}
    here = {name for name in dangerous if importlib.util.find_spec(name)}  # some systems part them
    assert here <= {passage.module for passage in passages} | {"this"}
    assert not dangerous & imported


def test_a_folder_of_sources(tmp_path: Path) -> None:
    (tmp_path / "package" / "test").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text('"""What the whole package is for."""\n')
    (tmp_path / "package" / "test" / "skipped.py").write_text('"""A test that is left out."""\n')
    (tmp_path / "broken.py").write_text('"""This one does not parse."""\ndef (:\n')
    (tmp_path / "foreign.py").write_bytes(b'"""An encoding that is not said: \xff."""\n')
    (tmp_path / "latin.py").write_bytes(
        b'# coding: latin-1\n"""An encoding that is said: \xe9."""\n'
    )
    (tmp_path / "code.py").write_text(
        '"""The docstring of the module, code."""\n'
        "try:\n"
        "    def chosen():\n"
        '        """The first of two definitions."""\n'
        "except ImportError:\n"
        "    def chosen():\n"
        '        """The second of two definitions."""\n'
        "class Outer:\n"
        "    class Inner:\n"
        "        async def method(self):\n"
        '            """A method three levels down, whose\n'
        "            second line is indented.\n"
        '            """\n'
        "    def _private(self):\n"
        '        """Nothing that anybody should call."""\n'
        "    def short(self):\n"
        '        """Return self."""\n'
        "def without():\n"
        "    def local():\n"
        '        """Nobody can reach a local function."""\n'
    )
    assert list(stdlib_passages(tmp_path)) == [
        Passage("code", "code", "module", "The docstring of the module, code.", 1),
        Passage("code.chosen", "code", "function", "The first of two definitions.", 3),
        Passage(
            "code.Outer.Inner.method",
            "code",
            "function",
            "A method three levels down, whose\nsecond line is indented.",
            10,
        ),
        Passage("latin", "latin", "module", "An encoding that is said: é.", 1),
        Passage("package", "package", "module", "What the whole package is for.", 1),
    ]


def test_a_folder_without_sources_gives_nothing(tmp_path: Path) -> None:
    assert list(stdlib_passages(tmp_path)) == []
    assert list(stdlib_passages(tmp_path / "missing")) == []
