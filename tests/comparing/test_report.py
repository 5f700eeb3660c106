import csv
import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from comparison_rows import FAILED, make_comparison, make_row

from featx.comparing.report import (
    describe_choice,
    describe_comparison,
    make_page,
    name_folder,
    tabulate,
    tabulate_briefly,
    write_comparison,
)
from featx.comparison_results import FINE_TUNED, FROZEN, START
from featx.errors import StoreError
from featx.evaluation.paired import compare_pair
from featx.specs import HeadSpec

CHOICE = (
    "lda is best by validation (3 folds of the training items), trained on 240 images; the test was not used to choose"
)


def describe(*others, best="lda"):
    return describe_comparison(make_comparison(make_row(best, "best"), *others))


@pytest.mark.parametrize(
    ("ties", "names"),
    [
        (["ridge"], "lda or ridge"),
        (["ridge", "logreg"], "lda, ridge or logreg"),
        (["ridge", "logreg", "knn", "svm"], "lda, ridge, logreg, knn or svm"),
        (["ridge", "logreg", "knn", "svm", "mlp"], "lda, ridge, logreg, knn or one of 2 others"),
        (["ridge", "logreg", "knn", "svm", "mlp", "keras", "hist-gb"], "lda, ridge, logreg, knn or one of 4 others"),
    ],
)
def test_the_first_sentence_names_what_is_as_good(ties, names):
    lines = describe(*(make_row(name, "tie", 1) for name in ties))
    assert lines == [f"use {names}: 60 test images cannot tell them apart", CHOICE]


@pytest.mark.parametrize(
    ("rows", "differing"),
    [
        ([("ridge", "tie"), ("knn", "worse")], "knn differs from the best by validation"),
        ([("ridge", "tie"), ("knn", "worse"), ("svm", "better")], "knn and svm differ from the best by validation"),
        ([("knn", "worse")], "the other one differs from the best by validation"),
        ([("knn", "worse"), ("svm", "worse")], "both others differ from the best by validation"),
        ([(name, "worse") for name in "abc"], "all 3 others differ from the best by validation"),
        ([("t", "tie"), *((name, "worse") for name in "abcdefgh")], "a, b, c, d and 4 others differ from the best by"),
    ],
)
def test_heads_that_differ_are_named(rows, differing):
    lines = describe(*(make_row(name, verdict, 1) for name, verdict in rows))
    assert any(line.startswith(f"these 60 test images show that {differing}") for line in lines)
    assert lines[0].startswith("use lda or ") == any(verdict == "tie" for _, verdict in rows)


def test_a_failed_head_and_a_single_one():
    assert describe(FAILED) == [CHOICE, "failed: svm: no memory"]
    assert describe() == [CHOICE]


def test_heads_that_do_better_on_the_test():
    lines = describe(make_row("knn", "better"))
    assert lines[2].startswith(
        "knn did better on the test than the best by validation; to prefer it, test both again on"
    )
    lines = describe(make_row("knn", "better"), make_row("svm", "better"))
    assert lines[2].startswith(
        "knn and svm did better on the test than the best by validation; to prefer one of them, "
    )


def test_a_run_that_kept_its_start_is_not_recommended(tmp_path):
    start = make_row("logreg", "tie", 1, kind=START, run=tmp_path)
    assert describe(start, make_row("ridge", "tie", 1))[0].startswith("use lda or ridge: ")
    assert describe(start)[0] == CHOICE


@pytest.mark.parametrize(
    ("others", "recommended"),
    [
        ([("ridge", "tie", FROZEN)], "use ridge: it needs no fine-tuning, and "),
        ([("network", "tie", FINE_TUNED), ("knn", "tie", FROZEN), ("lda", "tie", FROZEN)], "use knn: "),
        ([("dummy", "tie", FROZEN), ("network", "tie", FINE_TUNED)], ""),
        ([("ridge", "worse", FROZEN)], ""),
    ],
)
def test_a_run_that_kept_its_start_and_is_best_by_validation_is_not_a_success(tmp_path, others, recommended):
    start = replace(make_row("logreg", "best", run=tmp_path, kind=START), name="finetune last:23 (start)")
    rows = [make_row(name, verdict, 1, kind=kind) for name, verdict, kind in others]
    lines = describe_comparison(make_comparison(start, *rows))
    network = "the frozen network with the first head of finetune last:23"
    choice = f"{network} is best by validation (3 folds of the training items); the test was not used to choose"
    advice, *rest = lines if recommended else ["", *lines]
    assert rest[0] == choice
    assert advice.startswith(recommended)
    assert not recommended or advice.endswith(f"60 test images cannot tell it from {network}")
    assert "(start)" not in "".join(lines)


@pytest.mark.parametrize(("verdict", "said"), [("worse", "differs from the best"), ("better", "did better on the")])
def test_a_start_that_differs_is_named_as_a_frozen_network(tmp_path, verdict, said):
    start = replace(make_row("logreg", verdict, 3, run=tmp_path, kind=START), name="finetune last:23 (start)")
    lines = "; ".join(describe(start, make_row("ridge", "tie", 1)))
    assert f"the frozen network with the first head of finetune last:23 {said}" in lines


