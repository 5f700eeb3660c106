import csv
import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import tasks
from pictures import write_digits
from reporters import Recorder
from sklearn.metrics import accuracy_score

import featx
from featx.bundle import read_versions
from featx.comparing import comparison as module
from featx.comparing import jobs
from featx.comparing.jobs import HeadTask, digest_items, fit_and_predict
from featx.errors import DataError, StoreError, UnknownNameError, UsageError
from featx.evaluation import METRICS
from featx.evaluation.paired import adjust_holm, compare_pair
from featx.fitting.dataset import HeldOut, load_dataset, split_dataset
from featx.heads import find_head
from featx.options import CompareOptions, FitOptions
from featx.specs import HeadSpec

pytestmark = pytest.mark.slow

HEADS = "lda,ridge,centroid,dummy,knn"


@pytest.fixture(scope="module")
def small(digits, tmp_path_factory):
    """The same digits, of fewer pixels."""
    return featx.embed(digits, "colour", image={"height": 8, "width": 8}, folder=tmp_path_factory.mktemp("small")).store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def compared(store, small, runs):
    stores = [store.path, small.path]
    return featx.compare(stores, HEADS, options=CompareOptions(folder=runs, jobs=2))


def test_every_head_on_every_store_has_a_row(compared):
    pairs = {(row.store, row.head.name) for row in compared.rows}
    assert len(pairs) == len(compared.rows) == 10
    assert compared.n_train + compared.n_test == 400
    assert {row.bytes_per_item for row in compared.rows} == {240 * 4}
    assert all(row.threads == 1 and row.fit_seconds > 0 for row in compared.rows)
    # A process that has NumPy and scikit-learn takes more than 20 MB.
    assert all(row.peak_memory_bytes is None or row.peak_memory_bytes > 2e7 for row in compared.rows)
    parameters = {row.head.name: row.trained_parameters for row in compared.rows}
    linear = 10 * (240 + 1)
    assert parameters == {"lda": linear, "ridge": linear, "centroid": linear, "dummy": None, "knn": None}
    assert {row.kind for row in compared.rows} == {"frozen"}
    assert compared.verdict == ()
    assert compared.failed == ()


def test_the_table_is_sorted_by_validation_and_the_first_is_the_best(compared):
    scores = [row.validation_accuracy for row in compared.rows]
    assert scores == sorted(scores, reverse=True)
    assert [row.verdict for row in compared.rows].count("best") == 1
    assert compared.best.verdict == "best"
    assert compared.best.paired is None
    assert compared.rows[-1].head.name == "dummy"
    assert compared.rows[-1].verdict == "worse"


def test_a_test_number_is_what_fit_reports(compared, store):
    """`fit` tunes on the same items where there is no validation split."""
    for clf in ("lda", "ridge", "knn"):
        run = featx.fit(store, clf, options=FitOptions(folder=None))
        (row,) = [s for s in compared.rows if s.head.name == clf and _is_of(s, store)]
        assert row.head == run.head
        assert row.test.confusion.tolist() == run.test.confusion.tolist()
        for metric in METRICS:
            ours, theirs = (np.array(test.get_interval(metric), float) for test in (row.test, run.test))
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def _is_of(row, store):
    return row.store == store.path.stem


def test_the_comparisons_are_those_of_the_predictions(store, small, compared):
    store = next(one for one in (store, small) if _is_of(compared.rows[0], one))
    dataset = load_dataset(store)
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    truth = dataset.targets[partition.test.members]
    own = [row for row in compared.rows if _is_of(row, store)]
    folds = np.arange(int(partition.train.sum())) % 3
    assert own[0].verdict == "best"
    best, worst = (
        fit_and_predict(_make_head_task(store, dataset, partition, row.head, folds)).arrays["probabilities"]
        for row in (own[0], own[-1])
    )
    correct = [probabilities.argmax(axis=1) == truth for probabilities in (worst, best)]
    assert accuracy_score(truth, best.argmax(axis=1)) == own[0].test.accuracy
    expected = compare_pair(*correct)
    assert own[-1].paired.difference == expected.difference < 0
    raw = [row.paired.p_value for row in compared.rows[1:]]
    assert [row.p_value for row in compared.rows[1:]] == adjust_holm(raw).tolist()


