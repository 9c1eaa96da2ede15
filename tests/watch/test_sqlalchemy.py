"""An app with SQLAlchemy's async session, whose table is watched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aiovec

pytest.importorskip("sqlalchemy")
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

pytestmark = pytest.mark.arrow


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]


async def test_an_app_on_sqlalchemy_is_followed(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with (
        aiovec.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.watch(store, tmp_path / "app.db#articles", embed="body", text="title") as watching,
    ):

        async def write(writer: int) -> None:
            for number in range(10):
                async with AsyncSession(engine) as session:
                    session.add(Article(title=f"t{writer}", body=f"{writer} {number}"))
                    await (session.rollback if number == 5 else session.commit)()

        await asyncio.gather(*map(write, range(6)))
        await watching.caught_up()
        assert await store.count("articles") == 54
        async with AsyncSession(engine) as session:
            article = await session.get(Article, 3)
            assert article is not None
            article.body = "changed"
            await session.delete(await session.get(Article, 4))
            await session.commit()
        await watching.caught_up()
        assert (await store.get("articles", ["3"]))[0]["body"] == "changed"
        assert await store.exists("articles", ["4"]) == set()
    await engine.dispose()
