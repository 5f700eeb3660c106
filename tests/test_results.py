import html.parser
import json
import re

import numpy as np
import pytest
from comparison_rows import FAILED, make_comparison, make_row
from finetuned import FINETUNED
from pandas.testing import assert_frame_equal
from pictures import write_digits

import featx
from featx.errors import BundleError
from featx.evaluation import METRICS
from featx.options import FitOptions
from featx.results import FineTuned
from featx.specs import FineTuneSpec

NASTY = "a_b & 50% {$x$} #1 \\ ~^ <b>|\"*' [y]"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    digits = write_digits(tmp_path_factory.mktemp("digits"), per_class=12, classes=3)
    (digits / "0").rename(digits / "NA")
    (digits / "1").rename(digits / "007")
    return featx.embed(digits, "colour", folder=tmp_path_factory.mktemp("f")).store


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """The same run without a bundle and with one."""
    folder = tmp_path_factory.mktemp("runs")
    return [featx.fit(store, "centroid", options=FitOptions(folder=where)) for where in (None, folder)]


@pytest.fixture
def comparison():
    rows = (make_row("knn", "best"), make_row("ridge", "tie", 5), make_row("dummy", "worse", 40, store=NASTY), FAILED)
    return make_comparison(*rows)


def test_predictions_are_the_same_with_and_without_a_bundle(runs):
    kept, read = (run.predictions for run in runs)
    assert_frame_equal(kept, read, check_exact=True)
    assert list(read) == ["id", "label", "predicted", "probability", *(f"probability_{n}" for n in ("007", "2", "NA"))]
    assert set(read["label"]) == {"007", "2", "NA"}
    assert (read["label"] == read["predicted"]).mean() == runs[1].test.accuracy
    assert len(read) == runs[1].test.n_items


def test_predictions_of_a_bundle_that_is_gone(runs, tmp_path):
    gone = featx.Run(**{**vars_of(runs[1]), "bundle": tmp_path / "gone"})
    with pytest.raises(BundleError, match=r"predictions.csv cannot be read .*; copy the bundle again"):
        _ = gone.predictions


def vars_of(run):
    return {name: getattr(run, name) for name in run.__slots__}


def test_a_frame_has_the_columns_of_the_rows(comparison):
    frame = comparison.to_frame()
    assert list(frame) == list(comparison.best.to_dict())
    assert frame["head"].tolist() == ["knn", "ridge", "dummy", "svm"]
    assert frame["accuracy"][0] == 1
    assert np.isnan(frame["accuracy"][3])


def read_latex_rows(text):
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [line.removesuffix(" \\\\") for line in body.splitlines()]


def test_latex_is_a_booktabs_table_with_intervals(comparison):
    text = comparison.to_latex()
    rows = read_latex_rows(text)
    assert [row.split(" & ")[0] for row in rows] == ["knn", "ridge", "dummy", "svm"]
    test = comparison.rows[1].test
    assert f"{test.accuracy:.3f} {{\\small [{test.accuracy_low:.3f}, {test.accuracy_high:.3f}]}}" in rows[1]
    assert f"$-${-comparison.rows[1].paired.difference:.3f}" in rows[1]
    assert "$<$0.001" in rows[2]
    assert rows[3].split(" & ")[2:] == ["--"] * 6 + ["failed"]
    assert text.startswith("% \\usepackage{booktabs}\n\\begin{table}\n")
    assert "95 \\% intervals" in text


def test_latex_escapes_everything_and_every_row_has_all_columns(comparison):
    text = comparison.to_latex()
    columns = re.search(r"\\begin\{tabular\}\{(l+r+l)\}", text)[1]
    plain = re.sub(r"\\[\\&%$#_{}]", "", "".join(text.splitlines(keepends=True)[1:]))  # but for the first comment
    assert plain.count("{") == plain.count("}")
    assert "{*}" in plain
    assert not set('%#_~^"|<>') & set(plain.replace("$<$", ""))
    assert plain.count("$") % 2 == 0
    for row in read_latex_rows(text):
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    for name in re.findall(r"\\begin\{(\w+)\}", text):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1


def test_the_store_is_a_column_only_if_there_are_several(comparison):
    assert comparison.to_latex().count(" & store & ") == 1
    alone = make_comparison(make_row("knn", "best"))
    assert "store" not in alone.to_latex()
    assert "store" not in alone.to_markdown()


