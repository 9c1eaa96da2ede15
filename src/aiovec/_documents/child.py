"""The program of the process that reads documents, which a hostile one may fill or break.

It is run by its path, so it imports nothing of aiovec. A frame is a length in four bytes, and so
many bytes. A request is a frame with a kind and one with the content, the answer one with facts in
JSON and one for each page. The first request has the module path as its content.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from queue import SimpleQueue
from typing import IO, Any

BOUNDS = {"memory": 2**30, "seconds": 60, "pages": 10_000, "characters": 2**24}
"""What one document takes at most. PDFium reads about 1,000 usual pages in a second."""

LONGEST_TITLE = 200
"""Characters of a title. Each passage repeats it, so a longer one is none."""

TOO_SLOW = f"reading it takes more than {BOUNDS['seconds']} s"
TOO_LARGE = f"reading it takes more than {BOUNDS['memory'] >> 20:,} MiB of memory"


class _UnreadableError(Exception):
    """A document cannot be read. The text is the reason."""


def read(kind: str, data: bytes) -> dict[str, Any]:
    """Return the ``title`` and the ``pages`` of a document, or the ``reason`` why there are none.

    A package may be ``missing``.
    """
    until, characters = time.monotonic() + BOUNDS["seconds"], 0
    pages: list[str] = []
    try:
        parts = READERS[kind](data)
        title = " ".join(next(parts).split())
        for page in parts:
            pages.append(page)
            characters += len(page)
            if len(pages) > BOUNDS["pages"]:
                raise _UnreadableError(f"it has more than {BOUNDS['pages']:,} pages")
            if characters > BOUNDS["characters"]:
                raise _UnreadableError(f"it has more than {BOUNDS['characters']:,} characters")
            if time.monotonic() > until:
                raise _UnreadableError(TOO_SLOW)
    except _UnreadableError as exc:
        return {"reason": str(exc)}
    except ModuleNotFoundError as exc:
        return {"missing": exc.name}
    except MemoryError:
        return {"reason": TOO_LARGE}
    return {"title": title if 0 < len(title) <= LONGEST_TITLE else None, "pages": pages}


def _pdf(data: bytes) -> Iterator[str]:
    """Yield the title and the pages of a PDF."""
    import pypdfium2 as pdfium

    try:
        with closing(pdfium.PdfDocument(data)) as document:
            title = ""
            with suppress(UnicodeDecodeError):
                title = document.get_metadata_value("Title")
            yield title
            for page in document:
                with closing(page), closing(page.get_textpage()) as content:
                    text = content.get_text_bounded()
                # The soft hyphen of a word that is broken at the end of a line is U+FFFE here.
                text = re.sub("[\ufffe\u00ad]\r?\n?", "", text).replace("\r\n", "\n")
                yield text.replace("\0", "")
    except pdfium.PdfiumError as exc:
        is_locked = "password" in str(exc).lower()
        reason = "it is encrypted" if is_locked else f"it is no PDF that can be read: {exc}"
        raise _UnreadableError(reason) from exc


READERS: dict[str, Callable[[bytes], Iterator[str]]] = {"pdf": _pdf}


def read_frame(file: IO[bytes], most: int) -> bytes:
    """Return the next frame. EOFError at the end, or if it has more than ``most`` bytes."""
    head = file.read(4)
    size = int.from_bytes(head, "big")
    data = file.read(size) if len(head) == 4 and size <= most else None
    if data is None or len(data) < size:
        raise EOFError
    return data


def write_frames(file: IO[bytes], *frames: bytes) -> None:
    """Write frames at once."""
    for data in frames:
        file.write(len(data).to_bytes(4, "big"))
        file.write(data)
    file.flush()


def _bounds_memory() -> bool:
    """Limit the memory of this process, and return whether the system keeps the limit."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    for kind, wanted in (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, BOUNDS["memory"]):
        _, most = resource.getrlimit(kind)
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, limit))
    try:
        mmap.mmap(-1, BOUNDS["memory"]).close()  # macOS takes a limit that it does not keep
    except OSError:
        return True
    return False


def _listen(frames: SimpleQueue[bytes]) -> None:
    """Queue the frames that come, and end the process when its parent has ended."""
    with suppress(OSError, EOFError, MemoryError):
        while True:
            frames.put(read_frame(sys.stdin.buffer, 2**31))
    os._exit(0)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C: the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    frames: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=[frames], daemon=True).start()
    _, path = frames.get(), frames.get()
    sys.path[:] = json.loads(path)
    write_frames(answers, json.dumps({"bounds_memory": _bounds_memory()}).encode())
    while True:
        facts = read(frames.get().decode(), frames.get())
        pages = [page.encode(errors="replace") for page in facts.get("pages", ())]
        facts["pages"] = len(pages)
        write_frames(answers, json.dumps(facts).encode(), *pages)


if __name__ == "__main__":
    _main()
