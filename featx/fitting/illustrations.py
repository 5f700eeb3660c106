"""The illustrations of a bundle: each picture as PNG and SVG, and its numbers as CSV."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featx.evaluation.figure import make_title
from featx.evaluation.plots import EQUAL_BINS, plot_history, plot_learning, plot_path, plot_reliability, write_history
from featx.evaluation.reliability import Reliability, measure_reliability_for_plot
from featx.files import write_table
from featx.heads import Candidate, FittedHead, Tuned
from featx.heads.calibration_choice import take_softmax
from featx.heads.networks import NetworkClassifier
from featx.heads.rows import cut_rows
from featx.results import Curve

if TYPE_CHECKING:
    from featx.results import Run

Writer = Callable[[Path], object]
Floats = NDArray[np.floating[Any]]


def list_illustrations(
    run: "Run",
    tuned: Tuned,
    fitted: FittedHead,
    probabilities: Floats,
    targets: NDArray[np.intp],
    on: tuple[str, str],
) -> dict[str, Writer]:
    """List the files of a bundle besides the head and its metrics.

    Args:
        run: The run.
        tuned: How the head was chosen.
        fitted: The head.
        probabilities: float `(n_tested, n_classes)`, of the tested items.
        targets: int `(n_tested,)`, their classes.
        on: The names of the store and of the source, for the titles.

    Returns:
        By name of the file, the function that writes it.
    """
    title = make_title(run.head.name, *on)
    trained = make_title(run.head.name, *on, split="training", n_items=run.n_train)
    curves = compare_reliability(run, tuned, probabilities, targets)
    files: dict[str, Writer] = {
        "reliability.csv": functools.partial(write_table, tabulate_reliability(curves)),
        "reliability.png": functools.partial(plot_reliability, curves, note=EQUAL_BINS, title=title),
    }
    protocol = f", protocol {run.protocol}" if run.protocol else ""
    folds = make_title(f"{run.head.name}{protocol}", *on, split="folds of the training items", n_items=run.n_train)
    files |= _list_path(run, tuned.candidates, folds)
    step = fitted.estimator[-1]
    network = getattr(step, "classifier_", step)  # without its calibration, if it has one
    if isinstance(network, NetworkClassifier):
        files |= {
            "curves.csv": functools.partial(write_history, network.history_),
            "curves.png": functools.partial(plot_history, network.history_, title=trained),
        }
        if len(fitted.estimator) == 2:  # noqa: PLR2004 - without the step that only this pipeline has
            files["head.keras"] = lambda path: network.to_keras().save(path)
    grown = (
        ("learning_curve", run.curve, "training items", "95 % interval from all held-out items of the folds"),
        ("few_shots", run.shots, "items of each class", "95 % interval of the mean of {} draws (Student's t)"),
    )
    for name, curve, label, band in grown:
        if curve is not None:
            files[f"{name}.csv"] = functools.partial(write_table, curve.tabulate())
            words = (label, trained, band.format(curve.accuracies.shape[1]))
            files[f"{name}.png"] = functools.partial(_draw_curve, curve, *words)
    return files


def compare_reliability(
    run: "Run", tuned: Tuned, probabilities: Floats, targets: NDArray[np.intp]
) -> dict[str, Reliability]:
    """Measure the reliability of the test, and of the items held out in tuning, before and after calibration."""
    before, after = take_softmax(tuned.scores), tuned.probabilities
    curves = {"held out": measure_reliability_for_plot(after, tuned.positions)}
    if not all(np.allclose(before[part], after[part], atol=1e-6) for part in cut_rows(*before.shape)):
        curves = {
            "held out, not calibrated": measure_reliability_for_plot(before, tuned.positions),
            "held out, calibrated": curves["held out"],
        }
    return curves | {run.test_name: measure_reliability_for_plot(probabilities, targets)}


def tabulate_reliability(curves: Mapping[str, Reliability]) -> dict[str, list[Any]]:
    """Return the bins of all curves as the columns of one table."""
    columns: dict[str, list[Any]] = {name: [] for name in ("items", "confidence", "accuracy", "low", "high", "count")}
    for name, curve in curves.items():
        filled = curve.counts > 0
        values = (curve.confidences, curve.accuracies, curve.lows, curve.highs, curve.counts)
        for column, cells in zip(
            columns, ([name] * int(filled.sum()), *(v[filled].tolist() for v in values)), strict=True
        ):
            columns[column] += cells
    return columns


def find_swept(candidates: Sequence[Candidate]) -> str:
    """Name the numeric parameter of which several values were tried; return an empty text if there is none."""
    for name, value in candidates[0].params.items():
        if (
            isinstance(value, int | float)
            and len({c.params[name] for c in candidates if c.scaling == candidates[0].scaling}) > 1
        ):
            return name
    return ""


def _list_path(run: "Run", candidates: Sequence[Candidate], title: str) -> dict[str, Writer]:
    """List the table and the picture of accuracy against the tuned parameter."""
    swept = find_swept(candidates)
    if not swept:
        return {}
    curves = {}
    for scaling in dict.fromkeys(candidate.scaling for candidate in candidates):
        tried = [candidate for candidate in candidates if candidate.scaling == scaling]
        curves[f"scaling {scaling}"] = (
            [candidate.params[swept] for candidate in tried],
            [candidate.accuracy for candidate in tried],
            [candidate.accuracy_std for candidate in tried],
        )
    table = {
        "scaling": [candidate.scaling for candidate in candidates],
        swept: [candidate.params[swept] for candidate in candidates],
        "accuracy": [candidate.accuracy for candidate in candidates],
        "accuracy_std": [candidate.accuracy_std for candidate in candidates],
        "log_loss": [candidate.log_loss for candidate in candidates],
    }
    chosen = (f"scaling {run.head.scaling}", run.head.params[swept])
    return {
        "path.csv": functools.partial(write_table, table),
        "path.png": lambda path: plot_path(title, curves, chosen, path, label=swept),
    }


def _draw_curve(curve: Curve, label: str, title: str, band: str, path: Path) -> None:
    ends, words = (curve.lows, curve.highs), {"label": label, "title": title, "band": band}
    plot_learning(curve.sizes, curve.means, *ends, path, forecast=curve.forecast, **words)
