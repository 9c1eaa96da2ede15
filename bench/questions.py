"""Labelled questions: of packages that others wrote, of ``bench/sets``, and made memories.

A set from Debian packages is read from their files, which ``apt-get`` downloads once and which are
unpacked below ``build``. It raises MissingPackageError if a package cannot be had.
"""

from __future__ import annotations

import asyncio
import gzip
import html
import importlib
import inspect
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from aiovec import documents

CACHE = Path(__file__).parents[1] / "build" / "sets"
_SETS = Path(__file__).parent / "sets"
_PAGES = Path(__file__).parents[1] / "docs"
_SEED = 5
# Of a longer document, only the first passages are kept: a model takes up to 0.1 s for each.
_MOST_PARTS = 8
# What a page of documentation has besides its text: navigation, and lists of other pages' titles.
_BESIDES = (
    "title, script, style, nav, .sphinxsidebar, .related, .navheader, .navfooter, .headerlink, "
    ".toctree-wrapper, .toc, .refnamediv"
)
_LISTS = "(sql-commands|reference|bookindex|index|release|biblio|legalnotice)"
# Debian's languages of the FAQ, if there is one, and of the man pages.
LANGUAGES = {
    "german": ("de", "de"), "french": ("fr", "fr"), "spanish": ("", "es"), "italian": ("it", "it"),
    "portuguese": ("pt", "pt-br"), "russian": ("ru", "ru"), "japanese": ("ja", "ja"),
    "chinese": ("zh-cn", "zh"), "korean": ("ko", ""),
}  # fmt: skip
# A memory's ages in days: of facts that contradict each other, and of one that nothing contradicts.
AGES, OLD = (2, 200, 900), 800
_NAMES = (
    "ana boris chloe dmitri elena farid greta hugo irma jonas katja liam mona nils orla pavel "
    "rita sven tara uwe"
).split()
_NOUNS = (
    "budget invoice garden kitchen bicycle holiday concert report contract printer heating bakery "
    "museum server backup newsletter survey roof piano tax lecture wedding ferry gym library"
).split()
_PEOPLE = "Olga Pedro Quinn Rosa Samir Tove Umar Vera Wim Xenia Yuki Zoe".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


@dataclass(frozen=True)
class Passage:
    body: str
    title: str = ""
    user: str | None = None
    age: float = 0.0
    """In days."""


@dataclass(frozen=True)
class Labelled:
    """Passages by id, and for each question the ids of the passages that answer it.

    If ``by_source``, the answers are sources instead: the part of an id before the last ``#``.
    ``users`` maps questions about one user's passages to the user.
    """

    passages: Mapping[str, Passage]
    questions: Mapping[str, set[str]]
    analyzer: str = "english"
    by_source: bool = False
    users: Mapping[str, str] = field(default_factory=dict)

    def source(self, id: str) -> str:
        return id.rpartition("#")[0] if self.by_source else id


class MissingPackageError(Exception):
    """A Debian package that a set is made from cannot be had."""


