"""The plots: confusion matrix, tuning path, costs, learning curve, reliability and training history."""

import csv
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from rich.cells import cell_len

from featx.evaluation.figure import (
    BLUE,
    COLORS,
    DASHES,
    GREY,
    LETTER_WIDTH,
    clear_axes,
    make_title,
    open_chart,
    open_figure,
    place_labels,
    scale_logarithmically,
    show_title,
)
from featx.evaluation.forecast import Forecast
from featx.evaluation.intervals import FloatArray
from featx.evaluation.metrics import Evaluation
from featx.evaluation.reliability import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


_MOST_COUNTED = 30
_MOST_ZEROS = 10
_MOST_NAMED = 110

# A plot has no room for more rows; with more classes, each of its squares stands for several of them.
_MOST_DRAWN = 1000

# Names beside a matrix are at most this wide, or this part of its side.
_BESIDE_INCHES, _BESIDE = 3, 0.6

# On a linear scale the few confused items of a good classifier would be white; 2 % is at 0.21 of this one.
_GAMMA = 0.4

# The smallest and the largest font of names beside a matrix.
_NAME_SIZES = (5, 9)

# Text on darker shades is white.
_DARK = 0.6


def plot_confusion(evaluation: Evaluation, path: Path, *, title: str = "") -> None:
    """Draw the confusion matrix, and write it as PNG and, next to it, as SVG.

    The colour is the share of the true class's items. With up to 30 classes, the cells
    hold the counts. With more than 1,000, a square stands for several neighbouring classes, and
    its colour is their mean share. The same evaluation and version of matplotlib give the same bytes.

    Args:
        evaluation: The evaluation.
        path: The PNG file; the SVG file has the same stem.
        title: What was evaluated, of `make_title`; lines above the accuracy. The number of items if empty.

    Raises:
        OSError: If a file cannot be written.
    """
    n_classes = len(evaluation.classes)
    counted = n_classes <= _MOST_COUNTED
    side_inches = float(np.clip(0.45 * n_classes, 3, 12) if counted else np.clip(0.115 * n_classes, 9, 13))
    room_inches = max(_BESIDE_INCHES, _BESIDE * side_inches)
    cells = int(72 * room_inches / (LETTER_WIDTH * _NAME_SIZES[1]))
    title = title or make_title("", n_items=evaluation.n_items)
    with open_figure([*evaluation.classes, title], path, cells=cells) as (figure, names):
        _draw_confusion(figure, evaluation, names[:-1], show_title(title, side_inches), side_inches)


def _draw_confusion(figure: "Figure", evaluation: Evaluation, names: list[str], title: str, side_inches: float) -> None:
    """Fill the figure with the matrix; names and colour scale lie outside, and widen the saved plot."""
    n_classes = len(names)
    figure.set_size_inches(side_inches, side_inches)
    axes = figure.add_axes((0, 0, 1, 1))
    _paint(axes, evaluation, side_inches)
    if n_classes <= _MOST_COUNTED:
        _write_counts(axes, evaluation, 72 * side_inches / n_classes)
    _write_names(axes, names, 72 * side_inches)
    size = max(10.0, side_inches)
    axes.set_xlabel("predicted class", fontsize=size)
    axes.set_ylabel("true class", fontsize=size)
    value, low, high = evaluation.get_interval("accuracy")
    interval = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
    accuracy = "" if value is None else f"accuracy {value:.3f}{interval}"
    axes.set_title("\n".join(filter(None, [title, accuracy])), fontsize=1.1 * size, pad=10)


