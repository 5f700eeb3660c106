"""What every head must do, as tests to inherit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featx.heads import FittedHead, Head, dump_head, fit_head, load_head, tune
from featx.specs import HeadSpec

Data = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]

_CLASSES = np.array([1, 4, 6, 9])
_PER_CLASS = 30
_DIM = 8
_FOLDS = 3


class HeadContract:
    """Tests that every registered `Head` must pass.

    Inherit from it in a class named `Test...` and override the fixture `head`, which returns the
    row of the table. The head is tuned and fitted as `featx fit` does it.
    """

    @pytest.fixture
    def head(self) -> Head:
        """Return the head to test."""
        pytest.fail("override the fixture `head`")

    @pytest.fixture
    def data(self) -> Data:
        """Make features of 120 items in four classes that lie far apart, their targets and their folds."""
        generator = np.random.default_rng(7)
        targets = np.tile(_CLASSES, _PER_CLASS)
        centres = generator.normal(0, 3, (len(_CLASSES), _DIM))
        features = centres[np.searchsorted(_CLASSES, targets)] + generator.normal(0, 0.5, (len(targets), _DIM))
        return features.astype(np.float32), targets, np.arange(len(targets)) // len(_CLASSES) % _FOLDS

    def fit(self, head: Head, data: Data) -> FittedHead:
        """Tune a head on folds, and fit it with the best parameters on all items."""
        features, targets, folds = data
        tuned = tune(head, features, targets, folds, spec=HeadSpec(head.name))
        return fit_head(head, features, targets, tuned.spec, folds, held_out=(tuned.scores, targets))

    @pytest.fixture
    def estimator(self, head: Head, data: Data) -> Any:  # noqa: ANN401 - scikit-learn is untyped
        """Return the fitted classifier."""
        return self.fit(head, data).estimator

    def test_it_describes_itself(self, head: Head) -> None:
        """It has a name in lower case, and a description of one line."""
        assert head.name
        assert head.name == head.name.lower()
        assert head.description
        assert "\n" not in head.description

    def test_its_classes_are_the_sorted_targets(self, estimator: Any) -> None:  # noqa: ANN401 - as above
        """`classes_` is what the columns of the probabilities stand for."""
        assert np.array_equal(estimator.classes_, _CLASSES)

    def test_its_probabilities_sum_to_one(self, estimator: Any, data: Data) -> None:  # noqa: ANN401 - as above
        """Each is from 0 to 1, and there is one per item and class."""
        probabilities = estimator.predict_proba(data[0])
        assert probabilities.shape == (len(data[0]), len(_CLASSES))
        assert ((probabilities >= 0) & (probabilities <= 1)).all()
        assert np.allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-6)

    def test_it_is_no_worse_than_guessing(self, head: Head, estimator: Any, data: Data) -> None:  # noqa: ANN401 - as above
        """Columns in another order than `classes_` would be worse on classes that lie far apart."""
        features, targets, folds = data
        chosen = _CLASSES[estimator.predict_proba(features).argmax(axis=1)]
        assert (chosen == targets).mean() >= 1 / len(_CLASSES)
        uncalibrated = HeadSpec(head.name, calibration="none")  # a calibration could hide it
        tuned = tune(head, features, targets, folds, spec=uncalibrated)
        assert (tuned.predictions == targets).mean() >= 1 / len(_CLASSES)

    def test_it_leaves_its_input_unchanged(self, head: Head, data: Data) -> None:
        """Features and targets are the same after tuning and fitting."""
        features, targets, folds = data
        before = features.copy(), targets.copy(), folds.copy()
        self.fit(head, data)
        assert np.array_equal(features, before[0])
        assert np.array_equal(targets, before[1])
        assert np.array_equal(folds, before[2])

    def test_the_same_seed_gives_the_same_head(self, head: Head, data: Data, estimator: Any) -> None:  # noqa: ANN401 - as above
        """What is random in it takes its seed from the spec."""
        again = self.fit(head, data).estimator
        assert np.allclose(again.predict_proba(data[0]), estimator.predict_proba(data[0]), rtol=0, atol=1e-6)

    def test_a_bundle_can_hold_it(self, estimator: Any, data: Data, tmp_path: Path) -> None:  # noqa: ANN401 - as above
        """Its file has only types that featx loads, and gives the same probabilities."""
        dump_head(estimator, tmp_path / "head.skops")
        loaded = load_head(tmp_path / "head.skops")
        assert np.array_equal(loaded.classes_, estimator.classes_)
        assert np.array_equal(loaded.predict_proba(data[0]), estimator.predict_proba(data[0]))
