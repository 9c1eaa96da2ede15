"""``aiovec migrate``: the migrator from the command line.

Exit codes as for every command: 0 done, 1 failed, 2 wrong usage, 130 interrupted. The list of all
commands imports it, so it imports little; the commands import the migrator when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec

import typer

from aiovec._cli.output import say_error
from aiovec._cli.run import command_app, failing_clearly, run_async
from aiovec._cli.stores import AsJson, Config

from .events import Options

_P = ParamSpec("_P")

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
    target: str | None, tables: list[str] | None, switch: bool, pause_limit: float
) -> Options:
    if target is None:
        raise typer.BadParameter("name the target store", param_hint="--to")
    if switch and tables:
        raise typer.BadParameter(
            "--switch moves all tables, because an app uses one backend for all of them; leave out "
            "--table or --switch"
        )
    return Options(_names(tables), switch, pause_limit)


def _interruptible(command: Callable[_P, None]) -> Callable[_P, None]:
    """Return the command; when interrupted, it says how to continue."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        from asyncio import CancelledError  # slow, and the help does not need it

        try:
            command(*args, **kwargs)
        except (KeyboardInterrupt, CancelledError) as exc:
            say_error("interrupted; nothing is lost. Run the same command again to continue")
            raise typer.Exit(130) from exc

    return run


@app.command("plan")
@failing_clearly
def plan_(
    source: From = None,
    target: To = None,
    config: Config = None,
    table: Tables = None,
    switch: Switch = False,
    embedder: Embedder = "",
    from_field: FromField = "",
    json: AsJson = False,
) -> None:
    """Show what a run would do and any problems that would stop it. Writes nothing.

    Exits with 1 if there are problems.
    """
    options = _options(target, table, switch, 5.0)
    from . import api, show

    plan = run_async(
        api.plan(
            source, target, config=config, options=options, embedder=embedder, from_field=from_field
        )
    )
    show.emit_lines(plan.to_dict(), plan.lines(), json)
    if not plan.ok:
        raise typer.Exit(1)


@app.command("run")
@failing_clearly
@_interruptible
def run_(
    source: From = None,
    target: To = None,
    config: Config = None,
    table: Tables = None,
    switch: Switch = False,
    pause_limit: PauseLimit = 5.0,
    embedder: Embedder = "",
    from_field: FromField = "",
    json: Events = False,
) -> None:
    """Copy all tables to another store while apps keep writing.

    With --switch, apps use the new store afterwards; the way back is a run in the other direction.
    Run it again to resume. Rows that the target already has are compared, and differences are
    brought over.
    """
    options = _options(target, table, switch, pause_limit)
    from . import api, show

    with show.shown(json=json) as listener:
        running = api.run(
            source, target, config=config, options=options, embedder=embedder,
            from_field=from_field, listener=listener,
        )  # fmt: skip
        report = run_async(running)
    pause = f"; writers waited {report.pause:.2f} s" if report.pause else ""
    end = f"copied to {report.target}; apps still use {report.source}"
    if report.switched:
        end = f"switched: apps use {report.target}{pause}"
    show.emit_lines(report.to_dict(), [*report.lines(), end], json, behind_events=True)


@app.command("status")
@failing_clearly
def status_(
    source: From = None, target: To = None, config: Config = None, json: AsJson = False
) -> None:
    """Show the migration of these stores, or of the stores that the TOML file configures."""
    from . import api, show

    move = run_async(api.status(source, target, config=config))
    lines = ["no migration is open"]
    if move is not None:
        lines = [f"{move.state}: from {move.source} to {move.target} (run {move.run})"]
        for name, rows in move.tables.items():
            in_source, in_target = (
                "no table" if count is None else f"{count:,} rows" for count in rows
            )
            lines.append(f"table   {name}: {in_source} in the source, {in_target} in the target")
        lines.append(f"next    {move.next}")
    facts = {"migration": None if move is None else move.to_dict()}
    show.emit_lines(facts, lines, json)


@app.command("verify")
@failing_clearly
@_interruptible
def verify_(
    source: From = None,
    target: To = None,
    config: Config = None,
    table: Tables = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Bring over the differences, if the target is a copy and not in use."
        ),
    ] = False,
    json: Events = False,
) -> None:
    """Compare every row of both stores.

    Without --from and --to, compares the stores of the migration. Exits with 1 if anything differs,
    but with 0 after a switch: the target is in use then, and its newer writes are no fault.
    """
    from . import api, show

    with show.shown(json=json) as listener:
        comparing = api.verify(
            source, target, config=config, tables=_names(table), repair=repair, listener=listener
        )
        report = run_async(comparing)
    end = "every row is equal" if report.equal else "NOT EQUAL"
    if report.in_use and not report.equal:
        end = f"{report.target} is in use and has newer writes; this is no fault"
    show.emit_lines(report.to_dict(), [*report.lines(), end], json, behind_events=True)
    if not (report.equal or report.in_use):
        raise typer.Exit(1)


@app.command("abort")
@failing_clearly
@_interruptible
def abort_(
    source: From = None, target: To = None, config: Config = None, json: Events = False
) -> None:
    """Cancel a run. The source is unchanged; tables copied to the target are dropped."""
    from . import api, show

    with show.shown(json=json) as listener:
        warnings = run_async(api.abort(source, target, config=config, listener=listener))
    lines = [*(f"warning: {text}" for text in warnings), "aborted; the source is as it was"]
    show.emit_lines({"aborted": True, "warnings": warnings}, lines, json, behind_events=True)


@app.command("forget")
@failing_clearly
def forget_(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="The store, or a backend of the TOML file.")
    ],
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Make an old store usable again on its own.

    Removes its mark, which sends apps to the store that it moved to, or an unreadable mark.
    """
    from . import api, show

    warnings = run_async(api.forget(store, config=config))
    lines = [*(f"warning: {text}" for text in warnings), f"{store} is an independent store again"]
    show.emit_lines({"store": store, "forgotten": True, "warnings": warnings}, lines, json)