def test_markdown_has_a_cell_for_each_column(comparison):
    table, notes = comparison.to_markdown().split("\n\n")
    header, marks, *rows = table.splitlines()
    assert notes.endswith("\n- svm on photos failed: no memory\n")
    assert len(rows) == 4
    assert header.startswith("| head | store | validation | accuracy |")
    assert marks.startswith("| :--- | :--- | ---: |")
    for line in (header, marks, *rows):
        assert len(re.findall(r"(?<!\\)\|", line)) == header.count("|")
    assert "\\<b\\>\\|" in rows[2]


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        assert {name for name, _ in attrs} <= {"style"}
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_notebooks_show_small_escaped_tables(comparison, runs):
    for shown in (comparison, runs[0]):
        cells = Cells()
        cells.feed(shown._repr_html_())
        assert set(cells.tags) == {"p", "table", "thead", "tbody", "tr", "th", "td"}
        if shown is comparison:
            assert NASTY in cells.texts
        else:
            assert {"accuracy", f"{shown.test.accuracy:.3f}"} & set(cells.texts)
            assert cells.tags.count("tr") == 1 + len(METRICS)
        assert len(shown._repr_html_()) < 5000


def make_finetuned(**changes):
    values = {
        "backbone": "mobilenet",
        "unfreeze": "last:3",
        "trainable_parameters": 10,
        "frozen_parameters": 20,
        "head_parameters": 30,
        "epochs": 4,
        "best_epoch": 3,
        "seconds": 9.5,
        "elapsed_seconds": 8.5,
        "embed_seconds": 1.5,
        "train_seconds": 5.5,
        "validated_on": "validation",
        "batch_parts": 2,
        "peak_memory_bytes": 10**9,
        "cached": True,
        "cut": ["conv1"],
        "views": 2,
        "augmentation": "flip",
        "spec": FineTuneSpec(unfreeze="last:3").to_dict(),
    }
    return values | changes


def test_fine_tuning_is_written_as_it_was_read():
    values = json.loads(json.dumps(make_finetuned()))
    read = FineTuned.from_dict(values)
    derived = {"kept_start": False, "trained_parameters": 40}
    assert read.to_dict() == values | derived
    assert FineTuned.from_dict(read.to_dict()) == read
    assert read.spec == FineTuneSpec(unfreeze="last:3")
    assert read.trained_parameters == 40


def test_a_start_that_was_kept_trained_nothing_but_the_head():
    read = FineTuned.from_dict(make_finetuned(best_epoch=0))
    assert (read.kept_start, read.trained_parameters, read.trainable_parameters) == (True, 30, 10)
    assert read.to_dict()["kept_start"] is True


def test_a_notebook_shows_that_the_start_was_kept(runs):
    values = vars_of(runs[0])
    tuned = featx.Run(**values | {"finetuned": FineTuned.from_dict(make_finetuned())})
    assert tuned._repr_html_().startswith("<p>mobilenet, last:3 and centroid: trained on ")
    start = featx.Run(**values | {"finetuned": FineTuned.from_dict(make_finetuned(best_epoch=0))})
    assert start._repr_html_().startswith("<p>mobilenet and centroid: trained on ")
    assert "last:3 kept the start: the frozen network with its first head; nothing was trained" in start._repr_html_()


def test_fine_tuning_of_an_older_version_lacks_what_it_did_not_record():
    required = ("backbone", "unfreeze", "trainable_parameters", "head_parameters", "epochs", "best_epoch", "seconds")
    read = FineTuned.from_dict({name: make_finetuned()[name] for name in required})
    assert (read.elapsed_seconds, read.embed_seconds, read.cached, read.spec, read.cut) == (None, None, None, None, ())
    assert FineTuned.from_dict(FINETUNED).embed_seconds == FINETUNED["embed_seconds"]
    assert FineTuned.from_dict(make_finetuned(spec={"unfreeze": "all", "warmup": 3})).spec is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": True}, "epochs is True, not a count"),
        ({"epochs": None}, "epochs is None, not a count"),
        ({"views": -1}, "views is -1, not a count"),
        ({"seconds": float("nan")}, "seconds is nan, not a number of seconds"),
        ({"train_seconds": "1"}, "train_seconds is 1, not a number of seconds"),
        ({"backbone": 3}, "backbone is 3, not text"),
        ({"cut": [["conv1"]]}, "cut is .*, not text"),
        ({"spec": FineTuneSpec().to_dict() | {"epochs": 0}}, "epochs is 0; it must be at least 1"),
        ({"spec": FineTuneSpec().to_dict() | {"epochs": "x"}}, "not supported between"),
    ],
)
def test_values_that_cannot_be_are_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FineTuned.from_dict(make_finetuned(**change))


def test_a_text_of_a_bundle_is_cut_to_what_a_table_shows():
    assert len(FineTuned.from_dict(make_finetuned(backbone="x" * 10**6)).backbone) == 80
