"""The options that commands share, and the store that they name."""

from __future__ import annotations

import inspect
import json as jsonlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from .._model.schema import Metric as Metric
from .._store.connect import open_place as open_place
from ..errors import AiovecError, ConfigError
from .output import emit, out, progress, say, working
from .run import failing_clearly, run_async
from .usage import store_fix

if TYPE_CHECKING:
    from .._model.schema import Schema
    from .._store.store import Table as Handle
    from .._store.store import VectorStore
    from ..backend.engine import Engine
    from ..backend.place import Place
    from .output import Line

_T = TypeVar("_T")

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="STORE",
        help="Path or URL of the store, such as notes.db, or the name of a backend in the TOML "
        "file. Default: the backend that the TOML file selects.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file. Default: $AIOVEC_CONFIG, or else ./aiovec.toml.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Table = Annotated[str, typer.Argument(metavar="TABLE", help="The table.")]
AnyTable = Annotated[
    str | None,
    typer.Argument(metavar="TABLE", help="The table. Default: the only one of the store."),
]
OnlyTable = Annotated[
    str | None, typer.Argument(metavar="TABLE", help="Only this table. Default: all.")
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help='Have workers do it: "ray", for LanceDB stores. Default: this process.',
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Address of the engine's cluster, such as 10.0.0.5:6379. Default: workers on this "
        "machine.",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="FILTER",
        help="Only rows that match this filter, such as \"year >= 2024 AND lang = 'en'\".",
    ),
]
Embedder = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        metavar="KIND",
        help="What makes vectors of texts: local (20 MB of pip, offline, English), fastembed (a "
        "transformer, better with questions; downloads 67 MB once), onnx:FOLDER (a transformer of "
        "yours), demo (words only, nothing to install), openai, sentence-transformers, the URL of "
        "a service with OpenAI's API, package.module:callable, or a JSON object with the keys of "
        "the TOML file. Model and length are the table's. Default: the TOML file's, else what the "
        "table says, if that needs no other host.",
    ),
]


def _object(text: str, option: str) -> dict[str, Any]:
    """Return the JSON object in the value of an option."""
    try:
        return dict(jsonlib.loads(text))
    except (ValueError, TypeError, RecursionError) as exc:
        raise typer.BadParameter(f"{option} is not a JSON object: {exc}") from exc


def _watched(values: list[str] | None) -> list[Any]:
    """Return sources in the form that ``lifespan`` takes: strings, or mappings of arguments."""
    sources = [_object(each, "--watch") if each.startswith("{") else each for each in values or ()]
    for source in sources:
        if isinstance(source, dict):
            from .._store.watch import WatchOptions  # slow

            known = {"source", *WatchOptions.__annotations__}
            if "source" not in source or not source.keys() <= known:
                names = ", ".join(sorted(known - {"source"}))
                raise typer.BadParameter(
                    f"--watch: the object needs a source, and may have {names}"
                )
    return sources


Watch = Annotated[
    list[str] | None,
    typer.Option(
        "--watch",
        metavar="SOURCE",
        callback=_watched,
        help="Follow a source, as aiovec watch does: a folder, FILE#TABLE of an app's SQLite "
        "database, or a JSON object with the arguments of aiovec.watch, such as "
        '{"source": "app.db#articles", "embed": "body"}. Can be repeated.',
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="FIELDS",
        help="Only these fields, separated by commas. The vector has the name that the schema "
        "gives it.",
    ),
]


IncludeVector = Annotated[bool, typer.Option("--include-vector", help="Show the vectors too.")]


def names_in(values: list[str] | None) -> list[str] | None:
    """Return the names in an option's values. A value is one name, or several joined by commas."""
    return None if values is None else [name.strip() for part in values for name in part.split(",")]


def expanded(path: str) -> Path:
    """Return the path of a file, with ``~`` expanded."""
    return Path(os.path.expanduser(path))


def place_named(store: str | None, config: str | None) -> Place:
    """Return the place of a target or a named backend; None means the backend in the TOML file."""
    # Slow imports, which the help does not need.
    from ..backend.place import find_place
    from ..backend.plugin import backend_names

    if store is not None and store in backend_names():
        return find_place(config=config, backend=store)
    try:
        return find_place(store, config)
    except ConfigError as exc:
        if store is not None or config is not None or exc.file is not None or exc.key is not None:
            raise
        fix = (
            store_fix()
            or ": pass --store, as in -s notes.db, or name a TOML file with --config or "
            "$AIOVEC_CONFIG"
        )
        raise ConfigError(f"no store is named{fix}") from exc


