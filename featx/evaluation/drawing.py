"""What all pictures share: fonts for any name, the same bytes every time, PNG and SVG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featx.evaluation.names import shorten_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

#: The most columns of a terminal that a name in a picture takes.
NAME_CELLS = 28

#: Colours that colour-blind readers can tell apart (M. Okabe and K. Ito, "Color universal design", 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE = COLORS[0]
GREY = "0.55"

#: Lines that a black and white print can tell apart.
DASHES = ("-", "--", "-.", ":", "-", "--")

# Over more than this, powers of ten are ticks enough.
_DECADES = 2.5

_DPI = 150
_MARGIN_INCHES = 0.15

# Beside matplotlib's own font, which has no Chinese, Japanese, Korean or Indian letters:
# the first families that Linux, macOS and Windows bring for them.
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
def open_figure(names: Sequence[str], path: Path, *, noun: str = "class") -> Iterator[tuple["Figure", list[str]]]:
    """Give a figure to draw on, and write it as PNG and, beside it, as SVG.

    The same drawing and matplotlib give the same bytes. What lies outside of the
    figure widens the picture. The settings of matplotlib are put back.

    Args:
        names: The names that the picture shall hold.
        path: The PNG file; the SVG file has the same stem.
        noun: What a name stands for, where its letters cannot be drawn: `class 4`.

    Yields:
        The figure, and the names as its fonts can draw them, at most 28 columns wide.

    Raises:
        OSError: If a file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families = _choose_families(names)
    # Without a salt the ids in an SVG file are random. Only the settings can give one.
    with mpl.rc_context(
        {
            "svg.hashsalt": "featx",
            "text.usetex": False,
            "text.parse_math": False,
            "font.family": families,
            "font.size": 10,
        }
    ):
        figure = Figure(dpi=100)
        FigureCanvasAgg(figure)
        yield figure, show_names(names, families, noun)
        box = figure.get_tightbbox().padded(_MARGIN_INCHES)
        figure.savefig(path, format="png", dpi=_DPI, bbox_inches=box)
        figure.savefig(path.with_suffix(".svg"), format="svg", dpi=_DPI, bbox_inches=box, metadata={"Date": None})


@contextmanager
def open_chart(
    names: Sequence[str], path: Path, *, noun: str = "class", inches: tuple[float, float] = (6.6, 4.2)
) -> Iterator[tuple["Axes", list[str]]]:
    """Give axes to draw on, as `open_figure` gives a figure.

    Args:
        names: As for `open_figure`.
        path: As for `open_figure`.
        noun: As for `open_figure`.
        inches: Width and height of what the axes enclose.

    Yields:
        The axes, and the names as they can be drawn.
    """
    with open_figure(names, path, noun=noun) as (figure, shown):
        figure.set_size_inches(*inches)
        axes = figure.add_axes((0, 0, 1, 1))
        clear_axes(axes)
        yield axes, shown


def clear_axes(axes: "Axes") -> None:
    """Leave two sides of the frame, and a grid that is hardly seen."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)


def scale_logarithmically(axes: "Axes", values: "NDArray[np.float64]") -> None:
    """Make the x axis logarithmic, at least a decade wide, with ticks as numbers are read: `0.05`, `2,000`, `1e-05`.

    Args:
        axes: What values are drawn in.
        values: What the axis shall show, above 0, any shape.
    """
    from matplotlib.ticker import LogLocator

    low, high = np.log10(values.min()), np.log10(values.max())
    margin = max(0.06 * (high - low), (1 - high + low) / 2)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < _DECADES else (1,), numticks=9))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}" if 1e-4 < value < 1e6 else f"{value:.0e}")  # noqa: PLR2004 - as wide as other ticks
    axes.xaxis.set_minor_formatter(lambda *_: "")


def show_names(names: Sequence[str], families: list[str], noun: str) -> list[str]:
    """Shorten the names; one with letters that no font has is numbered, and keeps the rest."""
    glyphs = _find_glyphs(families)
    shown = []
    for number, name in enumerate(names, start=1):
        drawn = "".join(char for char in name if char in glyphs or not char.isprintable()).strip()
        label = drawn if drawn == name.strip() else f"{noun} {number} {drawn}"
        shown.append(shorten_name(label.rstrip(), NAME_CELLS))
    return shown


def _choose_families(names: Sequence[str]) -> list[str]:
    """Add the other families that are installed, if a name has letters that the first one lacks."""
    from matplotlib.font_manager import fontManager

    if not set("".join(names)) - _find_glyphs([_FAMILY]):
        return [_FAMILY]
    installed = {font.name for font in fontManager.ttflist}
    return [_FAMILY, *(family for family in _OTHER_FAMILIES if family in installed)]


def _find_glyphs(families: list[str]) -> set[str]:
    """Find the characters that these fonts can draw."""
    from matplotlib.font_manager import findfont, get_font

    return {chr(code) for family in families for code in get_font(findfont(family)).get_charmap()}
