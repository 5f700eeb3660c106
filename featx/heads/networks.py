"""Small Keras networks as scikit-learn classifiers."""

import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featx.errors import UsageError
from featx.heads.architectures import (
    Architecture,
    TrainingPlan,
    check_weights,
    compute_logits,
    read_hidden,
    take_probabilities,
)
from featx.heads.rows import BLOCK_BYTES, FeatureRows
from featx.heads.scaling import make_scaler
from featx.specs import OPTIMIZERS


def check_settings(classifier: Any) -> None:  # noqa: ANN401 - a NetworkClassifier, which is defined below
    """Check the parameters that a network is to be trained with.

    Raises:
        UnknownNameError: If there is no such scaling.
        UsageError: If a value does not fit; the message lists those that do.
    """
    read_hidden(classifier.hidden)
    make_scaler(classifier.scaling)
    fits = {
        "dropout": (_is_number(classifier.dropout) and 0 <= classifier.dropout < 1, "a share from 0 to below 1"),
        "label_smoothing": (
            _is_number(classifier.label_smoothing) and 0 <= classifier.label_smoothing < 1,
            "a share from 0 to below 1",
        ),
        "learning_rate": (
            _is_number(classifier.learning_rate) and 0 < classifier.learning_rate < np.inf,
            "a number above 0",
        ),
        "optimizer": (classifier.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
        "checkpoint": (
            classifier.checkpoint is None or str(classifier.checkpoint).endswith(".keras"),
            "the path of a .keras file, or None",
        ),
    }
    for name in ("epochs", "batch_size", "patience"):
        value = getattr(classifier, name)
        fits[name] = (isinstance(value, int | np.integer) and value >= 1, "a whole number of at least 1")
    for name, (fit, words) in fits.items():
        if not fit:
            msg = f"{name} is {getattr(classifier, name)!r}; it must be {words}"
            raise UsageError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)


#: One item in this many is held out, where the caller does not choose them.
_HELD_OUT = 10

_FEWEST_HELD_OUT = 10

#: Features that take no more memory than this are scaled once, not in each epoch.
_KEPT_BYTES = 8 * BLOCK_BYTES

#: A loss that fell by more than this in the last epochs has not converged.
_STILL_FALLING = 0.05


