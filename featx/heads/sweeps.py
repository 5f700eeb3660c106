"""Sweeps: every value of a head's grid tried on one fold, at the cost of few fits.

A sweep gives what fitting scikit-learn's estimator once per candidate would give,
and tests compare it with that. It is own code only where much is shared between
candidates: the Gram matrix of ridge regression, the covariance of discriminant
analysis, the neighbour search, the path of logistic regression.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.preprocessing import normalize
from sklearn.utils.class_weight import compute_sample_weight

from featx.heads.discriminant import average_classes, solve_discriminants

Build = Callable[[Mapping[str, Any], int], Any]


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold: the scaled features that are learnt from, and those held out.

    Attributes:
        X_train: float32 (n_train, columns).
        y_train: int (n_train,), positions among the classes of all folds.
        X_held: float32 (n_held, columns).
        dim: Width of the features before any rotation.
        n_classes: Number of classes in all folds; some may be missing here.
        validation: bool (n_train,), for a head that stops early, the items to stop by; None lets it choose.
    """

    X_train: NDArray[np.float32]
    y_train: NDArray[np.intp]
    X_held: NDArray[np.float32]
    dim: int
    n_classes: int
    validation: NDArray[np.bool_] | None = None


#: Yields, for each candidate, the scores (n_held, n_classes) of the held-out items.
Sweep = Callable[[Build, Sequence[Mapping[str, Any]], Fold, int], Iterator[NDArray[Any]]]


def rotate(fold: Fold) -> Fold:
    """Rotate a fold with fewer items than features into as many columns as items.

    A classifier that knows its items only through their inner products, such as a
    linear one with an L2 penalty, learns weights in the span of the training items
    (Schölkopf, Herbrich & Smola 2001, the representer theorem). With X^T = QR, the
    columns of Q span them, R^T = XQ has the same inner products, and held-out items
    need only their part XQ in that span. L-BFGS even takes the same steps.
    """
    Q, R = linalg.qr(fold.X_train.T, mode="economic", check_finite=False)
    held = np.matmul(fold.X_held, Q, dtype=np.float32)
    return Fold(np.ascontiguousarray(R.T, np.float32), fold.y_train, held, fold.dim, fold.n_classes)


def sweep_each(build: Build, candidates: Sequence[Mapping[str, Any]], fold: Fold, seed: int) -> Iterator[NDArray[Any]]:
    """Fit every candidate by itself."""
    stopping = {} if fold.validation is None else {"validation": fold.validation}
    for params in candidates:
        yield score_items(build(params, seed).fit(fold.X_train, fold.y_train, **stopping), fold)


def sweep_path(build: Build, candidates: Sequence[Mapping[str, Any]], fold: Fold, seed: int) -> Iterator[NDArray[Any]]:
    """Fit logistic regression for all C in turn, each from the solution before it (warm start).

    The features are shifted to mean 0, which the intercept absorbs, and divided by
    their size s, for which C s^2 and tol / s make up: the optimum is the same, and
    L-BFGS takes up to 4 times fewer steps, as weights and intercept are then alike in
    curvature.
    """
    mean = fold.X_train.mean(axis=0)
    X = fold.X_train - mean
    size = np.float32(np.sqrt(np.einsum("ij,ij->", X, X, dtype=np.float64) / len(X) / fold.dim)) or np.float32(1)
    X /= size
    X_held = (fold.X_held - mean) / size
    model = build({}, seed).set_params(warm_start=True)
    for params in candidates:
        model.set_params(**params)
        model.set_params(C=model.C * float(size) ** 2, tol=model.tol / float(size)).fit(X, fold.y_train)
        yield score_items(model, replace(fold, X_held=X_held))


def sweep_ridge(_: Build, candidates: Sequence[Mapping[str, Any]], fold: Fold, seed: int) -> Iterator[NDArray[Any]]:  # noqa: ARG001 - nothing is random
    """Solve ridge regression on targets -1 and 1 for all alphas from one Gram matrix.

    (X^T W X + alpha I) B = X^T W Y, with X and Y centred by their weighted means.
    """
    present, y = np.unique(fold.y_train, return_inverse=True)
    weights = compute_sample_weight(candidates[0].get("class_weight"), y).astype(np.float32)
    Y = np.where(y[:, None] == np.arange(len(present)), np.float32(1), np.float32(-1))
    X_mean, Y_mean = weights @ fold.X_train / weights.sum(), weights @ Y / weights.sum()
    root = np.sqrt(weights)[:, None]
    X = (fold.X_train - X_mean) * root
    gram = (X.T @ X).astype(np.float64)
    target = (X.T @ ((Y - Y_mean) * root)).astype(np.float64)
    diagonal = np.diag(gram).copy()
    for params in candidates:
        np.fill_diagonal(gram, diagonal + params["alpha"])
        coef = linalg.solve(gram, target, assume_a="pos", check_finite=False).astype(np.float32)
        yield _place(fold.X_held @ coef + (Y_mean - X_mean @ coef), present, fold.n_classes)


