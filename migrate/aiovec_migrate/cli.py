"""``aiovec migrate``: the migrator from the command line.

Exit codes as for every command: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Imports little,
since the list of all commands imports it; what migrates is imported where it is called.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from aiovec._cli.output import out, print_json, say_error
from aiovec._cli.run import failing_clearly
from aiovec._cli.run import run as run_to_its_end
from aiovec._cli.stores import AsJson, Config

from .state import MAX_BATCH, Options

if TYPE_CHECKING:
    from .migration import Outcome
    from .reembed import Reembedding


From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="STORE", help="Source store. Default: the TOML file's current backend."
    ),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="STORE", help="Target store."),
]
Marked = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STORE",
        help="If the journal is lost: the store with the mark of the migration.",
    ),
]
Journal = Annotated[
    str | None,
    typer.Option(
        "--journal",
        metavar="FILE",
        help="Journal file of the run. Default: .aiovec/migration.db beside the TOML file.",
    ),
]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", metavar="TABLE", help="Move only this table. Can be repeated."),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, max=MAX_BATCH, help="Rows read at once.")
]
Switch = Annotated[
    bool,
    typer.Option(
        "--switch",
        help="After verification, set `backend` in the TOML file so that running apps use the "
        "target.",
    ),
]
OneWay = Annotated[
    bool,
    typer.Option(
        "--one-way", help="Allow a switch that cannot be rolled back, such as one with --reembed."
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
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Skip the comparison of every row.")]
NoIndex = Annotated[bool, typer.Option("--no-index", help="Build no vector index in the target.")]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the verification report to this file: JSON if it ends in .json, else text.",
    ),
]
Events = Annotated[
    bool, typer.Option("--json", help="Print events as JSON, one per line; the last is the result.")
]
Reembed = Annotated[
    str | None,
    typer.Option(
        "--reembed",
        metavar="NAME|MODULE:CALLABLE",
        help="Compute new vectors with this embedder of the TOML file, or with this callable: "
        "list of texts in, list of vectors out.",
    ),
]
FromField = Annotated[
    str | None,
    typer.Option("--from-field", metavar="FIELD", help="Text field to embed."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Model name of the target tables. Default: that of the TOML file's embedder.",
    ),
]
Dim = Annotated[
    int | None,
    typer.Option(
        "--dim",
        min=1,
        help="Length of the new vectors. Default: that of the TOML file's embedder, or unchanged.",
    ),
]
EmbedBatch = Annotated[
    int, typer.Option("--embed-batch", min=1, help="Texts per call of the callable.")
]
EmbedCalls = Annotated[
    int, typer.Option("--embed-calls", min=1, help="Concurrent calls of the callable.")
]

BATCH_SIZE, PAUSE_LIMIT, EMBED_BATCH, EMBED_CALLS = 1000, 5.0, 64, 4


def names(tables: list[str] | None) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(tables)) if tables else None


def options_of(
    tables: list[str] | None,
    batch_size: int,
    switch: bool,
    pause_limit: float,
    no_verify: bool,
    no_index: bool,
    transform: Reembedding | None,
    *,
    one_way: bool = False,
) -> Options:
    if switch and tables:
        raise typer.BadParameter(
            "--switch moves all tables, because an app uses one backend for all of them; leave out "
            "--table or --switch"
        )
    return Options(
        tables=names(tables),
        batch_size=batch_size,
        switch=switch,
        pause_limit=pause_limit,
        verify=not no_verify,
        index=not no_index,
        reembed="" if transform is None else transform.name,
        one_way=one_way,
    )


def transform_of(
    path: str | None,
    field: str | None,
    model: str | None,
    dim: int | None,
    batch_size: int,
    concurrency: int,
    config: str | None = None,
) -> Reembedding | None:
    if path is None:
        if field is not None or model is not None or dim is not None:
            raise typer.BadParameter("--from-field, --model and --dim need --reembed")
        return None
    if field is None:
        raise typer.BadParameter("--reembed needs --from-field")
    from . import reembed

    embed: reembed.Embed
    if ":" in path:
        if not model:
            raise typer.BadParameter("--reembed with a callable needs --model")
        if path.startswith(":") or path.endswith(":"):
            raise typer.BadParameter("--reembed must be package.module:callable")
        embed = reembed.load(path)
    else:
        embed = configured = reembed.Configured(path, config)
        for option, given, found in (
            ("--model", model, configured.model), ("--dim", dim, configured.dim),
        ):  # fmt: skip
            if given is not None and given != found:
                raise typer.BadParameter(
                    f"{option} is {given!r}, but that of the embedder {path!r} is {found!r}; "
                    f"leave {option} out"
                )
        model, dim = configured.model, configured.dim
    return reembed.Reembedding(
        embed,
        field=field,
        model=model,
        dim=dim,
        name=path,
        using=None if ":" in path else path,
        batch_size=batch_size,
        concurrency=concurrency,
    )


_P = ParamSpec("_P")

app = typer.Typer(
    name="migrate",
    help="Move tables to another store while apps keep reading and writing.",
    epilog=(
        "A store is a target (notes.db, lancedb:///path, http://…) or the name of a backend that "
        "the TOML file configures. The same command continues a run that was killed or interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _going_on(command: Callable[_P, None]) -> Callable[_P, None]:
    """The command, which when interrupted says how to go on."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (KeyboardInterrupt, asyncio.CancelledError) as exc:
            say_error(
                "interrupted; nothing is lost. Run the same command again to continue, or end the "
                "run with: aiovec migrate abort"
            )
            raise typer.Exit(130) from exc

    return run


