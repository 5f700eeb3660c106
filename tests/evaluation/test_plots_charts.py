import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import softmax

from featx.evaluation import (
    compute_wilson_interval,
    forecast_accuracy,
    measure_reliability,
    plot_costs,
    plot_learning,
    plot_path,
    plot_reliability,
)
from featx.evaluation.figure import place_labels
from featx.evaluation.plots import _find_front, _spread_ticks

NAMES = ["logreg", "ridge", "lda", "centroid", "knn", "svm-linear", "svm-rbf", "mlp", "forest", "$\\alpha$", "日本", ""]


def make_costs(n_rows=12, spread=2.0):
    rng = np.random.default_rng(0)
    accuracies = 0.97 + 0.004 * rng.normal(size=n_rows)
    return 10 ** rng.uniform(-spread, spread, n_rows), accuracies, *compute_wilson_interval(400 * accuracies, 400)


def draw_path(path):
    C = np.geomspace(1e-6, 1e5, 45)
    accuracies = 0.9 - 0.02 * np.abs(np.log10(C))
    curves = {name: (C, accuracies - shift, np.full(45, 0.01)) for name, shift in (("none", 0.0), ("standard", 0.01))}
    plot_path("logreg on digits.h5", curves, ("none", 1.0), path)


def draw_reliability(path):
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=300)
    scores = rng.normal(size=(300, 3)) + 2 * np.eye(3)[targets]
    curves = {
        name: measure_reliability(softmax(f * scores, axis=1), targets) for name, f in (("raw", 5), ("cooled", 2))
    }
    plot_reliability(curves, path)


def draw_learning(path):
    sizes = [60, 120, 240, 480, 961]
    accuracies = 0.98 - 1.2 * np.array(sizes) ** -0.6
    forecast = forecast_accuracy(sizes, accuracies)
    plot_learning(sizes, accuracies, accuracies - 0.02, accuracies + 0.02, path, forecast=forecast)


def draw_costs(path):
    plot_costs(NAMES, *make_costs(), path)


@pytest.mark.parametrize("draw", [draw_path, draw_reliability, draw_learning, draw_costs])
def test_both_files_are_whole_and_the_same_every_time(draw, tmp_path):
    before = dict(mpl.rcParams.copy())
    for name in ("first", "second"):
        draw(tmp_path / f"{name}.png")
    assert dict(mpl.rcParams.copy()) == before
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        grey = np.asarray(image.convert("L"))
    assert grey.min() < 60
    edges = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    assert (edges == 255).all(), "something is cut off at the edge"


def read_texts(path):
    """Matplotlib writes every text into the SVG file as a comment too."""
    svg = path.with_suffix(".svg").read_text(encoding="utf-8")
    return [line.strip()[5:-4] for line in svg.splitlines() if line.strip().startswith("<!-- ")]


def test_a_path_names_its_curves_and_the_choice(tmp_path):
    draw_path(tmp_path / "path.png")
    texts = read_texts(tmp_path / "path.png")
    assert {"logreg on digits.h5", "none", "standard", "chosen: C = 1, accuracy 0.900", "0.01", "10,000"} <= set(texts)
    values = [1, 3, 5, 10, 20]
    plot_path("knn", {"": (values, [0.9] * 5, [0.01] * 5)}, ("", 3), tmp_path / "knn.png", label="n_neighbors")
    assert {"n_neighbors", "chosen: n_neighbors = 3, accuracy 0.900", "2", "5"} <= set(read_texts(tmp_path / "knn.png"))


def test_reliability_states_the_errors(tmp_path):
    draw_reliability(tmp_path / "reliability.png")
    texts = read_texts(tmp_path / "reliability.png")
    assert any(text.startswith("raw: calibration error 0.") for text in texts)
    assert "confidence" in texts


def test_a_learning_curve_says_what_more_labels_bring(tmp_path):
    draw_learning(tmp_path / "learning.png")
    texts = read_texts(tmp_path / "learning.png")
    assert any("twice the labels would bring about" in text for text in texts)
    assert {"60", "961", "1,922"} <= set(texts)
    plot_learning([10, 20], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], tmp_path / "plain.png")
    assert "with twice the items" not in read_texts(tmp_path / "plain.png")


def test_sizes_that_lie_close_share_a_tick():
    assert _spread_ticks(np.array([20.0, 40, 80, 85, 160])) == [20, 40, 85, 160]


def test_costs_of_one_head_and_names_that_no_font_has(tmp_path):
    plot_costs(["logreg"], [0.3], [0.97], [0.95], [0.98], tmp_path / "one.png")
    assert "logreg" in read_texts(tmp_path / "one.png")
    draw_costs(tmp_path / "all.png")
    assert {"ridge", "$\\alpha$"} <= set(read_texts(tmp_path / "all.png"))


def test_costs_name_what_is_marked(tmp_path):
    """Of two that are equally accurate the slower one is not called worse, and marks are told apart."""
    rows = (["knn", "mlp", "last:23"], [0.05, 0.3, 125], [0.87, 0.87, 0.92], [0.8, 0.8, 0.87], [0.91, 0.91, 0.95])
    plot_costs(*rows, tmp_path / "plain.png")
    plain = set(read_texts(tmp_path / "plain.png"))
    assert {"no other is as accurate in less time", "another is at least as accurate in less time"} <= plain
    assert not any("better" in text for text in plain)
    plot_costs(*rows, tmp_path / "marked.png", chosen=1, tuned=[False, False, True])
    marks = set(read_texts(tmp_path / "marked.png")) - plain
    assert marks == {"the best by validation", "fine-tuned"}


def test_the_front_holds_what_none_beats_in_both():
    costs, accuracies = np.array([1.0, 2, 2, 3, 4, 4]), np.array([0.8, 0.9, 0.7, 0.9, 0.95, 0.94])
    assert _find_front(costs, accuracies) == [0, 1, 4]


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_labels_cover_neither_each_other_nor_points(spread):
    seconds, accuracies, lows, highs = make_costs(spread=spread)
    figure = Figure(figsize=(8, 5.6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xscale("log")
    axes.set_xlim(0.01, 100)
    axes.vlines(seconds, lows, highs)
    names = [f"head-{number}" for number in range(12)]
    place_labels(axes, names, seconds, accuracies, np.stack([lows, highs], axis=1))
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert sorted(boxes) == sorted(names)
    for one, other in itertools.combinations(boxes.values(), 2):
        assert not one.overlaps(other)
    for x, y in axes.transData.transform(np.stack([seconds, accuracies], axis=1)):
        assert not any(box.contains(x, y) for box in boxes.values())
    frame = axes.get_window_extent()
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes.values())
