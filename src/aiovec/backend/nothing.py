"""A context in which nothing is done."""

from __future__ import annotations

from contextlib import AbstractContextManager


class Nothing(AbstractContextManager[None, None]):
    """As ``nullcontext``, but makes no bound method for each ``with``: thousands may be waiting."""

    @staticmethod
    def __enter__() -> None: ...

    @staticmethod
    def __exit__(*_: object) -> None: ...


NOTHING = Nothing()
