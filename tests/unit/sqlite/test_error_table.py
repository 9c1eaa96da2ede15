"""The table in ``aiovec_sqlite.errors``: each error of the driver comes out as the one it is."""

from __future__ import annotations

import builtins
import errno
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import case

import aiovec
from aiovec import AiovecError, CorruptStoreError, FilterError, StoreBusyError, StoreFullError
from aiovec.backend.files import writing_to
from aiovec_sqlite.driver import load_driver
from aiovec_sqlite.errors import DamageError, TextDamageError, translate, translated

# By SQLite's primary result codes; of the others, up to the last one, none has an error of its own.
CODES: dict[int, type[AiovecError]] = {
    5: StoreBusyError, 6: StoreBusyError, 11: CorruptStoreError, 13: StoreFullError,
    26: CorruptStoreError,
}  # fmt: skip
LAST_CODE = 28

# Of errors without a code, or with that of any error.
SAYS: list[tuple[type[AiovecError], str, str]] = [
    (CorruptStoreError, "no such table: notes.vec_rowids", "the file is damaged"),
    (CorruptStoreError, "Could not decode to UTF-8 column 'id'", "the file is damaged"),
    (CorruptStoreError, "malformed JSON", "the file is damaged"),
    (CorruptStoreError, "cannot store TEXT value in INTEGER column n", "the file is damaged"),
    (CorruptStoreError, "Internal sqlite-vec error: no chunk", "the file is damaged"),
    (CorruptStoreError, "fts5: corruption found in notes.text7", "drop_field_index"),
    (StoreFullError, "database or disk is full", "full"),
    (StoreBusyError, "database is locked", "another process"),
    (AiovecError, "disk I/O error", "nothing was changed"),
    (AiovecError, "unable to open database file", "cannot be opened"),
    (AiovecError, "error in tokenizer constructor", "SQLite 3.45"),
    (FilterError, "parser stack overflow", "nested too deeply"),
    (FilterError, "LIKE or GLOB pattern too complex", "LIKE pattern"),
    (AiovecError, "something new", "SQLite failed on"),
]


def test_each_class_and_code_of_the_driver_becomes_its_error(tmp_path: Path) -> None:
    target = str(tmp_path / "a.db")
    driver = load_driver()
    classes = [each for each in vars(driver).values() if isinstance(each, type)]
    classes = [each for each in classes if issubclass(each, driver.Error)]
    assert {"OperationalError", "IntegrityError", "ProgrammingError", "InterfaceError"} <= {
        each.__name__ for each in classes
    }
    for kind in classes:
        for code in (None, *range(1, LAST_CODE + 1)):
            for extended in (0, 1 << 8, 3 << 8) if code else (0,):
                error = kind("it failed")
                if code is not None:
                    error.sqlite_errorcode = code | extended
                with case((kind.__name__, code)):
                    with pytest.raises(AiovecError, match=r"a\.db") as caught, translated(target):
                        raise error
                    assert type(caught.value) is CODES.get(code or 0, AiovecError)
                    assert caught.value.__cause__ is error


def test_an_error_without_a_code_is_recognized_by_its_text(tmp_path: Path) -> None:
    for kind, text, says in SAYS:
        with case(text):
            translated_error = translate(
                load_driver().OperationalError(text), str(tmp_path / "a.db")
            )
            assert type(translated_error) is kind
            assert says in str(translated_error)


def test_an_error_about_a_protected_file_is_one_of_permission(tmp_path: Path) -> None:
    error: Any = load_driver().OperationalError("attempt to write a readonly database")
    path = tmp_path / "a.db"
    path.touch(0o444)
    kind = type(translate(error, str(path)))
    assert kind is (aiovec.StorePermissionError if not _writes(path) else AiovecError)


def _writes(path: Path) -> bool:
    try:
        path.open("r+b").close()
    except PermissionError:
        return False
    return True  # as the superuser does


def test_only_unreadable_stored_values_mean_damage() -> None:
    unreadable = UnicodeDecodeError("utf-8", b"\xee", 0, 1, "invalid")
    for error in (DamageError("a chunk is cut"), TextDamageError("notes", "its entry"), unreadable):
        with pytest.raises(CorruptStoreError, match="damaged"), translated("a.db"):
            raise error
    product_errors = {AiovecError, *AiovecError.__subclasses__()}
    for kind in (each for each in vars(builtins).values() if isinstance(each, type)):
        if issubclass(kind, Exception) and not issubclass(kind, (UnicodeError, ExceptionGroup)):
            with case(kind.__name__):
                # A mistake in the code, or of a caller, says nothing about the file.
                with pytest.raises(kind) as caught, translated("a.db"):
                    raise kind
                assert type(caught.value) not in product_errors


def test_errors_of_the_operating_system() -> None:
    for number, name in sorted(errno.errorcode.items()):
        if number in (errno.EPIPE, errno.ESHUTDOWN):  # a reader that has seen enough
            continue
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        with case(name):
            with pytest.raises(AiovecError, match=r"a\.db") as caught, writing_to("a.db"):
                raise OSError(number, "it failed")
            assert type(caught.value) is (StoreFullError if full else AiovecError)
