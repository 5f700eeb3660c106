import csv
import math
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from featx.evaluation import (
    Evaluation,
    compute_wilson_interval,
    evaluate,
    forecast_accuracy,
    measure_reliability,
    plot_confusion,
    plot_costs,
    plot_learning,
    plot_path,
    plot_reliability,
)
from featx.evaluation.plots import _find_front, _spread_ticks, find_best_epoch, plot_history, write_history

NASTY = ["$\\alpha_1$", "$", "_private", "日本語", "cat 日", "Äpfel", "line\nbreak", "bad\udcff", "long " * 40, ""]


def make_evaluation(classes, n_items=200):
    rng = np.random.default_rng(0)
    targets = rng.integers(len(classes), size=n_items)
    predictions = np.where(rng.random(n_items) < 0.8, targets, rng.integers(len(classes), size=n_items))
    return evaluate(np.eye(len(classes))[predictions], targets, classes, resamples=2)


def read_svg(path):
    root = ET.parse(path).getroot()  # noqa: S314 - a file that this test has just written
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return path.read_text(encoding="utf-8")


def read_texts(path):
    """Return every text of an SVG file: each line of a title is one."""
    root = ET.parse(path.with_suffix(".svg")).getroot()  # noqa: S314 - as above
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def assert_whole(path):
    """Look for dark cells of the diagonal, and for white paper on all four sides."""
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 300
        grey = np.asarray(image.convert("L"))
    assert grey.min() < 60
    edges = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    assert (edges == 255).all(), "something is cut off at the edge"


