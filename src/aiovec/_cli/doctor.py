"""``aiovec doctor``: check the installation and a store, and name a fix for each fault."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

from .._tools.redaction import redacted
from ..errors import AiovecError, ConfigError
from .output import one_line
from .stores import At, Shown, check_there, on_store, place_named

if TYPE_CHECKING:
    from rich.text import Text

    from ..backend.embedders import EmbedderSettings
    from ..backend.plugin import Finding


@on_store()
async def doctor(at: At) -> Shown:
    """Check the installation and a store: show what is wrong and how to fix it.

    Changes nothing. Exits with 1 if something is wrong, or if --store names no existing store.
    """
    from ..backend.threads import in_thread  # slow

    findings = await in_thread(_findings, at.store, at.config)
    wrong = sum(not finding.ok for finding in findings)
    facts = {"ok": not wrong, "findings": findings}
    return Shown(facts, _lines(findings, wrong), error=typer.Exit(1) if wrong else None)


def _findings(store: str | None, config: str | None) -> list[Finding]:
    return [*_of_place(store, config), *_of_documents()]


def _of_place(store: str | None, config: str | None) -> list[Finding]:
    from ..backend.doctor import examine
    from ..backend.plugin import Finding

    try:
        place = place_named(store, config)
        if store is not None:  # a TOML file may name a store that its app has not created yet
            check_there(place)
    except ConfigError as exc:
        if store is None and config is None and exc.file is None:
            return examine()  # no store is named, so there is nothing to examine
        subject = "store" if exc.key == "target" else "configuration"
        fix = "correct the file or the target"
        return [*examine(), Finding(subject, str(exc), ok=False, fix=fix)]
    except AiovecError as exc:
        return [*examine(), Finding("store", str(exc), ok=False, fix="name another store")]
    return [*examine(place), *_of_embedders(place.settings.embedders)]


def _lines(findings: list[Finding], wrong: int) -> Iterator[Text]:
    from rich.text import Text

    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        status = Text("ok   ", "green") if finding.ok else Text("wrong", "bold red")
        yield Text.assemble(status, f"  {finding.subject:<{width}}  {one_line(finding.value)}")
        if finding.fix is not None:
            yield Text(f"       {'':<{width}}  fix: {one_line(finding.fix)}", "yellow")
    if wrong:
        problems = "problem" if wrong == 1 else "problems"
        yield Text(f"doctor: found {wrong} {problems}", "bold red")
    else:
        but = [f"the {one.subject} was not checked" for one in findings if not one.checked]
        but += [f"see the fix for {one.subject}" for one in findings if one.fix is not None]
        yield Text("; ".join(("doctor: nothing is wrong", *but)), "bold green")


def _of_documents() -> Iterator[Finding]:
    """Yield a finding about reading documents, if the package for PDFs is installed."""
    from .._documents.reading import bounds
    from ..backend.plugin import Finding

    if find_spec("pypdfium2") is not None:
        try:
            yield Finding("documents", bounds())
        except OSError as exc:
            why = f"only text and Markdown are read: no process of Python can be started: {exc}"
            yield Finding("documents", why, ok=False, fix="run this with a Python interpreter")


def _of_embedders(embedders: Mapping[str, EmbedderSettings]) -> Iterator[Finding]:
    """Yield a finding for each embedder, without embedding a text or showing a key."""
    from ..backend.plugin import Finding

    for name, settings in sorted(embedders.items()):
        value, fix = _value_and_fix(name, settings)
        yield Finding(f"embedder {name}", value, ok=fix is None, fix=fix)


def _value_and_fix(name: str, settings: EmbedderSettings) -> tuple[str, str | None]:
    from .._embed.openai import key_name_of
    from .._embed.registry import embedder_of

    try:
        embedder = embedder_of(name, settings)
    except ConfigError as exc:
        fix = f"correct [retrieval.embedders.{name}] in the TOML file, or what it names"
        return f"{settings.kind}: {redacted(str(exc))}", fix
    value = f"{settings.kind}, {embedder.model}, {embedder.dim or 'unknown'} dimensions"
    key = key_name_of(settings) if settings.kind == "openai" else ""
    if key and not os.environ.get(key):
        fault = f"{value}: the environment variable {key} holds no key"
        return fault, f"set {key}, or name another api_key_env"
    return value, None
