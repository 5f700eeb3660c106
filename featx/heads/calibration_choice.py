"""The choice of a calibration, by cross-fitted scores of held-out items."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from featx.evaluation.metrics import make_gaps
from featx.files import reserve_file
from featx.heads.calibration import Calibrator
from featx.heads.plain import CURVES, METHODS, FloatArray
from featx.heads.rows import DOUBLES, cut_rows

Split = tuple[NDArray[np.intp], NDArray[np.intp]]

#: A gain is beyond noise if it exceeds this many standard errors, in the terms of a normal distribution.
_ERRORS = 2.0

#: ... and if this many units have an error: fewer cannot show that more confidence is right.
_FEWEST_ERRORS = 4

#: The other score must not be worse by more than this many standard errors.
_TOLERANCE = 0.25

#: Also, a gain of the log-loss is beyond noise if scores that are probabilities already reach it with a chance below
#: this: the likelihood ratio of the held-out items exceeds its inverse. It may come from one item, so the Brier score
#: must be lower by this many standard errors.
_CHANCE, _BRIER_ERRORS = 0.01, 1.0

#: The least probability in a log-loss, as in the scores themselves.
_LEAST = 1e-12

#: Curves for each class are tried up to this many values, and steps from this many units on.
_MOST_FOR_CURVES, _FEWEST_FOR_STEPS = 200_000, 1000

#: Constants for each class are tried up to this many values.
_MOST_FOR_BIASES = 5_000_000

#: A smaller rise of the calibration error is not worth a warning.
_LEAST_RISE = 0.01


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """A method of calibration, and the probabilities that it makes.

    Attributes:
        method: One of `METHODS`.
        probabilities: float64 (n_items, n_classes); those of each fold are from a calibrator of the other folds.
        notes: What a user should know, without the name of the head.
    """

    method: str
    probabilities: FloatArray
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Scores of items that were held out when they were scored.

    Attributes:
        scores: float (n_items, n_classes), margins or log-probabilities; minus infinity for a class that was not
            trained on.
        positions: int (n_items,), the column of each item's class.
        splits: For each fold of whole units, the other items and its own.
        units: int (n_items,), items with equal values belong together.
        weights: float64 (n_items,).
    """

    scores: NDArray[np.floating[Any]]
    positions: NDArray[np.intp]
    splits: Sequence[Split]
    units: NDArray[np.intp]
    weights: FloatArray

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the class of each item was trained on when the item was held out."""
        known: NDArray[np.bool_] = np.isfinite(self.scores[np.arange(len(self.scores)), self.positions])
        return known

    def keep_items(self, copies: int) -> "HeldOut":
        """Return the scores of the first of every `copies` rows, which are the views of one item."""
        if copies == 1:
            return self
        splits = [
            (train[train % copies == 0] // copies, held[held % copies == 0] // copies) for train, held in self.splits
        ]
        scores, positions = self.scores[::copies], self.positions[::copies]
        return HeldOut(scores, positions, splits, self.units[::copies], self.weights[::copies])

    def cross_fit(self, method: str) -> FloatArray:
        """Return probabilities, float64 (n_items, n_classes); the calibrator of each fold is fitted to the others."""
        if method == "none":
            return take_softmax(self.scores)
        known, probabilities = self.known, _reserve_like(self.scores)
        for train, held in self.splits:
            rows = train if known[train].any() else np.arange(len(known))
            calibrator = Calibrator(method).fit(self.scores[rows], self.positions[rows], self.weights[rows])
            for part in cut_rows(len(held), DOUBLES * self.scores.shape[1]):
                probabilities[held[part]] = calibrator.predict_proba(self.scores[held[part]])
        return probabilities


def take_softmax(scores: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the softmax of scores (n_items, n_classes), float64; if these are mapped from a file, it is too."""
    shares = _reserve_like(scores)
    for part in cut_rows(len(scores), DOUBLES * scores.shape[1]):
        shares[part] = special.softmax(scores[part].astype(np.float64), axis=1)
    return shares


def _reserve_like(scores: NDArray[np.floating[Any]]) -> FloatArray:
    return reserve_file(scores.shape, np.float64) if isinstance(scores, np.memmap) else np.empty(scores.shape)


def choose_calibration(held_out: HeldOut, asked: str | None, *, margins: bool = False) -> CalibrationChoice:
    """Choose the calibration that predicts held-out items best, if its gain is beyond noise.

    The base is `none`, or `temperature` for margins. Another method is chosen only if its log-loss or
    its Brier score is lower beyond noise, and the other of the two is not higher. Of these methods, the
    one with the lowest log-loss is chosen. Calibrators are fitted to other items than those by which they
    are compared, and standard errors are those of sums over units.

    Args:
        held_out: The scores.
        asked: The method to use; None chooses one.
        margins: Whether the scores are margins, whose softmax is not a probability.
    """
    base = "temperature" if margins else "none"
    if not held_out.known.any():  # nothing to compare by
        method = asked or "none"
        return CalibrationChoice(method, held_out.cross_fit(method), ())
    before = _Trial.measure(held_out, base)
    chosen = before if asked is None or asked == base else _Trial.measure(held_out, asked)
    for method in _list_candidates(held_out, base) if asked is None else []:
        trial = _Trial.measure(held_out, method)
        if trial.log_loss < chosen.log_loss and trial.improves(before):
            chosen = trial
    return CalibrationChoice(chosen.method, chosen.probabilities, tuple(_describe(before, chosen, asked)))