def _paint(axes: "Axes", evaluation: Evaluation, side_inches: float) -> None:
    """Paint the cells, and the colour scale to their right."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    colors = colormaps["Blues"].with_extremes(bad="0.9")
    norm = PowerNorm(_GAMMA, vmin=0, vmax=1)
    shares, end = _normalize_rows(evaluation), len(evaluation.classes) - 0.5
    places = (-0.5, end, end, -0.5)  # those of the classes, also where a square stands for several
    image = axes.imshow(shares, cmap=colors, norm=norm, interpolation="nearest", extent=places)
    beside = axes.inset_axes((1 + 0.15 / side_inches, 0, 0.2 / side_inches, 1))
    scale = axes.figure.colorbar(image, cax=beside)
    scale.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], labels=["0", "1 %", "5 %", "10 %", "25 %", "50 %", "100 %"])
    scale.set_label("share of the true class", fontsize=max(10.0, side_inches))


def _write_names(axes: "Axes", names: list[str], side_points: float) -> None:
    """Name the rows and columns, or every second, third ... one if there is not enough room."""
    step = -(-len(names) // _MOST_NAMED)
    room = side_points / len(names) * step
    size = float(np.clip(0.85 * room, *_NAME_SIZES))
    upright = max(map(cell_len, names)) * LETTER_WIDTH * size > 0.95 * room
    places, labels = range(0, len(names), step), names[::step]
    # With the anchor as the centre of rotation, names in an SVG file end at the axis in the viewer's font too.
    turned: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
    axes.set_xticks(places, labels, fontsize=size, **turned if upright else {})
    axes.set_yticks(places, labels, fontsize=size)


def _write_counts(axes: "Axes", evaluation: Evaluation, cell_points: float) -> None:
    """Write the counts into the cells; with more than ten classes, only those above 0."""
    shades = _normalize_rows(evaluation).filled(0) ** _GAMMA
    digits = max(2, len(str(evaluation.confusion.max())))
    size = min(11.0, 0.9 * cell_points / (digits * LETTER_WIDTH))
    for (row, column), count in np.ndenumerate(evaluation.confusion):
        if count or len(shades) <= _MOST_ZEROS:
            color = "white" if shades[row, column] > _DARK else "black" if count else "0.6"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=color)


def _normalize_rows(evaluation: Evaluation) -> "np.ma.MaskedArray[tuple[int, int], np.dtype[np.float64]]":
    """Divide the counts by their row's sum; the row of a class without items is masked.

    With more than `_MOST_DRAWN` classes, neighbouring rows are averaged, and neighbouring columns added up.
    """
    n_classes = len(evaluation.classes)
    step = -(-n_classes // _MOST_DRAWN)
    true, predicted, counts = evaluation.cells.T
    support = np.bincount(true, counts, n_classes)
    side = -(-n_classes // step)
    sums = np.zeros((side, side))
    np.add.at(sums, (true // step, predicted // step), counts / support[true])
    present = np.bincount(np.arange(n_classes) // step, support > 0, side)[:, np.newaxis]
    return np.ma.masked_where(np.broadcast_to(present == 0, sums.shape), sums / np.maximum(present, 1))


# Width and height of the axes of most plots, and of those with many names.
_INCHES, _WIDE_INCHES = (6.6, 4.2), (8.0, 5.6)

# A path is cut off this far below the chosen value: with the strongest regularisation, only the largest class is
# predicted.
_DEEPEST = 0.2


def plot_path(
    title: str,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    chosen: tuple[str, float],
    path: Path,
    *,
    label: str = "C",
) -> None:
    """Draw held-out accuracy against a parameter, and write it as PNG and, next to it, as SVG.

    Args:
        title: What was tuned, of `make_title`.
        curves: For each scaling (an empty name for a single curve), the parameter's values,
            above 0, the accuracies, and the standard deviations over the folds, each float
            (n_values,).
        chosen: The chosen curve and value.
        path: The PNG file; the SVG file has the same stem.
        label: The name of the parameter.

    Raises:
        OSError: If a file cannot be written.
    """
    columns = {key: np.array([np.asarray(column, np.float64) for column in curve]) for key, curve in curves.items()}
    with open_chart([*curves, title], path, noun="curve") as (axes, names):
        for curve, name, color, dash in zip(columns.values(), names, COLORS, DASHES, strict=False):
            values, accuracies, stds = curve[:, np.argsort(curve[0])]
            axes.fill_between(
                values, accuracies - stds, np.minimum(1, accuracies + stds), color=color, alpha=0.15, lw=0
            )
            axes.plot(values, accuracies, dash, color=color, marker="o", markersize=3.5, lw=1.5, label=name or None)
        color = COLORS[list(curves).index(chosen[0])]
        values, accuracies, _ = columns[chosen[0]]
        best = int(np.abs(np.log(values / chosen[1])).argmin())
        words = f"chosen: {label} = {values[best]:.4g}, accuracy {accuracies[best]:.3f}"
        axes.axvline(values[best], color=GREY, lw=1, ls=":", zorder=0)
        axes.plot(values[best], accuracies[best], "D", color=color, mec="black", ms=8, label=words, zorder=5)
        scale_logarithmically(axes, np.concatenate([curve[0] for curve in columns.values()]))
        axes.set_ylim(bottom=max(axes.get_ylim()[0], accuracies[best] - _DEEPEST))
        axes.set(xlabel=label, ylabel="accuracy on held-out folds (± 1 std of them)")
        axes.set_title(show_title(title, _INCHES[0]), pad=12)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), frameon=False, borderaxespad=0)


# Letters of a line below the plot of costs.
_LINE_LETTERS = 100

#: By kind of row: its marker, the size of that, and what the legend says.
_MARKERS = {
    "frozen": ("o", 7, ""),
    "fine-tuned": ("s", 8, "fine-tuned"),
    "start": ("D", 7, "fine-tuning that kept the start: nothing was trained"),
}


#: What the axes of `plot_costs` show, and what has a ring.
COST_LABELS = (
    "seconds of embedding (where known), tuning and fitting",
    "test accuracy, with 95 % interval",
    "the best by validation",
)


def plot_costs(  # noqa: PLR0913 - one keyword for each part of the drawing
    names: Sequence[str],
    seconds: ArrayLike,
    accuracies: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    path: Path,
    *,
    chosen: int | None = None,
    kinds: Sequence[str] = (),
    labels: tuple[str, str, str] = COST_LABELS,
    validations: ArrayLike | None = None,
    missing: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw accuracy with its interval against seconds, and write it as PNG and, next to it, as SVG.

    Points that no other matches in less time are filled and joined by a line. Where a validation is known, it alone
    decides which these are: the best of several test accuracies is too high.

    Args:
        names: Names of the points, (n_rows,).
        seconds: Time of each, above 0, float (n_rows,).
        accuracies: float (n_rows,).
        lows: Lower ends of the intervals, float (n_rows,).
        highs: Upper ends of the intervals, float (n_rows,).
        path: The PNG file; the SVG file has the same stem.
        chosen: The row that was chosen; it gets a ring. None for no ring.
        kinds: What each row is, (n_rows,): `frozen`, `fine-tuned`, or `start` for fine-tuning that kept its start.
            Empty if all are frozen.
        labels: The labels of the x axis, of the y axis and of the ring.
        validations: Accuracies on validation items, float (n_rows,), NaN where unknown; such a row is grey.
            None if `accuracies` are those.
        missing: What is not drawn and why, such as `dummy 0.10`; a line below the legend says it.
        title: What was compared, of `make_title`.

    Raises:
        OSError: If a file cannot be written.
    """
    costs, heights, below, above = (np.asarray(column, np.float64) for column in (seconds, accuracies, lows, highs))
    ranks = heights if validations is None else np.asarray(validations, np.float64)
    front, by = _find_front(costs, ranks), "" if validations is None else ", by validation"
    kind = np.array(kinds or ["frozen"] * costs.size)
    with open_chart([*names, title], path, noun="head", inches=_WIDE_INCHES) as (axes, shown):
        scale_logarithmically(axes, costs)
        axes.vlines(costs, below, above, color=GREY, lw=1, alpha=0.5, zorder=1)
        axes.plot(
            costs[front], heights[front], color=BLUE, lw=1.2, alpha=0.6, drawstyle="default" if by else "steps-post"
        )
        inside, unknown = np.isin(np.arange(costs.size), front), np.isnan(ranks)
        for members, fill, words in (
            (inside, BLUE, f"no other is as accurate in less time{by}"),
            (~inside & ~unknown, "white", f"another is at least as accurate in less time{by}"),
            (unknown, "0.8", "not validated on the same items"),
        ):
            for name, (marker, size, _) in _MARKERS.items():
                own = members & (kind == name)
                axes.plot(costs[own], heights[own], marker, mfc=fill, mec="black", ms=size)
            if members is not unknown or members.any():
                axes.plot([], [], "o", mfc=fill, mec="black", ms=7, label=words)
        if chosen is not None:
            x, y = costs[[chosen]], heights[[chosen]]
            axes.plot(x, y, "o", mfc="none", mec=COLORS[1], mew=1.8, ms=12.5, ls="none", label=labels[2])
        for name, (marker, size, words) in _MARKERS.items():
            if words and (kind == name).any():
                axes.plot([], [], marker, mfc=GREY, mec="black", ms=size, label=words)
        axes.margins(y=0.06)
        axes.set(xlabel=labels[0], ylabel=labels[1], title=show_title(title, _WIDE_INCHES[0]))
        legend = axes.legend(loc="upper left", bbox_to_anchor=(0, -0.11), frameon=False, ncols=2, borderaxespad=0)
        _write_missing(axes, missing, legend)
        place_labels(axes, shown[:-1], costs, heights, np.stack([below, above], axis=1))


