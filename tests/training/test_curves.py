import itertools

import numpy as np
import pytest
from pictures import write_digits

import featx
from featx.errors import DataError
from featx.heads import find_head
from featx.options import FitOptions
from featx.specs import HeadSpec
from featx.training import curves
from featx.training.dataset import HeldOut, load_dataset, split_dataset


@pytest.fixture(scope="module")
def dataset(store):
    return load_dataset(store)


@pytest.fixture(scope="module")
def curve(dataset):
    members = split_dataset(dataset, test_size=0.2, seed=0).train
    return curves.measure_curve(find_head("ridge"), HeadSpec("ridge"), dataset, members)


def test_more_items_are_better_and_the_forecast_says_so(curve):
    assert curve.accuracies.shape == (len(curve.sizes), 3)
    assert list(curve.sizes) == sorted(set(curve.sizes))
    assert curve.means[-1] > curve.means[0]
    assert (curve.lows < curve.means).all()
    assert curve.forecast.n_items == curve.sizes[-1]
    assert "points" in str(curve.forecast)
    assert curve.to_dict()["forecast"]["words"] == str(curve.forecast)


def test_the_test_is_not_touched(store, monkeypatch):
    openings, seen = [], []
    take, measure = HeldOut.open_targets, curves._measure

    def spy(head, spec, data, part, test):
        seen.append((part, np.flatnonzero(test[0])))
        return measure(head, spec, data, part, test)

    monkeypatch.setattr(HeldOut, "open_targets", lambda held: (openings.append(1), take(held))[1])
    monkeypatch.setattr(curves, "_measure", spy)
    run = featx.fit(store, "ridge", options=FitOptions(folder=None, curve=True))
    dataset = load_dataset(store)
    tested = set(np.flatnonzero(split_dataset(dataset, test_size=0.2, seed=0).test.members))
    assert openings == [1]
    assert run.curve.sizes[-1] > 200
    assert len(seen) == 15
    for learnt, held in seen:
        assert not tested & {*learnt, *held}
        assert not set(learnt) & set(held)
    for smaller, larger in itertools.pairwise(seen):
        assert len(smaller[0]) > len(larger[0]) or set(smaller[0]) <= set(larger[0])


def test_groups_stay_together(dataset):
    members = np.ones(len(dataset), bool)
    order = curves._order_items(dataset, members, 3)
    assert sorted(order.tolist()) == list(range(len(dataset)))
    units = dataset.find_units(members)[order]
    assert (np.diff(units) != 0).sum() == len(set(units.tolist())) - 1


def test_too_few_items_for_a_curve_are_said(tmp_path):
    write_digits(tmp_path / "d", per_class=8, classes=2)
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f")[0].store
    with pytest.raises(DataError, match="too few for a learning curve"):
        featx.fit(store, "ridge", options=FitOptions(folder=None, curve=True, test_size=0.3))


def test_classes_with_fewer_items_than_shots_are_said(tmp_path):
    write_digits(tmp_path / "d", per_class=12, classes=3)
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f")[0].store
    run = featx.fit(store, protocol="fewshot", options=FitOptions(folder=None, test_size=0.3))
    assert any("gave all of them to more shots" in note for note in run.notes)
