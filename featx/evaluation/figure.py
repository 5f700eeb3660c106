"""The base of all plots: fonts for any name, labels, PNG and SVG files with the same bytes every time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from featx.evaluation.intervals import FloatArray
from featx.wording import format_plural, shorten_name, wrap_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


#: A name in a plot that has no room for more is cut to this, in columns of a terminal.
NAME_CELLS = 28

#: A name in a plot that has room, such as in a legend, is cut to this.
WIDE_CELLS = 60

#: Width of a letter or digit, relative to the font size.
LETTER_WIDTH = 0.62

# A line of a title is at least this long, in columns of a terminal, and as long as the plot is wide.
_TITLE_CELLS, _TITLE_SIZE = 60, 10

#: Colours that colour-blind readers can distinguish (M. Okabe and K. Ito, "Color universal design", 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE = COLORS[0]
GREY = "0.55"

#: Line styles that differ in black and white.
DASHES = ("-", "--", "-.", ":", "-", "--")

# On a longer axis, powers of ten are enough ticks.
_DECADES = 2.5

_DPI = 150
_MARGIN_INCHES = 0.15

# Matplotlib's own font has no Chinese, Japanese, Korean or Indian letters. These are the first
# families with such letters that come with Linux, macOS and Windows.
_FAMILY = "DejaVu Sans"
_OTHER_FAMILIES = (
    "Noto Sans CJK JP",
    "Noto Sans Devanagari",
    "Hiragino Sans",
    "PingFang HK",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Nirmala UI",
)


@contextmanager
def open_figure(
    names: Sequence[str], path: Path, *, noun: str = "class", cells: int = WIDE_CELLS, vector: bool = True
) -> Iterator[tuple["Figure", list[str]]]:
    """Yield a figure to draw on, then write it as PNG and, next to it, as SVG.

    The same drawing and version of matplotlib give the same bytes. Artists outside the
    figure widen the saved plot. The settings of matplotlib are restored. Text in the SVG file is
    text, so that it can be searched, copied and edited, and the viewer joins and orders its letters.

    Args:
        names: The names that the plot contains.
        path: The PNG file; the SVG file has the same stem.
        noun: The word that replaces a name whose letters cannot be drawn, as in `class 4`.
        cells: The longest name, in columns of a terminal.
        vector: Whether the SVG file is written.

    Yields:
        The figure, and the names as its fonts can draw them, shortened.

    Raises:
        OSError: If a file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families = _choose_families(names)
    # Without a salt, the ids in an SVG file are random; only the settings can set it.
    with mpl.rc_context(
        {
            "svg.hashsalt": "featx",
            "svg.fonttype": "none",
            # For the generic family, matplotlib lists in the SVG file all families that it knows.
            "font.sans-serif": [_FAMILY],
            "text.usetex": False,
            "text.parse_math": False,
            "font.family": [*families, "sans-serif"],
            "font.size": 10,
        }
    ):
        figure = Figure(dpi=100)
        FigureCanvasAgg(figure)
        yield figure, show_names(names, families, noun, cells)
        box = figure.get_tightbbox().padded(_MARGIN_INCHES)
        figure.savefig(path, format="png", dpi=_DPI, bbox_inches=box)
        if vector:
            figure.savefig(path.with_suffix(".svg"), format="svg", dpi=_DPI, bbox_inches=box, metadata={"Date": None})


@contextmanager
def open_chart(
    names: Sequence[str],
    path: Path,
    *,
    noun: str = "class",
    cells: int = WIDE_CELLS,
    inches: tuple[float, float] = (6.6, 4.2),
) -> Iterator[tuple["Axes", list[str]]]:
    """Yield axes to draw on, as `open_figure` yields a figure.

    Args:
        names: As for `open_figure`.
        path: As for `open_figure`.
        noun: As for `open_figure`.
        cells: As for `open_figure`.
        inches: Width and height of the axes.

    Yields:
        The axes, and the names as they can be drawn.
    """
    with open_figure(names, path, noun=noun, cells=cells) as (figure, shown):
        figure.set_size_inches(*inches)
        axes = figure.add_axes((0, 0, 1, 1))
        clear_axes(axes)
        yield axes, shown