def _write_missing(axes: "Axes", missing: Sequence[str], legend: "Legend") -> None:
    """Say below the legend what the plot leaves out."""
    if missing:
        below = axes.transAxes.inverted().transform(legend.get_window_extent())[0, 1]
        text = "\n".join(textwrap.wrap(f"not shown: {'; '.join(missing)}", _LINE_LETTERS))
        axes.text(0, below - 0.02, text, transform=axes.transAxes, va="top", fontsize=9, color="0.25")


def plot_learning(  # noqa: PLR0913 - one keyword for each part of the drawing
    sizes: Sequence[int],
    accuracies: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    path: Path,
    *,
    forecast: Forecast | None = None,
    label: str = "training items",
    title: str = "",
    band: str = "95 % interval",
) -> None:
    """Draw accuracy against the number of training items, and write it as PNG and, next to it, as SVG.

    Args:
        sizes: Numbers of items, int (n_sizes,), rising.
        accuracies: float (n_sizes,).
        lows: Lower ends of the band, float (n_sizes,).
        highs: Upper ends of the band, float (n_sizes,).
        path: The PNG file; the SVG file has the same stem.
        forecast: The power law of `forecast_accuracy`, drawn up to twice the items; its sentence is the title.
        label: The label of the x axis.
        title: What was measured, of `make_title`; a line above the forecast.
        band: What the band is, for the legend.

    Raises:
        OSError: If a file cannot be written.
    """
    counts, heights, below, above = (np.asarray(column, np.float64) for column in (sizes, accuracies, lows, highs))
    with open_chart([title], path) as (axes, _):
        lines = [show_title(title, _INCHES[0]), str(forecast) if forecast is not None else ""]
        axes.set_title("\n".join(filter(None, lines)), fontsize=10, pad=12)
        axes.fill_between(counts, below, above, color=BLUE, alpha=0.15, lw=0)
        axes.plot(counts, heights, "o-", color=BLUE, ms=5, lw=1.5, label=f"measured, with {band}")
        ticks = counts
        if forecast is not None:
            ticks = np.append(counts, 2 * forecast.n_items)
            _draw_forecast(axes, forecast, float(counts[0]))
        axes.set_xscale("log", base=2)
        axes.set_xticks(_spread_ticks(ticks), minor=False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.minorticks_off()
        axes.set(xlabel=label, ylabel="accuracy")
        axes.legend(loc="lower right", frameon=False)


#: What a picture of `measure_reliability_for_plot` says.
EQUAL_BINS = "points: bins of equally many items, larger for more;\ncalibration error: 15 bins of equal width"


def plot_reliability(curves: Mapping[str, Reliability], path: Path, *, note: str = "", title: str = "") -> None:
    """Draw accuracy against confidence and the distribution of confidence, as PNG and, next to it, as SVG.

    Points on the diagonal are calibrated probabilities; points below it are overconfident.

    Args:
        curves: Up to 6 curves by name, such as the name of the calibration.
        path: The PNG file; the SVG file has the same stem.
        note: What the bins are, above the legend.
        title: What was measured, of `make_title`.

    Raises:
        OSError: If a file cannot be written.
    """
    with open_figure([*curves, title], path, noun="curve") as (figure, names):
        upper_inches = 5.2
        figure.set_size_inches(upper_inches, 6.6)
        upper, lower = figure.add_axes((0, 0.26, 1, 0.74)), figure.add_axes((0, 0, 1, 0.2))
        start = min((curve.start for curve in curves.values()), default=0.0)
        for axes in (upper, lower):
            clear_axes(axes)
            axes.set_xlim(start, 1)
        upper.plot([start, 1], [start, 1], color=GREY, lw=1, ls="--", zorder=1)
        for curve, name, color, marker in zip(curves.values(), names[:-1], COLORS, "osD^vP", strict=False):
            _draw_reliability(upper, lower, curve, name, color, marker)
        upper.set_ylim(start, 1 + 0.01 * (1 - start))
        upper.set_xticklabels([])
        upper.set_ylabel("share that was right, with 95 % interval")
        words = "\n".join(filter(None, [show_title(title, upper_inches), note]))
        upper.legend(loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False, borderaxespad=0, title=words or None)
        lower.set_ylim(bottom=0)
        pairs = any(curve.classwise for curve in curves.values())
        lower.set(xlabel="probability of each class" if pairs else "confidence", ylabel="share of all")


def _draw_reliability(upper: "Axes", lower: "Axes", curve: Reliability, name: str, color: str, marker: str) -> None:
    filled = curve.counts > 0
    x, y = curve.confidences[filled], curve.accuracies[filled]
    reach = np.abs(np.stack([curve.lows[filled], curve.highs[filled]]) - y)
    words = f"{name}: " * bool(name) + f"calibration error {curve.calibration_error:.3f}, n = {curve.n_items:,}"
    # A bin of few items has a long bar; paler, and with a smaller marker, it does not draw the eye.
    shades = np.clip(np.sqrt(curve.counts[filled] / curve.counts.max()), 0.25, 1)
    for index, shade in enumerate(shades.tolist()):
        upper.vlines(x[index], y[index] - reach[0, index], y[index] + reach[1, index], color=color, lw=1.2, alpha=shade)
    upper.plot(x, y, color=color, lw=1, alpha=0.5)
    upper.scatter(x, y, 64 * shades**2, color=color, marker=marker, ec="white", lw=0.6, clip_on=False, zorder=3)
    upper.plot([], [], marker, color=color, mec="white", mew=0.6, ms=7, ls="none", label=words)
    lower.stairs(curve.histogram, np.linspace(0, 1, curve.histogram.size + 1), color=color, lw=1.4)
    lower.stairs(curve.histogram, np.linspace(0, 1, curve.histogram.size + 1), color=color, alpha=0.12, fill=True)


def _draw_forecast(axes: "Axes", forecast: Forecast, start: float) -> None:
    line = np.geomspace(start, 2 * forecast.n_items, 100)
    axes.plot(line, forecast.predict(line), "--", color=COLORS[1], lw=1.3, label="power law through it")
    reached = forecast.accuracy - forecast.gain
    reach = [[forecast.gain - forecast.gain_low], [forecast.gain_high - forecast.gain]]
    axes.errorbar(
        2 * forecast.n_items,
        reached + forecast.gain,
        yerr=np.maximum(0, reach),
        fmt="D",
        color=COLORS[1],
        ms=6,
        capsize=4,
        label="with twice the items",
    )


def _spread_ticks(sizes: FloatArray) -> list[float]:
    """Leave out sizes whose ticks would overlap."""
    kept = [float(sizes[-1])]
    span = np.log(sizes[-1] / sizes[0])
    for size in sizes[-2::-1].tolist():
        if np.log(kept[-1] / size) > span / 12:
            kept.append(size)
    return kept[::-1]


def _find_front(costs: FloatArray, heights: FloatArray) -> list[int]:
    """Find the rows that no other beats in both cost and height, the cheapest first; one without a height is none."""
    front: list[int] = []
    for row in np.lexsort((-heights, costs)).tolist():
        if heights[row] > (heights[front[-1]] if front else -np.inf):
            front.append(row)
    return front


#: One value for each epoch, by name: `loss`, `accuracy` and `auc` on training items, the same with
#: `val_` before the name on held-out items (if there are any), and `learning_rate`.
History = Mapping[str, Sequence[float]]

_PANELS = {"loss": "loss", "accuracy": "accuracy", "auc": "ROC-AUC"}

# Up to this many epochs, each has a dot, since a line through two epochs says little.
_MOST_DOTS = 15


def find_best_epoch(history: History) -> int:
    """Return the epoch whose weights are kept, counted from 1: the one with the lowest loss on held-out items."""
    return int(np.argmin(history.get("val_loss", history["loss"]))) + 1


def write_history(history: History, path: Path, *, first: int = 1) -> None:
    """Write the curves as CSV, one row for each epoch; an undefined value is an empty cell.

    Args:
        history: The curves.
        path: The file.
        first: Number of the first epoch.

    Raises:
        OSError: If the file cannot be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        for epoch, values in enumerate(zip(*history.values(), strict=True), start=first):
            writer.writerow([epoch, *("" if math.isnan(value) else repr(float(value)) for value in values)])


def plot_history(history: History, path: Path, *, first: int = 1, kept: int | None = None, title: str = "") -> None:
    """Draw loss, accuracy and ROC-AUC by epoch, and write them as PNG and, next to it, as SVG.

    The epoch whose weights are kept and the reductions of the learning rate are marked.
    The same history and version of matplotlib give the same bytes.

    Args:
        history: The curves.
        path: The PNG file; the SVG file has the same stem.
        first: Number of the first epoch; 0 if the history starts before any training.
        kept: Number of the epoch whose weights are kept, 0 for the start; None for the one of `find_best_epoch`.
        title: What was trained, of `make_title`; a line above the number of epochs.

    Raises:
        OSError: If a file cannot be written.
    """
    with open_figure([title], path) as (figure, _):
        figure.set_size_inches(12, 4.2)
        figure.set_layout_engine("constrained")
        words = show_title(title, 12)
        _draw_history(figure, history, first, find_best_epoch(history) if kept is None else kept, words)
        figure.draw_without_rendering()  # the layout happens while drawing
        figure.set_layout_engine("none")  # and would happen again for each file


def _draw_history(figure: "Figure", history: History, first: int, best: int, title: str) -> None:
    n_epochs = len(history["loss"]) + first - 1
    panels = figure.subplots(1, len(_PANELS))
    for axes, (name, panel) in zip(panels, _PANELS.items(), strict=True):
        axes.set_title(panel, loc="left", fontweight="bold")
        _draw_panel(axes, history, name, first, best)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    epochs = f"{n_epochs} epoch{'s' if n_epochs > 1 else ''}"
    kept = f"weights kept from epoch {best}" if best else "no better than the start, which is kept"
    figure.suptitle("\n".join(filter(None, [title, f"{epochs}, {kept}"])), fontsize=12)


def _draw_panel(axes: "Axes", history: History, name: str, first: int, best: int) -> None:
    from matplotlib.ticker import MaxNLocator

    n_epochs = len(history[name])
    epochs = np.arange(first, first + n_epochs)
    marker = "o" if n_epochs <= _MOST_DOTS else ""
    rates = np.asarray(history["learning_rate"])
    for lowered, epoch in enumerate(epochs[1:][np.diff(rates) < 0]):
        label = "" if lowered else "learning rate lowered"
        axes.axvline(epoch - 0.5, color="0.75", linewidth=1, linestyle=":", label=label, zorder=0)
    above: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 9}
    axes.axvline(best, color="0.35", linewidth=1, linestyle="--", label="epoch kept", zorder=1)
    for key, color, label in ((name, COLORS[0], "training items"), (f"val_{name}", COLORS[1], "held-out items")):
        if key in history:
            values = np.asarray(history[key], np.float64)
            axes.plot(epochs, values, color=color, linewidth=1.8, marker=marker, markersize=4, label=label)
            axes.plot(best, values[best - first], "o", color=color, markersize=7, markeredgecolor="white", zorder=3)
            place = 0.62 if key == name and len(history) > len(_PANELS) + 1 else 1.0
            number = "undefined" if math.isnan(values[best - first]) else f"{values[best - first]:.3f}"
            axes.text(place, 1.03, f"{label.removesuffix(' items')} {number}", color=color, ha="right", **above)
    axes.set_xlabel("epoch")
    room = max(0.5, 0.02 * n_epochs)
    axes.set_xlim(first - room, epochs[-1] + room)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    clear_axes(axes)