def _make_head_task(store, dataset, partition, head, folds):
    trained_on, predicted = dataset.rows[partition.train], dataset.rows[partition.test.members]
    targets = dataset.targets[partition.train]
    digest = digest_items(store, trained_on, predicted)
    units = dataset.find_units(partition.train)
    return HeadTask((store.path,), head, trained_on, targets, folds, units, predicted, len(dataset.classes), digest)


def test_shuffled_test_labels_change_nothing_but_the_test(compared, store, small, tmp_path, monkeypatch):
    opened = []
    take = HeldOut.open_targets
    monkeypatch.setattr(HeldOut, "open_targets", lambda held: (opened.append(1), np.roll(take(held), 7))[1])
    options = CompareOptions(folder=tmp_path, jobs=2)
    shuffled = featx.compare([store, small], HEADS, options=options)
    assert len(opened) == 1
    assert [s.test.accuracy for s in shuffled.rows] != [s.test.accuracy for s in compared.rows]
    assert list(map(_forget_test, shuffled.rows)) == list(map(_forget_test, compared.rows))


def _forget_test(row):
    rest = {"test": None, "paired": None, "p_value": None, "verdict": "", "fit_seconds": None, "predict_seconds": None}
    return row is not None and replace(row, **rest, peak_memory_bytes=None)


def test_the_same_comparison_computes_nothing(compared, store, small, runs, monkeypatch):
    monkeypatch.setattr(module, "fit_and_predict", tasks.die)
    reporter = Recorder()
    options = CompareOptions(folder=runs, reporter=reporter)
    again = featx.compare([store, small], HEADS, options=options)
    ((done, total),) = reporter.counts
    assert done == total > 400  # 40 tasks, each of which tunes
    assert [s.to_dict() for s in again.rows] == [s.to_dict() for s in compared.rows]
    assert again.folder == compared.folder
    assert len(list(runs.glob("*-compare*"))) == 1


def test_a_comparison_is_written_again_if_it_or_its_folder_differs(few, tmp_path):
    options = CompareOptions(folder=tmp_path, jobs=1)
    first = featx.compare(few, "centroid,dummy", options=options)
    assert featx.compare(few, "centroid,dummy", options=options).folder == first.folder
    other = featx.compare(few, "dummy", options=options)
    (first.folder / "comparison.csv").unlink()
    whole = featx.compare(few, "centroid,dummy", options=options)
    (whole.folder / "comparison.json").write_text("[]")
    last = featx.compare(few, "centroid,dummy", options=options)
    assert len({first.folder, other.folder, whole.folder, last.folder}) == 4
    out = tmp_path / "out"
    assert featx.compare(few, "dummy", options=replace(options, out=out)).folder == out


def test_files(compared):
    names = {path.name for path in compared.folder.iterdir()}
    assert {"comparison.md", "comparison.csv", "comparison.json", "accuracy_against_cost.png"} <= names
    values = json.loads((compared.folder / "comparison.json").read_text())
    assert values["test_items"] == compared.n_test
    with (compared.folder / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in values["rows"]]
    assert {"store", "head", "accuracy", "accuracy_low", "accuracy_high", "fit_seconds"} <= rows[0].keys()
    page = (compared.folder / "comparison.md").read_text()
    assert page.count("\n| ") == 12
    assert "| colour | lda |" in page


