"""Draw the packages of aiovec from the import rules: ``docs/assets/house.svg``.

``python scripts/house.py``, run in the repository, writes the file; a test compares the file with
this script's output. The layers and the groups of packages come from ``.importlinter``, and the
words in a layer from the beginning of its docstring.
"""

from __future__ import annotations

import ast
import re
from configparser import ConfigParser
from pathlib import Path
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT = 960, 600, 660
_BAR, _GAP, _LINE, _TOP = 40, 8, 26, 40
_MOST = 70  # the most characters of a docstring that fit

# The drawing has a background and the colours of scripts/pictures.py.
_STYLE = """\
text {font: 14px sans-serif; fill: #24292f} .name {font-family: monospace; font-weight: bold}
.says {font-size: 13px; fill: #57606a} rect {fill: #f6f8fa; stroke: #afb8c1}
.public {fill: #ddf4ec; stroke: #1a7f5a} path {stroke: #1a7f5a; fill: none; stroke-width: 1.5}
.ground {fill: #ffffff; stroke: none}
@media (prefers-color-scheme: dark) {text {fill: #e6edf3} .says {fill: #b1bac4}
rect {fill: #21262d; stroke: #656c76} .public {fill: #123d30; stroke: #3fb68b}
path {stroke: #3fb68b} .ground {fill: #161b22}}"""


def files(root: Path) -> dict[Path, str]:
    """Return the text of the drawing, by its path below ``root``."""
    rules = ConfigParser()
    rules.read(root / ".importlinter", encoding="utf-8")
    packages = {
        name: rules[f"importlinter:contract:{name}"]["source_modules"].split()
        for name in ("bridges", "files", "contract")
    }
    rows = rules["importlinter:contract:layers"]["layers"].strip().splitlines()
    layers = [[name.strip() for name in row.split("|")] for row in rows]

    drawn = [_text(0, 24, "aiovec: a layer imports only those below it")]
    for number, layer in enumerate(layers):
        drawn += _layer(root / "src" / "aiovec", layer, _TOP + number * (_BAR + _GAP))
    users = packages["bridges"] + packages["files"]
    drawn += _group(users, _TOP, "packages that import what users import")
    second = _TOP + len(users) * _LINE + 7 * _GAP
    drawn += _group(packages["contract"], second, "packages on aiovec.backend")

    start = second + len(packages["contract"]) * _LINE // 2
    row = next(number for number, layer in enumerate(layers) if "backend" in layer)
    end = _TOP + row * (_BAR + _GAP) + _BAR // 2
    drawn.append(f'<path d="M{_RIGHT} {start} H{(_LEFT + _RIGHT) // 2} V{end} H{_LEFT + 6}"/>')
    drawn.append(f'<path d="M{_LEFT + 13} {end - 5} L{_LEFT + 5} {end} L{_LEFT + 13} {end + 5}"/>')
    height = max(
        _TOP + len(layers) * (_BAR + _GAP), second + len(packages["contract"]) * _LINE + 2 * _GAP
    )
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="-12 0 {_WIDTH + 24} {height + 4}">\n'
        f"<title>The packages of aiovec and what they import</title>\n<style>{_STYLE}</style>\n"
        '<rect class="ground" x="-12" width="100%" height="100%" rx="8"/>'
    )
    return {root / "docs" / "assets" / "house.svg": "\n".join([head, *drawn, "</svg>", ""])}


def _layer(folder: Path, names: list[str], top: int) -> list[str]:
    """Draw the modules of a layer side by side; a single module gets its docstring too."""
    width = (_LEFT - _GAP * len(names)) // len(names)
    drawn = []
    for number, name in enumerate(names):
        left = 1 + number * (width + _GAP)
        kind = "" if name.startswith("_") else ' class="public"'
        box = f'x="{left}" y="{top}" width="{width}" height="{_BAR}" rx="6"'
        drawn += [f"<rect{kind} {box}/>", _text(left + 12, top + 25, name, "name")]
    if len(names) == 1:
        drawn.append(_text(106, top + 25, _beginning(folder / names[0]), "says"))
    return drawn


def _group(packages: list[str], top: int, title: str) -> list[str]:
    """Draw a frame with a title and one package on each line."""
    size = f'width="{_WIDTH - _RIGHT - 1}" height="{len(packages) * _LINE + _GAP}"'
    lines = [
        _text(_RIGHT + 12, top + 22 + _LINE * number, name, "name")
        for number, name in enumerate(packages)
    ]
    frame = f'<rect x="{_RIGHT}" y="{top}" {size} rx="6"/>'
    return [_text(_RIGHT, top - 16, title), frame, *lines]


def _beginning(module: Path) -> str:
    """Return the first sentence of a module's docstring, or as much of it as fits."""
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"\.(?:\s|$)", docstring.replace("``", ""), maxsplit=1)[0]
    while len(sentence) > _MOST:
        sentence = re.split(r"[:,][^:,]*$", sentence)[0]
    return sentence


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x}" y="{y}">{escape(text)}</text>'


if __name__ == "__main__":
    for path, text in files(Path()).items():
        path.write_text(text, encoding="utf-8")