@cache
def _unpacked(package: str, folder: str = "") -> Path:
    """Return a folder below ``/usr/share`` of a Debian package; download the package if needed."""
    place = CACHE / "debian" / package
    if not place.exists():
        part = place.with_name(f"{package}.part")
        part.mkdir(parents=True, exist_ok=True)
        try:
            got = ["apt-get", "download", package]
            subprocess.run(got, cwd=part, check=True, capture_output=True)
            subprocess.run(["dpkg-deb", "-x", str(*part.glob("*.deb")), str(part)], check=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise MissingPackageError(f"needs the Debian package {package}") from exc
        part.rename(place)
    return place / "usr/share" / folder


def faq() -> Labelled:
    """Return the questions of three FAQs; the answers stand without their headings."""
    python = _unpacked("python3.11-doc", "doc/python3.11/html")
    sqlite = _unpacked("sqlite3-doc", "doc/sqlite3")
    pages = [*python.glob("faq/*.html"), *python.glob("tutorial/*.html")]
    pages += [
        *python.glob("howto/*.html"),
        *_unpacked("debian-faq").glob("doc/debian/FAQ/*.en.html"),
    ]
    pages += [sqlite / f"{name}.html" for name in ("faq", "whentouse", "quirks", "cli")]
    passages, questions = dict[str, Passage](), dict[str, set[str]]()
    for id, heading, text in _sections(pages):
        passages[id] = Passage(text)
        if heading.endswith("?"):
            questions.setdefault(heading, set()).add(id)
    return Labelled(passages, questions)


def man() -> Labelled:
    """Return the descriptions of man pages; the pages stand without them."""
    pages = [*_man_pages("manpages", "[178]"), *_man_pages("manpages-dev", "[23]")]
    described = {p.name: _described(p) for p in random.Random(_SEED).sample(pages, 210)}
    texts = {name: (text, "text") for name, (_, text) in described.items() if text}
    questions = {question: {name} for name, (question, _) in described.items() if question}
    return Labelled(_cut(texts), questions, by_source=True)


def manuals() -> Labelled:
    """Return the descriptions of commands and modules in two manuals; the pages stand without."""
    pages = [*_unpacked("postgresql-doc-15", "doc/postgresql-doc-15/html").glob("*.html")]
    pages += _unpacked("python3.11-doc", "doc/python3.11/html/library").glob("*.html")
    chance = random.Random(_SEED)
    texts, questions = {}, {}
    for page in sorted(pages):
        if re.match(_LISTS, page.stem):
            continue
        tree = LexborHTMLParser(re.sub(r"<a class=.headerlink.*?</a>", "", page.read_text("utf-8")))
        head: Any = tree.css_first(".refnamediv p, section h1, .body h1")
        name, _, description = " ".join((head.text() if head else "").split()).partition(" — ")
        if chance.random() > (0.6 if description else 0.3):
            continue
        if description:
            questions[description] = {page.stem}
            head.replace_with(name)
        texts[page.stem] = (_without(tree), "html")
    return Labelled(_cut(texts), questions, by_source=True)


def library() -> Labelled:
    """Return first lines of the standard library's docstrings; the rest stands without them."""
    passages, questions = {}, {}
    for name, member in _members():
        first, _, rest = (inspect.getdoc(member) or "").partition("\n\n")
        if len(rest) > 80 and len(first.split()) > 3 and first not in questions:
            passages[name] = Passage(rest, name)
            questions[" ".join(first.split())] = {name}
    chosen = random.Random(_SEED).sample(sorted(questions), 300)
    return Labelled(passages, {question: questions[question] for question in chosen})


def language(name: str) -> Labelled:
    """Return questions of Debian's FAQ, and descriptions of man pages, in a language."""
    faq, pages = LANGUAGES[name]
    passages, questions = dict[str, Passage](), dict[str, set[str]]()
    if faq:
        folder = _unpacked(f"debian-faq-{faq}", "doc/debian/FAQ")
        chapters = (page for page in folder.glob("*/*.html") if not page.stem.startswith("index"))
        for id, heading, text in _sections(chapters):
            passages[id] = Passage(text)
            if not id.endswith("#0"):  # the chapter's title
                questions.setdefault(heading, set()).add(id)
    if pages:
        found = _man_pages(f"manpages-{pages}", "[178]")
        for page in random.Random(_SEED).sample(found, min(250, len(found))):
            question, text = _described(page)
            if text:
                passages[page.name] = Passage(text[:2000])
            if text and question and len(questions) < 200:
                questions.setdefault(question, set()).add(page.name)
    analyzer = "cjk" if name in ("japanese", "chinese", "korean") else name
    return Labelled(passages, questions, analyzer)


def memories(others: int, users: int = 20) -> Labelled:
    """Return what an assistant remembers of users: facts of different ages, and ``others``."""
    *topics, (_, noise, _) = blocks("memories")
    chance, number = random.Random(_SEED), count()
    passages, questions, owners = {}, {}, {}
    for user in _NAMES[:users]:
        for topic, lines, (question,) in topics:
            facts = chance.sample(lines, len(lines))
            for age, fact in zip(AGES if len(facts) > 1 else (OLD,), facts, strict=True):
                passages[f"{user} {topic}#{age}"] = Passage(fact.format(user), user=user, age=age)
            questions[question.format(user)] = {f"{user} {topic}"}
            owners[question.format(user)] = user
        for _ in range(others):
            thing = f"{chance.choice(_NOUNS)} {chance.choice(_NOUNS)}"
            person, day = chance.choice(_PEOPLE), chance.choice(_DAYS)
            text = chance.choice(noise).format(user, person=person, thing=thing, day=day)
            id = f"{user} other {next(number)}#0"
            passages[id] = Passage(text, user=user, age=chance.uniform(0, 1000))
    return Labelled(passages, questions, by_source=True, users=owners)


def of_blocks(name: str) -> Labelled:
    """Return a set whose file has passages with their questions."""
    return Labelled({id: Passage(" ".join(text)) for id, text, _ in blocks(name)}, _answers(name))


def on_pages(name: str) -> Labelled:
    """Return the sections of the users' documentation, and the questions of a set about them."""
    passages = {}
    for path in sorted(_PAGES.glob("[!i]*/*.md")):  # without internals
        page = path.relative_to(_PAGES.parent).as_posix()
        parts = re.split(r"^##+ (.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
        passages[page] = Passage(parts[0])
        for heading, text in zip(parts[1::2], parts[2::2], strict=True):
            passages[f"{page}#{heading}"] = Passage(f"{heading}\n{text}")
    questions = _answers(name)
    assert not (lacking := set().union(*questions.values()) - passages.keys()), lacking
    return Labelled(passages, questions)


def blocks(name: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the id, the lines and the questions of each block of a set's file."""
    id, lines, questions = "", list[str](), list[str]()
    for line in [*(_SETS / f"{name}.txt").read_text("utf-8").splitlines()[1:], ""]:
        if line.startswith("? "):
            questions.append(line[2:])
        elif questions or not line or not id:
            if id and (questions or lines):
                yield id, lines, questions
            id, lines, questions = line, [], []
        else:
            lines.append(line)


def _answers(name: str) -> dict[str, set[str]]:
    """Return the questions of a set, each with the ids of the blocks that answer it."""
    answers: dict[str, set[str]] = {}
    for id, _, questions in blocks(name):
        for question in questions:
            answers.setdefault(question, set()).add(id)
    return answers


def _sections(pages: Iterable[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield an id, the heading and the text of each section of HTML pages."""
    heads = r"(?s)<h[1-6]\b[^>]*>(.*?)</h[1-6]>|<p><b>(\(\d+\) .*?)</b></p>"
    for page in sorted(pages):
        markup = _without(LexborHTMLParser(page.read_text("utf-8", "replace")))
        parts = re.split(heads, markup)
        sections = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
        for number, (heading, bold, markup) in enumerate(sections):
            text = _text(markup)
            if len(text) > 40:
                title = " ".join(_text(heading or bold or "").split())
                yield f"{page.stem}#{number}", re.sub(r"^[\d.()]+\s+", "", title), text


def _without(tree: Any) -> str:
    """Return a page without what it has besides its text."""
    for node in tree.css(_BESIDES):
        node.decompose()
    return tree.html or ""


def _text(markup: str) -> str:
    text = re.sub(r"[ \t\xa0]+", " ", html.unescape(re.sub(r"<[^>]*>", " ", markup)))
    return re.sub(r"\n\s*\n\s*", "\n\n", text).strip()


def _man_pages(package: str, sections: str) -> list[Path]:
    pages = _unpacked(package, "man").glob(f"**/man{sections}/*.gz")
    return sorted(page for page in pages if not page.is_symlink())


def _described(page: Path) -> tuple[str, str]:
    """Return a man page's description, and its text without the section that has it."""
    source = gzip.decompress(page.read_bytes()).decode("utf-8", "replace")
    _, _, named, *rest = *re.split(r"(?mi)^\.SH\b[ \t]*(.*)$", source), "", ""
    *_, description = re.split(r"\s+\\?[-\u2013\u2014]+\s+", _plain(named), maxsplit=1)
    return " ".join(description.split()), "\n".join(map(_plain, rest)).strip()


def _plain(roff: str) -> str:
    """Return the text of a man page's source."""
    roff = re.sub(
        r"(?m)^[.'] *(\\\"|ig|de|if|ie|el|ad|nh|hy|so|ft|T[SE]|nr|ds|in|ti).*\n?", "", roff
    )
    roff = re.sub(r"(?m)^\. *(PP|LP|P|TP|IP|SS|sp|RS|RE)\b", "\n", roff)
    roff = re.sub(r"(?m)^[.'] *\w*[ \t]?|\\f(\(..|\[.*?\]|.)|\\s[-+]?\d+|\\[&|/,^:]|\"", "", roff)
    roff = re.sub(r"\\[*(]?(\[\w*\]|\(..|[a-z]{2}\b)", " ", roff).replace("\\-", "-")
    return re.sub(r"\n{3,}", "\n\n", roff.replace("\\", "")).strip()


def _cut(texts: Mapping[str, tuple[str, str]]) -> dict[str, Passage]:
    """Return the passages of texts and their kinds, as ``aiovec import`` cuts them."""

    async def passages() -> dict[str, Passage]:
        return {
            f"{source}#{row['part']}": Passage(row["body"], row["title"] or "")
            for source, (text, kind) in texts.items()
            async for row in documents.passages(text, source=source, kind=kind)
            if row["part"] <= _MOST_PARTS
        }

    return asyncio.run(passages())


def _members() -> Iterator[tuple[str, object]]:
    """Yield the functions, classes and methods of the standard library."""
    for name in sorted(sys.stdlib_module_names - {"antigravity", "this", "idlelib"}):
        try:
            module = None if name.startswith("_") else importlib.import_module(name)
        except ImportError:
            continue
        for key, member in sorted(vars(module).items()) if module else ():
            if not key.startswith("_") and getattr(member, "__module__", None) == name:
                yield f"{name}.{key}", member
                for inner, method in (
                    sorted(vars(member).items()) if inspect.isclass(member) else ()
                ):
                    if not inner.startswith("_") and callable(method):
                        yield f"{name}.{key}.{inner}", method
