"""The first head: fitted on frozen features, it is where fine-tuning starts from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import UsageError
from featx.finetuning.unfreezing import normalize_plan
from featx.heads import Head, find_head, fit_head, tune
from featx.heads.fitting import describe_warning, explain_failure
from featx.heads.logistic import ScaledLogisticRegression
from featx.heads.networks import NetworkClassifier
from featx.heads.rows import FeatureRows
from featx.heads.sweeps import record_warnings
from featx.items.augmentation import parse_augmentation
from featx.reporting import Progress
from featx.specs import FineTuneSpec, HeadSpec


@dataclass(frozen=True, slots=True)
class FrozenFeatures:
    """Frozen features, and the targets that the first head is fitted to.

    Attributes:
        features: `(n_items, dim)`.
        targets: int `(n_items,)`.
        held: bool `(n_items,)`, the validation items, which the head is not fitted to.
        units: int `(n_items,)`: items with the same number stay together.
        deal_folds: Assigns the training items to the folds that parameters are chosen on, int `(n_train,)`.
    """

    features: FeatureRows
    targets: NDArray[np.intp]
    held: NDArray[np.bool_]
    units: NDArray[np.intp]
    deal_folds: Callable[[], NDArray[np.intp]]


def plan_first_head(spec: FineTuneSpec) -> FineTuneSpec:
    """Check the head of a spec, and add the parameters that the head shares with fine-tuning.

    Raises:
        UnknownNameError: If the head, a parameter or the augmentation does not exist.
        UsageError: If the head is not differentiable or is to be calibrated, or if the augmentation is invalid.
    """
    head = find_head(spec.head.name)
    estimator = head.build({}, spec.head.seed, head.scalings[0])
    if not isinstance(estimator, NetworkClassifier | ScaledLogisticRegression):
        msg = f"{head.name} cannot be trained together with a backbone; choose logreg or keras, such as keras:512-512"
        raise UsageError(msg)
    if spec.head.calibration not in {None, "none"}:
        msg = f"a fine-tuned head cannot be calibrated by {spec.head.calibration}; leave out --calibration"
        raise UsageError(msg)
    shared: dict[str, Any] = {"class_weight": spec.class_weight} if spec.class_weight else {}
    if isinstance(estimator, NetworkClassifier):
        shared |= {"optimizer": spec.optimizer, "label_smoothing": spec.label_smoothing}
    params = head.check_params({**shared, **spec.head.params})
    first = replace(spec.head, name=head.name, params=params, seed=spec.seed)
    augmentation, unfreeze = str(parse_augmentation(spec.augmentation)), normalize_plan(spec.unfreeze)
    return replace(spec, head=first, augmentation=augmentation, unfreeze=unfreeze)


def is_tuned(spec: FineTuneSpec) -> bool:
    """Return whether the parameters of the first head are chosen on folds; a network has none to choose."""
    head = find_head(spec.head.name)
    return not isinstance(head.build({}, spec.seed, head.scalings[0]), NetworkClassifier)


@dataclass(frozen=True, slots=True)
class FirstHead:
    """A head that was fitted to frozen features.

    Attributes:
        network: The head as a network, with its scaling.
        spec: The head, with the parameters that were chosen.
        notes: What the user should know.
    """

    network: NetworkClassifier
    spec: HeadSpec
    notes: tuple[str, ...]


def fit_first_head(spec: FineTuneSpec, frozen: FrozenFeatures, progress: Progress | None = None) -> FirstHead:
    """Fit the first head on frozen features.

    Args:
        spec: As `plan_first_head` returned it.
        frozen: The features and targets.
        progress: Called with the number of fits on folds that are done, and how many there are.

    Raises:
        DataError: If the head cannot be fitted to these items.
    """
    head = find_head(spec.head.name)
    scaling = spec.head.scaling or "standard"
    estimator = head.build(spec.head.params, spec.seed, scaling)
    if isinstance(estimator, NetworkClassifier):
        with explain_failure(spec.head), record_warnings() as caught:
            estimator.fit(frozen.features, frozen.targets, frozen.held)
        notes = tuple(f"{head.name} {describe_warning(one, head, spec.head.params)}" for one in caught)
        return FirstHead(estimator, replace(spec.head, scaling=scaling), notes)
    with explain_failure(spec.head):
        return _fit_logistic(head, spec, frozen, progress)


def _fit_logistic(head: Head, spec: FineTuneSpec, frozen: FrozenFeatures, progress: Progress | None) -> FirstHead:
    """Fit a logistic regression, and turn it into a layer.

    Its parameters are chosen as for any head, by log-loss among those of about the best accuracy. Where classes are
    separable, nearly every penalty gives the same accuracy, and the weakest one gives coefficients so large that the
    first steps ruin the backbone's pretrained weights.
    """
    X, targets = frozen.features.take(~frozen.held), frozen.targets[~frozen.held]
    folds, units = frozen.deal_folds(), frozen.units[~frozen.held]
    plain = replace(spec.head, calibration="none")
    chosen = tune(head, X, targets, folds, spec=plain, units=units, progress=progress).spec
    fitted = fit_head(head, X, targets, chosen, folds, units=units)
    linear = fitted.estimator[-1]
    scaling = "l2" if chosen.scaling == "l2" else "standard"
    network = NetworkClassifier.adopt_linear(linear.coef_, linear.intercept_, X, scaling)
    network.classes_ = linear.classes_
    return FirstHead(network, chosen, fitted.notes)