@pytest.mark.parametrize("classes", [["one"], ["ants", "bees"], NASTY], ids=["1", "2", "nasty"])
def test_both_files_are_written_and_hold_the_matrix(tmp_path, classes):
    path = tmp_path / "confusion_matrix.png"
    plot_confusion(make_evaluation(classes), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["confusion_matrix.png", "confusion_matrix.svg"]
    assert_whole(path)
    assert "<image" in read_svg(path.with_suffix(".svg"))


def test_counts_are_written_up_to_thirty_classes(tmp_path):
    sizes = {}
    for n_classes in (30, 31):
        plot_confusion(make_evaluation([str(n) for n in range(n_classes)]), tmp_path / "matrix.png")
        sizes[n_classes] = len(read_texts(tmp_path / "matrix.svg"))
    assert sizes[30] - sizes[31] > 25


def test_names_in_an_svg_file_are_text_whatever_their_letters(tmp_path):
    """Letters are in the order in which they are read; the viewer orders them as their script demands."""
    classes = ["<b>ants</b> & bees", "$x_1$", "\u05e9\u05dc\u05d5\u05dd", "an unusually long name of a class"]
    plot_confusion(make_evaluation(classes), tmp_path / "matrix.png", title="ridge on <i>.h5 of a&b, 200 items (test)")
    texts = read_texts(tmp_path / "matrix.png")
    assert all(texts.count(name) == 2 for name in classes)
    assert texts.count("ridge on <i>.h5 of a&b, 200 items (test)") == 1


def test_the_title_states_accuracy_interval_and_items(tmp_path):
    evaluation = make_evaluation(["ants", "bees"])
    plot_confusion(evaluation, tmp_path / "matrix.png")
    text = read_svg(tmp_path / "matrix.svg")
    assert f"accuracy {evaluation.accuracy:.3f}" in text
    assert f"95 % interval {evaluation.accuracy_low:.3f} to {evaluation.accuracy_high:.3f}" in text
    assert "200 items" in text


def test_the_title_of_an_evaluation_without_accuracy_states_the_items(tmp_path):
    values = make_evaluation(["ants", "bees"]).to_dict()
    known = Evaluation.from_dict({name: value for name, value in values.items() if not name.startswith("accuracy")})
    plot_confusion(known, tmp_path / "matrix.png")
    text = read_svg(tmp_path / "matrix.svg")
    assert "200 items" in text
    assert "accuracy" not in text


def test_every_second_name_is_written_if_there_is_not_enough_room(tmp_path):
    plot_confusion(make_evaluation([f"name{n:03}" for n in range(150)]), tmp_path / "matrix.png")
    texts = read_texts(tmp_path / "matrix.png")
    assert texts.count("name148") == 2
    assert "name149" not in texts
    assert_whole(tmp_path / "matrix.png")


def test_the_same_evaluation_gives_the_same_bytes(tmp_path):
    evaluation = make_evaluation(["ants", "bees"])
    written = []
    for name in ("first", "second"):
        plot_confusion(evaluation, tmp_path / f"{name}.png")
        written.append([(tmp_path / f"{name}{suffix}").read_bytes() for suffix in (".png", ".svg")])
    assert written[0] == written[1]


def test_the_settings_of_matplotlib_are_left_alone(tmp_path):
    before = dict(mpl.rcParams.copy())
    plot_confusion(make_evaluation(["ants", "bees"]), tmp_path / "matrix.png")
    assert dict(mpl.rcParams.copy()) == before


def test_nothing_heavy_is_imported_before_it_is_needed_and_pyplot_never():
    code = """
import sys
import featx.evaluation as evaluation
heavy = {"matplotlib", "sklearn", "scipy", "tensorflow", "pandas"} & sys.modules.keys()
assert not heavy, heavy
import pathlib, tempfile
result = evaluation.evaluate([[0.2, 0.8], [0.6, 0.4]], [1, 0], ["a", "b"], resamples=5)
with tempfile.TemporaryDirectory() as folder:
    evaluation.plot_confusion(result, pathlib.Path(folder, "matrix.png"))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=500)


NAMES = ["logreg", "ridge", "lda", "centroid", "knn", "svm-linear", "svm-rbf", "mlp", "forest", "$\\alpha$", "日本", ""]


def make_costs(spread=2.0, n_rows=12):
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


def test_a_learning_curve_states_the_gain_of_more_labels(tmp_path):
    draw_learning(tmp_path / "learning.png")
    texts = read_texts(tmp_path / "learning.png")
    assert any("twice as many labels would add about" in text for text in texts)
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


def test_names_of_costs_are_cut_only_where_there_is_no_room(tmp_path):
    names = ["ridge on a store with a long name, the layer 1", f"{'a longer name ' * 9}and its end"]
    plot_costs(
        names,
        [0.1, 10],
        [0.9, 0.95],
        [0.8, 0.9],
        [0.95, 0.97],
        tmp_path / "costs.png",
        title="ridge on 2 stores, 400 items (test)",
    )
    texts = read_texts(tmp_path / "costs.png")
    assert names[0] in texts
    assert any("…" in text and text.endswith("and its end") for text in texts)
    assert "ridge on 2 stores, 400 items (test)" in texts


def test_costs_name_what_is_marked(tmp_path):
    """The slower of two equally accurate heads is not called worse, and each mark has its legend."""
    rows = (["knn", "mlp", "last:23"], [0.05, 0.3, 125], [0.87, 0.87, 0.92], [0.8, 0.8, 0.87], [0.91, 0.91, 0.95])
    plot_costs(*rows, tmp_path / "plain.png")
    plain = set(read_texts(tmp_path / "plain.png"))
    assert {"no other is as accurate in less time", "another is at least as accurate in less time"} <= plain
    assert not any("better" in text for text in plain)
    plot_costs(*rows, tmp_path / "marked.png", chosen=1, kinds=["frozen", "frozen", "fine-tuned"])
    marks = set(read_texts(tmp_path / "marked.png")) - plain
    assert marks == {"the best by validation", "fine-tuned"}
    plot_costs(*rows, tmp_path / "start.png", kinds=["frozen", "frozen", "start"])
    marks = set(read_texts(tmp_path / "start.png")) - plain
    assert marks == {"fine-tuning that kept the start: nothing was trained"}


def test_costs_rank_by_validation_and_say_what_is_not_shown(tmp_path):
    rows = (["knn", "mlp", "run"], [0.1, 1, 10], [0.9, 0.95, 0.97], [0.8, 0.9, 0.9], [0.95, 0.97, 0.99])
    plot_costs(*rows, tmp_path / "c.png", validations=[0.9, 0.8, math.nan], missing=["dummy 0.10", "svm failed"])
    texts = set(read_texts(tmp_path / "c.png"))
    assert "no other is as accurate in less time, by validation" in texts
    assert {"not validated on the same items", "not shown: dummy 0.10; svm failed"} <= texts
    assert _find_front(np.array([1.0, 2, 3]), np.array([math.nan, 0.8, math.nan])) == [1]


def test_the_front_holds_the_rows_that_no_other_beats_in_both():
    costs, accuracies = np.array([1.0, 2, 2, 3, 4, 4]), np.array([0.8, 0.9, 0.7, 0.9, 0.95, 0.94])
    assert _find_front(costs, accuracies) == [0, 1, 4]


def make_history(n_epochs, *, held_out=True):
    falling = [2.0 / (epoch + 1) for epoch in range(n_epochs)]
    history = {"loss": falling, "accuracy": [1 - loss / 3 for loss in falling], "auc": [math.nan] * n_epochs}
    if held_out:
        history |= {f"val_{name}": [value + 0.1 for value in values] for name, values in history.items()}
        history["val_loss"] = [abs(epoch - n_epochs // 2) + 0.5 for epoch in range(n_epochs)]
    return history | {"learning_rate": [1e-3 / 2 ** (epoch // 8) for epoch in range(n_epochs)]}


def test_the_best_epoch_is_that_of_the_lowest_loss_on_held_out_items():
    assert find_best_epoch(make_history(20)) == 11
    assert find_best_epoch(make_history(20, held_out=False)) == 20


def test_the_table_has_every_number_and_empty_cells_for_undefined_ones(tmp_path):
    history = make_history(3)
    write_history(history, tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("epoch") for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == list(history)
    assert [row["auc"] for row in rows] == [""] * 3
    assert [float(row["val_loss"]) for row in rows] == history["val_loss"]
    assert [float(row["loss"]) for row in rows] == history["loss"]


@pytest.mark.parametrize(("n_epochs", "held_out"), [(1, False), (2, True), (20, True), (300, False)])
def test_any_history_is_drawn_the_same_every_time(n_epochs, held_out, tmp_path):
    history = make_history(n_epochs, held_out=held_out)
    plot_history(history, tmp_path / "curves.png")
    plot_history(history, tmp_path / "again.png")
    svg = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert svg == (tmp_path / "again.svg").read_text(encoding="utf-8")
    assert (tmp_path / "curves.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for words in (
        "loss",
        "accuracy",
        "ROC-AUC",
        "training items",
        f"weights kept from epoch {find_best_epoch(history)}",
    ):
        assert words in svg
    assert ("held-out items" in svg) == held_out
    assert ("learning rate lowered" in svg) == (n_epochs > 8)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 2 * image.height > 800


def test_a_history_has_a_title_and_may_keep_the_start(tmp_path):
    history = make_history(3)
    plot_history(history, tmp_path / "start.png", first=0, kept=0, title="mlp on a.h5, 60 items (training)")
    assert "mlp on a.h5, 60 items (training)" in read_texts(tmp_path / "start.png")
    assert "no better than the start, which is kept" in (tmp_path / "start.svg").read_text(encoding="utf-8")