def _list_candidates(held_out: HeldOut, base: str) -> list[str]:
    """List the methods that are worth a trial, the simplest first."""
    n_units, n_values = np.count_nonzero(np.bincount(held_out.units)), held_out.scores.size
    methods = [method for method in METHODS if method not in {"none", base}]
    if n_units < _FEWEST_FOR_STEPS:
        methods.remove("isotonic")
    if n_values > _MOST_FOR_CURVES:
        methods = [method for method in methods if method not in CURVES]
    if n_values > _MOST_FOR_BIASES:
        methods.remove("bias")
    return methods


@dataclass(frozen=True, slots=True)
class _Trial:
    """The cross-fitted probabilities of one method, and their scores.

    Attributes:
        method: The method.
        probabilities: float64 (n_items, n_classes).
        scores: By known item, its log-loss and its Brier score, float64 (2, n_known).
        calibration_error: The expected calibration error.
        known: The held-out items that the scores are of.
        held_out: The held-out items.
    """

    method: str
    probabilities: FloatArray
    scores: FloatArray
    calibration_error: float
    known: NDArray[np.intp]
    held_out: HeldOut

    @classmethod
    def measure(cls, held_out: HeldOut, method: str) -> "_Trial":
        probabilities = held_out.cross_fit(method)
        known = np.flatnonzero(held_out.known)
        columns = held_out.positions[known]
        own, squares = probabilities[known, columns], np.einsum("ij,ij->i", probabilities, probabilities)[known]
        scores = np.stack([-np.log(np.maximum(own, _LEAST)), squares - 2 * own + 1])
        confidences, right = probabilities.max(axis=1)[known], probabilities.argmax(axis=1)[known] == columns
        weights = held_out.weights[known]
        error = float(np.abs(make_gaps(confidences, right) @ weights).sum() / weights.sum())
        return cls(method, probabilities, scores, error, known, held_out)

    @property
    def log_loss(self) -> float:
        return float(np.average(self.scores[0], weights=self.held_out.weights[self.known]))

    def improves(self, base: "_Trial") -> bool:
        """Return whether one score is better beyond noise, and the other is not worse."""
        gains = base.scores - self.scores
        loss, brier = (self._standardize(gain) for gain in gains)
        if min(loss, brier) < -_TOLERANCE:
            return False
        few = base.count_errors() < _FEWEST_ERRORS
        likelier = brier > _BRIER_ERRORS and self._measure_evidence(gains[0]) > math.log(1 / _CHANCE)
        return (max(loss, brier) > _ERRORS and not few) or likelier

    def count_errors(self) -> int:
        """Count the units with an item that is not predicted correctly."""
        wrong = self.probabilities.argmax(axis=1)[self.known] != self.held_out.positions[self.known]
        return len(np.unique(self.held_out.units[self.known][wrong]))

    def _standardize(self, gain: FloatArray) -> float:
        """Return a weighted mean of gains over its standard error, as of a normal distribution."""
        units, weights = self._number_units(), self.held_out.weights[self.known]
        n_units = int(units.max()) + 1
        if n_units < 2:  # noqa: PLR2004 - no variance
            return 0.0
        mean = np.average(gain, weights=weights)
        excess = np.bincount(units, weights=weights * (gain - mean))
        error = math.sqrt(n_units / (n_units - 1) * float(excess @ excess)) / weights.sum()
        if error == 0:
            return 0.0
        return float(special.ndtri(special.stdtr(n_units - 1, mean / error)))

    def _measure_evidence(self, gain: FloatArray) -> float:
        """Return the log of the mean over folds of the likelihood ratio of the calibrated to the given probabilities.

        If the given ones are true, its mean is at most 1 (L. Wasserman, A. Ramdas and S. Balakrishnan,
        "Universal inference", PNAS 117 (2020), 16880-16890, section 4), however heavy the tails. The items of
        a unit count as one, with the geometric mean of their ratios, which is no larger than the mean. Nothing
        is shown where items have different weights, since the given probabilities are then not meant to be true.
        """
        if np.ptp(self.held_out.weights) > 0:
            return -math.inf
        placed = np.full(len(self.held_out.scores), np.nan)
        placed[self.known] = gain
        sums = []
        for _, held in self.held_out.splits:
            rows = held[~np.isnan(placed[held])]
            _, units, sizes = np.unique(self.held_out.units[rows], return_inverse=True, return_counts=True)
            sums.append(float((placed[rows] / sizes[units]).sum()))
        return float(special.logsumexp(sums)) - math.log(len(sums))

    def _number_units(self) -> NDArray[np.intp]:
        numbers: NDArray[np.intp] = np.unique(self.held_out.units[self.known], return_inverse=True)[1]
        return numbers


def _describe(before: _Trial, after: _Trial, asked: str | None) -> list[str]:
    """Describe a choice that changed the probabilities, and warn of a larger calibration error."""
    base, chosen = before.method, after.method
    if chosen == base:
        return []
    losses = f"log-loss {before.log_loss:.3f} with {base}, {after.log_loss:.3f} with {chosen}"
    notes = [] if asked else [f"calibration {chosen} is chosen by held-out items: {losses}"]
    rise = after.calibration_error - before.calibration_error
    if rise > max(_LEAST_RISE, 0.5 / math.sqrt(len(np.unique(before.held_out.units)))):
        errors = f"{before.calibration_error:.3f} to {after.calibration_error:.3f}"
        notes.append(
            f"calibration {chosen} raises the calibration error on held-out items from {errors} "
            f"({losses}); try --calibration {base}"
        )
    return notes
