"""The files that explain the settings are written from the models, and say what these accept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aiovec.backend.config import load_settings, retrieval_settings
from aiovec.backend.embedders import EmbedderSettings
from aiovec.backend.settings import Section

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "config/aiovec.toml"


def defaults_of(section: type[Section]) -> dict[str, Any]:
    return {
        name: key.default if key.section is None else defaults_of(key.section)
        for name, key in section.keys.items()
    }


def test_the_sample_has_every_key_with_its_default_and_an_explanation() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    defaults = defaults_of(retrieval_settings())
    sample = tomllib.loads(text)["retrieval"]
    assert json.dumps(sample, sort_keys=True) == json.dumps(defaults, sort_keys=True)
    lines = text.splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"(#   )?\w+ = ", line)]
    assert len(keys) > 70
    for number in keys:
        assert lines[number - 1].startswith("# "), lines[number]
    of_an_embedder = text.partition("each with its default:\n")[2]
    shown = "\n".join(re.findall(r"^#   (.*)$", of_an_embedder, re.MULTILINE))
    assert tomllib.loads(shown) == defaults_of(EmbedderSettings)


def test_the_sample_loads() -> None:
    loaded = load_settings(SAMPLE)
    assert vars(loaded).keys() == retrieval_settings().keys.keys()


def test_the_json_schema_describes_every_key() -> None:
    schema = json.loads((ROOT / "config/aiovec.schema.json").read_text(encoding="utf-8"))
    described = 0
    for name, model in schema["$defs"].items():
        for key, node in model.get("properties", {}).items():
            assert node.get("description") or "$ref" in node, (name, key)
            described += "default" in node
    assert described > 50


@pytest.mark.slow
def test_the_files_are_those_that_the_models_write(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    subprocess.run(
        [sys.executable, str(ROOT / "scripts/settings.py")], cwd=tmp_path, check=True, timeout=120
    )
    for name in ("config/aiovec.toml", "config/aiovec.schema.json"):
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert (ROOT / name).read_text(encoding="utf-8") == written, (
            f"{name} is out of date; run: python scripts/settings.py"
        )
