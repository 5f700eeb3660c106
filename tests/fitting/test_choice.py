import json

import numpy as np
import pytest

import featx
from featx.errors import UsageError
from featx.fitting import choice, fitting
from featx.fitting.dataset import HeldOut
from featx.heads import tuning
from featx.options import FitOptions
from featx.registry import HEAD_SETS


@pytest.fixture(autouse=True)
def heads(monkeypatch):
    """Three heads that take no time."""
    monkeypatch.setitem(HEAD_SETS, "fast", ("knn", "lda", "centroid"))


def test_every_fast_head_has_a_place_in_the_order_of_simplicity(monkeypatch):
    monkeypatch.undo()
    assert sorted(choice.SIMPLICITY) == sorted(HEAD_SETS["fast"])


def test_the_best_head_is_chosen_and_recorded(store, tmp_path):
    run = featx.fit(store, "best", options=FitOptions(folder=tmp_path))
    assert [one.name for one in run.heads] == ["centroid", "lda", "knn"]
    [chosen] = [one for one in run.heads if one.chosen]
    assert chosen.name == run.head.name
    assert chosen.params == dict(run.head.params)
    first = max(run.heads, key=lambda one: one.accuracy)
    assert chosen.accuracy >= first.accuracy - first.accuracy_error
    assert chosen.accuracy == pytest.approx(run.validation.accuracy)
    assert any(note.startswith(f"best chose {chosen.name} of 3 heads by the held-out") for note in run.notes)
    record = json.loads((run.bundle / "bundle.json").read_text())["record"]
    assert record["heads"] == [one.to_dict() for one in run.heads]
    alone = featx.fit(store, chosen.name, options=FitOptions(folder=None))
    assert alone.test.to_dict() == run.test.to_dict()


def test_the_test_is_opened_once_after_the_choice(store, monkeypatch):
    events = []

    def record(owner, name):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: (events.append(name), function(*args, **kwargs))[1])

    record(HeldOut, "open_targets")
    record(tuning, "tune")
    record(tuning, "fit_head")
    featx.fit(store, "best", options=FitOptions(folder=None))
    assert events == ["tune"] * 3 + ["fit_head", "open_targets"]


def test_each_fold_of_a_cross_validation_chooses_without_its_items(store, monkeypatch):
    trained = []
    choose = fitting.tune_and_choose

    def spy(plans, dataset, train, *rest):
        trained.append(train)
        return choose(plans, dataset, train, *rest)

    monkeypatch.setattr(fitting, "tune_and_choose", spy)
    run = featx.fit(store, "best", options=FitOptions(folder=None, cv=3))
    *inside, last = trained
    assert np.array_equal(np.sum([~one for one in inside], axis=0), np.ones(len(store)))
    assert last.all()
    assert run.test.n_items == len(store)
    assert any("inside each of the 3 folds" in note for note in run.notes)


def test_a_val_split_ranks_the_heads(digits, tmp_path):
    store = featx.embed(digits, "colour", folder=tmp_path).store
    store.splits = np.where(np.arange(len(store)) % 4 == 0, "val", "train")
    store.splits[1::4] = "test"
    run = featx.fit(store, "best", options=FitOptions(folder=None))
    [chosen] = [one for one in run.heads if one.chosen]
    assert chosen.accuracy == pytest.approx(run.validation.accuracy)
    assert run.validation.n_items == 100
    assert any("by the validation items" in note for note in run.notes)


def test_a_head_that_fails_is_named_and_left_out(store):
    run = featx.fit(store, "best", params={"n_neighbors": 1000}, options=FitOptions(folder=None))
    assert "n_neighbors=1000" in {one.name: one for one in run.heads}["knn"].error
    assert any(note.startswith("knn was left out: knn n_neighbors=1000") for note in run.notes)
    assert "centroid, lda: no parameter n_neighbors, so it is ignored" in run.notes


def test_a_protocol_fixes_its_head(store):
    with pytest.raises(UsageError, match="the protocol clip fixes its head; leave out best"):
        featx.fit(store, "best", protocol="clip", options=FitOptions(folder=None))
