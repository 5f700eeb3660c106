"""Openings: the head that fine-tuning begins with, trained first on frozen features.

A backbone that learns together with a head of random weights is pulled away from what it knew before the
head has learnt anything (Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform
out-of-distribution", ICLR). So the head comes first, and `logreg` is the best that a single layer can be.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones.unfreezing import normalize_plan
from featx.errors import UsageError
from featx.heads import Head, find_head, fit_head, tune
from featx.heads.fitting import describe_warning
from featx.heads.logistic import ScaledLogisticRegression
from featx.heads.networks import NetworkClassifier
from featx.heads.rows import FeatureRows
from featx.heads.sweeps import record_warnings
from featx.items.augmentation import parse_augmentation
from featx.specs import FineTuneSpec, HeadSpec
from featx.training.procedure import explain_failure


@dataclass(frozen=True, slots=True)
class Opening:
    """Frozen features, and what a head learns from them.

    Attributes:
        features: `(n_items, dim)`.
        targets: int `(n_items,)`.
        held: bool `(n_items,)`, the items that are watched and not learnt from.
        units: int `(n_items,)`, the items that stay together.
        deal_folds: Deals those that are learnt from to the folds on which parameters are chosen, int `(n_learnt,)`.
    """

    features: FeatureRows
    targets: NDArray[np.intp]
    held: NDArray[np.bool_]
    units: NDArray[np.intp]
    deal_folds: Callable[[], NDArray[np.intp]]


def plan_first_head(spec: FineTuneSpec) -> FineTuneSpec:
    """Check the head of a spec, and give it the parameters that both kinds of training share.

    Raises:
        UnknownNameError: If there is no such head or parameter, or no such augmentation.
        UsageError: If gradients cannot go through it, or it is to be calibrated; if an augmentation does not fit.
    """
    head = find_head(spec.head.name)
    estimator = head.build({}, spec.head.seed, head.scalings[0])
    if not isinstance(estimator, NetworkClassifier | ScaledLogisticRegression):
        msg = f"{head.name} cannot be trained together with a backbone; choose logreg or keras, such as keras:512-512"
        raise UsageError(msg)
    if spec.head.calibration not in {None, "none"}:
        msg = f"calibration of a fine-tuned head by {spec.head.calibration} is not offered; leave it out"
        raise UsageError(msg)
    shared: dict[str, Any] = {"class_weight": spec.class_weight} if spec.class_weight else {}
    if isinstance(estimator, NetworkClassifier):
        shared |= {"optimizer": spec.optimizer, "label_smoothing": spec.label_smoothing}
    params = head.check_params({**shared, **spec.head.params})
    first = replace(spec.head, name=head.name, params=params, seed=spec.seed)
    augmentation, unfreeze = str(parse_augmentation(spec.augmentation)), normalize_plan(spec.unfreeze)
    return replace(spec, head=first, augmentation=augmentation, unfreeze=unfreeze)


@dataclass(frozen=True, slots=True)
class FirstHead:
    """A head that was trained on frozen features.

    Attributes:
        network: The head as a network, with its scaling.
        spec: The head, with the parameters that were chosen.
        notes: What the user should know.
    """

    network: NetworkClassifier
    spec: HeadSpec
    notes: tuple[str, ...]


def fit_first_head(spec: FineTuneSpec, opening: Opening) -> FirstHead:
    """Fit the first head on frozen features.

    Args:
        spec: As `plan_first_head` returned it.
        opening: What it learns from.

    Raises:
        DataError: If nothing can be learnt from these items.
    """
    head = find_head(spec.head.name)
    scaling = spec.head.scaling or "standard"
    estimator = head.build(spec.head.params, spec.seed, scaling)
    if isinstance(estimator, NetworkClassifier):
        with explain_failure(spec.head), record_warnings() as caught:
            estimator.fit(opening.features, opening.targets, opening.held)
        notes = tuple(f"{head.name} {describe_warning(one, head, spec.head.params)}" for one in caught)
        return FirstHead(estimator, replace(spec.head, scaling=scaling), notes)
    with explain_failure(spec.head):
        return _fit_logistic(head, spec, opening)


def _fit_logistic(head: Head, spec: FineTuneSpec, opening: Opening) -> FirstHead:
    """Fit a logistic regression, and make it a layer.

    Its parameters are those of the lowest log-loss on the folds, not of the highest accuracy: where classes
    can be separated, nearly any penalty gives the same accuracy, and the weakest one coefficients so large
    that the first steps of the backbone undo what it knows.
    """
    X, targets = opening.features.take(~opening.held), opening.targets[~opening.held]
    folds, units = opening.deal_folds(), opening.units[~opening.held]
    plain = replace(spec.head, calibration="none")
    tuned = tune(head, X, targets, folds, spec=plain, units=units)
    best = min(tuned.candidates, key=lambda one: math.inf if one.log_loss is None else one.log_loss)
    chosen = replace(plain, params=best.params, scaling=best.scaling)
    fitted = fit_head(head, X, targets, chosen, folds, units=units)
    linear = fitted.estimator[-1]
    scaling = "l2" if chosen.scaling == "l2" else "standard"
    network = NetworkClassifier.adopt_linear(linear.coef_, linear.intercept_, X, scaling)
    network.classes_ = linear.classes_
    return FirstHead(network, chosen, fitted.notes)