def test_progress_counts_the_fits_of_each_head(few):
    reporter = Recorder()
    featx.compare(few, "logreg,dummy", options=CompareOptions(folder=None, jobs=1, reporter=reporter))
    head = find_head("logreg")
    fits = 1 + 3 * len(head.scalings) * len(head.grid["C"])
    assert reporter.counts[0] == (0, 4 * fits + 4 * (1 + 3))
    assert reporter.counts[-1] == (reporter.counts[0][1],) * 2
    assert reporter.counts == sorted(reporter.counts)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    digits = write_digits(tmp_path_factory.mktemp("few"), per_class=20, classes=4)
    return featx.embed(digits, "colour", folder=tmp_path_factory.mktemp("f")).store


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("deaths", [1, 9])
def test_a_killed_worker_costs_its_own_task(few, tmp_path, monkeypatch, deaths):
    monkeypatch.setattr(module, "fit_and_predict", tasks.fit_or_die)
    for name, value in {"FOLDER": tmp_path, "VICTIM": "ridge", "DEATHS": deaths}.items():
        monkeypatch.setenv(f"FEATX_TEST_{name}", str(value))
    options = CompareOptions(folder=tmp_path / "runs", jobs=2, folds=2)
    found = featx.compare(few, "centroid,ridge,dummy", options=options)
    by_name = {row.head.name: row for row in found.rows}
    assert by_name["centroid"].test is not None
    begun = [len(path.read_text().splitlines()) for path in tmp_path.glob("centroid-*")]
    assert sum(begun) == 3  # two folds and the final one, each once
    if deaths == 1:
        assert by_name["ridge"].test.accuracy > 0.7
        return
    assert by_name["ridge"].verdict == "failed"
    assert "killed each time" in by_name["ridge"].error
    assert found.rows[-1] is by_name["ridge"]
    assert "killed each time" in (found.folder / "comparison.md").read_text()
    monkeypatch.setenv("FEATX_TEST_DEATHS", "0")  # memory is there again
    retried = featx.compare(few, "centroid,ridge,dummy", options=replace(options, jobs=1))
    assert retried.failed == ()
    assert sum(len(path.read_text().splitlines()) for path in tmp_path.glob("centroid-*")) == 3


def test_a_head_that_cannot_be_fitted_is_a_row_with_its_reason(few):
    heads = ["centroid", HeadSpec("knn", {"n_neighbors": 50})]
    options = CompareOptions(folder=None, jobs=1)
    found = featx.compare(few, heads, options=options)
    assert found.folder is None
    assert [row.verdict for row in found.rows] == ["best", "failed"]
    assert "choose fewer neighbours" in found.rows[1].error
    assert found.rows[1].to_dict()["accuracy"] is None
    with pytest.raises(DataError, match=r"^the head could not be fitted: knn on colour: .*choose fewer neighbours"):
        featx.compare(few, heads[1:], options=options)


def test_a_validation_split_of_the_source_ranks(tmp_path):
    for split, skip in (("train", 0), ("val", 12), ("test", 18)):
        write_digits(tmp_path / "d" / split, per_class=12 if split == "train" else 6, classes=3, skip=skip)
    split = featx.embed(tmp_path / "d", "colour", folder=tmp_path).store
    found = featx.compare(
        split, "centroid,ridge", options=CompareOptions(folder=tmp_path / "runs", out=tmp_path / "out", jobs=1)
    )
    assert found.validation_name == "the val split of the source"
    assert (found.n_train, found.n_test) == (54, 18)
    assert found.folder == tmp_path / "out"
    assert len(list((tmp_path / "runs" / ".compare").iterdir())) == 2
    assert (found.best.validation_accuracy * 18) % 1 == pytest.approx(0)


def test_fit_and_compare_choose_and_test_alike_on_a_val_split(tmp_path):
    """Parameters are chosen on train alone, and the chosen head is fitted to train and val."""
    for split, skip in (("train", 0), ("val", 20), ("test", 26)):
        write_digits(tmp_path / "d" / split, per_class=20 if split == "train" else 6, classes=5, skip=skip)
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path, views=2, augmentation="light").store
    heads = ("logreg", "ridge", "knn", "lda", "centroid")
    for views in ("average", "augment"):
        found = featx.compare(store, heads, options=CompareOptions(folder=tmp_path / "runs", jobs=1, views=views))
        for row in found.rows:
            run = featx.fit(store, row.head.name, options=FitOptions(folder=None, views=views))
            assert row.head == run.head
            assert row.validation_accuracy == run.validation.accuracy
            assert row.validation_log_loss == pytest.approx(run.validation.log_loss)
            assert row.test.confusion.tolist() == run.test.confusion.tolist()
            assert row.test.log_loss == pytest.approx(run.test.log_loss)


def test_groups_stay_together(compared, store):
    options = CompareOptions(folder=None, jobs=1, group=r"digit-(\d{3})")
    found = featx.compare(store, "centroid,dummy", options=options)
    assert found.rows[1].paired.n_units < compared.rows[1].paired.n_units == compared.n_test