class NetworkClassifier(ClassifierMixin, BaseEstimator):
    """A network of dense layers on features, trained by Keras and evaluated in NumPy.

    Features are read a block at a time in shuffled order, scaled block by block, and never
    copied whole if they take more than 64 MiB. Two classes share one sigmoid unit and binary cross-entropy; more have a
    softmax and sparse categorical cross-entropy, or categorical with label smoothing.

    After each epoch the loss on held-out items is measured. When it has not fallen for half
    of `patience` epochs, the learning rate is halved; after `patience`, training stops.
    The weights with the lowest loss are kept. Where nothing can be held out, the
    loss on the training items is used instead.

    The same data, parameters and seed give the same weights on one machine; no random
    state outside the network is read or changed, unless `random_state` is one.

    Args:
        hidden: Units of the hidden layers, such as `512-256`; empty for none.
        batch_norm: Whether each dense layer's input is normalised.
        dropout: Share of each dense layer's input that is left out at random in training.
        scaling: `none`, `standard` or `l2`: how features are scaled first.
        optimizer: `adam`, `rmsprop` or `sgd` (with momentum 0.9).
        learning_rate: Its first step size.
        epochs: The most passes over the training items.
        batch_size: The most items of one step; all batches of a pass are nearly equal.
        class_weight: None, `balanced`, or a weight for each class.
        label_smoothing: Share of the target that is spread over all classes
            (Szegedy et al. 2016, section 7).
        patience: Epochs without a lower loss after which training stops.
        checkpoint: A `.keras` file that holds the best network so far, written whenever
            the loss has fallen; it is never read. None for no file.
        random_state: Seed of weights, dropout, order and held-out items.

    Attributes:
        classes_: (n_classes,), sorted.
        n_features_in_: Width of the features.
        weights_: Float32 arrays, in Keras's order.
        scaler_: `passthrough`, or the fitted StandardScaler or Normalizer.
        history_: For each epoch `loss`, `accuracy`, `auc`, the same of held-out items with
            `val_` before the name, and `learning_rate`. All are measured at the
            epoch's end, without dropout; those of training on a fixed sample that is as
            large as what is held out, or 1,024 items.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn reads an estimator's parameters from here
        self,
        *,
        hidden: str = "",
        batch_norm: bool = False,
        dropout: float = 0.2,
        scaling: str = "standard",
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        epochs: int = 100,
        batch_size: int = 32,
        class_weight: Any = None,  # noqa: ANN401 - a word, or a dict by class
        label_smoothing: float = 0.0,
        patience: int = 10,
        checkpoint: str | os.PathLike[str] | None = None,
        random_state: Any = None,  # noqa: ANN401 - what scikit-learn takes for a seed
    ) -> None:
        self.hidden = hidden
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.scaling = scaling
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.patience = patience
        self.checkpoint = checkpoint
        self.random_state = random_state

    def fit(
        self, X: ArrayLike | FeatureRows, y: ArrayLike, validation: ArrayLike | None = None, *, curves: bool = True
    ) -> Self:
        """Train on features and targets.

        Args:
            X: (n_items, dim), numbers, or rows of a store.
            y: (n_items,), targets.
            validation: bool (n_items,), the held-out items by which training stops; they
                are not trained on. None holds out a tenth, as `hold_out_units` does.
            curves: Whether `history_` has all curves, or only the loss by which training stops, which is faster.

        Raises:
            DataError: If the loss is not finite.
            UsageError: If a parameter does not fit.
            ValueError: If the data do not fit.
        """
        check_settings(self)
        rows, targets = self._take_items(X, y)
        self.classes_, positions = np.unique(targets, return_inverse=True)
        random = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        held = hold_out_units(positions, random) if validation is None else np.asarray(validation)
        if held.dtype != bool or held.shape != positions.shape:
            msg = f"validation is {held.dtype} {held.shape}; it must be bool {positions.shape}"
            raise UsageError(msg)
        if len(np.unique(positions[~held])) < 2:  # noqa: PLR2004 - a choice needs two
            msg = "Classifier can't train when only one class is present among the training items"
            raise ValueError(msg)
        self.scaler_ = self._fit_scaler(rows.take(~held))
        trainer = self._make_trainer(int(random.integers(2**31)))
        self.weights_, self.history_ = trainer.train(self._plan(rows, positions, held, random, trainer, curves=curves))
        self._warn_unless_converged()
        return self

    def predict_proba(self, X: ArrayLike | FeatureRows) -> NDArray[np.float32]:
        """Return probabilities (n_items, n_classes)."""
        return take_probabilities(self.compute_logits(X))

    def compute_logits(self, X: ArrayLike | FeatureRows) -> NDArray[np.float32]:
        """Return the logits (n_items, n_classes), or (n_items, 1) of the second of two classes."""
        check_is_fitted(self, "weights_")
        rows, n_outputs = self._take_features(X), self.plan_architecture().widths[-1]
        logits = np.empty((len(rows), n_outputs), np.float32)
        widest = max(len(self.classes_), *(part.shape[-1] for part in self.weights_))
        for block, features in rows.iterate_blocks(widest):
            logits[block] = compute_logits(self.weights_, self._scale(features), n_outputs)
        return logits

    def predict(self, X: ArrayLike | FeatureRows) -> NDArray[Any]:
        """Return the class (n_items,) with the highest probability."""
        probabilities = self.predict_proba(X)
        chosen: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return chosen

    def to_keras(self) -> Any:  # noqa: ANN401 - a keras.Model, which is not imported here
        """Build a Keras model from features, not scaled, to probabilities as in `predict_proba`.

        With two classes it returns the probability of the second only.
        """
        check_is_fitted(self, "weights_")
        trainer = self._make_trainer(0)
        trainer.set_weights(self.weights_)
        return trainer.build(self.scaler_)

    def check_state(self) -> None:
        """Check a fitted state that comes from a file, before anything is computed or built from it.

        Raises:
            TypeError: If a part is of another type than `fit` leaves.
            ValueError: If the parts do not fit together, or a weight is not finite.
        """
        if not isinstance(self.classes_, np.ndarray) or self.classes_.ndim != 1 or len(self.classes_) < 2:  # noqa: PLR2004 - a choice
            msg = "a network without at least two classes"
            raise ValueError(msg)
        widths = self.plan_architecture().widths
        check_weights(self.weights_, widths)

    def _take_items(self, X: ArrayLike | FeatureRows, y: ArrayLike) -> tuple[FeatureRows, NDArray[Any]]:
        if isinstance(X, FeatureRows):
            targets = validate_data(self, "no_validation", y)
            self.n_features_in_ = X.shape[1]
            if len(targets) != len(X):
                msg = f"{len(X)} rows of features and {len(targets)} targets; each row needs one"
                raise ValueError(msg)
        else:
            X, targets = validate_data(self, X, y, dtype=[np.float32, np.float16], ensure_min_samples=2)
        check_classification_targets(targets)
        return FeatureRows.wrap(X), targets

    def _take_features(self, X: ArrayLike | FeatureRows) -> FeatureRows:
        if not isinstance(X, FeatureRows):
            X = validate_data(self, X, dtype=[np.float32, np.float16], reset=False)
        rows = FeatureRows.wrap(X)
        if rows.shape[1] != self.n_features_in_:
            msg = f"features have {rows.shape[1]} columns; the network was trained on {self.n_features_in_}"
            raise ValueError(msg)
        return rows

    def _warn_unless_converged(self) -> None:
        losses = self.history_.get("val_loss") or self.history_["loss"]
        if len(losses) < self.epochs or self.epochs <= self.patience:
            return
        if min(losses) < (1 - _STILL_FALLING) * min(losses[: -self.patience]):
            msg = f"the loss fell by more than {_STILL_FALLING:.0%} in the last {self.patience} of {self.epochs} epochs"
            warnings.warn(msg, ConvergenceWarning, stacklevel=3)

    def _fit_scaler(self, rows: FeatureRows) -> Any:  # noqa: ANN401 - as `make_scaler`
        scaler = make_scaler(self.scaling)
        if self.scaling == "standard":
            for _, features in rows.iterate_blocks():
                scaler.partial_fit(features)
        elif self.scaling == "l2":
            scaler.fit(rows[:1])  # it reads the width only
        return scaler

    def _scale(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if isinstance(self.scaler_, str):
            return features
        scaled: NDArray[np.float32] = self.scaler_.transform(features)
        return scaled

    @classmethod
    def adopt_linear(
        cls,
        coef: NDArray[np.floating[Any]],
        intercept: NDArray[np.floating[Any]],
        X: FeatureRows,
        scaling: str = "standard",
    ) -> Self:
        """Make a network of one layer with the predictions of a linear head.

        Args:
            coef: (n_classes, dim), or (1, dim) for two classes: for unscaled features, or, with `l2`, for
                features of length one.
            intercept: (n_classes,) or (1,).
            X: (n_items, dim), whose moments standardise.
            scaling: `standard`, which changes the weights but no prediction, or `l2`.
        """
        network = cls(scaling=scaling, dropout=0.0)
        network.classes_, network.n_features_in_ = np.arange(max(2, len(coef))), coef.shape[1]
        network.scaler_ = network._fit_scaler(X)
        if scaling == "standard":
            intercept = intercept + coef @ network.scaler_.mean_
            coef = coef * network.scaler_.scale_
        network.weights_ = [coef.T.astype(np.float32), intercept.astype(np.float32)]
        return network

    def plan_architecture(self) -> Architecture:
        """Plan the network for the features and classes that it was fitted to."""
        return Architecture.plan(
            self.n_features_in_, self.hidden, len(self.classes_), batch_norm=self.batch_norm, dropout=self.dropout
        )

    def _make_trainer(self, seed: int) -> Any:  # noqa: ANN401 - a KerasNetwork, whose module imports TensorFlow
        from featx.heads.network_training import KerasNetwork

        return KerasNetwork(self.plan_architecture(), seed)

    def _plan(
        self,
        rows: FeatureRows,
        positions: NDArray[np.intp],
        held: NDArray[np.bool_],
        random: np.random.Generator,
        trainer: Any,  # noqa: ANN401 - as above
        *,
        curves: bool,
    ) -> TrainingPlan:
        present = np.unique(positions[~held])
        weights = np.ones(len(self.classes_), np.float32)
        weights[present] = compute_class_weight(
            self.class_weight, classes=self.classes_[present], y=self.classes_[positions[~held]]
        )
        kept = self._scale(rows[:]) if 4 * len(rows) * rows.shape[1] <= _KEPT_BYTES else None
        return TrainingPlan(
            read=lambda chosen: self._scale(rows[chosen]) if kept is None else kept[chosen],
            targets=positions.astype(np.int32),
            weights=weights[positions],
            train=np.flatnonzero(~held),
            held=np.flatnonzero(held),
            optimizer=self.optimizer,
            learning_rate=float(self.learning_rate),
            epochs=self.epochs,
            batch_size=self.batch_size,
            label_smoothing=float(self.label_smoothing),
            patience=self.patience,
            random=random,
            curves=curves,
            keep=_make_keeper(self.checkpoint, functools.partial(trainer.build, self.scaler_)),
        )


def hold_out_units(
    y: NDArray[np.integer], seed: int | np.random.Generator, units: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Hold out about a tenth of the items, evenly over the classes: bool (n_items,).

    Items of one unit stay together, and every class keeps training items. Where no unit is as
    small as a tenth, the smallest one is held out. Nothing is held out if each unit has the
    whole of some class, or if fewer than ten items would be, as their loss is noise: with
    2 items of each of ten digits, it chose weights that were right on 18 %.

    Args:
        y: int (n_items,), targets.
        seed: Seed of the choice.
        units: (n_items,), the unit of each item; None if each item is a unit.
    """
    random, classes = np.random.default_rng(seed), np.unique(y, return_inverse=True)[1]
    names = np.arange(len(y)) if units is None else np.unique(units, return_inverse=True)[1]
    order = np.argsort(names, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(names[order])) + 1)
    left = np.bincount(classes)
    held, passed, n_held = np.zeros(len(y), bool), 0, 0
    # By class, in random order within; a unit belongs to the class of its first item.
    for unit in np.lexsort((random.random(len(members)), [classes[items[0]] for items in members])):
        items = members[unit]
        passed += len(items)
        counts = np.bincount(classes[items], minlength=len(left))
        if n_held + len(items) / 2 <= passed / _HELD_OUT and (left > counts)[counts > 0].all():
            held[items] = True
            n_held += len(items)
            left -= counts
    if not n_held:
        whole = [items for items in members if not (np.bincount(classes[items], minlength=len(left)) == left).any()]
        held[min(whole, key=len, default=[])] = True
    return held if held.sum() >= _FEWEST_HELD_OUT else np.zeros(len(y), bool)


def _make_keeper(path: str | os.PathLike[str] | None, build: Callable[[], Any]) -> Callable[[], None] | None:
    """Make the function that writes a checkpoint; a reader never finds a half-written file."""
    if path is None:
        return None
    target = Path(path)
    unfinished = target.with_name(f".unfinished-{target.name}")

    def keep() -> None:
        build().save(unfinished)
        unfinished.replace(target)

    return keep