@app.command("plan")
@failing_clearly
def plan_(
    source: From = None,
    target: To = None,
    config: Config = None,
    table: Tables = None,
    batch_size: BatchSize = BATCH_SIZE,
    switch: Switch = False,
    pause_limit: PauseLimit = PAUSE_LIMIT,
    no_verify: NoVerify = False,
    no_index: NoIndex = False,
    reembed: Reembed = None,
    from_field: FromField = None,
    model: Model = None,
    dim: Dim = None,
    one_way: OneWay = False,
    json: AsJson = False,
) -> None:
    """Show what a run would do and what would stop it. Writes nothing.

    Exits with 1 if something would stop it.
    """
    if target is None:
        raise typer.BadParameter("name the target store", param_hint="--to")
    transform = transform_of(reembed, from_field, model, dim, EMBED_BATCH, EMBED_CALLS, config)
    options = options_of(
        table, batch_size, switch, pause_limit, no_verify, no_index, transform, one_way=one_way
    )
    from . import api

    found = run_to_its_end(
        api.plan(source, target, config=config, options=options, transform=transform)
    )
    if json:
        print_json(found.to_dict())
    else:
        out().file.write(found.to_text() + "\n")
    if not found.ok:
        raise typer.Exit(1)


@app.command("run")
@failing_clearly
@_going_on
def run_(
    source: From = None,
    target: To = None,
    config: Config = None,
    journal: Journal = None,
    table: Tables = None,
    batch_size: BatchSize = BATCH_SIZE,
    switch: Switch = False,
    pause_limit: PauseLimit = PAUSE_LIMIT,
    no_verify: NoVerify = False,
    no_index: NoIndex = False,
    report: Report = None,
    reembed: Reembed = None,
    from_field: FromField = None,
    model: Model = None,
    dim: Dim = None,
    embed_batch: EmbedBatch = EMBED_BATCH,
    embed_calls: EmbedCalls = EMBED_CALLS,
    one_way: OneWay = False,
    json: Events = False,
) -> None:
    """Copy tables, catch up with writes made in the meantime, verify, and switch if asked to.

    Continues a run that was killed. The source keeps its rows.
    """
    if report is not None and no_verify:
        raise typer.BadParameter("--report needs the verification that --no-verify leaves out")
    transform = transform_of(reembed, from_field, model, dim, embed_batch, embed_calls, config)
    chosen = options_of(
        table, batch_size, switch, pause_limit, no_verify, no_index, transform, one_way=one_way
    )
    from . import api, show

    with show.Showing(json=json) as listener:

        async def migrated() -> Outcome:
            try:
                return await api.run(
                    source,
                    target,
                    config=config,
                    journal=journal,
                    options=chosen,
                    transform=transform,
                    listener=listener,
                )
            finally:
                if transform is not None:
                    await transform.close()

        outcome = run_to_its_end(migrated())
    found = show.report_of(outcome)
    show.keep(report, found)
    if json:
        result = {"equal": found.equal, "run": show.state_dict(outcome.state)}
        out().file.write(show.json_line({"kind": "result", **result, "report": found.to_dict()}))
    else:
        options = show.options_that_name(config, journal)
        for line in show.summary(outcome.state, found, begun=listener.heard, options=options):
            out().file.write(line + "\n")
    if outcome.state.options.verify and not found.equal:
        raise typer.Exit(1)


@app.command("status")
@failing_clearly
def status_(config: Config = None, journal: Journal = None, json: AsJson = False) -> None:
    """Show the progress of the run in this journal. Works from any terminal."""
    from . import api, show

    state = run_to_its_end(api.status(config=config, journal=journal))
    if json:
        found = None if state is None else {**show.state_dict(state), "next": state.next_command}
        print_json({"run": found})
    elif state is None:
        out().print("no migration is open here")
    else:
        show.show_status(state, options=show.options_that_name(config, journal))