def in_memory(place: Place) -> Place:
    """Return the place of an in-memory store that has the settings of ``place``."""
    return replace(place, address=place.plugin.memory, file=None)


async def try_if_new(place: Place, attempt: Callable[[VectorStore], Awaitable[object]]) -> None:
    """If a store does not exist yet, first run ``attempt`` on a store in memory.

    Wrong arguments then raise their error before an empty store is created.
    """
    from ..backend.threads import in_thread  # slow

    if not await in_thread(place.exists):
        async with await open_place(in_memory(place)) as vectors:
            await attempt(vectors)


def give_embedder(vectors: VectorStore, schema: Schema | None, value: str | None) -> None:
    """Give a store the embedder from ``--embedder`` for a table with this schema."""
    from .._internals import StoreInternals
    from ..backend.config import embedder_section

    if value is None:
        return
    embed = None if schema is None else schema.embed
    if schema is None or embed is None:
        raise typer.BadParameter("--embedder: the table embeds no texts")
    if value.startswith("{"):
        keys = _object(value, "--embedder")
    elif value.startswith("onnx:"):
        keys = {"kind": "onnx", "model": value.removeprefix("onnx:")}
    else:
        keys = {"kind": "openai", "base_url": value} if "://" in value else {"kind": value}
    recipe = embed.recipe or {}
    kind, stored = keys.get("kind"), recipe.get("kind")
    if kind == stored or not {kind, stored} & {"demo", "local"}:  # their models fit no other kind
        known = {"model": schema.model, "dim": schema.dim}
        for key in ("query_prefix", "document_prefix", "request_dim", "pooling", "max_tokens"):
            known[key] = recipe.get(key)
        keys = {**{key: value for key, value in known.items() if value}, **keys}
    if kind == "openai" and not {"model", "dim"} <= keys.keys():
        raise typer.BadParameter(
            "--embedder: a new table needs the model and the length of its vectors; pass "
            '--embedder \'{"kind": "openai", "base_url": "http://…/v1", "model": "…", "dim": 768}\''
        )
    StoreInternals(vectors).give_embedder(
        embed.using, embedder_section(embed.using, keys, "--embedder")
    )


class Shown(NamedTuple):
    """The result of a command: its facts for ``--json``, and the lines that people see.

    With ``stderr``, the result goes to standard error. Without ``--json``, ``notes`` go there too,
    and so does ``note`` if standard error is a terminal. An ``error`` is raised at the end; it is a
    ``typer.Exit`` for an exit code without a message.
    """

    facts: Any
    lines: Iterable[Line]
    stderr: bool = False
    notes: Sequence[str] = ()
    note: str = ""
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class At:
    """The store that a command names. ``open`` opens it, and it closes when the command ends.

    The store must exist, unless the command may ``create`` it. A command that only reads
    (``reading``) also works with files that it cannot write.
    """

    store: str | None
    config: str | None
    exits: AsyncExitStack
    engines: ExitStack

    def engine(self, name: str | None, address: str | None) -> Engine | None:
        """Connect to the engine that a command names. Returns None if the command names no engine.

        Call it before ``open``, so that a wrong address or place creates no store. The engine stops
        after the event loop has ended, because stopping would block the loop.
        """
        if name is None:
            if address is not None:
                raise typer.BadParameter("--address belongs to an engine: add --engine")
            return None
        from ..backend.engine import engine_named

        place = place_named(self.store, self.config)
        with working(f"connecting to {name}"):
            return self.engines.enter_context(closing(engine_named(name, address, place)))

    async def place(self) -> Place:
        """Return the place of the store, which need not exist."""
        from ..backend.threads import in_thread  # slow

        return await in_thread(place_named, self.store, self.config)

    async def open(self, *, reading: bool = False, create: bool = False) -> VectorStore:
        """Open the store."""
        from ..backend.threads import in_thread  # slow

        place, read_only = await in_thread(self._place, reading, create)
        return await self.exits.enter_async_context(await open_place(place, read_only=read_only))

    def _place(self, reading: bool, create: bool) -> tuple[Place, bool]:
        place = place_named(self.store, self.config)
        if not create:  # opening would create a store for a mistyped name
            check_there(place)
        return place, reading and place.path is not None and not _is_writable(place.path)

    async def table(
        self, name: str | None, *, reading: bool = False, field: str | None = None
    ) -> Handle:
        """Open the store, and return the table of this name, by default the store's only table.

        Without ``name``, raises BadParameter if ``field`` is the name of a table.
        """
        vectors = await self.open(reading=reading)
        if (
            name is None
            and field is not None
            and field in await vectors.tables()
            and field not in (await vectors.schema(field)).fields
        ):
            raise typer.BadParameter(f"{field} is a table; write the FIELD after it")
        if name is None:
            name, *others = await vectors.tables() or [""]
            if not name or others:
                listed = ", ".join([name, *others])
                raise AiovecError(
                    f"name one of the tables: {listed}" if listed else "the store has no tables"
                )
        return vectors.table(name)