def test_a_fixed_head_is_not_tuned(store, monkeypatch):
    dataset = load_dataset(store)
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    folds = np.arange(int(partition.train.sum())) % 3
    monkeypatch.setattr("featx.heads.tuning.tune", None)  # calling it would be an error
    fixed = HeadSpec("logreg", {"C": 10.0, "tol": 1e-5}, "l2", calibration="none")
    record = fit_and_predict(_make_head_task(store, dataset, partition, fixed, folds)).record
    assert (record["params"], record["scaling"]) == ({"C": 10.0, "tol": 1e-5}, "l2")
    with pytest.raises(TypeError):
        fit_and_predict(_make_head_task(store, dataset, partition, HeadSpec("ridge"), folds))


def test_the_digest_of_a_head_task_covers_all_that_decides_its_result(store):
    dataset = load_dataset(store)
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    folds = np.arange(int(partition.train.sum())) % 3
    head_task = _make_head_task(store, dataset, partition, HeadSpec("ridge"), folds)
    others = [
        replace(head_task, head=HeadSpec("ridge", seed=1)),
        replace(head_task, head=HeadSpec("lda")),
        replace(head_task, targets=head_task.targets[::-1]),
        replace(head_task, folds=folds[::-1]),
        replace(head_task, units=head_task.units[::-1] // 2),
        replace(head_task, n_classes=11),
        replace(head_task, items_digest=digest_items(store, head_task.trained_on[1:], head_task.predicted)),
        replace(head_task, views="augment"),
        replace(head_task, views="plain"),
    ]
    assert len({head_task.digest, *(other.digest for other in others)}) == 10
    moved = replace(head_task, stores=(store.path.with_name("moved.h5"),), trained_on=head_task.trained_on + 1)
    assert moved.digest == head_task.digest


def test_results_of_other_rules_of_choice_are_computed_again(store, monkeypatch):
    dataset = load_dataset(store)
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    folds = np.arange(int(partition.train.sum())) % 3
    head_task = _make_head_task(store, dataset, partition, HeadSpec("ridge"), folds)
    text = f"{head_task.items_digest} {head_task.head.to_json()} 10 {sorted(read_versions().items())}"
    arrays = (head_task.targets, head_task.folds, head_task.units)
    content = text.encode() + b"".join(array.astype("<i8").tobytes() for array in arrays)
    ours = head_task.digest
    assert ours != hashlib.sha256(content).hexdigest(), "the key of results from before calibration was chosen"
    monkeypatch.setattr(jobs, "RULES", jobs.RULES + 1)
    assert head_task.digest != ours


def test_a_store_that_is_replaced_meanwhile_is_refused(store):
    dataset = load_dataset(store)
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    folds = np.arange(int(partition.train.sum())) % 3
    head_task = replace(_make_head_task(store, dataset, partition, HeadSpec("dummy"), folds), items_digest="0" * 64)
    with pytest.raises(StoreError, match="was replaced during the comparison"):
        fit_and_predict(head_task)


def test_fresh_computes_again(few, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fit_and_predict", tasks.fit_or_die)
    for name, value in {"FOLDER": tmp_path, "VICTIM": "", "DEATHS": 0}.items():
        monkeypatch.setenv(f"FEATX_TEST_{name}", str(value))
    for fresh in (False, False, True):
        featx.compare(few, "dummy", options=CompareOptions(folder=tmp_path / "runs", jobs=1, fresh=fresh))
    assert sum(len(path.read_text().splitlines()) for path in tmp_path.glob("dummy-*")) == 8


def test_usage_errors(store):
    with pytest.raises(UnknownNameError, match="did you mean logreg"):
        featx.compare(store, "ridge,logrge")
    with pytest.raises(UsageError, match="no head is named"):
        featx.compare(store, " , ")
    with pytest.raises(UsageError, match="no store is named"):
        featx.compare([], "ridge")
    for options, pattern in (
        ({"folds": 1}, "it must be at least 2"),
        ({"jobs": 0}, "at least 1"),
        ({"test_size": 1.5}, "fraction"),
    ):
        with pytest.raises(UsageError, match=pattern):
            CompareOptions(**options)


def test_a_parameter_for_all_heads_is_set_where_it_exists(few):
    fixed = {"params": {"class_weight": "balanced"}, "calibration": "none"}
    found = featx.compare(few, "logreg,centroid", options=CompareOptions(folder=None, jobs=1), **fixed)
    heads = {row.head.name: row.head for row in found.rows}
    assert heads["logreg"].params["class_weight"] == "balanced"
    assert {head.calibration for head in heads.values()} == {"none"}
    assert "centroid: no parameter class_weight, so it is ignored" in found.notes
