"""The curves of a network's training, as a picture and as a table."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.evaluation.drawing import COLORS, clear_axes, open_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: For each epoch, values by name: `loss`, `accuracy` and `auc` on training items, the same of
#: held-out items with `val_` before the name (if any were held out), and `learning_rate`.
History = Mapping[str, Sequence[float]]

_PANELS = {"loss": "loss", "accuracy": "accuracy", "auc": "ROC-AUC"}

# Up to so many epochs each one is a dot, as a line through two of them says little.
_MOST_DOTS = 15


def find_best_epoch(history: History) -> int:
    """Find the epoch whose weights are kept, counted from 1: that of the lowest loss on held-out items."""
    return int(np.argmin(history.get("val_loss", history["loss"]))) + 1


def write_history(history: History, path: Path, *, first: int = 1) -> None:
    """Write the curves as CSV, one row for each epoch; a value that is not defined is left empty.

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


def plot_history(history: History, path: Path, *, first: int = 1, kept: int | None = None) -> None:
    """Draw loss, accuracy and ROC-AUC by epoch, and write them as PNG and, beside it, as SVG.

    The epoch whose weights are kept is marked, and so is where the learning rate was
    lowered. The same history and matplotlib give the same bytes.

    Args:
        history: The curves.
        path: The PNG file; the SVG file has the same stem.
        first: Number of the first epoch; 0 where the state before any training is the first.
        kept: Number of the epoch whose weights are kept; None for that of `find_best_epoch`.

    Raises:
        OSError: If a file cannot be written.
    """
    with open_figure([], path) as (figure, _):
        figure.set_size_inches(12, 4.2)
        figure.set_layout_engine("constrained")
        _draw(figure, history, first, find_best_epoch(history) if kept is None else kept)
        figure.draw_without_rendering()  # only a drawing lays out


def _draw(figure: "Figure", history: History, first: int, best: int) -> None:
    n_epochs = len(history["loss"]) + first - 1
    panels = figure.subplots(1, len(_PANELS))
    for axes, (name, title) in zip(panels, _PANELS.items(), strict=True):
        axes.set_title(title, loc="left", fontweight="bold")
        _draw_panel(axes, history, name, first, best)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    epochs = f"{n_epochs} epoch{'s' if n_epochs > 1 else ''}"
    figure.suptitle(f"Training: {epochs}, weights kept from epoch {best}", fontsize=13)


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
