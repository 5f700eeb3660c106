import numpy as np
import pytest
from rich.cells import cell_len

from featx.evaluation import Evaluation, evaluate, format_confusion, format_metrics, format_per_class
from featx.wording import pad_name, shorten_name

NASTY = ["$\\alpha$", "日本語", "Äpfel", "line\nbreak", "esc\x1b[31m", "bad\udcff", "a name " * 20, ""]


def make_evaluation(classes, errors):
    """Evaluate three items of every class; `errors` maps a true class to the one predicted for one of them."""
    targets = np.repeat(np.arange(len(classes)), 3)
    predictions = targets.copy()
    for true, wrong in errors.items():
        predictions[3 * true] = wrong
    return evaluate(np.eye(len(classes))[predictions], targets, classes, resamples=50)


def assert_aligned(table):
    widths = {cell_len(line) for line in table.splitlines()}
    assert len(widths) == 1, table


def test_metrics_show_value_and_interval():
    evaluation = make_evaluation(["a", "b"], {0: 1})
    lines = format_metrics(evaluation).splitlines()
    low, high = evaluation.accuracy_low, evaluation.accuracy_high
    assert lines[1].split() == ["accuracy", "0.8333", f"{low:.4f}", "to", f"{high:.4f}"]
    assert lines[-1].split() == ["items", "6"]
    assert len({line.index("0.") + 6 for line in lines[1:3]}) == 1


def test_metrics_say_why_there_is_no_interval():
    text = format_metrics(evaluate([[1.0, 0.0]], [0], ["a", "b"]))
    assert "macro-F1                    1.0000   none: all resamples agree" in text
    assert text.splitlines()[6].split() == ["ROC-AUC", "-", "-"]


def test_a_metric_that_is_not_recorded_has_a_dash():
    values = make_evaluation(["a", "b"], {0: 1}).to_dict()
    del values["accuracy"], values["accuracy_low"], values["accuracy_high"], values["per_class"][0]["recall"]
    evaluation = Evaluation.from_dict(values)
    assert format_metrics(evaluation).splitlines()[1].split() == ["accuracy", "-", "-"]
    assert format_per_class(evaluation).splitlines()[1].split()[2] == "-"


@pytest.mark.parametrize("write", [format_per_class, format_confusion])
def test_tables_are_aligned_for_any_name(write):
    table = write(make_evaluation(NASTY, {0: 1, 3: 4}))
    assert_aligned(table)
    assert len(table.splitlines()) == len(NASTY) + 1
    assert table.encode("utf-8")
    assert "\x1b" not in table
    assert "日本語" in table
    assert "a name a name" in table
    assert "…" in table


@pytest.mark.parametrize("write", [format_per_class, format_confusion])
@pytest.mark.parametrize("n_classes", [3, 20])
def test_names_are_cut_only_where_the_terminal_has_no_room(write, n_classes):
    classes = [f"{number} an unusually long name of a class of pictures" for number in range(n_classes)]
    evaluation = make_evaluation(classes, {0: 1, 3: 4} if n_classes > 4 else {0: 1})
    for width in (80, 200):
        lines = write(evaluation, width).splitlines()
        assert max(map(cell_len, lines)) <= width
        assert any("…" in line for line in lines) == (width == 80 and (n_classes, write) != (3, format_confusion))


def test_per_class_keeps_the_order_of_few_classes():
    lines = format_per_class(make_evaluation(["b", "a"], {1: 0})).splitlines()
    assert lines[1].split() == ["b", "0.750", "1.000", "0.857", "3", "0.833"]
    assert lines[2].split() == ["a", "1.000", "0.667", "0.800", "3", "0.833"]


def test_per_class_shows_the_worst_of_many():
    classes = [f"c{number:03}" for number in range(100)]
    lines = format_per_class(make_evaluation(classes, {70: 71})).splitlines()
    assert len(lines) == 32
    assert [line.split()[0] for line in lines[1:3]] == ["c070", "c071"]
    assert lines[-1] == "... and 70 more, with an F1 of 1.000 or more"
    assert_aligned("\n".join(lines[:-1]))


def test_per_class_shows_classes_without_items_last():
    classes = [f"c{number:03}" for number in range(40)]
    lines = format_per_class(evaluate(np.eye(40)[[0, 2]], [0, 1], classes, resamples=5)).splitlines()
    assert [line.split()[3] for line in lines[1:5]] == ["0.000", "0.000", "1.000", "-"]
    assert lines[-1] == "... and 10 more, with no items"


def test_confusion_names_the_columns_of_two_classes():
    lines = format_confusion(make_evaluation(["ants", "bees"], {1: 0})).splitlines()
    assert lines[0].split() == ["true", "\\", "predicted", "ants", "bees"]
    assert [line.split() for line in lines[1:]] == [["ants", "3", "0"], ["bees", "1", "2"]]


def test_confusion_numbers_the_columns_where_names_have_no_room():
    classes = [f"a rather long name {number}" for number in range(15)]
    lines = format_confusion(make_evaluation(classes, {14: 0})).splitlines()
    assert lines[0].split()[3:] == [str(number) for number in range(1, 16)]
    assert lines[15].split()[0] == "15"
    assert lines[15].split()[-15] == "1"
    assert max(map(len, lines)) <= 100


def test_confusion_of_many_classes_lists_the_worst_pairs():
    classes = [f"c{number:02}" for number in range(16)]
    errors = dict.fromkeys(range(12), 15)
    evaluation = make_evaluation(classes, errors)
    lines = format_confusion(evaluation).splitlines()
    assert len(lines) == 11
    assert lines[1].split() == ["c00", "c15", "1", "33.3%"]
    assert_aligned("\n".join(lines))


def test_confusion_of_many_classes_without_errors():
    text = format_confusion(make_evaluation([f"c{number:02}" for number in range(16)], {}))
    assert text == "no class is confused with another"


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("cells", [2, 7, 30])
def test_a_name_takes_the_width_it_is_given(name, cells):
    assert cell_len(shorten_name(name, cells)) <= cells
    assert cell_len(pad_name(name, cells)) == cells
    assert cell_len(pad_name(name, cells, right=True)) == cells


def test_a_name_that_fits_is_left_alone():
    assert shorten_name("mobilenet-alpha-0.25", 14) == "mobilen…a-0.25"
    assert shorten_name("mobilenet-alpha-0.25", 9) == "mobilene…"
    assert shorten_name("e\u0301" * 20, 13) == "e\u0301" * 6 + "…" + "e\u0301" * 6
    assert shorten_name("日本語", 6) == "日本語"
    assert shorten_name("日本語", 5) == "日本…"
    assert shorten_name("a\u200cb", 5) == "a\u200cb"
