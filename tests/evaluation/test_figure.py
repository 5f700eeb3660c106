import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from featx.evaluation import compute_wilson_interval
from featx.evaluation.figure import make_title, place_labels, show_names

NASTY = ["$\\alpha_1$", "$", "_private", "日本語", "cat 日", "Äpfel", "line\nbreak", "bad\udcff", "long " * 40, ""]


def test_names_are_never_mathematics_and_missing_letters_become_numbers():
    names = show_names(NASTY, ["DejaVu Sans"], "class", 28)
    assert names[:4] == ["$\\alpha_1$", "$", "_private", "class 4"]
    assert names[4] == "class 5 cat"
    assert names[5:8] == ["Äpfel", "line\ufffdbreak", "bad\ufffd"]
    assert names[8] == "long long long…ong long long"


def test_a_title_says_what_was_tested_on_which_items():
    assert make_title("ridge", "a.h5", "/data/signs", split="test", n_items=1200) == (
        "ridge on a.h5 of signs, 1,200 items (test)"
    )
    assert make_title("ridge", "signs.h5", "/data/signs", n_items=1) == "ridge on signs.h5, 1 item"
    assert make_title("", n_items=20) == "20 items"


def make_costs(spread):
    rng = np.random.default_rng(0)
    accuracies = 0.97 + 0.004 * rng.normal(size=12)
    return 10 ** rng.uniform(-spread, spread, 12), accuracies, *compute_wilson_interval(400 * accuracies, 400)


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_labels_cover_neither_each_other_nor_points(spread):
    seconds, accuracies, lows, highs = make_costs(spread)
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
