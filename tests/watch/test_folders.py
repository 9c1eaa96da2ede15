"""A store follows a folder of documents."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.waiting import until

import aiovec
from aiovec import ConfigError, VectorStore
from aiovec.asgi import lifespan

pytest.importorskip("semantic_text_splitter")
pytest.importorskip("watchfiles")
pytestmark = pytest.mark.arrow


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(5):
        write(folder / f"{number}.md", f"word{number}")
    return folder


@pytest.fixture
async def store(notes: Path, tmp_path: Path) -> AsyncIterator[VectorStore]:
    async with (
        aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.watch(store, notes) as watching,
    ):
        await watching.caught_up()
        yield store


def write(path: Path, word: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# A note\n\n{word}\n", encoding="utf-8")


async def found(store: VectorStore, word: str) -> list[str]:
    return sorted(hit["source"] for hit in await store.search_text("documents", word, limit=600))


async def until_found(store: VectorStore, word: str, *sources: str) -> None:
    async def same() -> bool:
        return await found(store, word) == sorted(sources)

    await until(same)


async def test_saves_moves_and_removals_are_followed(store: VectorStore, notes: Path) -> None:
    write(notes / "0.md", "plainly")
    await until_found(store, "plainly", "0.md")
    await until_found(store, "word0")
    write(notes / "1.md.part~", "renamed")  # save like an editor
    os.replace(notes / "1.md.part~", notes / "1.md")
    await until_found(store, "renamed", "1.md")
    os.rename(notes / "2.md", notes / "two.md")
    await until_found(store, "word2", "two.md")
    write(notes / "deep/er/x.md", "nested")
    await until_found(store, "nested", "deep/er/x.md")
    os.rename(notes / "deep", notes.parent / "away")
    await until_found(store, "nested")
    os.rename(notes.parent / "away", notes / "back")
    await until_found(store, "nested", "back/er/x.md")
    shutil.rmtree(notes / "back")
    await until_found(store, "nested")
    os.remove(notes / "3.md")
    await until_found(store, "word3")


async def test_a_watched_document_leaves_the_others(
    store: VectorStore, notes: Path, tmp_path: Path
) -> None:
    write(tmp_path / "alone.md", "alone")
    async with aiovec.watch(
        store, tmp_path / "alone.md", table="documents", base="https://x.example/"
    ) as alone:
        await alone.caught_up()
        write(tmp_path / "alone.md", "changed")
        await alone.caught_up()
    await store.watching[0].caught_up()
    assert await store.count("documents") == 6
    async with aiovec.connect(tmp_path / "s.db", embedder="demo") as again:  # another process
        with pytest.raises(ConfigError, match=r"another process.*same base ''"):
            async with aiovec.watch(again, tmp_path / "alone.md"):
                pass
    assert await store.count("documents") == 6


async def test_documents_of_one_base_are_watched_apart(notes: Path, tmp_path: Path) -> None:
    async with (
        aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.connect(tmp_path / "s.db", embedder="demo") as other,  # another process
        aiovec.watch(store, notes / "1.md") as first,
        aiovec.watch(other, notes / "2.md") as second,
    ):
        await first.caught_up()
        await second.caught_up()
        assert await store.count("documents") == 2
        async with aiovec.connect(tmp_path / "s.db", embedder="demo") as third:
            with pytest.raises(ConfigError, match="another process"):  # the whole folder
                async with aiovec.watch(third, notes):
                    pass


async def test_folders_that_would_delete_the_rows_of_each_other_are_refused(
    store: VectorStore, notes: Path, tmp_path: Path
) -> None:
    write(tmp_path / "more/0.md", "more")
    for source in (tmp_path / "more", tmp_path / "more/0.md"):
        with pytest.raises(ConfigError, match=r"the same base ''.*with another base"):
            async with aiovec.watch(store, source):
                pass
    # This store is like one in another process.
    async with aiovec.connect(tmp_path / "s.db", embedder="demo") as other_store:
        with pytest.raises(ConfigError, match=r"another process.*same base ''.*another base"):
            async with aiovec.watch(other_store, tmp_path / "more"):
                pass
        async with aiovec.watch(other_store, notes) as same:
            assert not (await same.state()).following
    async with (
        aiovec.watch(store, tmp_path / "more", base="https://a.example/") as other,
        aiovec.watch(store, tmp_path / "more", base="https://b.example/") as second,
        aiovec.watch(store, tmp_path / "more", table="other"),
    ):
        await other.caught_up()
        await until(lambda: _follows(second))  # a watch that stands by would miss later changes
        await second.caught_up()
    assert await store.count("documents") == 7


async def _follows(watching: aiovec.Watching) -> bool:
    return (await watching.state()).following


async def test_a_document_that_comes_back_as_it_was_is_stored_again(
    store: VectorStore, notes: Path
) -> None:
    os.rename(notes / "0.md", notes / "0.kept")
    await until_found(store, "word0")
    os.rename(notes / "0.kept", notes / "0.md")
    await until_found(store, "word0", "0.md")
    (notes / ".gitignore").write_text("1.md\n")
    await store.watching[0].caught_up()
    assert await found(store, "word1") == []
    (notes / ".gitignore").unlink()
    await store.watching[0].caught_up()
    assert await found(store, "word1") == ["1.md"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no time of a file's last change")
async def test_a_save_that_keeps_the_size_and_the_time_is_found(
    store: VectorStore, notes: Path
) -> None:
    before = (notes / "0.md").stat()
    write(notes / "0.md", "w0rd0")
    os.utime(notes / "0.md", ns=(before.st_atime_ns, before.st_mtime_ns))
    await store.watching[0].caught_up()
    assert await found(store, "w0rd0") == ["0.md"]


async def test_a_folder_may_be_empty_at_first(tmp_path: Path, notes: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    async with (
        aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.watch(store, empty) as watching,
    ):
        await watching.caught_up()
        write(empty / "first.md", "arrived")
        await watching.caught_up()
        await until_found(store, "arrived", "first.md")


async def test_a_checkout_of_500_files_is_followed(store: VectorStore, notes: Path) -> None:
    for number in range(500):
        write(notes / f"many/{number}.md", "checkout")
    (watching,) = store.watching
    await watching.caught_up()
    assert len(await found(store, "checkout")) == 500
    for number in range(250):
        os.remove(notes / f"many/{number}.md")
        write(notes / f"many/{number + 250}.md", "branch")
    await watching.caught_up()
    assert len(await found(store, "checkout")) == 0
    assert len(await found(store, "branch")) == 250


async def unknown(watching: aiovec.Watching, word: str = "") -> bool:
    state = await watching.state()
    return state.waiting is None and state.seconds > 0 and word in state.error


async def test_a_folder_without_documents_is_unknown_and_one_that_came_back_is_watched(
    notes: Path, tmp_path: Path
) -> None:
    for every in (0.3, 60):  # the second watch begins while the folder is gone
        async with (
            aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
            aiovec.watch(store, notes, every=every) as watching,
        ):
            if every < 60:
                await watching.caught_up()
                os.rename(notes, notes.parent / "unmounted")
                os.mkdir(notes)  # a mount point
            await until(lambda: unknown(watching, "may be unmounted"), 30)
            caught_up = asyncio.ensure_future(watching.caught_up())
            await asyncio.sleep(0.1)
            assert not caught_up.done()
            assert await store.count("documents") == 5
            if every < 60:
                caught_up.cancel()
                continue
            os.rmdir(notes)
            os.rename(notes.parent / "unmounted", notes)
            await caught_up
            write(notes / "6.md", "afterwards")
            await until_found(store, "afterwards", "6.md")


async def test_a_folder_that_lost_most_documents_deletes_them_after_a_second_look(
    notes: Path, tmp_path: Path
) -> None:
    """Most of a folder may be a mount of its own, or not be copied back yet."""
    async with (
        aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.watch(store, notes, every=1) as watching,
    ):
        await watching.caught_up()
        os.rename(notes, tmp_path / "away")
        write(notes / "5.md", "mounted")
        await until_found(store, "mounted", "5.md")
        await until(lambda: unknown(watching), 30)
        assert await store.count("documents") == 6
        for name in os.listdir(tmp_path / "away"):
            os.rename(tmp_path / "away" / name, notes / name)
        await watching.caught_up()
        assert await store.count("documents") == 6
        shutil.rmtree(notes)
        write(notes / "5.md", "alone")  # and the folder stays like this
        await watching.caught_up()
        assert await store.count("documents") == 1


async def test_documents_behind_a_broken_link_stay_until_it_leads_to_a_folder_without_them(
    store: VectorStore, notes: Path, tmp_path: Path
) -> None:
    for name in ("kept", "removed"):
        write(tmp_path / f"mount/{name}.md", name)
    (notes / "link").symlink_to(tmp_path / "mount", target_is_directory=True)
    (watching,) = store.watching
    await watching.caught_up()
    (tmp_path / "mount").rename(tmp_path / "away")
    await watching.caught_up()
    assert await found(store, "removed") == ["link/removed.md"]
    os.remove(tmp_path / "away/removed.md")
    (tmp_path / "away").rename(tmp_path / "mount")
    await watching.caught_up()
    assert await found(store, "removed") == []
    assert await found(store, "kept") == ["link/kept.md"]


async def test_a_document_that_cannot_be_read_is_named_until_it_can(
    store: VectorStore, notes: Path
) -> None:
    (notes / "bad.pdf").write_bytes(b"%PDF-1.4 broken")
    (watching,) = store.watching
    await watching.caught_up()
    assert list((await watching.state()).refused) == ["bad.pdf"]
    os.remove(notes / "bad.pdf")
    await watching.caught_up()
    assert (await watching.state()).refused == {}


async def test_a_dropped_table_of_the_store_gets_all_documents_again(
    store: VectorStore, notes: Path
) -> None:
    await store.drop_table("documents")
    write(notes / "0.md", "again")
    await store.watching[0].caught_up()
    assert await store.count("documents") == 5


async def test_documents_stay_cut_as_an_earlier_import_cut_them(
    notes: Path, tmp_path: Path
) -> None:
    long = "\n\n".join(f"Paragraph {n} tells of number {n} at length." for n in range(9))
    write(notes / "long.md", long)
    async with aiovec.connect(tmp_path / "s.db", embedder="demo") as store:
        async with aiovec.watch(store, notes, chunk_size=150) as watching:
            await watching.caught_up()
        before = {row.id: row["hash"] async for row in store.rows("documents")}
        assert len(before) > 7
        async with aiovec.watch(store, notes) as watching:
            await watching.caught_up()
            assert {row.id: row["hash"] async for row in store.rows("documents")} == before
            write(notes / "0.md", long)
            await watching.caught_up()
            again = await store.find("documents", "source = '0.md'", limit=None)
            assert len(again) == len(before) - 5


async def test_what_changed_before_the_start_is_found_and_removed_files_go(
    notes: Path, tmp_path: Path
) -> None:
    async with aiovec.connect(tmp_path / "s.db", embedder="demo") as store:
        async with aiovec.watch(store, notes) as watching:
            await watching.caught_up()
        os.remove(notes / "1.md")
        write(notes / "2.md", "rewritten")
        async with aiovec.watch(store, notes) as watching:
            await watching.caught_up()
            assert await found(store, "rewritten") == ["2.md"]
            assert await found(store, "word1") == []


@pytest.mark.parametrize("given", [str, list])
async def test_one_pattern_is_as_good_as_a_list(given: type, notes: Path, tmp_path: Path) -> None:
    def patterns(*names: str) -> str | list[str]:
        return names[0] if given is str else [*names]

    write(notes / "secret.txt", "secret")
    for number, (options, count) in enumerate(
        (({"exclude": patterns("secret.txt")}, 5), ({"include": patterns("*.txt")}, 1))
    ):
        async with (
            aiovec.connect(tmp_path / f"{number}.db", embedder="demo") as store,
            aiovec.watch(store, notes, **options) as watching,  # type: ignore[arg-type]
        ):
            await watching.caught_up()
            assert await store.count("documents") == count


@pytest.mark.parametrize("given", [str, Path, dict, list])
async def test_one_source_of_an_app_is_as_good_as_a_list(
    given: type, notes: Path, tmp_path: Path
) -> None:
    watch: Any = {str: str(notes), Path: notes, dict: {"source": notes}, list: [notes]}[given]
    run = lifespan(tmp_path / "s.db", embedder="demo", watch=watch, wait=True)
    async with run(None) as state:
        store = state["aiovec_store"]
        assert [each.table for each in store.watching] == ["documents"]
        assert await store.count("documents") == 5


async def test_a_change_of_gitignore_is_followed_at_once(store: VectorStore, notes: Path) -> None:
    await until_found(store, "word1", "1.md")
    (notes / ".gitignore").write_text("1.md\n")
    async with asyncio.timeout(30):  # without an event, the next check is after a minute
        await until_found(store, "word1")
