"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from . import advise, demo, doctor, exporting, facts, importing, index, rows, search, upkeep
from .extensions import Commands
from .output import settle_streams

app = typer.Typer(
    name="aiovec",
    cls=Commands,
    help="A vector store in one file that async apps can await.",
    epilog=(
        "A command uses the store that --store names: a path or URL, or the name of a backend in "
        "the TOML file. Without it, the command uses the backend that the TOML file selects."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # anything but an AiovecError is a bug and keeps its traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"aiovec {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    settle_streams()


app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("info")(facts.info)
app.command("tables")(facts.tables)
app.command("search")(search.search)
app.command("rows")(rows.rows)
app.command("distinct")(rows.distinct)
app.command("import")(importing.import_)
app.command("export")(exporting.export)
app.command("index")(index.index)
app.command("optimize")(upkeep.optimize)
app.command("backup")(upkeep.backup)
app.command("restore")(upkeep.restore)
app.command("advise")(advise.advise)
