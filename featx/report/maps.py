"""Maps of a store: its items in two dimensions, coloured by class, with a picture of each class at its middle."""

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import FeatxError, UsageError
from featx.evaluation.figure import COLORS, GREY, open_figure
from featx.files import say_failures, write_table
from featx.heads.rows import FeatureRows
from featx.projection import METHODS, measure_explained, project_features
from featx.references import find_bundle
from featx.report.contact_sheets import Pixels, find_pictures, make_tile, refuse_source
from featx.results import read_predictions
from featx.store import FeatureStore
from featx.store.joining import AnyStore
from featx.wording import shorten_name, to_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What colours the items.
COLOURINGS = ("label", "split", "group")

#: More items are sampled; more values are grey, and named without a place of their own in the legend.
MOST_POINTS, MOST_COLOURED, MOST_PICTURES = 20_000, 24, 20

#: The value of what has none, and the values of what a head was tested on.
NONE, RIGHT, WRONG, UNTESTED = "", "right", "wrong", "not tested"

#: The plural of what colours the items.
_PLURALS = {"label": "labels", "split": "splits", "group": "groups"}

_MARKERS = "os^D"
_INCHES = (7.5, 6.0)
_THUMBNAIL_PX = 96

#: Above this, points are drawn as a picture inside the SVG file, and in a larger number they are smaller.
_MOST_VECTORS = 2000

#: The columns of the table.
_COLUMNS = ("id", "label", "split", "x", "y")

#: Up to so many pictures are large; columns of the names below them.
_MOST_LARGE, _NAME_CELLS = 12, 14

#: Steps in which pictures push each other apart.
_STEPS = 200


