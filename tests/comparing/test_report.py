import csv
import datetime as dt
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from comparison_rows import FAILED, make_comparison, make_row

from featx.comparing.report import (
    describe_choice,
    describe_comparison,
    make_page,
    name_folder,
    tabulate,
    write_comparison,
)
from featx.comparison_results import FINE_TUNED
from featx.errors import StoreError
from featx.specs import HeadSpec


def test_ties_are_reported_as_ties():
    lines = describe_comparison(
        make_comparison(make_row("lda", "best"), make_row("ridge", "tie", 1), make_row("knn", "worse", 30), FAILED)
    )
    assert lines == [
        (
            "lda is best by validation (3 folds of the training items), trained on 240 images; "
            "the test was not used to choose"
        ),
        "these 60 test images show no difference between the best and ridge (1 of the 2 others)",
        "failed: svm: no memory",
    ]


def test_significant_differences_are_reported_too():
    lines = describe_comparison(make_comparison(make_row("lda", "best"), make_row("knn", "worse", 30)))
    assert lines[1] == "these 60 test images show that the other one differs from the best"
    lines = describe_comparison(make_comparison(*[make_row(*row) for row in (("lda", "best"), ("knn", "better"))]))
    assert lines[2].startswith("knn did better on the test than the best by validation")
    assert len(describe_comparison(make_comparison(make_row("lda", "best")))) == 1


def test_stores_are_named_where_there_are_several():
    one, other = make_row("lda", "best"), make_row("lda", "tie", 1, store="scans")
    header, _ = tabulate(make_comparison(one))
    assert header[0] == "head"
    header, rows = tabulate(make_comparison(one, other))
    assert (header[0], rows[1][0]) == ("store", "scans")
    assert "lda on scans" in describe_comparison(make_comparison(one, other))[1]


def test_cells():
    header, (best, other, failed) = tabulate(
        make_comparison(make_row("lda", "best"), make_row("knn", "worse", 30), FAILED)
    )
    assert all(len(row) == len(header) for row in (best, other, failed))
    cells = dict(zip(header, other, strict=True))
    assert (cells["test"], cells["valid."], cells["fit s"], cells["bytes/item"]) == ("0.500", "0.900", "1.50", "3,072")
    assert cells["to the best"].startswith("-0.500 (-0.")
    assert cells["p"] == "<0.001"
    assert dict(zip(header, best, strict=True))["to the best"] == "-"
    assert set(failed[1:-1]) == {"-", "3,072"}


@pytest.mark.parametrize(
    ("head", "asked", "text"),
    [
        (HeadSpec("logreg", {"C": 10.0, "tol": 3.8e-05}, "standard"), HeadSpec("logreg"), "C=10 standard"),
        (HeadSpec("logreg", {"C": 1.0, "tol": 0.1}, "none"), HeadSpec("logreg", {"tol": 0.1}), "C=1 tol=0.1"),
        (HeadSpec("dummy", {}, "none"), HeadSpec("dummy"), ""),
        (HeadSpec("mlp", {"hidden_layer_sizes": (64, 32)}), None, "hidden_layer_sizes=(64, 32)"),
    ],
)
def test_chosen_parameters_in_few_words(head, asked, text):
    assert describe_choice(head, asked) == text


def test_markdown_is_one_table():
    page = make_page(
        make_comparison(make_row("lda", "best", notes=("it did not converge",)), make_row("knn", "tie", 1))
    )
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 4
    assert "- note: lda: it did not converge" in page
    assert "fitting with 1 thread" in page


def test_files_hold_the_same_numbers(tmp_path):
    comparison = make_comparison(make_row("lda", "best", params={"a": 1}), make_row("knn", "tie", 1), FAILED)
    written = write_comparison(comparison, tmp_path / "new" / "folder")
    assert written.folder == tmp_path / "new" / "folder"
    rows = json.loads((written.folder / "comparison.json").read_text())["rows"]
    with (written.folder / "comparison.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["head"] for row in table] == [row["head"] for row in rows] == ["lda", "knn", "svm"]
    assert json.loads(table[0]["params"]) == rows[0]["params"] == {"a": 1}
    assert float(table[1]["difference"]) == rows[1]["difference"]
    assert (table[2]["accuracy"], rows[2]["accuracy"]) == ("", None)
    assert write_comparison(comparison, written.folder).folder == written.folder  # again, into the same place


def test_the_plot_has_the_time_of_embedding_on_both_sides(tmp_path, monkeypatch):
    drawn = Mock()
    monkeypatch.setattr("featx.evaluation.plots.plot_costs", drawn)
    tuned = make_row("network", "tie", 1, kind=FINE_TUNED, embed_seconds=1.0)
    frozen = make_row("lda", "best", embed_seconds=4.0)
    write_comparison(make_comparison(frozen, make_row("knn", "tie", 1), tuned), tmp_path)
    assert drawn.call_args.args[1] == [5.5, 1.5, 1.5]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_comparison(make_comparison(make_row("lda", "best")), tmp_path / "file" / "folder")


def test_folders_are_named_by_the_day_and_a_number(tmp_path):
    day = dt.datetime.now(tz=dt.UTC).date()
    assert name_folder(tmp_path) == tmp_path / f"{day}-compare"
    for expected in ("compare", "compare-2", "compare-3"):
        folder = name_folder(tmp_path)
        assert folder.name == f"{day}-{expected}"
        Path(folder).mkdir()
