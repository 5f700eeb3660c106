import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from featx.evaluation import evaluate, plot_confusion
from featx.evaluation.figure import show_names

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
        # Matplotlib writes every text into the SVG file as a comment too.
        sizes[n_classes] = read_svg(tmp_path / "matrix.svg").count("<!-- ")
    assert sizes[30] - sizes[31] > 25


def test_the_title_states_accuracy_interval_and_items(tmp_path):
    evaluation = make_evaluation(["ants", "bees"])
    plot_confusion(evaluation, tmp_path / "matrix.png")
    text = read_svg(tmp_path / "matrix.svg")
    assert f"accuracy {evaluation.accuracy:.3f}" in text
    assert f"95 % interval {evaluation.accuracy_low:.3f} to {evaluation.accuracy_high:.3f}" in text
    assert "200 items" in text


def test_every_second_name_is_written_where_there_is_no_room_for_all(tmp_path):
    plot_confusion(make_evaluation([f"name{n:03}" for n in range(150)]), tmp_path / "matrix.png")
    text = read_svg(tmp_path / "matrix.svg")
    assert text.count("<!-- name148 -->") == 2
    assert "<!-- name149 -->" not in text
    assert_whole(tmp_path / "matrix.png")


def test_names_are_never_mathematics_and_missing_letters_become_numbers():
    names = show_names(NASTY, ["DejaVu Sans"], "class")
    assert names[:4] == ["$\\alpha_1$", "$", "_private", "class 4"]
    assert names[4] == "class 5 cat"
    assert names[5:8] == ["Äpfel", "line\ufffdbreak", "bad\ufffd"]
    assert names[8].endswith("…")


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
