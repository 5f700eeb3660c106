"""Calibration: scores of held-out items become probabilities."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from sklearn.base import BaseEstimator


def fit_temperature(scores: NDArray[Any], positions: NDArray[np.intp]) -> float:
    """Fit the factor that makes softmax(factor * scores) the best probabilities."""
    scores = scores.astype(np.float64)
    own = scores[np.arange(len(scores)), positions]

    def measure_loss(log_factor: float) -> float:
        factor = math.exp(log_factor)
        return float(np.mean(special.logsumexp(factor * scores, axis=1) - factor * own))

    return math.exp(optimize.minimize_scalar(measure_loss, bounds=(-10, 10), method="bounded").x)


class Calibrator(BaseEstimator):
    """Placeholder."""

    def __init__(self, method: str = "temperature") -> None:
        self.method = method

    def fit(self, scores: NDArray[Any], positions: NDArray[np.intp]) -> Self:
        self.factor_ = fit_temperature(scores, positions)
        return self

    def predict_proba(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        return special.softmax(self.factor_ * scores.astype(np.float64), axis=1)