@dataclass(frozen=True, slots=True)
class StoreMap:
    """The items of a store in two dimensions.

    Attributes:
        title: The store, its layer, the method, and the share of the variance that principal components show.
        method: `pca` or `umap`.
        ids, labels, splits: Of each item on the map.
        values: What colours it: its label, split or group, or whether a head was right.
        points: float32 `(n, 2)`.
        pictures: uint8 RGB thumbnails `(height, width, 3)` of the items at the middle of values, by value.
        notes: What the user should know.
        by: What the values are: `label`, `split` or `group`.
        bundle: The name of the bundle whose mistakes they are instead; empty for none.
    """

    title: str
    method: str
    ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    values: Sequence[str]
    points: NDArray[np.float32]
    pictures: Mapping[str, Pixels] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    by: str = COLOURINGS[0]
    bundle: str = ""

    def __repr__(self) -> str:
        return f"<StoreMap of {len(self.ids):,} items: {self.title}>"

    @property
    def colouring(self) -> str:
        """What colours the items, in words."""
        n_named = len(set(self.values) - {NONE})
        if self.bundle:
            return f"coloured by what {self.bundle} got right"
        if n_named > MOST_COLOURED:
            return f"{n_named:,} {_PLURALS[self.by]}, too many for colours; the largest {MOST_PICTURES} have a name"
        return f"coloured by {self.by}" if n_named else f"no {_PLURALS[self.by]}"

    def tabulate(self) -> dict[str, Sequence[Any]]:
        """Return the columns of the table: `id`, `label`, `split`, `x` and `y`."""
        x, y = self.points.T.tolist()
        return dict(zip(_COLUMNS, (self.ids, self.labels, self.splits, x, y), strict=True))

    def write(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the map as PNG, SVG and CSV, beside each other, and return the files.

        Args:
            path: The PNG file.

        Raises:
            UsageError: If the path has another suffix, or a table of something else is beside it.
            BundleError: If a file cannot be written.
        """
        target = check_path(path)
        with say_failures(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _draw(self, target, vector=True)
            write_table(self.tabulate(), target.with_suffix(".csv"))
        return [target.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        with tempfile.TemporaryDirectory() as folder:
            _draw(self, Path(folder) / "map.png", vector=False)
            return (Path(folder) / "map.png").read_bytes()


def map_store(
    store: FeatureStore | str | os.PathLike[str],
    *,
    method: str = METHODS[0],
    by: str = COLOURINGS[0],
    bundle: str | os.PathLike[str] | None = None,
    source: str = "",
    seed: int = 0,
) -> StoreMap:
    """Project the items of a store to two dimensions.

    Args:
        store: The store, or its path.
        method: `pca` at once, or `umap`, which needs the extra `map`.
        by: What colours the items: `label`, `split` or `group`.
        bundle: A bundle that was tested on items of the store; it colours them by right and wrong instead.
        source: Where the pictures are now, if they were moved; without them the map has none.
        seed: Seed of UMAP, and of the sample of more than 20,000 items.

    Returns:
        The map, which a notebook shows.

    Raises:
        UsageError: If there is no such method or colouring, the store has no splits or groups to colour by, or the
            bundle was tested on none of its items.
        MissingExtraError: If UMAP is not installed.
        BundleError: If the bundle has no predictions.
        SourceError: If `source` is given and cannot be read, or has none of the pictures.

    Examples:
        >>> import featx
        >>> found = featx.map_store("features/colour.h5")
        >>> found.points.shape
        (400, 2)
    """
    if by not in COLOURINGS:
        msg = f"a map cannot be coloured by {by!r}; choose {', '.join(COLOURINGS[:-1])} or {COLOURINGS[-1]}"
        raise UsageError(msg)
    opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
    columns = {"label": opened.labels, "split": opened.splits, "group": opened.groups}
    values, notes = _judge(opened, bundle) if bundle else (columns[by], [])
    if by != COLOURINGS[0] and not bundle and not (values != NONE).any():
        msg = f"{opened.path} has no {_PLURALS[by]}, since its source names none; a map can be coloured by label"
        raise UsageError(msg)
    rows = np.arange(len(opened))
    if len(opened) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(seed).permutation(len(opened))[:MOST_POINTS])
        notes.append(f"the map shows a sample of {MOST_POINTS:,} of {len(opened):,} items")
    points, how = project_items(opened, rows, method, seed)
    shown = f"{len(rows):,} of {len(opened):,}" if len(rows) < len(opened) else f"{len(rows):,}"
    pictures, gone = _read_pictures(opened, rows, values[rows], points, source)
    return StoreMap(
        title=f"{opened.path.stem}: {shown} items, layer {opened.spec.backbone.layer}, {how}",
        method=method,
        ids=opened.ids[rows].tolist(),
        labels=opened.labels[rows].tolist(),
        splits=opened.splits[rows].tolist(),
        values=values[rows].tolist(),
        points=points,
        pictures=pictures,
        notes=(*notes, *gone),
        by=by,
        bundle=find_bundle(bundle).resolve().name if bundle else "",
    )


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the PNG file of a map, whose table and SVG file are beside it.

    Raises:
        UsageError: If the path has another suffix, or a table of something else, such as a manifest, is beside it.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        msg = f"{target} is not a .png file; name one, and .svg and .csv are written beside it"
        raise UsageError(msg)
    table = target.with_suffix(".csv")
    if table.is_file():
        with table.open("rb") as file:
            if file.readline(100).strip() != ",".join(_COLUMNS).encode():
                msg = f"{table} is not the table of a map, and would be replaced; name another file than {target}"
                raise UsageError(msg)
    return target


def project_items(store: AnyStore, rows: NDArray[np.intp], method: str, seed: int) -> tuple[NDArray[np.float32], str]:
    """Project items of a store to two dimensions; of several views, their mean, as heads and neighbours take it.

    Args:
        store: The store.
        rows: The rows of the items, int `(n,)`.
        method: `pca` or `umap`.
        seed: Seed of UMAP.

    Returns:
        float32 `(n, 2)`, and what they are, such as `PCA, 41 % of the variance`.

    Raises:
        MissingExtraError: If UMAP is not installed.
    """
    features = FeatureRows(store.features, rows, store.n_views)
    points = project_features(features, method, seed)
    if method != "pca":
        return points, method.upper()
    return points, f"PCA, {100 * measure_explained(features, points):.0f} % of the variance"


def _judge(store: FeatureStore, bundle: str | os.PathLike[str]) -> tuple[NDArray[np.str_], list[str]]:
    """Return whether a head was right about each item, text `(n_items,)`, and a note if it was tested on others too.

    Raises:
        UsageError: If it was tested on none of the items.
    """
    tested = read_predictions(find_bundle(bundle))
    pairs = zip(tested.labels, tested.predicted, strict=True)
    known = dict(zip(tested.ids, (RIGHT if label == predicted else WRONG for label, predicted in pairs), strict=True))
    values = np.array([known.get(to_text(name), UNTESTED) for name in store.ids.tolist()], np.str_)
    n_found = int((values != UNTESTED).sum())
    if not n_found:
        msg = f"{bundle} was tested on none of the items of {store.path}; name a bundle that was fitted on this store"
        raise UsageError(msg)
    n_others = len(known) - n_found
    return values, [f"{n_others:,} of the {len(known):,} tested items of {bundle} are not in the store"] * (
        n_others > 0
    )


def _find_middles(values: NDArray[np.str_], points: NDArray[np.float32]) -> dict[str, int]:
    """Return the medoid of the points of each value, the largest values first."""
    middles = {}
    for value, _ in Counter(values.tolist()).most_common():
        members = np.flatnonzero(values == value)
        distances = np.square(points[members] - np.median(points[members], axis=0)).sum(axis=1)
        middles[value] = int(members[distances.argmin()])
    return middles


def _read_pictures(
    store: FeatureStore, rows: NDArray[np.intp], values: NDArray[np.str_], points: NDArray[np.float32], source: str
) -> tuple[dict[str, Pixels], list[str]]:
    """Read the picture at the middle of each of the largest values, and say if there are none."""
    try:
        reader = find_pictures(store, source)
    except FeatxError as error:
        if source:
            raise
        return {}, [f"the map shows no pictures: {error}; name where they are now: featx map {store.path} SOURCE"]
    middles = [(value, at) for value, at in _find_middles(values, points).items() if value != NONE]
    tiles = {
        value: make_tile(reader, str(store.ids[rows[at]]), (), side_px=_THUMBNAIL_PX)
        for value, at in middles[:MOST_PICTURES]
    }
    if source and middles and all(tile.pixels is None for tile in tiles.values()):
        refuse_source(source, len(tiles), str(store.ids[rows[middles[0][1]]]))
    failed = next((tile.reason for tile in tiles.values() if tile.pixels is None), "")
    notes = [f"the map lacks pictures that cannot be read: {failed}"] if failed else []
    return {value: tile.pixels for value, tile in tiles.items() if tile.pixels is not None}, notes


def _draw(found: StoreMap, path: Path, *, vector: bool) -> None:
    values = np.array(found.values)
    # Names in their own order, whatever their number, so that a class has the same colour on each map of a store.
    middles, names = _find_middles(values, found.points), sorted(set(found.values) - {NONE})
    counts = Counter(found.values)
    with open_figure([*names, "none"], path, vector=vector) as (figure, shown):
        figure.set_size_inches(*_INCHES)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_title(f"{found.title}\n{shorten_name(found.colouring, 90)}", fontsize=11, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["top", "right"]].set_visible(False)
        if found.method == "pca":
            axes.set_xlabel("first component")
            axes.set_ylabel("second component")
        axes.set_aspect("equal", adjustable="datalim")
        size = float(np.clip(20_000 / len(values), 4, 26))
        styles = _JUDGED if found.bundle else _style(names)
        for name, label in zip([*names, NONE], shown, strict=True):
            part = found.points[values == name]
            colour, marker = styles.get(name, ("0.75", "o"))
            legend = f"{label} ({counts[name]:,})" if name in styles or not name else None
            if len(part):
                look: dict[str, Any] = {
                    "s": size * (1.8 if marker == "X" else 1),
                    "color": colour,
                    "marker": marker,
                    "linewidths": 0,
                    "alpha": 0.75,
                }
                axes.scatter(*part.T, label=legend, rasterized=len(values) > _MOST_VECTORS, **look)
        if 1 < len(styles) <= MOST_COLOURED:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, markerscale=1.4)
        axes.autoscale_view()
        figure.canvas.draw()
        placed = [name for name in middles if name in names][:MOST_PICTURES]
        words = dict(zip(names, shown, strict=False))
        if not found.bundle:
            _place_pictures(axes, found, {name: (middles[name], words[name]) for name in placed}, styles)


def _style(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each name; none if there are more than can be told apart."""
    if len(names) > MOST_COLOURED:
        return {}
    return {name: (COLORS[at % len(COLORS)], _MARKERS[at // len(COLORS)]) for at, name in enumerate(names)}


#: Grey for what is as it should be, so that mistakes stand out.
_JUDGED = {RIGHT: ("0.6", "o"), WRONG: (COLORS[1], "X"), UNTESTED: ("0.85", "o")}


def _place_pictures(
    axes: "Axes", found: StoreMap, middles: Mapping[str, tuple[int, str]], styles: Mapping[str, tuple[str, str]]
) -> None:
    """Draw the picture and the name of each value at its middle, or near it where pictures would cover each other."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage, TextArea, VPacker

    scale = axes.figure.dpi / 72
    side, letters = (38 * scale, 8.0) if len(middles) <= _MOST_LARGE else (26 * scale, 6.5)
    names = {value: shorten_name(name, _NAME_CELLS) for value, (_, name) in middles.items()}
    anchors = axes.transData.transform(found.points[[at for at, _ in middles.values()]])
    boxes = [
        (
            max(0.7 * letters * scale * len(names[value]), side * (value in found.pictures)) + 6 * scale,
            1.2 * letters * scale + side * (value in found.pictures) + 6 * scale,
        )
        for value in middles
    ]
    frame = axes.get_window_extent()
    places = _push_apart(anchors, np.array(boxes).reshape(-1, 2), np.array([frame.min, frame.max]))
    to_data = axes.transData.inverted().transform
    for (value, (at, _)), place in zip(middles.items(), places, strict=True):
        colour = styles.get(value, (GREY, ""))[0]
        parts: list[Any] = [TextArea(names[value], textprops={"fontsize": letters, "weight": "bold"})]
        if value in found.pictures:
            pixels = found.pictures[value]
            zoom = side / max(pixels.shape[:2]) / scale
            parts.insert(0, OffsetImage(pixels, zoom=zoom, interpolation="antialiased"))
        axes.add_artist(
            AnnotationBbox(
                VPacker(children=parts, align="center", pad=0, sep=1.5),
                found.points[at].tolist(),
                xybox=to_data(place).tolist(),
                boxcoords="data",
                pad=0.15,
                bboxprops={"edgecolor": colour, "facecolor": "white", "linewidth": 1.4},
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9},
            )
        )


def _push_apart(
    anchors: NDArray[np.float64], boxes: NDArray[np.float64], frame: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move boxes apart until none covers another, inside a frame as far as there is room.

    Args:
        anchors: Where their centres should be, float64 `(n, 2)`, in pixels.
        boxes: Their widths and heights, float64 `(n, 2)`.
        frame: The lower left and the upper right corner.
    """
    places, needed = np.array(anchors, np.float64), (boxes[:, None] + boxes[None]) / 2
    # Equal places have no direction in which to move.
    places += np.random.default_rng(0).uniform(-0.5, 0.5, places.shape)
    for _ in range(_STEPS):
        gaps = places[:, None] - places[None]
        overlap = np.maximum(needed - np.abs(gaps), 0)
        overlap[overlap.min(axis=2) <= 0] = 0
        overlap[np.arange(len(places)), np.arange(len(places))] = 0
        if not overlap.any():
            break
        # Along the direction in which less is to do.
        shorter = overlap == overlap.min(axis=2, keepdims=True)
        places += (np.sign(gaps) * overlap * shorter * 0.3).sum(axis=1)
        places = np.clip(places, frame[0] + boxes / 2, frame[1] - boxes / 2)
    return places
