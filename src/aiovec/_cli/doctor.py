"""``aiovec doctor``: what is installed here, what is wrong with it, and the cure."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.text import Text

from .._embed.findings import findings_of_embedders
from ..backend.doctor import Finding, examine
from ..errors import AiovecError, ConfigError
from .output import one_line, out, print_json
from .run import failing_clearly
from .stores import AsJson, Config, Store, source_of


@failing_clearly
def doctor(store: Store = None, config: Config = None, json: AsJson = False) -> None:
    """Show what is installed, what is wrong with it or with a store, and the cure.

    Changes nothing. Exits with 1 where something is wrong.
    """
    findings = _findings(store, config)
    wrong = [finding for finding in findings if not finding.ok]
    if json:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings, len(wrong))
    if wrong:
        raise typer.Exit(1)


def _findings(store: str | None, config: str | None) -> list[Finding]:
    try:
        source = source_of(store, config)
        location = source.location()
        embedders = source.settings().embedders
    except ConfigError as exc:
        if store is None and config is None and exc.file is None:
            return examine()  # nothing names a store, so there is none to examine
        cure = f"accepted is {exc.accepted}" if exc.accepted else "correct the file or the target"
        return [*examine(), Finding("configuration", str(exc), ok=False, cure=cure)]
    except AiovecError as exc:
        return [*examine(), Finding("store", str(exc), ok=False, cure="name another store")]
    return [*examine(location), *findings_of_embedders(embedders)]


def _show(findings: list[Finding], wrong: int) -> None:
    console = out()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = Text("ok   ", "green") if finding.ok else Text("wrong", "bold red")
        line = Text.assemble(mark, f"  {finding.subject:<{width}}  {one_line(finding.value)}")
        console.print(line)
        if finding.cure is not None:
            console.print(Text(f"       {'':<{width}}  cure: {one_line(finding.cure)}", "yellow"))
    if wrong:
        things = "thing is" if wrong == 1 else "things are"
        console.print(Text(f"doctor: {wrong} {things} wrong", "bold red"))
    else:
        console.print(Text("doctor: nothing is wrong", "bold green"))
