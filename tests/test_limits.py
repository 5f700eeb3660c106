"""Files of the largest size that featx itself can write: 10,000 classes, 1,000,000 items, names of 255 bytes."""

import json

import numpy as np
import pytest

import featx
from featx.bundle import Bundle, Draft, DraftPart, tabulate_predictions, write_bundle
from featx.errors import BundleError
from featx.evaluation import Evaluation, evaluate
from featx.evaluation.metrics import METRICS
from featx.files import read_columns, read_table, write_json, write_table
from featx.golden import Golden
from featx.heads import make_head
from featx.items.archives import MAX_MEMBERS
from featx.options import FitOptions
from featx.references import _MOST_JSON_BYTES, read_json
from featx.specs import HeadSpec
from featx.store.lock import StoreLock
from featx.wording import to_text

N_CLASSES, N_ITEMS, NAME_BYTES = 10_000, 1_000_000, 255

FILLERS = {"plain": "x", "chinese": "日", "quotes": '"', "not utf-8": to_text("\udcff")}


def name_classes(filler):
    """Name classes as folders of 255 bytes are named; a byte that is not UTF-8 takes six characters of a label."""
    width = {"日": (NAME_BYTES - 5) // 3}.get(filler, NAME_BYTES - 5)
    return tuple(f"{number:05}{filler * width}" for number in range(N_CLASSES))


def make_evaluation(classes, n_items=N_ITEMS):
    """Make the evaluation of items, nearly all of which are confused in a way of their own."""
    cells = np.unique(np.random.default_rng(0).integers(len(classes), size=(n_items, 2)), axis=0)
    cells = np.concatenate([cells, np.ones((len(cells), 1), np.int64)], axis=1)
    rows = [{"name": name, "precision": 1 / 3, "recall": 1 / 7, "f1": 1 / 9, "support": 100} for name in classes]
    values = dict.fromkeys([f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")], 1 / 3)
    columns = dict(zip(("true", "predicted", "items"), cells.T.tolist(), strict=True))
    tables = {"classes": list(classes), "per_class": rows, "confusion": columns}
    return Evaluation.from_dict({"items": len(cells), **values, **tables})


def make_draft(store, classes):
    rng = np.random.default_rng(0)
    golden = Golden(store.golden.files, rng.random((2, 4)).astype(np.float32))
    head = make_head(HeadSpec("centroid", {}, "none", 0, "none"))
    head.fit(rng.random((2 * N_CLASSES, 4)).astype(np.float32), np.tile(np.arange(N_CLASSES), 2))
    evaluation = make_evaluation(classes, n_items=50_000)
    ids = np.array([f"{name}/{'y' * NAME_BYTES}" for name in classes[:3]])
    labels = np.array(classes[:3])
    tested = tabulate_predictions(ids, labels, np.arange(3), rng.dirichlet(np.ones(N_CLASSES), 3), classes)
    return Draft(
        (DraftPart(store.spec, golden),),
        HeadSpec("centroid", {}, "none", 0),
        classes,
        head,
        record={
            "store": {"path": str(store.path), "source": store.source},
            "split": {"cv": 0, "test_size": 0.2, "group": "", "seed": 0},
            "created_with": {},
        },
        test=evaluation,
        metrics={
            "test": evaluation.to_dict(),
            "validation": evaluation.to_dict(),
            "train_items": 2 * N_CLASSES,
            "seconds": 1.0,
        },
        items={"id": ids, "sha256": store.sha256[:3], "label": labels, "role": ["trained"] * 3},
        predictions=tested,
    )


def test_the_largest_metrics_can_be_read(tmp_path):
    evaluation = make_evaluation(name_classes(FILLERS["not utf-8"])).to_dict()
    write_json({"test": evaluation, "validation": evaluation}, tmp_path / "metrics.json")
    assert (tmp_path / "metrics.json").stat().st_size > 80e6
    assert read_json(tmp_path, "metrics.json")["test"] == evaluation


def test_the_largest_bundle_can_be_read(store, tmp_path):
    classes = name_classes(FILLERS["not utf-8"])
    path = write_bundle(make_draft(store, classes), tmp_path, "largest")
    assert (path / "bundle.json").stat().st_size > 17e6
    bundle = Bundle.open(path)
    assert bundle.classes == classes
    assert len(bundle.load_head().classes_) == N_CLASSES
    assert bundle.read_trained() == set(store.sha256[:3].tolist())
    assert [row[0] for row in read_columns(path / "predictions.csv", ("label",))] == list(classes[:3])


@pytest.mark.parametrize("n_classes", [101, 880])
def test_metrics_grow_with_the_pairs_that_occur(n_classes, tmp_path):
    targets = np.repeat(np.arange(n_classes), 2)
    evaluation = evaluate(np.eye(n_classes)[targets], targets, [f"c{n}" for n in range(n_classes)], resamples=1)
    write_json(evaluation.to_dict(), tmp_path / "metrics.json")
    assert (tmp_path / "metrics.json").stat().st_size < 400 * n_classes
    read = Evaluation.from_dict(json.loads((tmp_path / "metrics.json").read_text()))
    assert read.to_dict() == evaluation.to_dict()
    assert np.array_equal(read.confusion, 2 * np.eye(n_classes))


def test_a_dense_confusion_of_an_older_version_is_read():
    targets = np.repeat(np.arange(300), 3)
    chosen = np.roll(targets, 1)
    evaluation = evaluate(np.eye(300)[chosen], targets, [f"c{n}" for n in range(300)], resamples=1)
    older = evaluation.to_dict() | {"confusion": evaluation.confusion.tolist()}
    assert np.array_equal(Evaluation.from_dict(older).cells, evaluation.cells)


@pytest.mark.parametrize("filler", FILLERS)
def test_the_widest_table_can_be_read(tmp_path, filler):
    names = [f"probability_{name}" for name in name_classes(FILLERS[filler])]
    write_table({name: [1 / 3] for name in names}, tmp_path / "table.csv")
    header, row = read_table(tmp_path / "table.csv")
    assert header == names
    assert row == [str(1 / 3)] * N_CLASSES


def test_a_lock_of_the_longest_host_name_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("featx.store.lock.socket.gethostname", lambda: "h" * NAME_BYTES)
    with StoreLock(tmp_path / "x.h5") as lock:
        lock.confirm()


def test_an_archive_may_hold_all_items_and_their_folders():
    assert N_ITEMS + 2 * N_CLASSES <= MAX_MEMBERS


def test_a_bundle_that_cannot_be_read_back_is_not_written(store, tmp_path, monkeypatch):
    monkeypatch.setitem(_MOST_JSON_BYTES, "bundle.json", 1000)
    with pytest.raises(
        BundleError, match=r"no bundle was written into .*runs.*: bundle\.json has [\d,]+ bytes"
    ) as caught:
        featx.fit(store, "centroid", options=FitOptions(folder=tmp_path / "runs"))
    assert ".unfinished" not in str(caught.value)
    assert not list((tmp_path / "runs").iterdir())
