"""A map of a table: its vectors in two dimensions, as a figure.

    from aiovec import plot

    plot.map(store, "notes", color="folder").savefig("notes.png")

Rows with similar vectors lie close together. ``map`` needs matplotlib; ``map_points`` returns the
same points so that another library can draw them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from random import Random
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from aiovec import sync

from ._input.arguments import count_of
from ._input.selection import path_of, value_ref
from ._model.records import Record
from ._model.results import Results
from ._model.schema import Schema
from ._store.store import VectorStore
from .backend.threads import in_thread
from .errors import InvalidArgumentError, UnsupportedError
from .sync.store import wait_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MAX_ROWS", "Group", "MapPoints", "label_field", "map", "map_points"]

MAX_ROWS = 2_000
"""Maximum number of rows in a map."""
# Maximum count of numbers in the vectors of a map: 2,000 rows of 1,024 dimensions, 8 MB.
_MAX_NUMBERS = 2_048_000
# A sample is drawn from at most this many rows: the first rows that an export of the table returns.
# SQLite reads 300,000 ids per second.
_WALKED = 1_000_000
# The colours of the most frequent values. Okabe and Ito chose them so that colour-blind people can
# distinguish them. The other values share a grey.
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
_OTHERS = "#9a9a9a"
_LABEL = 120
_LEGEND = 30

Color = str | Literal[False] | None


@dataclass(frozen=True)
class Group:
    """Rows of a map that share a colour: ``name`` is their value as text, ``rows`` their number.

    The last group may contain all other values; then its ``name`` is None, and ``values`` is their
    number.
    """

    name: str | None
    rows: int
    values: int = 1


@dataclass(frozen=True)
class MapPoints:
    """A sample of a table's rows as points.

    ``x`` and ``y`` lie between -1 and 1. ``explained`` has each axis's share of the variance.
    ``members`` has the index of each point's group in ``groups``. ``values`` has the value of each
    point if the values are numbers or times, more than a dozen of them distinct; otherwise it is
    empty. ``label`` and ``color`` name the fields that ``labels`` and ``groups`` come from.
    ``total`` is the number of rows in the table, ``of`` the number of rows from which the sample
    was drawn, and ``without`` the number of rows in the sample that have no vector.
    """

    ids: list[str]
    x: list[float]
    y: list[float]
    labels: list[str | None]
    groups: list[Group]
    members: list[int]
    values: list[int | float | datetime | None]
    explained: list[float]
    label: str | None
    color: str | None
    without: int
    total: int
    of: int


@overload
def map(  # noqa: A001
    store: sync.VectorStore, table: str, *, color: Color = None, rows: int = 1000
) -> Figure: ...
@overload
def map(  # noqa: A001
    store: VectorStore, table: str, *, color: Color = None, rows: int = 1000
) -> Coroutine[Any, Any, Figure]: ...
def map(  # noqa: A001
    store: VectorStore | sync.VectorStore, table: str, *, color: Color = None, rows: int = 1000
) -> Figure | Coroutine[Any, Any, Figure]:
    """Return a table's map as a matplotlib figure; matplotlib must be installed.

    For a store from ``aiovec.connect``, await the call. A notebook shows the figure, and
    ``figure.savefig(path)`` writes it. The arguments are as in ``map_points``.
    """
    if isinstance(store, sync.VectorStore):
        return wait_for(store, lambda inner: _figure(inner, table, color, rows))
    return _figure(store, table, color, rows)


async def map_points(
    store: VectorStore, table: str, *, color: Color = None, rows: int = 1000
) -> MapPoints:
    """Return a sample of rows, placed by the two principal components of their vectors, with labels
    and groups.

    ``color`` is a field, or a payload key such as ``payload.cluster``. Each of its most frequent
    values gets a group, or the figure draws its numbers or times on a colour scale. By default,
    ``color`` is the first field with few values; False means no colours. The same rows give the
    same points. The sample has at most ``MAX_ROWS`` rows, fewer if their vectors are long.
    """
    if count_of("rows", rows) > MAX_ROWS:
        raise InvalidArgumentError("rows", rows, f"a whole number from 1 to {MAX_ROWS:,}")
    schema = await store.schema(table)
    if color is not None and color is not False:
        value_ref(schema, color, "color", lists=True, ids=False)
    total = await store.count(table)
    label = label_field(schema)
    colors = _colors(schema, label) if color is None else [color] if color else []
    select = list(dict.fromkeys([label, *colors] if label else colors))
    size = max(1, min(rows, _MAX_NUMBERS // max(schema.dim, 1)))
    sample = await _sample(store, table, size, total, select)
    if color is None:
        color = next((name for name in colors if _has_few_values(sample, name)), None)
    return await in_thread(_points, sample, schema.metric, label, color or None, total)


def label_field(schema: Schema) -> str | None:
    """Return the field that best describes a row: the first with keyword search, else the first
    text field, else None."""
    texts = [name for name, field in schema.fields.items() if field.type is str]
    return next((name for name in texts if schema.fields[name].text), next(iter(texts), None))


def _colors(schema: Schema, label: str | None) -> list[str]:
    """Return the fields whose values may be few enough for one colour each."""
    kinds = (str, bool, int, list[str])
    able = {name: field for name, field in schema.fields.items() if field.type in kinds}
    return [name for name, field in able.items() if name != label and not field.text]


def _has_few_values(sample: Results[Record], name: str) -> bool:
    values = {_group_of(record[name]) for record in sample if record[name] is not None}
    return 1 < len(values) <= min(len(_COLORS), len(sample) // 2)


async def _sample(
    store: VectorStore, table: str, size: int, total: int, select: list[str]
) -> Results[Record]:
    """Return a random sample of the table's rows, the same each time.

    Reads only the ids first, which is fast on SQLite and LanceDB, unlike an offset into a large
    table. Rows deleted in the meantime are left out.
    """
    among = range(min(total, _WALKED))
    places = np.sort(Random(0).sample(among, min(size, len(among))))
    ids: list[str] = []
    walked = 0
    export = store.export(table, select=[], batch_size=2_000)
    async with aclosing(export) as batches:
        async for batch in batches:
            if len(ids) == len(places):
                break
            within = places[len(ids) : np.searchsorted(places, walked + batch.num_rows)]
            ids += batch["id"].take(within - walked).to_pylist()
            walked += batch.num_rows
    return await store.get(table, ids, select=select, include_vector=True)


def _points(
    sample: Results[Record], metric: str, label: str | None, color: str | None, total: int
) -> MapPoints:
    placed = [record for record in sample if record.vector is not None]
    places, explained = _principal_components(
        [record.vector for record in placed], unit=metric == "cosine"
    )
    groups, members = _groups(placed, color)
    return MapPoints(
        ids=[record.id for record in placed],
        x=places[:, 0].round(4).tolist(),
        y=places[:, 1].round(4).tolist(),
        labels=[None if label is None else _short(record[label]) for record in placed],
        groups=groups,
        members=members,
        values=[] if color is None else _scaled([_value(record, color) for record in placed]),
        explained=explained.round(4).tolist(),
        label=label,
        color=color,
        without=len(sample) - len(placed),
        total=total,
        of=min(total, _WALKED),
    )


def _principal_components(vectors: Sequence[Any], *, unit: bool) -> tuple[Any, Any]:
    """Return each vector's position along the two directions of the largest variance, and the
    share of the variance of each direction.

    Positions lie between -1 and 1, and are the same for the same vectors. With ``unit``, vectors
    are first scaled to length one, since their lengths do not matter.
    """
    places, explained = np.zeros((len(vectors), 2)), np.zeros(2)
    if not vectors:
        return places, explained
    data = np.array(vectors, np.float64)  # squares of float32 cannot overflow in float64
    if unit:
        data /= np.maximum(np.linalg.norm(data, axis=1, keepdims=True), 1e-300)
    least = 1e-12 * float(np.einsum("ij,ij->", data, data))
    data -= data.mean(axis=0)
    variance = float(np.einsum("ij,ij->", data, data))
    if variance <= least:
        return places, explained  # all vectors are the same
    # Both products of the data with its transpose have the same nonzero eigenvalues; the smaller
    # product is used.
    of_rows = len(data) <= data.shape[1]
    values, directions = np.linalg.eigh(data @ data.T if of_rows else data.T @ data)
    most = min(2, len(values))
    values, axes = np.maximum(values[::-1][:most], 0.0), directions[:, ::-1][:, :most]
    axes = axes * np.sqrt(values) if of_rows else data @ axes
    places[:, :most] = axes / max(float(np.abs(axes).max()), 1e-300)
    explained[:most] = values / variance
    return places, explained


def _groups(placed: list[Record], color: str | None) -> tuple[list[Group], list[int]]:
    """Return the groups, the largest first, and for each record the index of its group."""
    if color is None:
        return [], []
    texts = [_group_of(_value(record, color)) for record in placed]
    counts = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    colored = len(_COLORS)
    numbers = {text: min(n, colored) for n, (text, _) in enumerate(counts)}
    groups = [Group(name, rows) for name, rows in counts[:colored]]
    if others := counts[colored:]:
        groups.append(Group(None, sum(rows for _, rows in others), len(others)))
    return groups, [numbers[text] for text in texts]


def _value(record: Record, name: str) -> Any:
    """Return the value of a field, or of a payload key by its path."""
    if not name.startswith("payload."):
        return record[name]
    value: Any = record
    for key in path_of(name):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _scaled(values: list[Any]) -> list[int | float | datetime | None]:
    """Return the values if they are numbers or times with too many values to group, else []."""
    kinds = {type(value) for value in values if value is not None}
    if len(set(values) - {None} if kinds <= {int, float, datetime} else ()) <= 12:
        return []
    return values


def _group_of(value: object) -> str:
    if value is None:
        return "(null)"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)[:_LABEL] or "(empty)"
    return str(value)[:_LABEL]


def _short(value: object) -> str | None:
    return None if value is None else str(value)[:_LABEL]


async def _figure(store: VectorStore, table: str, color: Color, rows: int) -> Figure:
    try:
        await in_thread(__import__, "matplotlib.figure")  # slow at the first import
    except ImportError as exc:
        missing = "needs matplotlib: pip install matplotlib"
        raise UnsupportedError("plot.map()", "", missing) from exc
    points = await map_points(store, table, color=color, rows=rows)
    return await in_thread(_draw, points, table)


def _draw(points: MapPoints, table: str) -> Figure:
    from matplotlib.figure import Figure

    class MapFigure(Figure):  # type: ignore[misc]
        """A figure that notebooks show, even without pyplot."""

        def _repr_png_(self) -> bytes:
            out = BytesIO()
            self.savefig(out, format="png", dpi=96)
            return out.getvalue()

    figure = MapFigure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    dots: dict[str, Any] = {"s": 14, "alpha": 0.75, "linewidths": 0}
    colors = (*_COLORS, _OTHERS)
    x, y, members = np.array(points.x), np.array(points.y), np.array(points.members)
    if points.values:
        _draw_scale(figure, axes, points, dots)
    elif points.groups:
        for number, group in enumerate(points.groups):
            in_group = members == number
            name = f"{group.values:,} other values" if group.name is None else group.name
            # The space is needed: matplotlib leaves labels that begin with "_" out of the legend.
            label = f" {_literal(name, _LEGEND)} ({group.rows:,})"
            axes.scatter(x[in_group], y[in_group], color=colors[number], label=label, **dots)
        legend = figure.legend(loc="outside right center", frameon=False)
        legend.set_title(_literal(points.color or "", _LEGEND))
    else:
        axes.scatter(x, y, color=colors[0], **dots)
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
    across, up = points.explained
    axes.set_xlabel(f"{across:.0%} of the variance")
    axes.set_ylabel(f"{up:.0%} of the variance")
    axes.set_title(f"{table}: {len(points.ids):,} of {points.total:,} rows", loc="left")
    return figure


def _draw_scale(figure: Figure, axes: Any, points: MapPoints, dots: dict[str, Any]) -> None:
    """Draw the points coloured by value, with a colour bar; points without a value are grey."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    times = any(isinstance(value, datetime) for value in points.values)
    number: Callable[[Any], float] = date2num if times else float
    values = np.array([np.nan if value is None else number(value) for value in points.values])
    x, y, known = np.array(points.x), np.array(points.y), np.isfinite(values)
    axes.scatter(x[~known], y[~known], color=_OTHERS, **dots)
    shades = axes.scatter(x[known], y[known], c=values[known], cmap="viridis", **dots)
    bar = figure.colorbar(shades, ax=axes, shrink=0.7)
    if times:
        locator = AutoDateLocator()
        bar.ax.yaxis.set(major_locator=locator, major_formatter=ConciseDateFormatter(locator))
    missing = int(np.count_nonzero(~known))
    name = _literal(points.color or "", _LEGEND)
    bar.set_label(f"{name} (grey: {missing:,} without)" if missing else name)


def _literal(text: str, length: int) -> str:
    """Return a row's text for matplotlib, which would read text between two ``$`` as
    mathematics."""
    short = text if len(text) <= length else text[: length - 1] + "…"
    return short.replace("$", r"\$").replace("\n", " ")