def clear_axes(axes: "Axes") -> None:
    """Draw only the left and lower side of the frame, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)


def scale_logarithmically(axes: "Axes", values: "NDArray[np.float64]") -> None:
    """Make the x axis logarithmic, at least a decade wide, with readable ticks: `0.05`, `2,000`, `1e-05`.

    Args:
        axes: The axes.
        values: The values that the axis must show, above 0, any shape.
    """
    from matplotlib.ticker import LogLocator

    low, high = np.log10(values.min()), np.log10(values.max())
    margin = max(0.06 * (high - low), (1 - high + low) / 2)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < _DECADES else (1,), numticks=9))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}" if 1e-4 < value < 1e6 else f"{value:.0e}")  # noqa: PLR2004 - as wide as other ticks
    axes.xaxis.set_minor_formatter(lambda *_: "")


def show_names(names: Sequence[str], families: list[str], noun: str, cells: int) -> list[str]:
    """Shorten the names; a name with letters that no font has gets a number and keeps its other letters."""
    glyphs = _find_glyphs(families)
    shown = []
    for number, name in enumerate(names, start=1):
        drawn = "".join(char for char in name if char in glyphs or not char.isprintable()).strip()
        label = drawn if drawn == name.strip() else f"{noun} {number} {drawn}"
        shown.append(shorten_name(label.rstrip(), cells))
    return shown


def make_title(head: str, store: str = "", source: str = "", *, split: str = "", n_items: int = 0) -> str:
    """Say what a plot shows, such as `ridge on colour.h5 of flowers, 400 items (test)`, wherever the picture goes.

    Args:
        head: What was tested or trained.
        store: Name of the store, or what else it was tested on.
        source: Path of the images; only its name is shown, and not where the store has it in its own.
        split: The part of the items, such as `test`.
        n_items: Number of items; 0 if the plot says it at each curve.
    """
    data = PurePath(source).name
    on = f" on {store}" * bool(store) + f" of {data}" * bool(data and data not in store)
    items = format_plural(n_items, "item") + f" ({split})" * bool(split) if n_items else split
    return ", ".join(filter(None, [f"{head}{on}".strip(), items]))


def show_title(title: str, inches: float) -> str:
    """Break a title into lines for a width, and leave out letters that the fonts of the open figure lack."""
    import matplotlib as mpl

    glyphs = _find_glyphs(list(mpl.rcParams["font.family"]))
    drawn = "".join(char for char in title if char in glyphs or not char.isprintable())
    cells = max(_TITLE_CELLS, int(72 * inches / (LETTER_WIDTH * _TITLE_SIZE)))
    return "\n".join(shorten_name(line, cells) for line in wrap_words(drawn, cells).split("\n"))


def _choose_families(names: Sequence[str]) -> list[str]:
    """Return the first family, and all installed ones if a name has letters that the first lacks."""
    from matplotlib.font_manager import fontManager

    if not set("".join(names)) - _find_glyphs([_FAMILY]):
        return [_FAMILY]
    installed = {font.name for font in fontManager.ttflist}
    return [_FAMILY, *(family for family in _OTHER_FAMILIES if family in installed)]


def _find_glyphs(families: list[str]) -> set[str]:
    """Find the characters that these fonts can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = [findfont(FontProperties(family=[family])) for family in families]  # a text with a hyphen is a pattern
    return {chr(code) for file in files for code in get_font(file).get_charmap()}


_FONT_SIZE = 9

# Distances from the marker in points (1/72 inch), and directions; right and left first, since bars are above and below.
_DISTANCES = (8, 14, 22, 32, 44, 58, 74, 92, 112)
_ANGLES = (0, 180, 30, -30, 150, -150, 60, -60, 120, -120)

