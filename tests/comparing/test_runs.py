"""Finished runs compared with heads: which are taken, which are refused, and that their numbers stay the same."""

import json
import re
import shutil
import tracemalloc

import numpy as np
import pytest
from finetuned import FINETUNED, mark_finetuned, read_rows, rewrite, write_rows
from pictures import write_digits

import featx
from featx.comparing.report import describe_comparison, tabulate
from featx.comparing.runs import read_run
from featx.errors import BundleError, DataError
from featx.evaluation import METRICS
from featx.fitting.dataset import HeldOut
from featx.options import CompareOptions, FitOptions
from featx.report.mistakes import find_mistakes
from featx.specs import HeadSpec
from featx.wording import format_interval

pytestmark = pytest.mark.slow

OPTIONS = CompareOptions(folder=None, jobs=1)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    digits = write_digits(tmp_path_factory.mktemp("few"), per_class=20, classes=4)
    return featx.embed(digits, "colour", folder=tmp_path_factory.mktemp("f")).store


@pytest.fixture(scope="module")
def fitted(few, tmp_path_factory):
    return featx.fit(few, "lda", options=FitOptions(folder=tmp_path_factory.mktemp("fitted")))


@pytest.fixture
def bundle(fitted, tmp_path):
    return shutil.copytree(fitted.bundle, tmp_path / "run")


def compare(few, *runs, heads="centroid,ridge", options=OPTIONS):
    return featx.compare(few, heads, runs=runs, options=options)


def find(comparison, title):
    (row,) = [one for one in comparison.rows if one.title == title]
    return row


def test_a_run_has_the_numbers_of_its_bundle(few, fitted):
    """Its predictions have all digits, so that what is measured on them is what `fit` has measured."""
    found = find(compare(few, fitted), "lda (run)")
    metrics = json.loads((fitted.bundle / "metrics.json").read_text())
    for metric in METRICS:
        assert list(found.test.get_interval(metric)) == [
            metrics["test"][f"{metric}{end}"] for end in ("", "_low", "_high")
        ]
    assert found.test.confusion.tolist() == metrics["test"]["confusion"]
    assert found.embed_seconds == few.embed_seconds > 0
    assert (found.validation_accuracy, found.fit_seconds) == (fitted.validation.accuracy, fitted.seconds)
    assert (found.kind, found.run, found.trained_parameters) == ("frozen", fitted.bundle, 4 * (240 + 1))
    assert found.notes[0].startswith(f"validated on {fitted.n_train} images of its own training set, not on those ")


def test_a_fine_tuned_run_is_compared_with_the_best_frozen_head(few, fitted, bundle, monkeypatch):
    opened, take = [], HeldOut.open_targets
    monkeypatch.setattr(HeldOut, "open_targets", lambda held: (opened.append(1), take(held))[1])
    mark_finetuned(bundle)
    comparison = compare(few, fitted.bundle, bundle, bundle)
    assert len(opened) == 1
    assert len(comparison.rows) == 4  # a run that is named twice is one
    tuned = find(comparison, "finetune last:23")
    frozen = next(one for one in comparison.rows if one.kind == "frozen")
    assert tuned.gain.difference == pytest.approx(tuned.test.accuracy - frozen.test.accuracy)
    assert (tuned.kind, tuned.store, tuned.chosen) == ("fine-tuned", "colour", "epoch 12 of 20")
    assert (tuned.fit_seconds, tuned.peak_memory_bytes) == (125, FINETUNED["peak_memory_bytes"])
    assert (tuned.embed_seconds, frozen.embed_seconds) == (FINETUNED["embed_seconds"], few.embed_seconds)
    assert tuned.trained_parameters == FINETUNED["trainable_parameters"] + FINETUNED["head_parameters"]
    assert tuned.bytes_per_item is None
    values = comparison.to_dict()
    assert values["verdict"] == list(comparison.verdict)
    assert len(comparison.verdict) == 1
    assert "fine-tuning (last:23)" in comparison.verdict[0]
    row = next(row for row in values["rows"] if row["head"] == "finetune last:23")
    assert (row["kind"], row["run"], row["gain"]) == ("fine-tuned", str(bundle), tuned.gain.difference)


