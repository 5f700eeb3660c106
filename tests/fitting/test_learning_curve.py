import dataclasses
import itertools

import numpy as np
import pytest
from pictures import write_digits

import featx
from featx.errors import DataError
from featx.fitting import learning_curve
from featx.fitting.dataset import HeldOut, load_dataset, split_dataset
from featx.heads import find_head
from featx.options import FitOptions
from featx.specs import HeadSpec


@pytest.fixture(scope="module")
def dataset(store):
    return load_dataset(store)


@pytest.fixture(scope="module")
def curve(dataset):
    members = split_dataset(dataset, test_size=0.2, seed=0).train
    return learning_curve.measure_curve(find_head("ridge"), HeadSpec("ridge"), dataset, members)


def test_more_items_are_better_and_the_forecast_says_so(curve):
    assert curve.accuracies.shape == (len(curve.sizes), 5)
    assert list(curve.sizes) == sorted(set(curve.sizes))
    assert curve.means[-1] > curve.means[0]
    assert (curve.lows < curve.means).all()
    assert curve.forecast.n_items == curve.sizes[-1]
    assert "points" in str(curve.forecast)
    assert curve.to_dict()["forecast"]["words"] == str(curve.forecast)


def test_the_test_is_not_touched(store, monkeypatch):
    opened, seen = [], []
    take, answer = HeldOut.open_targets, learning_curve._answer

    def spy(head, spec, data, part, test):
        seen.append((part, np.flatnonzero(test[0])))
        return answer(head, spec, data, part, test)

    monkeypatch.setattr(HeldOut, "open_targets", lambda held: (opened.append(1), take(held))[1])
    monkeypatch.setattr(learning_curve, "_answer", spy)
    run = featx.fit(store, "ridge", options=FitOptions(folder=None, curve=True))
    dataset = load_dataset(store)
    tested = set(np.flatnonzero(split_dataset(dataset, test_size=0.2, seed=0).test.members))
    assert opened == [1]
    assert run.curve.sizes[-1] > 200
    assert len(seen) == 25
    for trained, held in seen:
        assert not tested & {*trained, *held}
        assert not set(trained) & set(held)
    for smaller, larger in itertools.pairwise(seen):
        assert len(smaller[0]) > len(larger[0]) or set(smaller[0]) <= set(larger[0])


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """240 pictures of three classes, each class in eight groups of ten."""
    folder = tmp_path_factory.mktemp("grouped")
    write_digits(folder / "d", per_class=80, classes=3)
    store = featx.embed(folder / "d", "colour", folder=folder / "f").store
    dataset = load_dataset(store)
    groups = np.array([f"{target}-{at % 8}" for at, target in enumerate(dataset.targets.tolist())])
    return dataclasses.replace(dataset, groups=groups)


def test_parts_are_whole_groups_and_each_is_within_the_next(grouped):
    members = np.ones(len(grouped), bool)
    held = np.isin(grouped.groups, ["0-0", "1-3", "2-5"])
    parts = learning_curve._plan_parts(grouped, members, held, 3)
    for smaller, larger in itertools.pairwise(parts):
        assert set(smaller) <= set(larger)
    assert len({len(part) for part in parts}) >= 3
    assert set(parts[-1]) == set(np.flatnonzero(~held))
    for part in parts:
        rest = np.setdiff1d(np.flatnonzero(~held), part)
        assert not set(grouped.groups[part]) & set(grouped.groups[rest])
        assert all(len(set(grouped.groups[part][grouped.targets[part] == target])) >= 2 for target in range(3))


def test_groups_that_are_right_together_have_wider_intervals():
    correct = np.repeat(np.random.default_rng(0).random(20) < 0.8, 10).astype(float)
    groups = np.repeat([f"g{number}" for number in range(20)], 10)
    low, high = learning_curve._find_interval(correct, groups)
    alone = learning_curve._find_interval(correct, np.full(200, ""))
    assert high - low > 2 * (alone[1] - alone[0])


def test_shots_are_of_different_groups_first(grouped):
    members = np.ones(len(grouped), bool)
    for count, groups in ((1, 3), (8, 24), (16, 24)):
        drawn = learning_curve._take_shots(grouped, members, count, 0)
        assert np.bincount(grouped.targets[drawn]).tolist() == [count] * 3
        assert len(set(grouped.groups[drawn])) == groups
    doubled = dataclasses.replace(grouped, contents=np.repeat(grouped.contents[::2], 2))
    drawn = learning_curve._take_shots(doubled, members, 16, 0)
    assert len(set(doubled.keys[drawn])) == len(drawn)


def test_few_shots_of_groups_can_be_measured(grouped):
    test = np.isin(grouped.groups, ["0-0", "1-0", "2-0"])
    head, spec = find_head("ridge"), HeadSpec("ridge")
    shots = learning_curve.measure_shots(head, spec, grouped, ~test, (test, grouped.targets[test]), (1, 2, 4, 16))
    assert shots.accuracies.shape == (4, 5)
    assert shots.means[-1] > 0.6


def test_too_few_items_for_a_curve_are_refused(tmp_path):
    write_digits(tmp_path / "d", per_class=8, classes=2)
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f").store
    dataset = load_dataset(store)
    with pytest.raises(DataError, match="too few for a learning curve"):
        learning_curve.measure_curve(
            find_head("ridge"), HeadSpec("ridge"), dataset, split_dataset(dataset, test_size=0.3, seed=0).train
        )


def test_classes_with_fewer_items_than_shots_are_reported(tmp_path):
    write_digits(tmp_path / "d", per_class=12, classes=3)
    store = featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f").store
    run = featx.fit(store, protocol="fewshot", options=FitOptions(folder=None, test_size=0.3))
    assert any("and more shots use all of them" in note for note in run.notes)