# The cost of leaving the axes, of each covered label, marker and bar, and of each point of distance.
_OUTSIDE, _COVERED, _MARKED, _BARRED, _FAR = 1000.0, 100.0, 60.0, 4.0, 0.15

# The cost of each label and marker that a leader line crosses, and the number of points sampled on a line.
_CROSSED, _SAMPLES = 10.0, 15

# The cost of a label without a leader line that is not this many times nearer to its own marker than to any other.
_MISTAKEN, _CLEARLY = 6.0, 1.4

# Half the size of a marker, and the distance at which markers crowd each other, in points.
_RADIUS, _CROWDED = 5, 60

# Widths to which names are shortened if they find no room, in columns of a terminal.
_WIDTHS = (WIDE_CELLS, 40, NAME_CELLS)

# A label farther away gets a leader line.
_NEAR = 12


def place_labels(axes: "Axes", names: Sequence[str], x: FloatArray, y: FloatArray, bars: FloatArray) -> None:
    """Write each name near its point, where it covers least (docs/decisions/0012-labels-in-plots.md).

    Names are placed one by one, from the most crowded point to the least. For each,
    90 places are tried, near ones first. Names that find no room are shortened, all alike.

    Args:
        axes: The axes with the points; their limits must be final.
        names: (n_points,).
        x: Horizontal positions of the points, float64 (n_points,).
        y: Vertical positions of the points, float64 (n_points,).
        bars: Lower and upper ends of their vertical bars, float64 (n_points, 2).
    """
    axes.autoscale_view()
    points = axes.transData.transform(np.stack([x, y], axis=1))
    ends = np.stack([axes.transData.transform(np.stack([x, end], axis=1))[:, 1] for end in bars.T], axis=1)
    shown: Sequence[str] = ()
    for shown in dict.fromkeys(tuple(shorten_name(name, cells) for name in names) for cells in _WIDTHS):
        boxes, far, most = _find_places(axes, shown, points, ends)
        if most < _MARKED:
            break
    for name, point, box, is_far in zip(shown, points, boxes, far, strict=True):
        _write(axes, name, point, box, far=bool(is_far))


def _find_places(
    axes: "Axes", names: Sequence[str], points: FloatArray, ends: FloatArray
) -> tuple[FloatArray, "NDArray[np.bool_]", float]:
    """Find a box for each name, float64 (n_points, 4), whether it is far from its point, and the highest cost."""
    scale, frame = axes.figure.dpi / 72, axes.get_window_extent()
    sizes, most = _measure(axes, names), 0.0
    placed, found, far = np.empty((0, 4)), np.empty((len(names), 4)), np.zeros(len(names), bool)
    crowd = (np.abs(points[:, np.newaxis] - points) < _CROWDED * scale).all(axis=2).sum(axis=1)
    distances = np.repeat(_DISTANCES, len(_ANGLES)).astype(np.float64)
    angles = np.radians(np.tile(_ANGLES, len(_DISTANCES)))
    offsets = distances[:, np.newaxis] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for index in np.argsort(-crowd, kind="stable").tolist():
        boxes = np.array([_make_box(points[index], offset * scale, sizes[index]) for offset in offsets])
        outside = (boxes[:, :2] < frame.min).any(axis=1) | (boxes[:, 2:] > frame.max).any(axis=1)
        costs = _count_covered(boxes, placed, points, ends, _RADIUS * scale) + _FAR * distances + _OUTSIDE * outside
        others = np.delete(points, index, axis=0)
        costs += _CROSSED * _count_crossed(points[index], boxes, placed, others, _RADIUS * scale)
        mistaken = _measure_gaps(boxes, others) < _CLEARLY * _measure_gaps(boxes, points[[index]])
        costs += _MISTAKEN * (mistaken.any(axis=1) & (distances <= _NEAR))
        best = int(costs.argmin())
        placed = np.concatenate([placed, boxes[best : best + 1]])
        found[index], far[index], most = boxes[best], distances[best] > _NEAR, max(most, float(costs[best]))
    return found, far, most