def test_a_run_on_corrected_items_is_marked_in_the_table_and_in_a_note(few, bundle):
    """Its test is the same, but not what it was trained on."""
    about = json.loads((bundle / "bundle.json").read_text())
    digests = {"without_sha256": "0" * 64, "group_sha256": "1" * 64}
    about["record"]["corrections"] = {"without": "audit.csv", "left_out": 3, "group": "g.csv", **digests}
    (bundle / "bundle.json").write_text(json.dumps(about))
    comparison = compare(few, bundle, heads="centroid")
    row = find(comparison, "lda (run) (corrected)")
    assert row.notes[0] == (
        "it was made with --without audit.csv, which leaves out 3 items; --group g.csv, which keeps together some "
        "items: it was trained on other data than the heads of this comparison"
    )
    assert any("lda (run) (corrected)" in line and "--without" in line for line in comparison.list_footnotes())


NOTHING = "kept the start: the frozen network with its first head; nothing was trained"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["finetune last:23 (start)"]),
        ({"unfreeze": "gradual:2"}, ["finetune gradual:2 (start)"]),
        ({"validated_on": "training"}, ["finetune last:23 (start)"]),
        ({}, ["finetune last:23 (start) (other)", "finetune last:23 (start) (run)"]),
    ],
)
def test_a_run_that_kept_its_start_is_shown_as_what_it_is(few, bundle, tmp_path, changes, names):
    """Also in the report pages, and if an older featx wrote its bundle."""
    mark_finetuned(bundle, best_epoch=0, **changes)
    others = [shutil.copytree(bundle, tmp_path / "other")] if len(names) > 1 else []
    comparison = compare(few, bundle, *others, options=CompareOptions(folder=tmp_path / "written", jobs=1))
    rows = [one for one in comparison.rows if one.run]
    assert sorted(one.title for one in rows) == names
    for row in rows:
        assert (row.kind, row.chosen, row.gain, row.gain_p_value) == ("start", "the start", None, None)
        assert row.trained_parameters == FINETUNED["head_parameters"]
        assert row.fit_seconds == 125
        assert row.notes[0] == NOTHING
    (first, *_) = comparison.verdict
    assert len(comparison.verdict) == len(rows)
    assert "did not improve on its first head" in first
    assert "2.1 min were spent and nothing was trained" in first
    folder = comparison.folder
    for name in ("comparison.md", "comparison.csv", "comparison.json"):
        assert NOTHING in (folder / name).read_text()
    for table in (comparison.to_markdown(), comparison.to_latex(), comparison._repr_html_()):
        assert NOTHING in table
    assert "fine-tuning that kept the start" in (folder / "accuracy_against_cost.svg").read_text()


