import csv
import json

import numpy as np
import pytest

import featx
from featx.errors import UnknownNameError, UsageError
from featx.fitting.protocols import CLIP, DINOV2_KNN, KORNBLITH, PROTOCOLS, find_protocol, plan_head
from featx.options import FitOptions
from featx.specs import HeadSpec

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("protocol", "count", "low", "high"), [(KORNBLITH, 45, 1e-6, 1e5), (CLIP, 96, 1e-6, 1e6)], ids=["kornblith", "clip"]
)
def test_penalties_are_those_of_the_paper(protocol, count, low, high):
    penalties = 1 / np.array(protocol.grid["C"])
    assert len(penalties) == count
    np.testing.assert_allclose([penalties.max(), penalties.min()], [high, low])
    steps = np.diff(np.log(penalties))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)
    assert steps[0] < 0  # the strongest first, as each starts from the one before


def test_neighbours_are_those_of_the_paper():
    head, spec = plan_head(HeadSpec("knn"), DINOV2_KNN)
    assert sorted(head.grid["n_neighbors"]) == [10, 20, 100, 200]
    assert (spec.params["temperature"], spec.params["weights"], spec.scaling) == (0.07, "temperature", "none")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_runs_chooses_by_accuracy_and_reports_its_whole_path(name, store, tmp_path):
    run = featx.fit(store, protocol=name, options=FitOptions(folder=tmp_path))
    protocol = PROTOCOLS[name]
    assert (run.protocol, run.head.name) == (name, protocol.head)
    assert run.test.accuracy > 0.8
    [chosen] = [one for one in run.candidates if (one.params, one.scaling) == (run.head.params, run.head.scaling)]
    assert chosen.accuracy == max(candidate.accuracy for candidate in run.candidates)
    if protocol.grid:
        (values,) = protocol.grid.values()
        most = min(len(values), sum(value <= run.n_train for value in values) if name == "dinov2-knn" else len(values))
        assert most - 1 <= len(run.candidates) <= most
        assert {candidate.scaling for candidate in run.candidates} == {"none"}
    with (run.bundle / "path.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(run.candidates)
    assert (run.bundle / "path.png").stat().st_size > 10_000
    about = json.loads((run.bundle / "bundle.json").read_text())
    assert about["record"]["protocol"] == name


def test_few_shots_are_of_each_class_and_draw_several_times(store, tmp_path):
    run = featx.fit(store, protocol="fewshot", options=FitOptions(folder=tmp_path))
    assert run.shots.sizes == (1, 2, 4, 8, 16)
    assert run.shots.accuracies.shape == (5, 5)
    assert run.shots.means[-1] > run.shots.means[0] + 0.2
    assert (run.shots.lows <= run.shots.means).all()
    assert (run.bundle / "few_shots.png").is_file()
    again = featx.fit(store, protocol="FewShot", options=FitOptions(folder=None))
    np.testing.assert_array_equal(again.shots.accuracies, run.shots.accuracies)


@pytest.mark.parametrize(
    ("clf", "options"),
    [("ridge", {}), (None, {"params": {"C": 1}}), ("logreg", {"scaling": "l2"})],
)
def test_what_a_protocol_fixes_cannot_be_fixed_again(store, clf, options):
    with pytest.raises(UsageError, match="the protocol kornblith fixes the head logreg, C, scaling"):
        featx.fit(store, clf, protocol="kornblith", options=FitOptions(folder=None), **options)


def test_few_shots_need_a_test(store):
    with pytest.raises(UsageError, match="leave out --cv"):
        featx.fit(store, protocol="fewshot", options=FitOptions(folder=None, cv=3))


def test_an_unknown_protocol_names_the_closest():
    with pytest.raises(UnknownNameError, match="did you mean kornblith"):
        find_protocol("kornblit")
