"""``aiovec migrate``: the migrator from the command line.

The exit codes are the same as for every command: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
``aiovec --help`` imports this module, so the module imports little; a command imports the migrator
when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Annotated, Any, NamedTuple

import typer

from aiovec._cli.output import say_error
from aiovec._cli.run import command_app, run_async
from aiovec._cli.stores import AsJson, Config, Shown, with_options

from .events import Listener, Options, unheard

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STORE",
        help="Source store. Default: that of the open migration, or else the TOML file's current "
        "backend.",
    ),
]
To = Annotated[str | None, typer.Option("--to", metavar="STORE", help="Target store.")]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="TABLE", help="Only this table. Can be repeated."),
]
Switch = Annotated[
    bool,
    typer.Option(
        "--switch",
        help="After verification, set `backend` in the TOML file and make running apps use the "
        "target.",
    ),
]
PauseLimit = Annotated[
    float,
    typer.Option(
        "--pause-limit",
        min=0.01,
        max=3600,
        metavar="SECONDS",
        help="Longest time that writers wait at the switch.",
    ),
]
Embedder = Annotated[
    str,
    typer.Option(
        "--embedder",
        metavar="NAME",
        help="Compute new vectors with this embedder of the TOML file.",
    ),
]
FromField = Annotated[
    str,
    typer.Option(
        "--from-field",
        metavar="FIELD",
        help="Text field to embed, for tables whose schema does not name one.",
    ),
]
Events = Annotated[
    bool, typer.Option("--json", help="Print events as JSON, one per line; the last is the result.")
]

app: typer.Typer = command_app(
    "migrate",
    help="Move tables to another store while apps keep reading and writing.",
    epilog=(
        "A store is a target (notes.db, lancedb:///path, http://…) or the name of a backend that "
        "the TOML file configures. The same command continues a run that was killed or interrupted."
    ),
    no_args_is_help=True,
)


def _names(tables: list[str] | None) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(tables)) if tables else None


def _options(
    target: str | None, tables: list[str] | None, switch: bool, pause_limit: float = 5.0
) -> Options:
    if target is None:
        raise typer.BadParameter("name the target store", param_hint="--to")
    if switch and tables:
        raise typer.BadParameter("--switch moves all tables; leave out --table or --switch")
    return Options(_names(tables), switch, pause_limit)


class _Call(NamedTuple):
    config: str | None
    listener: Listener


_Function = Callable[..., Coroutine[Any, Any, Shown]]


def _command(name: str, *, events: bool = False) -> Callable[[_Function], Callable[..., None]]:
    """Make a command from an async function that takes a ``_Call`` and the command's own options.

    The command also gets ``--config`` and ``--json``. With ``events``, it shows the events of the
    run; when interrupted, it prints how to continue.
    """

    def decorate(function: _Function) -> Callable[..., None]:
        @wraps(function)
        def run(*, config: str | None, json: bool, **options: Any) -> None:
            from asyncio import CancelledError  # slow, and not needed for the help

            from . import show

            if not events:
                shown = run_async(function(_Call(config, unheard), **options))
            else:
                try:
                    with show.events_shown(json=json) as listener:
                        shown = run_async(function(_Call(config, listener), **options))
                except (KeyboardInterrupt, CancelledError) as exc:
                    say_error(
                        "interrupted; nothing is lost. Run the same command again to continue"
                    )
                    raise typer.Exit(130) from exc
            show.show_result(shown, json, after_events=events)
            if shown.error is not None:
                raise shown.error

        kinds = {"config": Config, "json": Events if events else AsJson}
        return app.command(name)(with_options(run, function, {}, kinds))

    return decorate


@_command("plan")
async def plan_(
    call: _Call,
    source: From = None,
    target: To = None,
    table: Tables = None,
    switch: Switch = False,
    embedder: Embedder = "",
    from_field: FromField = "",
) -> Shown:
    """Show what a run would do and any problems that would stop it. Writes nothing.

    Exits with 1 if there are problems.
    """
    from . import api

    plan = await api.plan(
        source, target, config=call.config, options=_options(target, table, switch),
        embedder=embedder, from_field=from_field,
    )  # fmt: skip
    return Shown(plan.to_dict(), plan.lines(), error=None if plan.ok else typer.Exit(1))


@_command("run", events=True)
async def run_(
    call: _Call,
    source: From = None,
    target: To = None,
    table: Tables = None,
    switch: Switch = False,
    pause_limit: PauseLimit = 5.0,
    embedder: Embedder = "",
    from_field: FromField = "",
) -> Shown:
    """Copy all tables to another store while apps keep writing.

    With --switch, apps use the new store afterwards; to go back, run it in the other direction. To
    resume an interrupted run, repeat the command: rows that the target already has are compared,
    and differences are copied.
    """
    from . import api

    report = await api.run(
        source, target, config=call.config, options=_options(target, table, switch, pause_limit),
        embedder=embedder, from_field=from_field, listener=call.listener,
    )  # fmt: skip
    pause = f"; writers waited {report.pause:.2f} s" if report.pause else ""
    end = f"copied to {report.target}; apps still use {report.source}"
    if report.switched:
        end = f"switched: apps use {report.target}{pause}"
    return Shown(report.to_dict(), [*report.lines(), end])


@_command("status")
async def status_(call: _Call, source: From = None, target: To = None) -> Shown:
    """Show the migration of these stores, or of the stores that the TOML file configures."""
    from . import api

    move = await api.status(source, target, config=call.config)
    if move is None:
        return Shown({"migration": None}, ["no migration is open"])
    lines = [f"{move.state}: from {move.source} to {move.target} (run {move.run})"]
    for name, rows in move.tables.items():
        in_source, in_target = (
            "no table" if count is None else f"{count:,} rows" for count in rows
        )
        lines.append(f"table   {name}: {in_source} in the source, {in_target} in the target")
    return Shown({"migration": move.to_dict()}, [*lines, f"next    {move.next}"])


@_command("verify", events=True)
async def verify_(
    call: _Call,
    source: From = None,
    target: To = None,
    table: Tables = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Bring over the differences, if the target is a copy and not in use."
        ),
    ] = False,
) -> Shown:
    """Compare every row of both stores.

    Without --from and --to, compares the stores of the migration. Exits with 1 if anything differs.
    After a switch, differences do not count: the target is in use then, and its newer writes are
    not a fault.
    """
    from . import api

    report = await api.verify(
        source, target, config=call.config, tables=_names(table), repair=repair,
        listener=call.listener,
    )  # fmt: skip
    end = "every row is equal" if report.equal else "NOT EQUAL"
    if report.in_use and not report.equal:
        end = f"{report.target} is in use and has newer writes; this is not a fault"
    error = None if report.equal or report.in_use else typer.Exit(1)
    return Shown(report.to_dict(), [*report.lines(), end], error=error)


@_command("abort", events=True)
async def abort_(call: _Call, source: From = None, target: To = None) -> Shown:
    """Cancel a run. The source is unchanged; a target that the run found empty is emptied again."""
    from . import api

    warnings = await api.abort(source, target, config=call.config, listener=call.listener)
    lines = [*(f"warning: {text}" for text in warnings), "aborted; the source is as it was"]
    return Shown({"aborted": True, "warnings": warnings}, lines)


@_command("forget")
async def forget_(
    call: _Call,
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="The store, or a backend of the TOML file.")
    ],
) -> Shown:
    """Make a store that apps were switched away from independent again.

    Removes its mark, which sends apps to the new store. Also removes an unreadable mark.
    """
    from . import api

    warnings = await api.forget(store, config=call.config)
    lines = [*(f"warning: {text}" for text in warnings), f"{store} is an independent store again"]
    return Shown({"store": store, "forgotten": True, "warnings": warnings}, lines)