def test_the_pages_of_a_comparison_show_its_runs(few, bundle, tmp_path):
    """Of two runs, one of which is gone when the report is written."""
    poor = featx.fit(few, "dummy", options=FitOptions(folder=tmp_path / "poor"))
    written = compare(few, poor, bundle, heads="centroid", options=CompareOptions(folder=tmp_path / "written", jobs=1))
    page = (written.folder / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert {"accuracy_against_cost.png", "comparison.csv"} <= set(links)
    assert all((written.folder / link).is_file() for link in links)
    assert sum(link.endswith(f"{one.name}/index.html") for link in links for one in (poor.bundle, bundle)) == 2
    for row in written.rows:
        assert format_interval(row.test.get_interval("accuracy")) in page
    assert "<script" not in page

    shutil.rmtree(bundle)
    report = written.report()
    text = report.path.read_text(encoding="utf-8")
    assert text.count("Not shown: ") == 1
    assert str(find_mistakes(poor.bundle)) in text
    assert all((written.folder / link).is_file() for link in re.findall(r' <a href="([^"]*)"', text))
    for row in written.rows:
        assert format_interval(row.test.get_interval("log_loss")) in text
    assert written._repr_html_().count("<img") == min(12, len(find_mistakes(poor.bundle))) > 0


def test_an_older_run_does_not_record_all_seconds(few, bundle):
    """An older run recorded only its own embedding seconds: zero where an earlier run had embedded."""
    mark_finetuned(bundle)
    metrics = json.loads((bundle / "metrics.json").read_text())
    del metrics["finetuned"]["elapsed_seconds"]
    rewrite(bundle, "metrics.json", json.dumps(metrics))
    assert read_run(bundle).embed_seconds is None
    assert "the run does not record the time of embedding" in compare(few, bundle).verdict[0]


def test_a_metric_that_an_older_version_did_not_write_is_not_damage(few, bundle):
    metrics = json.loads((bundle / "metrics.json").read_text())
    for evaluation in (metrics["validation"], metrics["test"]):
        for name in [name for name in evaluation if name.startswith(("roc_auc", "log_loss", "accuracy"))]:
            del evaluation[name]
    rewrite(bundle, "metrics.json", json.dumps(metrics))
    found = find(compare(few, bundle), "lda (run)")
    assert (found.validation_accuracy, found.validation_log_loss) == (None, None)
    assert found.test.accuracy > 0.5
    assert found.notes[0].startswith("its bundle records no validation accuracy, so it is listed below the heads")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A store whose source has a val split."""
    folder = tmp_path_factory.mktemp("split")
    for name, skip in (("train", 0), ("val", 12), ("test", 18)):
        write_digits(folder / "d" / name, per_class=12 if name == "train" else 6, classes=3, skip=skip)
    return featx.embed(folder / "d", "colour", folder=folder).store


@pytest.fixture
def split_run(split, tmp_path):
    return featx.fit(split, "ridge", options=FitOptions(folder=tmp_path / "runs")).bundle


def set_validation(bundle, **values):
    metrics = json.loads((bundle / "metrics.json").read_text())
    metrics["validation"] |= values
    rewrite(bundle, "metrics.json", json.dumps(metrics))


def test_all_differences_are_adjusted_together(split, split_run, tmp_path):
    """Where a fine-tuned run is the best, another one's difference from the frozen heads is one question more."""
    others = [shutil.copytree(split_run, tmp_path / name) for name in ("first", "second")]
    for at, other in enumerate(others):
        set_validation(mark_finetuned(other, "val"), accuracy=1, log_loss=at / 1e6)  # before all others
    comparison = compare(split, *others, heads="dummy")
    titles = [one.title for one in comparison.rows[:2]]
    assert titles == ["finetune last:23 (first)", "finetune last:23 (second)"]
    assert comparison.best.verdict == "best"
    first, second = describe_comparison(comparison)[:2]
    assert first.startswith("use finetune last:23 (first) or finetune last:23 (second): 18 test images ")
    assert "(first) is best by validation (the val split of the source); the test was not used to choose" in second
    frozen = comparison.rows[2]
    assert frozen.paired.difference == -comparison.best.gain.difference
    assert frozen.p_value == comparison.best.gain_p_value
    second = comparison.rows[1]
    assert second.p_value == 1
    assert second.gain.difference == comparison.best.gain.difference
    assert len(comparison.verdict) == 2


def test_runs_validated_on_other_items_are_listed_below_the_heads(few, bundle, tmp_path):
    """Even the best validation of all does not rank a run among the heads; several runs are ordered by their own."""
    good, less = (shutil.copytree(bundle, tmp_path / name) for name in ("good", "less"))
    set_validation(mark_finetuned(less), accuracy=0.9)
    set_validation(mark_finetuned(good), accuracy=1)
    heads = ["dummy", HeadSpec("knn", {"n_neighbors": 70})]
    comparison = compare(few, less, good, heads=heads)
    titles = [one.title for one in comparison.rows]
    assert titles == ["dummy", "finetune last:23 (good)", "finetune last:23 (less)", "knn"]
    assert comparison.best.verdict == "best"
    assert [one.validation_accuracy for one in comparison.rows[1:3]] == [1, 0.9]
    n_held = [row["role"] for row in read_rows(good, "items.csv")].count("validated")
    note = (
        f"validated on {n_held} images of its own training set, not on those that rank the heads, so it is listed "
        "below them; its test and its verdict use the same images as theirs"
    )
    assert [one.notes for one in comparison.rows[1:3]] == [(note,)] * 2
    assert comparison.rows[1].paired.difference == comparison.rows[1].gain.difference > 0
    assert len(comparison.verdict) == 2


@pytest.mark.parametrize("record", [{"validated_on": "training"}, {}])
def test_images_that_a_run_was_trained_on_are_not_its_validation(few, bundle, record):
    mark_finetuned(bundle, "no such item", **record)
    comparison = compare(few, bundle)
    last = comparison.rows[-1]
    assert (last.title, last.validation_accuracy, last.validation_log_loss) == ("finetune last:23", None, None)
    assert "no validation images were held out of its training, so it is listed below the heads" in last.notes[0]
    header, rows = tabulate(comparison)
    assert rows[-1][header.index("valid.")] == "-"
    assert last.verdict != "best"
    assert last.gain is not None


def test_items_may_be_in_any_order(few, fitted, bundle):
    for name in ("items.csv", "predictions.csv"):
        header, *rows = (bundle / name).read_text(encoding="utf-8").splitlines()
        rewrite(bundle, name, "\n".join([header, *rows[::-1]]) + "\n")
    ours, theirs = (compare(few, run, heads="centroid").to_dict()["rows"] for run in (bundle, fitted))
    for one in (*ours, *theirs):
        one |= {"run": "", "fit_seconds": 0, "predict_seconds": 0, "peak_memory_bytes": 0}
    assert ours == theirs


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"seed": 1}, r"--seed 1 --test-size 0\.2, and this comparison with --seed 0 --test-size 0\.2: use the same"),
        ({"test_size": 0.4}, r"\d+ of its \d+ images are not in this test, such as .*--test-size 0\.4"),
        ({"cv": 3}, "was cross-validated, so it has no test split"),
    ],
)
def test_a_run_that_was_tested_on_other_items(few, tmp_path, options, pattern):
    run = featx.fit(few, "centroid", options=FitOptions(folder=tmp_path, **options))
    with pytest.raises(DataError, match=pattern):
        compare(few, run)


