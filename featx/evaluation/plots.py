"""The confusion matrix as a picture, for two classes and for a thousand."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featx.evaluation.drawing import NAME_CELLS, open_figure
from featx.evaluation.metrics import Evaluation
from featx.evaluation.names import measure_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_COUNTED = 30
_MOST_ZEROS = 10
_MOST_NAMED = 110

# Width of a letter or digit, in parts of the font's size.
_LETTER_WIDTH = 0.62

# A linear scale would leave the few confused items of a good classifier white: 2 % is at 0.21 of this one.
_GAMMA = 0.4

# Text on darker shades is white.
_DARK = 0.6


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrix, and write it as PNG and, beside it, as SVG.

    The colour is the part of the true class's items; up to 30 classes the cells hold
    the counts. The same evaluation and matplotlib give the same bytes.

    Args:
        evaluation: What to draw.
        path: The PNG file; the SVG file has the same stem.

    Raises:
        OSError: If a file cannot be written.
    """
    with open_figure(evaluation.classes, path) as (figure, names):
        _draw(figure, evaluation, names)


def _draw(figure: "Figure", evaluation: Evaluation, names: list[str]) -> None:
    """Fill the figure with the matrix; what is around it lies outside, and widens the picture when it is saved."""
    n_classes = len(names)
    counted = n_classes <= _MOST_COUNTED
    side_inches = float(np.clip(0.45 * n_classes, 3, 12) if counted else np.clip(0.115 * n_classes, 9, 13))
    figure.set_size_inches(side_inches, side_inches)
    axes = figure.add_axes((0, 0, 1, 1))
    _paint(axes, evaluation, side_inches)
    if counted:
        _write_counts(axes, evaluation, 72 * side_inches / n_classes)
    _write_names(axes, names, 72 * side_inches)
    size = max(10.0, side_inches)
    axes.set_xlabel("predicted class", fontsize=size)
    axes.set_ylabel("true class", fontsize=size)
    interval = f"95 % interval {evaluation.accuracy_low:.3f} to {evaluation.accuracy_high:.3f}"
    items = f"{evaluation.n_items:,} item{'s' if evaluation.n_items > 1 else ''}"
    axes.set_title(f"accuracy {evaluation.accuracy:.3f} ({interval})\n{items}", fontsize=1.1 * size, pad=10)


def _paint(axes: "Axes", evaluation: Evaluation, side_inches: float) -> None:
    """Paint the cells, and a scale of their colours to the right."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    colors = colormaps["Blues"].with_extremes(bad="0.9")
    norm = PowerNorm(_GAMMA, vmin=0, vmax=1)
    image = axes.imshow(_normalize_rows(evaluation), cmap=colors, norm=norm, interpolation="nearest")
    beside = axes.inset_axes((1 + 0.15 / side_inches, 0, 0.2 / side_inches, 1))
    scale = axes.figure.colorbar(image, cax=beside)
    scale.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], labels=["0", "1 %", "5 %", "10 %", "25 %", "50 %", "100 %"])
    scale.set_label("part of the true class", fontsize=max(10.0, side_inches))


def _write_names(axes: "Axes", names: list[str], side_points: float) -> None:
    """Name the rows and columns, or every second, third ... of them where there is no room for more."""
    step = -(-len(names) // _MOST_NAMED)
    room = side_points / len(names) * step
    size = float(np.clip(0.85 * room, 5, 9))
    upright = measure_names(names, NAME_CELLS) * _LETTER_WIDTH * size > 0.95 * room
    places, labels = range(0, len(names), step), names[::step]
    axes.set_xticks(places, labels, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)


def _write_counts(axes: "Axes", evaluation: Evaluation, cell_points: float) -> None:
    """Write the counts into the cells; of more than ten classes, those above 0."""
    shades = _normalize_rows(evaluation).filled(0) ** _GAMMA
    digits = max(2, len(str(evaluation.confusion.max())))
    size = min(11.0, 0.9 * cell_points / (digits * _LETTER_WIDTH))
    for (row, column), count in np.ndenumerate(evaluation.confusion):
        if count or len(shades) <= _MOST_ZEROS:
            color = "white" if shades[row, column] > _DARK else "black" if count else "0.6"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=color)


def _normalize_rows(evaluation: Evaluation) -> "np.ma.MaskedArray[tuple[int, int], np.dtype[np.float64]]":
    """Divide the counts by their row's sum; the row of a class without items is masked."""
    support = np.broadcast_to(evaluation.confusion.sum(axis=1, keepdims=True), evaluation.confusion.shape)
    return np.ma.masked_where(support == 0, evaluation.confusion / np.maximum(support, 1))