def _measure(axes: "Axes", names: Sequence[str]) -> FloatArray:
    """Measure the width and height of the written names: float64 (n_names, 2) in pixels."""
    sizes = []
    for name in names:
        text = axes.text(0, 0, name or " ", fontsize=_FONT_SIZE)
        extent = text.get_window_extent()
        text.remove()
        sizes.append((extent.width, extent.height))
    return np.array(sizes)


def _make_box(point: FloatArray, offset: FloatArray, size: FloatArray) -> FloatArray:
    """Return left, bottom, right and top of a label whose near side is at the offset from the point."""
    anchor = point + offset
    side = np.sign(np.round(offset[0], 6))
    left = anchor[0] - size[0] * (1 - side) / 2
    bottom = anchor[1] - size[1] / 2
    return np.array([left, bottom, left + size[0], bottom + size[1]])


def _count_covered(
    boxes: FloatArray, placed: FloatArray, points: FloatArray, ends: FloatArray, radius: float
) -> FloatArray:
    """Compute the cost of what each box covers: float64 (n_boxes,)."""
    left, bottom, right, top = boxes.T[:, :, np.newaxis]
    labels = (left < placed[:, 2]) & (right > placed[:, 0]) & (bottom < placed[:, 3]) & (top > placed[:, 1])
    markers = _measure_gaps(boxes, points) < radius
    x = points[:, 0]
    bars = (left < x) & (right > x) & (bottom < ends[:, 1]) & (top > ends[:, 0])
    return np.asarray(_COVERED * labels.sum(axis=1) + _MARKED * markers.sum(axis=1) + _BARRED * bars.sum(axis=1))


def _measure_gaps(boxes: FloatArray, points: FloatArray) -> FloatArray:
    """Measure the distances between boxes and points: float64 (n_boxes, n_points)."""
    places = points[np.newaxis]
    nearest = np.clip(places, boxes[:, np.newaxis, :2], boxes[:, np.newaxis, 2:])
    return np.asarray(np.hypot(*(places - nearest).transpose(2, 0, 1)))


def _count_crossed(
    point: FloatArray, boxes: FloatArray, placed: FloatArray, others: FloatArray, radius: float
) -> FloatArray:
    """Count the labels and markers that the lines from a point to the boxes would cross: float64 (n_boxes,)."""
    ends = np.clip(point, boxes[:, :2], boxes[:, 2:])
    line = point + np.linspace(0, 1, _SAMPLES)[:, np.newaxis, np.newaxis] * (ends - point)
    markers = (np.hypot(*(line[:, :, np.newaxis] - others).transpose(3, 0, 1, 2)) < radius).any(axis=0)
    inside = (line[:, :, np.newaxis] > placed[:, :2]) & (line[:, :, np.newaxis] < placed[:, 2:])
    labels = inside.all(axis=3).any(axis=0)
    return np.asarray(markers.sum(axis=1) + labels.sum(axis=1), np.float64)


def _write(axes: "Axes", name: str, point: FloatArray, box: FloatArray, *, far: bool) -> None:
    from matplotlib.patheffects import Stroke

    to_data = axes.transData.inverted()
    if far:
        line = to_data.transform([point, np.clip(point, box[:2], box[2:])])
        axes.plot(*line.T, color=GREY, lw=0.7, zorder=1)
    x, y = to_data.transform((box[:2] + box[2:]) / 2).tolist()
    # A white rim around the letters instead of a box, so that an interval behind them stays visible. It is a
    # text of its own, since letters with path effects are not text in an SVG file.
    for effects in ([Stroke(linewidth=2.5, foreground="white")], None):
        axes.text(x, y, name, fontsize=_FONT_SIZE, ha="center", va="center", zorder=6, path_effects=effects)
