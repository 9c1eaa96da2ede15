"""Hints for callers who know other libraries: our names for arguments and methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

from ..errors import AiovecError
from .messages import did_you_mean, shown

_F = TypeVar("_F", bound=Callable[..., Any])
_P = ParamSpec("_P")
_T = TypeVar("_T")

# Names in other libraries, each with our name for it or, after a semicolon, with advice.
_ARGUMENTS = {
    "k": "limit", "top": "limit", "top_k": "limit", "n_results": "limit",
    "filter": "where", "filters": "where",
    "fields": "select", "columns": "select", "embedding": "vector",
    "query": "; searches take the text or the vector first, as in table.search('a text')",
    **dict.fromkeys(
        ("alpha", "weight", "weights"), "; search_hybrid() takes fusion=Weighted(vector=…, text=…)"
    ),
    **dict.fromkeys(
        ("boost", "decay"), "; searches take rerank=Decay(field, half_life) or rerank=Factor(field)"
    ),
    **dict.fromkeys(
        ("threshold", "score_threshold"), "; searches take min_score=… or max_distance=…"
    ),
    "order_by": "; find() takes order_by=…, and a search orders its hits by their scores",
    "exists_ok": "exist_ok", "if_not_exists": "exist_ok", "path": "target", "uri": "target",
    "url": "target", "readonly": "read_only", "distance": "metric", "distance_metric": "metric",
    "dimension": "dim", "dimensions": "dim", "size": "dim", "documents": "rows", "data": "rows",
    "points": "rows", "primary_key": "; the id of a row is its primary key, and no field",
}  # fmt: skip
_METHODS = {
    "add": "insert", "append": "insert", "add_documents": "insert", "query": "search",
    "similarity_search": "search", "all": "find", "select": "find", "scan": "find",
    "fetch": "get", "remove": "delete", "list_tables": "tables", "table_names": "tables",
    "list_collections": "tables", "create_collection": "create_table", "collection": "table",
    "get_collection": "table", "open_table": "table", "delete_collection": "drop_table",
    "to_df": "to_pandas", "df": "to_pandas", "to_pandas": "; write find(limit=None).to_pandas()",
    "head": "; write find(limit=5)", "sample": "; write find(limit=5)",
}  # fmt: skip


def _hint(name: str, known: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    """Return the end of a message about an unknown name: a suggestion, or ""."""
    meant = elsewhere.get(name, "")
    if meant.startswith(";"):
        return meant
    return f"; did you mean {meant!r}?" if meant in known else did_you_mean(name, known)


def meant_by(name: str, known: Sequence[str]) -> str:
    """Return our name for another library's argument if it is among ``known``, else ""."""
    meant = _ARGUMENTS.get(name, "")
    return meant if meant in known else ""


def unexpected(call: str, name: str, known: Sequence[str]) -> TypeError:
    """Return the error for a named argument that a call does not accept."""
    hint = _hint(name, known, _ARGUMENTS)
    return TypeError(f"{call}() got an unexpected keyword argument {name!r}{hint}")


def hints_arguments(function: _F) -> _F:
    """Return a function whose TypeError for wrong arguments suggests the right ones.

    If a coroutine function fails because of its caller's values, the traceback shows no frames of
    aiovec.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            error = _wrong_call(function, args, kwargs)
            if error is None:
                raise
        raise error

    @wraps(function)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except AiovecError as exc:
            raise without_frames(exc) from exc.__cause__
        except TypeError:
            error = _wrong_call(function, args, kwargs)
            if error is None:
                raise
        raise error

    is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
    return cast("_F", awaited if is_async else call)


def taking_arguments_of(
    function: Callable[_P, object],
) -> Callable[[Callable[..., _T]], Callable[_P, _T]]:
    """Give a function the signature of the function to which it passes its arguments."""

    def decorate(passing: Callable[..., _T]) -> Callable[_P, _T]:
        result = inspect.signature(passing).return_annotation
        signature = inspect.signature(function).replace(return_annotation=result)
        passing.__signature__ = signature  # type: ignore[attr-defined]
        return passing

    return decorate


def without_frames(error: AiovecError) -> AiovecError:
    """If an error is about the caller's values, remove its traceback, and return the error.

    The tracebacks of its causes that aiovec raised are removed too. The messages explain
    everything, and a traceback would only show our checks. Other errors keep their tracebacks.
    """
    cause: BaseException | None = None if error.http.machine else error
    while cause is not None:
        raised_in = None
        for frame, _ in walk_tb(cause.__traceback__):
            raised_in = frame
        if raised_in is None or raised_in.f_globals.get("__name__", "").startswith("aiovec."):
            cause.__traceback__ = None
        cause = cause.__cause__
    return error


def _wrong_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> TypeError | None:
    """Return the error for arguments that do not fit a function; None if they fit."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as exc:
        fault = str(exc)
    else:
        return None
    name = function.__name__
    if name == "__init__":
        name = function.__qualname__.removesuffix(".__init__")
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    known = [p.name for p in parameters]
    for given in kwargs:
        error = unexpected(name, given, known)
        if given not in known and ";" in str(error):
            return error
    usual = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    more = ["…"] if len(usual) < len(known) else []
    return TypeError(f"{name}(): {fault}; write {name}({', '.join([*usual, *more])})")


def hints_methods(cls: type[Any]) -> None:
    """Make the public methods of a class suggest the right name for a wrong argument."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, hints_arguments(method))


def hints_creation(cls: type[_T]) -> type[_T]:
    """Make a class suggest the right name for a wrong argument of its constructor."""
    cls.__init__ = hints_arguments(cls.__init__)  # type: ignore[method-assign]
    return cls


class Hints:
    """A class whose errors for unknown attributes suggest the right names."""

    __slots__ = ()

    if not TYPE_CHECKING:  # so that type checkers still report unknown names

        def __getattr__(self, name: str) -> NoReturn:
            fault = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name.startswith("_"):  # probed for by copy, pickle and notebooks
                raise AttributeError(fault)
            known = [each for each in dir(type(self)) if not each.startswith("_")]
            raise AttributeError(f"{fault}{_hint(name, known, _METHODS)}")

        def __getitem__(self, name: object) -> NoReturn:
            fix = f"; write store.table({shown(name)})" if hasattr(self, "table") else ""
            raise TypeError(f"{type(self).__name__!r} object is not subscriptable{fix}")


class NotCopied:
    """A class whose objects cannot be copied or pickled: they belong to one event loop."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or sent to another process: it has open "
            "files. Pass its target, and open a store in each process"
        )


class NoLength:
    """A class without ``len()``, because counting takes an async call."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __len__(self) -> NoReturn:
            raise TypeError(f"object of type {type(self).__name__!r} has no len(); write count()")

    def __bool__(self) -> bool:  # without it, Python calls __len__
        return True