@pytest.mark.parametrize(
    ("record", "source"),
    [
        ({}, None),
        ({"store": {"source": "/data/\x1b[31mbirds"}}, r"/data/\\x1b\[31mbirds"),
        ({"store": None}, "another source"),
    ],
)
def test_a_run_of_another_data_set(few, tmp_path, record, source):
    store = featx.embed(write_digits(tmp_path / "d", per_class=9, classes=4, skip=60), "colour", folder=tmp_path).store
    run = featx.fit(store, "centroid", options=FitOptions(folder=tmp_path))
    change_record(**record)(run.bundle)
    pattern = (
        rf"^\S+ was tested on {run.test.n_items} images of {source or re.escape(store.source)}, none of which is in "
        rf"\S+ \(80 labelled images of {re.escape(few.source)}\); compare it with a store of its own images, or repeat"
    )
    with pytest.raises(DataError, match=pattern):
        compare(few, run.bundle)


def test_an_older_bundle_without_the_seed_of_its_split_has_that_of_its_head(few, tmp_path):
    run = featx.fit(few, "centroid", options=FitOptions(folder=tmp_path, seed=1))
    change_record(split={"origin": "hold-out", "test_size": 0.2, "cv": 0, "group": ""})(run.bundle)
    with pytest.raises(
        DataError, match=r"It was made with --seed 1 --test-size 0\.2, and this comparison with --seed 0"
    ):
        compare(few, run.bundle)


def test_a_recorded_split_is_quoted_short_and_printable(few, bundle):
    change_record(split={"seed": "\x1b[31m\n" + "9" * 5000, "test_size": "\x07"})(bundle)
    with pytest.raises(DataError, match="was tested on other images") as caught:
        compare(few, bundle, options=CompareOptions(folder=None, jobs=1, seed=1))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def edit(name, change):
    def spoil(bundle):
        rows = read_rows(bundle, name)
        kept = [row for row in rows if change(row) is not False]
        write_rows(bundle, name, kept)

    return spoil


def once(role, **values):
    """Change the first item of a role."""
    left = [1]

    def change(row):
        if row["role"] == role and left:
            left.pop()
            row.update(values)

    return change