def in_store(store: str | None, config: str | None, work: Callable[[At], Awaitable[_T]]) -> _T:
    """Run the work of a command on the store that it names."""

    async def run() -> _T:
        async with AsyncExitStack() as exits:
            return await work(At(store, config, exits, engines))

    with ExitStack() as engines:
        return run_async(run())


_Command = Callable[..., Awaitable[Shown | None] | AsyncIterator[Shown]]


def on_store(
    *, shows_progress: bool = False, shared: Mapping[str, Any] | None = None
) -> Callable[[_Command], Callable[..., None]]:
    """Make a command from an async function that takes a store and the command's own options.

    The command also gets ``--store``, ``--config`` and ``--json``, and prints the result that the
    function returns, or each result that it yields. ``shared`` maps the names of more options to
    their types; the function gets these options as ``**options``.
    """

    def decorate(command: _Command) -> Callable[..., None]:
        @wraps(command)
        def run(*, store: str | None, config: str | None, json: bool, **options: Any) -> None:
            if shows_progress:
                import rich.progress  # noqa: F401 - it reads the current folder, so not on the loop

            async def work(at: At) -> Shown | None:
                result = command(at, **options)
                if not isinstance(result, AsyncIterator):
                    return await result
                async for shown in result:
                    show(shown, json)
                return None

            if (last := in_store(store, config, work)) is not None:
                show(last, json)

        last = {"store": Store, "config": Config, "json": AsJson}
        return with_options(run, command, shared or {}, last)

    return decorate


def show(shown: Shown, json: bool) -> None:
    """Print the result of a command."""
    emit(shown.facts, shown.lines, json, stderr=shown.stderr)
    for note in () if json else shown.notes:
        say(note, stderr=True)
    if shown.note and not json and out(stderr=True).is_terminal:
        say(shown.note, stderr=True)
    if shown.error is not None:
        raise shown.error


def with_options(
    run: Callable[..., None], command: Any, first: Mapping[str, Any], last: Mapping[str, Any]
) -> Callable[..., None]:
    """Return ``run`` as a command with the options in ``first``, ``command`` and ``last``.

    All parameters of ``command`` except the first one, the store, are options.
    """
    result: Any = failing_clearly(run)
    _, *options = inspect.signature(command, eval_str=True).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY

    def added(kinds: Mapping[str, Any]) -> list[inspect.Parameter]:
        return [
            inspect.Parameter(
                name, keyword, annotation=kind, default=False if kind is AsJson else None
            )
            for name, kind in kinds.items()
        ]

    named = [each.replace(kind=keyword) for each in options if each.kind != each.VAR_KEYWORD]
    parameters = [*added(first), *named, *added(last)]
    result.__signature__ = inspect.Signature(parameters)
    result.__annotations__ = {each.name: each.annotation for each in parameters}
    return result  # type: ignore[no-any-return]


def table_and_one(table: str | None, value: str | None, name: str) -> tuple[str | None, str]:
    """Return a command's table and its other argument, which can be passed without a table."""
    if value is None:
        table, value = None, table
    if value is None:
        raise typer.BadParameter(f"pass a {name}")
    return table, value


async def of_each_table(
    vectors: VectorStore,
    named: Sequence[str] | None,
    look: Callable[[str], Awaitable[_T]],
    title: str,
) -> list[_T]:
    """Return the result of ``look`` for each named table, or for all tables.

    Shows a progress bar with this title.
    """
    names = named or await vectors.tables()
    results = []
    with progress("tables") as bar:
        task = bar.add_task(title, total=len(names))
        for name in names:
            results.append(await look(name))
            bar.advance(task)
    return results


def check_there(place: Place) -> None:
    """Raise ConfigError if nothing exists at the place's path."""
    path = place.path
    if path is not None and not path.exists():
        raise ConfigError(f"there is no store at {path}", key="target")


def _is_writable(path: Path) -> bool:
    folder = path if path.is_dir() else Path(os.path.realpath(path)).parent
    return os.access(path, os.W_OK) and os.access(folder, os.W_OK)
