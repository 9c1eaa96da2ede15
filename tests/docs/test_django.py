"""The page about Django: its blocks are a project, which answers under ASGI and under WSGI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .blocks import ROOT

SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).parent
SECRET_KEY, ALLOWED_HOSTS, ROOT_URLCONF, INSTALLED_APPS = "k", ["*"], "urls", ["news"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
"""
URLS = """
from django.urls import path
from news import sync_views, views
urlpatterns = [path("search", views.search), path("sync", sync_views.search)]
"""
PROGRAM = """
from asgi import application
from django.core.management import call_command
from django.test import Client
from news.models import Article
from starlette.testclient import TestClient

call_command("makemigrations", "news", verbosity=0)
call_command("migrate", verbosity=0)
Article.objects.create(title="Bread", body="Knead for ten minutes, then let it rest.")
Article.objects.create(title="Keys", body="How to rotate a key without downtime")
with TestClient(application) as client:
    answer = client.get("/search", params={"q": "rotate a key"})
    print(answer.json()["titles"], Client().get("/sync", {"q": "rotate a key"}).json()["titles"])
"""


def test_the_project_of_the_page_finds_its_articles(tmp_path: Path) -> None:
    pytest.importorskip("django")
    page = (ROOT / "docs/how-to/django.md").read_text("utf-8").replace('"local"', '"demo"')
    files = dict(re.findall(r"```python\n# ([\w/]+\.py)\n(.*?)```", page, re.DOTALL))
    files |= {
        "settings.py": SETTINGS,
        "urls.py": URLS,
        "program.py": PROGRAM,
        "news/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    def ran(*arguments: str) -> str:
        environment = os.environ | {"DJANGO_SETTINGS_MODULE": "settings"}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert ran("program.py") == "['Keys', 'Bread'] ['Keys', 'Bread']\n"
    assert "Ran 1 test" in ran("-m", "django", "test", "--pythonpath", ".")
