"""A Django app whose table is watched: ``python django_app.py FOLDER JOURNAL``.

A migration recreates the table, as Django does on SQLite, so the triggers are lost.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.db import connection, models, transaction

import aiovec

folder = Path(sys.argv[1])
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "app.db")}
settings.configure(DATABASES={"default": database})
django.setup()


class Article(models.Model):
    title: Any = models.TextField()
    body: Any = models.TextField()

    class Meta:
        app_label = "news"
        db_table = "articles"


def make() -> None:
    connection.cursor().execute(f"PRAGMA journal_mode = {sys.argv[2]}")
    with connection.schema_editor() as editor:
        editor.create_model(Article)


def write() -> None:
    Article.objects.bulk_create(Article(title=f"t{n}", body=f"body {n}") for n in range(30))
    try:
        with transaction.atomic():
            Article.objects.all().delete()
            raise KeyError
    except KeyError:
        pass


def change() -> None:
    Article.objects.filter(id=3).update(body="changed")
    Article.objects.get(id=4).delete()


def migrate() -> None:
    wider = models.CharField(max_length=9)
    wider.set_attributes_from_name("title")
    with connection.schema_editor() as editor:
        editor.alter_field(Article, Article._meta.get_field("title"), wider)
    Article.objects.filter(id__gt=12).delete()


def read_and_write() -> None:
    for number in range(100):
        with transaction.atomic():
            article = Article.objects.get(id=3)
            article.body = f"{4 * number}"
            article.save()
        Article.objects.get_or_create(id=100 + number, defaults={"title": "t", "body": "b"})
        Article.objects.update_or_create(id=3, defaults={"body": f"{4 * number + 2}"})
        with transaction.atomic():
            Article.objects.filter(id=Article.objects.count()).exists()
            Article.objects.filter(id=3).update(body=f"{4 * number + 3}")


def say(value: object) -> None:
    sys.stdout.write(f"{value}\n")


async def main() -> None:
    await asyncio.to_thread(make)
    source = folder / "app.db#articles"
    async with (
        aiovec.connect(folder / "s.db", embedder="demo") as store,
        aiovec.watch(store, source, embed="body", text="title") as watching,
    ):
        await asyncio.to_thread(write)
        await watching.caught_up()
        say(await store.count("articles"))
        await asyncio.to_thread(change)
        await watching.caught_up()
        say((await store.get("articles", ["3"]))[0]["body"])
        say("there" if await store.exists("articles", ["4"]) else "gone")
        await asyncio.to_thread(migrate)
        await watching.caught_up()
        say(await store.count("articles"))
        await asyncio.to_thread(read_and_write)
        await watching.caught_up()
        say((await store.get("articles", ["3"]))[0]["body"])


asyncio.run(main())