def test_the_dummy_is_not_recommended():
    lines = describe(make_row("dummy", "tie", 1), make_row("ridge", "tie", 1))
    assert lines[0] == "use lda or ridge: 60 test images cannot tell them apart"
    assert lines[2] == (
        "these 60 test images do not show that lda beats dummy, which always predicts the most frequent class"
    )
    assert not describe(make_row("dummy", "tie", 1))[0].startswith("use")
    assert len(describe(make_row("knn", "tie", 1), best="dummy")) == 2


def test_groups_are_counted_where_images_belong_to_them():
    groups = [str(item // 5) for item in range(60)]
    pair = compare_pair(np.arange(60) > 3, np.arange(60) > 1, groups=groups)
    lines = describe(replace(make_row("knn", "tie", 1), paired=pair))
    assert lines[0] == "use lda or knn: 60 test images in 12 groups cannot tell them apart"


def set_interval(name, low, high, verdict="tie", **options):
    row = make_row(name, verdict, 3, **options)
    return replace(row, paired=replace(row.paired, low=low, high=high))


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([set_interval("knn", -0.2, -0.01)], "knn"),
        ([set_interval("knn", 0.01, 0.2), set_interval("svm", -0.2, -0.1)], "knn, svm"),
        ([set_interval("knn", -0.2, -0.1, store="scans"), make_row("svm", "tie", 1)], "knn on scans"),
        ([set_interval("knn", -0.2, 0.1), set_interval("svm", -0.2, -0.1, "worse"), make_row("lda", "tie", 0)], ""),
    ],
)
def test_an_interval_without_0_beside_a_tie_is_explained_where_it_occurs(rows, names):
    comparison = make_comparison(make_row("lda", "best"), *rows)
    expected = (
        f"{names}: a tie, although the interval excludes 0. The interval is of this difference alone; p is adjusted "
        "for all differences of the table (Holm), and is not below 0.05"
    )
    for text in (*describe_comparison(comparison), comparison.to_markdown(), comparison._repr_html_()):
        assert ("a tie, although" in text) == (names != "" and expected in text)
    texts = [comparison.to_markdown(), comparison.to_latex(), comparison._repr_html_(), make_page(comparison)]
    assert all((expected in text) == bool(names) for text in texts)


def test_what_the_test_shows_is_not_an_order_of_the_test():
    comparison = make_comparison(make_row("lda", "best"), make_row("knn", "worse", 30))
    assert tabulate(comparison)[0][-1] == tabulate_briefly(comparison)[0][-1] == "against the best by validation"
    for table in (comparison.to_markdown(), comparison.to_latex(), comparison._repr_html_()):
        assert "against the best by validation" in table
        assert "verdict" not in table


def test_tables_for_reports_explain_runs_and_failures(tmp_path):
    notes = ("validated on 9 images held out of its own training set",)
    run = replace(make_row("lda", "tie", 1, run=tmp_path, notes=notes), name="lda (run)")
    comparison = make_comparison(make_row("knn", "best", notes=("it did not converge",)), run, FAILED)
    footnotes = [f"lda (run): {notes[0]}", "svm failed: no memory"]
    assert comparison.list_footnotes() == footnotes
    assert comparison.to_markdown().endswith("\n\n- lda (run): " + notes[0] + "\n- svm failed: no memory\n")
    for text in (comparison.to_latex(), comparison._repr_html_()):
        assert all(note in text for note in footnotes)
    assert comparison.to_latex().endswith("\\par\\smallskip{\\footnotesize svm failed: no memory\\par}\n\\end{table}\n")


def test_stores_are_named_where_there_are_several():
    one, other = make_row("lda", "best"), make_row("lda", "tie", 1, store="scans")
    header, _ = tabulate(make_comparison(one))
    assert header[0] == "head"
    header, rows = tabulate(make_comparison(one, other))
    assert (header[0], rows[1][0]) == ("store", "scans")
    assert "lda on scans" in describe_comparison(make_comparison(one, other))[0]


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
    dummy = make_row("dummy", "worse", 2)
    write_comparison(make_comparison(frozen, make_row("knn", "tie", 1), tuned, dummy, FAILED), tmp_path)
    assert drawn.call_args.kwargs["missing"] == [f"dummy {dummy.test.accuracy:.2f}", "svm failed"]
    assert drawn.call_args.args[1] == [5.5, 1.5, 1.5]
    assert drawn.call_args.kwargs["kinds"] == ["frozen", "frozen", "fine-tuned"]
    start = make_row("logreg", "tie", 1, kind=START, embed_seconds=1.0, run=tmp_path)
    write_comparison(make_comparison(frozen, start), tmp_path)
    assert drawn.call_args.args[1] == [5.5, 1.5]
    assert drawn.call_args.kwargs["kinds"] == ["frozen", "start"]


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