@app.command("verify")
@failing_clearly
def verify_(
    source: From = None,
    target: To = None,
    config: Config = None,
    journal: Journal = None,
    table: Tables = None,
    repair: Annotated[bool, typer.Option("--repair", help="Rewrite rows that differ.")] = False,
    report: Report = None,
    json: Events = False,
) -> None:
    """Compare every row of both stores, and the results of searches.

    Without --from and --to, compares the stores of the journal's run. Exits with 1 if anything
    differs.
    """
    from . import api, show

    with show.Showing(json=json) as listener:
        found = run_to_its_end(
            api.verify(
                source,
                target,
                config=config,
                journal=journal,
                tables=names(table),
                repair=repair,
                listener=listener,
            )
        )
    show.keep(report, found)
    if json:
        out().file.write(show.json_line({"kind": "result", **found.to_dict()}))
    else:
        out().file.write(found.to_text().rstrip("\n") + "\n")
    if not found.equal:
        raise typer.Exit(1)


@app.command("rollback")
@failing_clearly
@_going_on
def rollback_(config: Config = None, journal: Journal = None, json: Events = False) -> None:
    """Undo a switch: carry back what was written since, and flip the TOML back."""
    from . import api, show

    with show.Showing(json=json) as listener:
        state = run_to_its_end(api.rollback(config=config, journal=journal, listener=listener))
    if json:
        out().file.write(show.json_line({"kind": "result", "run": show.state_dict(state)}))
    else:
        out().print(f"migrate: rolled back; apps use {state.source} again")


@app.command("abort")
@failing_clearly
@_going_on
def abort_(
    source: Marked = None,
    config: Config = None,
    journal: Journal = None,
    keep_target: Annotated[
        bool, typer.Option("--keep-target", help="Keep the tables made in the target.")
    ] = False,
    json: Events = False,
) -> None:
    """End an open run: the source is as it was, and the tables made in the target are dropped.

    If a rollback cannot be completed, cancels it: the stores stay where they are. If the journal
    is lost, name the source with --from; the target's tables then stay.
    """
    from . import api, show

    with show.Showing(json=json) as listener:
        state = run_to_its_end(
            api.abort(
                source,
                config=config,
                journal=journal,
                keep_target=keep_target,
                listener=listener,
            )
        )
    if json:
        phase = "aborted" if state is None else state.phase
        out().file.write(show.json_line({"kind": "result", "phase": phase}))
    elif state is not None:
        out().print(f"migrate: the rollback was cancelled; apps stay on {state.target}")
    else:
        out().print("migrate: aborted; the source is as it was")


@app.command("finish")
@failing_clearly
@_going_on
def finish_(
    source: Marked = None,
    config: Config = None,
    journal: Journal = None,
    json: Events = False,
) -> None:
    """End a run that is done, when you are content. After that there is no rollback.

    The old store stays where it is, until you remove it yourself, and tells whoever opens it where
    it has moved: `aiovec migrate forget` makes it a store of its own again.
    """
    from . import api, show

    async def finished() -> bool:
        state = await api.status(config=config, journal=journal)
        await api.finish(source, config=config, journal=journal, listener=listener)
        return state is None or state.options.switch

    with show.Showing(json=json) as listener:
        has_moved = run_to_its_end(finished())
    if json:
        out().file.write(show.json_line({"kind": "result", "phase": "finished"}))
    else:
        moved = ", and the old store says where it moved to" if has_moved else ""
        out().print(f"migrate: finished; the journal is removed{moved}")


@app.command("forget")
@failing_clearly
def forget_(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="The store, or a backend of the TOML file.")
    ],
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Remove the mark that a finished migration left in the old store, to use that store again.

    Also removes a mark that cannot be read. The store has the rows that it had at the switch.
    """
    from . import api

    run_to_its_end(api.forget(store, config=config))
    if json:
        print_json({"store": store, "forgotten": True})
    else:
        out().print(f"migrate: {store} is an independent store again")


@app.command("sync")
@failing_clearly
def sync_(
    source: From = None,
    target: To = None,
    config: Config = None,
    table: Tables = None,
    json: Events = False,
) -> None:
    """Make the target's tables equal to the source's, by copying only what differs.

    Rows that only the target has are deleted there.
    """
    if source is None or target is None:
        raise typer.BadParameter("name both stores with --from and --to")
    from . import api, show

    with show.Showing(json=json) as listener:
        found = run_to_its_end(
            api.sync(source, target, config=config, tables=names(table), listener=listener)
        )
    if json:
        tables = {name: show.counts(difference) for name, difference in found.items()}
        out().file.write(show.json_line({"kind": "result", "tables": tables}))
    else:
        for name, difference in found.items():
            out().print(
                f"migrate: synced {name}: {difference.copied:,} rows copied, "
                f"{difference.deleted:,} deleted, of {difference.source_rows:,}"
            )