def sweep_shrinkage(_: Build, candidates: Sequence[Mapping[str, Any]], fold: Fold, seed: int) -> Iterator[NDArray[Any]]:  # noqa: ARG001 - nothing is random
    """Solve linear discriminant analysis for all shrinkages from one covariance."""
    present, y = np.unique(fold.y_train, return_inverse=True)
    means = average_classes(fold.X_train, y)
    shrinkages = [params["shrinkage"] for params in candidates]
    for coef, intercept in solve_discriminants(fold.X_train, y, means, shrinkages, fold.dim, "empirical"):
        yield _place(fold.X_held @ coef.astype(np.float32) + intercept.astype(np.float32), present, fold.n_classes)


def sweep_neighbours(
    _: Build,
    candidates: Sequence[Mapping[str, Any]],
    fold: Fold,
    seed: int,  # noqa: ARG001 - nothing is random
) -> Iterator[NDArray[Any]]:
    """Vote among the nearest items by cosine, for all numbers of them from one search."""
    train = normalize(fold.X_train)
    most = max(params["n_neighbors"] for params in candidates)
    nearest = np.empty((len(fold.X_held), most), np.intp)
    distances = np.empty((len(fold.X_held), most), np.float32)
    for start in range(0, len(fold.X_held), 1024):  # a block of similarities stays small
        rows = slice(start, start + 1024)
        far = 1 - normalize(fold.X_held[rows]) @ train.T
        part = np.argpartition(far, most - 1, axis=1)[:, :most]
        order = np.argsort(np.take_along_axis(far, part, axis=1), axis=1, kind="stable")
        nearest[rows] = np.take_along_axis(part, order, axis=1)
        distances[rows] = np.maximum(np.take_along_axis(far, nearest[rows], axis=1), 0)
    for params in candidates:
        near, k = distances[:, : params["n_neighbors"]], params["n_neighbors"]
        votes = np.ones_like(near) if params.get("weights") == "uniform" else _weigh(near)
        scores = np.zeros((len(near), fold.n_classes))
        np.add.at(scores, (np.arange(len(near))[:, None], fold.y_train[nearest[:, :k]]), votes)
        yield _take_logarithm(scores / votes.sum(axis=1, keepdims=True))


def score_items(model: Any, fold: Fold) -> NDArray[Any]:  # noqa: ANN401 - any fitted classifier
    """Score held-out items: log-probabilities, or margins if there are no probabilities.

    Args:
        model: A fitted classifier on positions of classes.
        fold: The fold whose held-out items are scored.

    Returns:
        float (n_held, n_classes); minus infinity for classes that were not learnt.
    """
    if hasattr(model, "predict_proba"):
        return _place(_take_logarithm(model.predict_proba(fold.X_held)), model.classes_, fold.n_classes)
    margins = model.decision_function(fold.X_held)
    return _place(np.stack([-margins, margins], 1) if margins.ndim == 1 else margins, model.classes_, fold.n_classes)


def _place(scores: NDArray[Any], present: NDArray[np.intp], n_classes: int) -> NDArray[Any]:
    placed = np.full((len(scores), n_classes), -np.inf, scores.dtype)
    placed[:, present] = scores
    return placed


def _take_logarithm(probabilities: NDArray[Any]) -> NDArray[Any]:
    # The smallest probability is that of scikit-learn's temperature scaling.
    logarithms: NDArray[Any] = np.log(probabilities + np.asarray(1e-12, probabilities.dtype))
    return logarithms


def _weigh(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weigh neighbours by 1 / distance; where some are at 0, only those count."""
    same = distances == 0
    with np.errstate(divide="ignore"):
        return np.where(same.any(axis=1, keepdims=True), same, 1 / distances).astype(np.float32)