def take_test_bytes(bundle):
    """Let a training item have the bytes of a tested one."""
    rows = read_rows(bundle, "items.csv")
    tested, trained = (next(row for row in rows if row["role"] == role) for role in ("tested", "trained"))
    trained |= {"sha256": tested["sha256"], "role": "validated"}
    write_rows(bundle, "items.csv", rows)


@pytest.mark.parametrize(
    ("spoil", "pattern"),
    [
        (take_test_bytes, "trained or validated on 1 files with the bytes of test images, such as "),
        (edit("items.csv", once("tested", sha256="0" * 64)), "1 of these have other bytes under the same name"),
    ],
)
def test_a_run_that_cannot_be_compared(few, bundle, spoil, pattern):
    spoil(bundle)
    with pytest.raises(DataError, match=pattern):
        compare(few, bundle)


def test_other_labels_are_an_error(few, bundle):
    """The labels of two classes are exchanged, in the bundle as a whole."""
    rows = read_rows(bundle, "predictions.csv")
    names = sorted({row["label"] for row in rows})[:2]
    swap = dict(zip(names, names[::-1], strict=True))
    for row in rows:
        for column in ("label", "predicted"):
            row[column] = swap.get(row[column], row[column])
        first, second = (f"probability_{name}" for name in names)
        row[first], row[second] = row[second], row[first]
    write_rows(bundle, "predictions.csv", rows)
    with pytest.raises(DataError, match=r"tested with other labels for \d+ of the test images"):
        compare(few, bundle)


def set_probability(text):
    return edit("predictions.csv", lambda row: row.update({next(n for n in row if n.startswith("probability_")): text}))


def change_metrics(**values):
    return lambda bundle: rewrite(
        bundle, "metrics.json", json.dumps(json.loads((bundle / "metrics.json").read_text()) | values)
    )


def change_deep(name, **values):
    return lambda bundle: change_metrics(**{name: json.loads((bundle / "metrics.json").read_text())[name] | values})(
        bundle
    )


def change_record(**values):
    def spoil(bundle):
        about = json.loads((bundle / "bundle.json").read_text())
        about["record"] |= values
        (bundle / "bundle.json").write_text(json.dumps(about))

    return spoil


def unlist_predictions(bundle):
    values = json.loads((bundle / "bundle.json").read_text())
    del values["files"]["predictions.csv"]
    (bundle / "bundle.json").write_text(json.dumps(values))


def test_a_long_cell_takes_memory_once(bundle):
    """As an array of text, every cell would take as much as the longest."""
    first = read_rows(bundle, "predictions.csv")[0]
    long = {"probability_0": first["probability_0"] + "0" * 100_000}
    edit("predictions.csv", lambda row: row.update(long if row["id"] == first["id"] else {}))(bundle)
    tracemalloc.start()
    read_run(bundle)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8e6


