"""What explanations are based on: what is kept of the training items, and the file that holds it."""

import numpy as np
import pytest

from featx.errors import BundleError
from featx.explaining.basis import (
    Basis,
    KnownItems,
    find_directions,
    limit_items,
    measure_familiarity,
    read_basis,
    sample_rows,
    write_basis,
)
from featx.explaining.conformal import Conformal
from featx.files import Result, write_result


def test_a_sample_has_the_shares_of_the_classes():
    labels = np.repeat(["a", "b", "c"], [700, 200, 100])
    chosen = sample_rows(labels, 100)
    assert np.unique(labels[chosen], return_counts=True)[1].tolist() == [70, 20, 10]
    assert (np.diff(chosen) > 0).all()
    assert sample_rows(labels, 1000).tolist() == list(range(1000))


def test_wide_features_leave_fewer_items():
    assert limit_items(1280) == 20_000
    assert limit_items(62_720) == 534


def test_items_of_one_group_are_not_compared():
    rng = np.random.default_rng(0)
    centers = find_directions(rng.normal(size=(12, 40)).astype(np.float32), (40,))
    features = find_directions(np.repeat(centers, 10, axis=0) + rng.normal(0, 0.01, (120, 40)).astype("f4"), (40,))
    assert measure_familiarity(features, np.arange(120)).min() > 0.98
    assert measure_familiarity(features, np.arange(120) // 10).max() < 0.9
    assert len(measure_familiarity(features, np.zeros(120, int))) == 0
    assert measure_familiarity(features, np.zeros(120, int), centers).min() > 0.98


def test_the_unfamiliarity_is_unknown_where_fewer_than_five_are_compared():
    features = find_directions(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32), (4,))
    similarities = np.full(9, 0.5, np.float32)
    for n_others, is_known in ((4, False), (5, True)):
        familiarity = measure_familiarity(features, np.arange(9), features[:n_others])
        known = KnownItems(features, np.arange(9, dtype=np.int32), familiarity, (4,))
        assert np.isnan(known.measure_unfamiliarity(similarities)) != is_known
    assert len(measure_familiarity(features[:5], np.arange(5))) == 0  # each has but four others
    assert len(measure_familiarity(features[:6], np.arange(6))) == 6


def test_unfamiliarity_is_a_percentile():
    features = np.eye(8, dtype=np.float32)
    known = KnownItems(features, np.arange(8, dtype=np.int32), np.linspace(0.1, 0.8, 8, dtype=np.float32), (8,))
    for similarity, expected in ((0.05, 100), (0.45, 50), (0.9, 0)):
        assert known.measure_unfamiliarity(np.full(8, similarity, np.float32)) == expected
    assert known.compare(np.array([0, 0, 5, 0, 0, 0, 0, 0], np.float32)).argmax() == 2


def make_basis(n_items=30, dim=4):
    rng = np.random.default_rng(0)
    units = np.arange(n_items, dtype=np.int32)
    conformal = Conformal(rng.random(n_items, np.float32), units % 2, units, ("a", "b"))
    features = find_directions(rng.normal(size=(n_items, dim)).astype(np.float32), (dim,))
    return Basis(conformal, KnownItems(features, units, np.sort(rng.random(9, np.float32)), (dim,), "photos"))


class OneFile:
    """As much of a bundle as a basis needs."""

    def __init__(self, folder, dim=4, classes=("a", "b")):
        self.path, self.classes, self.files = folder, classes, {"explanation.npz": ""}
        self.parts = [self]
        self.golden = self
        self.features = np.zeros((2, dim))


def test_a_basis_is_read_as_it_was_written(tmp_path):
    basis = make_basis()
    write_basis(basis, tmp_path / "explanation.npz")
    found = read_basis(OneFile(tmp_path))
    assert np.array_equal(found.conformal.scores, basis.conformal.scores)
    assert np.allclose(found.known.features, basis.known.features, atol=1e-3)
    assert found.known.root == "photos"
    write_basis(Basis(basis.conformal, None), tmp_path / "explanation.npz")
    assert read_basis(OneFile(tmp_path)).known is None


@pytest.mark.parametrize(
    "change",
    [
        {"positions": np.full(30, 2, np.int32)},
        {"positions": np.zeros(29, np.int32)},
        {"units": np.full(30, -1, np.int32)},
        {"scores": np.full(30, np.nan, np.float32)},
        {"features": np.full((30, 4), np.inf, np.float16)},
        {"features": np.zeros((30, 5), np.float16)},
        {"features": np.zeros((30, 4), np.float64)},
        {"rows": np.full(30, -1, np.int32)},
        {"familiarity": np.zeros((3, 3), np.float32)},
        {"more": np.zeros(3)},
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, change):
    known, conformal = make_basis().known, make_basis().conformal
    arrays = {name: getattr(conformal, name) for name in ("scores", "positions", "units")}
    arrays |= {"features": known.features.astype(np.float16), "rows": known.rows, "familiarity": known.familiarity}
    record = {"widths": [4], "root": ""}
    write_result(tmp_path / "explanation.npz", Result(record, arrays))
    read_basis(OneFile(tmp_path))
    write_result(tmp_path / "explanation.npz", Result(record, arrays | change))
    with pytest.raises(BundleError, match=r"explanation\.npz is damaged"):
        read_basis(OneFile(tmp_path))


@pytest.mark.parametrize("record", [{"widths": [5], "root": ""}, {"widths": [4], "root": 3}, {}, {"root": "x" * 70000}])
def test_a_record_that_does_not_fit_is_refused(tmp_path, record):
    known = make_basis().known
    arrays = {"features": known.features.astype(np.float16), "rows": known.rows, "familiarity": known.familiarity}
    write_result(tmp_path / "explanation.npz", Result(record, arrays))
    with pytest.raises(BundleError, match=r"explanation\.npz is damaged"):
        read_basis(OneFile(tmp_path))
