"""Charts of what was compared: paths of parameters, costs, learning curves, calibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from featx.evaluation.calibration import Reliability
from featx.evaluation.drawing import (
    BLUE,
    COLORS,
    DASHES,
    GREY,
    clear_axes,
    open_chart,
    open_figure,
    scale_logarithmically,
)
from featx.evaluation.intervals import FloatArray
from featx.evaluation.labels import place_labels
from featx.evaluation.learning import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Below the chosen value by more, a path is cut off: the strongest regularisation knows nothing but the largest class.
_DEEPEST = 0.2


def plot_path(
    title: str,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    chosen: tuple[str, float],
    path: Path,
    *,
    label: str = "C",
) -> None:
    """Draw held-out accuracy against a parameter, and write it as PNG and, beside it, as SVG.

    Args:
        title: What was tuned.
        curves: For each scaling (one without a name for a single curve) the parameter's
            values, above 0, the accuracies and the standard deviations over the folds,
            each float (n_values,).
        chosen: The curve and the value that were chosen.
        path: The PNG file; the SVG file has the same stem.
        label: What the parameter is called.

    Raises:
        OSError: If a file cannot be written.
    """
    columns = {key: np.array([np.asarray(column, np.float64) for column in curve]) for key, curve in curves.items()}
    with open_chart(list(curves), path, noun="curve") as (axes, names):
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
        axes.set_title(title, pad=12)
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.15), frameon=False, borderaxespad=0)


def plot_costs(
    names: Sequence[str],
    seconds: ArrayLike,
    accuracies: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    path: Path,
    *,
    chosen: int | None = None,
    tuned: Sequence[bool] = (),
) -> None:
    """Draw accuracy with its interval against seconds, and write it as PNG and, beside it, as SVG.

    What no other equals in less time is filled and joined by a line.

    Args:
        names: What was compared, (n_rows,).
        seconds: What each cost, above 0, float (n_rows,).
        accuracies: float (n_rows,).
        lows: Lower ends of their intervals, float (n_rows,).
        highs: Upper ends of them, float (n_rows,).
        path: The PNG file; the SVG file has the same stem.
        chosen: The row that validation chose, which gets a ring; None for none.
        tuned: Which rows are fine-tuned backbones, (n_rows,); empty if none is.

    Raises:
        OSError: If a file cannot be written.
    """
    costs, heights, below, above = (np.asarray(column, np.float64) for column in (seconds, accuracies, lows, highs))
    front = _find_front(costs, heights)
    squares = np.array(tuned, bool) if len(tuned) else np.zeros(costs.size, bool)
    with open_chart(names, path, noun="head", inches=(8.0, 5.6)) as (axes, shown):
        scale_logarithmically(axes, costs)
        axes.vlines(costs, below, above, color=GREY, lw=1, alpha=0.5, zorder=1)
        axes.step(costs[front], heights[front], where="post", color=BLUE, lw=1.2, alpha=0.6)
        inside = np.isin(np.arange(costs.size), front)
        for members, fill, words in (
            (inside, BLUE, "no other is as accurate in less time"),
            (~inside, "white", "another is at least as accurate in less time"),
        ):
            axes.plot(costs[members & ~squares], heights[members & ~squares], "o", mfc=fill, mec="black", ms=7)
            axes.plot(costs[members & squares], heights[members & squares], "s", mfc=fill, mec="black", ms=8)
            axes.plot([], [], "o", mfc=fill, mec="black", ms=7, label=words)
        if chosen is not None:
            x, y = costs[[chosen]], heights[[chosen]]
            axes.plot(x, y, "o", mfc="none", mec=COLORS[1], mew=1.8, ms=12.5, ls="none", label="the best by validation")
        if squares.any():
            axes.plot([], [], "s", mfc=GREY, mec="black", ms=8, label="fine-tuned")
        axes.margins(y=0.06)
        axes.set(xlabel="seconds of embedding (where known), tuning and fitting")
        axes.set(ylabel="test accuracy, with 95 % interval")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.11), frameon=False, ncols=2, borderaxespad=0)
        place_labels(axes, shown, costs, heights, np.stack([below, above], axis=1))


def plot_learning(
    sizes: Sequence[int],
    accuracies: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    path: Path,
    *,
    forecast: Forecast | None = None,
    label: str = "training items",
) -> None:
    """Draw accuracy against the number of training items, and write it as PNG and, beside it, as SVG.

    Args:
        sizes: Numbers of items, int (n_sizes,), rising.
        accuracies: float (n_sizes,).
        lows: Lower ends of the band, float (n_sizes,).
        highs: Upper ends of it, float (n_sizes,).
        path: The PNG file; the SVG file has the same stem.
        forecast: The power law of `forecast_accuracy`; drawn to twice the items, with its words as the title.
        label: What the sizes count.

    Raises:
        OSError: If a file cannot be written.
    """
    counts, heights, below, above = (np.asarray(column, np.float64) for column in (sizes, accuracies, lows, highs))
    with open_chart([], path) as (axes, _):
        axes.fill_between(counts, below, above, color=BLUE, alpha=0.15, lw=0)
        axes.plot(counts, heights, "o-", color=BLUE, ms=5, lw=1.5, label="measured, with 95 % interval")
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


def plot_reliability(curves: Mapping[str, Reliability], path: Path) -> None:
    """Draw accuracy against confidence, and where the confidences are, as PNG and, beside it, as SVG.

    Points on the diagonal are probabilities that can be believed, points below it
    overconfident ones.

    Args:
        curves: By name, such as that of the calibration; up to 6.
        path: The PNG file; the SVG file has the same stem.

    Raises:
        OSError: If a file cannot be written.
    """
    with open_figure(list(curves), path, noun="curve") as (figure, names):
        figure.set_size_inches(5.2, 6.6)
        upper, lower = figure.add_axes((0, 0.26, 1, 0.74)), figure.add_axes((0, 0, 1, 0.2))
        for axes in (upper, lower):
            clear_axes(axes)
            axes.set_xlim(0, 1)
        upper.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", zorder=1)
        for curve, name, color, marker in zip(curves.values(), names, COLORS, "osD^vP", strict=False):
            _draw_reliability(upper, lower, curve, name, color, marker)
        upper.set_ylim(0, 1.01)
        upper.set_xticklabels([])
        upper.set_ylabel("part that was right, with 95 % interval")
        upper.legend(loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False, borderaxespad=0)
        lower.set_ylim(bottom=0)
        pairs = any(curve.classwise for curve in curves.values())
        lower.set(xlabel="probability of each class" if pairs else "confidence", ylabel="part of all")


def _draw_reliability(upper: "Axes", lower: "Axes", curve: Reliability, name: str, color: str, marker: str) -> None:
    filled = curve.counts > 0
    x, y = curve.confidences[filled], curve.accuracies[filled]
    reach = np.abs(np.stack([curve.lows[filled], curve.highs[filled]]) - y)
    words = f"{name}: " * bool(name) + f"calibration error {curve.calibration_error:.3f}"
    # A bin of few items has a long bar; it shall not draw the eye.
    shades = np.clip(np.sqrt(curve.counts[filled] / curve.counts.max()), 0.25, 1)
    for index, shade in enumerate(shades.tolist()):
        upper.vlines(x[index], y[index] - reach[0, index], y[index] + reach[1, index], color=color, lw=1.2, alpha=shade)
    upper.plot(x, y, color=color, lw=1, alpha=0.5)
    upper.plot(x, y, marker, color=color, mec="white", mew=0.6, ms=6, ls="none", label=words, clip_on=False)
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
    axes.set_title(f"{forecast}", fontsize=10, pad=12)


def _spread_ticks(sizes: FloatArray) -> list[float]:
    """Leave out sizes that would be written over the one before."""
    kept = [float(sizes[-1])]
    span = np.log(sizes[-1] / sizes[0])
    for size in sizes[-2::-1].tolist():
        if np.log(kept[-1] / size) > span / 12:
            kept.append(size)
    return kept[::-1]


def _find_front(costs: FloatArray, heights: FloatArray) -> list[int]:
    """Find the rows that no other beats in both, the cheapest first."""
    front: list[int] = []
    for row in np.lexsort((-heights, costs)).tolist():
        if not front or heights[row] > heights[front[-1]]:
            front.append(row)
    return front