@pytest.mark.parametrize(
    ("spoil", "pattern"),
    [
        (set_probability("nan"), "probabilities of item 0"),
        (set_probability("inf"), "probabilities of item 0"),
        (set_probability("-0.1"), "probabilities of item 0"),
        (set_probability("7"), "probabilities of item 0"),
        (set_probability("a"), "could not convert string to float"),
        (edit("predictions.csv", lambda row: row.update(label="other")), "metrics.json has an accuracy of"),
        (edit("predictions.csv", lambda row: row["label"].endswith("0")), "lists other items than those"),
        (lambda b: rewrite(b, "predictions.csv", ""), "has other columns than id, label and probability_CLASS"),
        (lambda b: rewrite(b, "predictions.csv", (b / "predictions.csv").read_text() + "a,b\n"), "a row of 2 cells"),
        (edit("items.csv", lambda row: row.update(role="tasted")), "no 'tasted'"),
        (unlist_predictions, "has no predictions.csv; repeat the run"),
        (change_metrics(seconds=-1), "no record, or metrics.json has no valid time"),
        (change_metrics(seconds="long"), "is damaged"),
        (change_metrics(validation={}), "not the metrics of an evaluation"),
        (change_metrics(finetuned={"unfreeze": "all"}), "no 'trainable_parameters'"),
        (change_metrics(finetuned=FINETUNED | {"seconds": float("1e400")}), "seconds is inf, not a number of seconds"),
        (change_metrics(finetuned=FINETUNED | {"embed_seconds": -1}), "embed_seconds is -1, not a number of seconds"),
        (
            change_metrics(finetuned=FINETUNED | {"embed_seconds": True}),
            "embed_seconds is True, not a number of seconds",
        ),
        (change_record(store={"embed_seconds": "long"}), "embed_seconds is long, not a number of seconds"),
        (change_record(store=[1]), "is damaged"),
        (change_metrics(finetuned=FINETUNED | {"epochs": 1.5}), "epochs is 1.5, not a count"),
        (change_metrics(finetuned=[1]), "is damaged"),
        (change_metrics(seconds=10**400), "no record, or metrics.json has no valid time"),
        (change_metrics(finetuned=FINETUNED | {"seconds": 10**400}), "seconds is 10+, not a number of seconds"),
        (change_metrics(finetuned=FINETUNED | {"epochs": 10**400}), "epochs is 10+, not a count"),
        (
            change_metrics(finetuned=FINETUNED | {"embed_seconds": 10**400}),
            "embed_seconds is 10+, not a number of seconds",
        ),
        (change_record(store={"embed_seconds": 10**400}), "embed_seconds is 10+, not a number of seconds"),
        (change_deep("test", accuracy=10**400), "is damaged"),
        (change_deep("validation", log_loss=10**400), "no valid validation metrics"),
        (lambda b: rewrite(b, "predictions.csv", "\0" * 2**24), "a line of 16,777,216 characters or more"),
        (lambda b: rewrite(b, "items.csv", "\0" * 2**24), "a line of 16,777,216 characters or more"),
    ],
)
def test_a_damaged_run_is_refused(bundle, spoil, pattern):
    spoil(bundle)
    with pytest.raises(BundleError, match=pattern) as caught:
        read_run(bundle)
    assert "\n" not in str(caught.value)


def test_groups_are_those_of_the_comparison(store, tmp_path):
    group = r"digit-(\d{3})"
    run = featx.fit(store, "lda", options=FitOptions(folder=tmp_path, group=group))
    mark_finetuned(run.bundle)
    options = CompareOptions(folder=None, jobs=1, group=group)
    comparison = compare(store, run, heads="ridge", options=options)
    tuned = find(comparison, "finetune last:23")
    assert tuned.gain.n_units < tuned.gain.n_items
    interval = json.loads((run.bundle / "metrics.json").read_text())["test"]
    assert [tuned.test.accuracy_low, tuned.test.accuracy_high] == [interval["accuracy_low"], interval["accuracy_high"]]
    with pytest.raises(DataError, match="--group"):
        compare(store, run, heads="ridge")


def test_a_validation_split_of_the_source_is_shared(split, split_run):
    comparison = compare(split, split_run, heads="centroid,ridge")
    ours, theirs = find(comparison, "ridge"), find(comparison, "ridge (run)")
    assert theirs.notes == ours.notes == ()
    assert theirs.validation_accuracy == ours.validation_accuracy
    np.testing.assert_array_equal(theirs.test.confusion, ours.test.confusion)
    mark_finetuned(split_run, "val")
    assert find(compare(split, split_run, heads="centroid"), "finetune last:23").notes == ()
    rows = read_rows(split_run, "items.csv")
    next(row for row in rows if row["role"] == "validated")["role"] = "trained"
    write_rows(split_run, "items.csv", rows)
    almost = find(compare(split, split_run, heads="centroid"), "finetune last:23")
    assert almost.notes[0].startswith("validated on 17 images that are not exactly those that rank the heads, so ")


def test_a_run_that_was_validated_on_its_own_tenth_despite_a_val_split(split, split_run):
    mark_finetuned(split_run, "train/0/digit-000")
    comparison = compare(split, split_run, heads="dummy")
    assert "images of its own training set, not on those that rank the heads, so" in comparison.rows[-1].notes[0]
    assert comparison.best.title == "dummy"
