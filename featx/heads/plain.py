"""Heads as plain arrays, which answer in NumPy: linear heads and networks, with their scaling and calibration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featx.errors import BundleError, DataError
from featx.files import DAMAGES, Result, list_members, read_result, write_result
from featx.heads.architectures import MOST_UNITS, compute_logits, sigmoid, softmax, split_blocks, take_probabilities
from featx.heads.rows import divide_parts
from featx.specs import CALIBRATIONS, SCALINGS

FloatArray = NDArray[np.float64]

#: The methods of calibration.
METHODS = CALIBRATIONS[1:]

#: Those with a curve for each class. Steps can bend anywhere, so they need about a thousand items or more.
CURVES = ("sigmoid", "isotonic")

#: How the outputs of a classifier become the scores that are calibrated: the logarithms of their softmax, the outputs
#: as they are (where two classes share one output, 0 and the output, or minus the output and the output), or the
#: logarithms of probabilities that were computed first.
SCORES = ("log-softmax", "margins", "opposed", "log-probabilities")

#: A linear head divides the products of its items by their lengths, and not the items: the same but for rounding,
#: which steps can magnify.
DIVIDED = "l2-divided"

#: Added to probabilities, which stay finite in logarithms; that of scikit-learn's temperature scaling.
_SMALLEST = 1e-12

_BINARY = 2

#: The arrays of a calibration, by its method; those of steps are joined.
_ARRAYS = {"bias": ("biases",), "sigmoid": ("slopes", "offsets")}

#: A record has a few words and numbers.
_MOST_RECORD_BYTES = 1 << 16


@dataclass(frozen=True)
class Calibration:
    """A map from scores to probabilities, already fitted; see `featx.heads.calibration.Calibrator`.

    Attributes:
        method: One of `METHODS`.
        n_classes: Number of columns of the scores.
        factor, share, biases, slopes, offsets, knots: As `Calibrator` has them, with `_` at the end; only those of
            the method are used.
    """

    method: str
    n_classes: int
    factor: float = 1.0
    share: float = 0.0
    biases: Any = None
    slopes: Any = None
    offsets: Any = None
    knots: Any = ()

    @property
    def n_curves(self) -> int:
        """Number of curves: one is enough for two classes."""
        return 1 if self.n_classes == _BINARY else self.n_classes

    def check(self) -> None:
        """Check parameters that come from a file; an array instead of a number would multiply memory.

        Raises:
            AttributeError, TypeError: If a parameter is missing, or of another type than fitting leaves.
            ValueError: If they do not fit together, or are not finite.
        """
        if self.method not in CURVES:
            fits = self.method in METHODS and isinstance(self.factor, float) and 0 < self.factor < np.inf
            if self.method == "mixture":
                fits = fits and isinstance(self.share, float) and 0 <= self.share <= 1
            elif self.method == "bias":
                fits = fits and self.biases.shape == (self.n_classes,) and bool(np.isfinite(self.biases).all())
        elif self.method == "sigmoid":  # an offset of minus infinity is that of a class without items
            fits = self.slopes.shape == self.offsets.shape == (self.n_curves,)
            fits = fits and bool(np.isfinite(self.slopes).all() and (self.offsets < np.inf).all())
        else:
            knots = [np.asarray(curve, np.float64) for curve in self.knots]
            fits = len(knots) == self.n_curves and all(
                curve.shape == (2, curve.size // 2) and curve.size > 0 and np.isfinite(curve).all() for curve in knots
            )
        if not fits:
            msg = "a calibration whose parts do not fit"
            raise ValueError(msg)

    def predict_proba(self, scores: ArrayLike) -> FloatArray:
        """Map scores (n_items, n_classes) to probabilities, whose rows sum to 1.

        Raises:
            DataError: If there are not as many columns as were fitted, or a score cannot be used.
        """
        given = check_scores(scores).astype(np.float64, copy=False)
        if given.shape[1] != self.n_classes:
            msg = f"scores have {given.shape[1]} columns; the calibration was fitted to {self.n_classes}"
            raise DataError(msg)
        equal: FloatArray = np.isfinite(given) / np.isfinite(given).sum(axis=1, keepdims=True)
        if self.method not in CURVES:
            margins = self.factor * given + (self.biases if self.method == "bias" else 0.0)
            share = self.share if self.method == "mixture" else 0.0
            return np.asarray((1 - share) * softmax(margins) + share * equal)
        curves = list_curves(given)
        chances = np.stack([self._apply_curve(number, curve) for number, curve in enumerate(curves.T)], axis=1)
        if self.n_classes == _BINARY:  # the other has the rest
            return np.concatenate([1 - chances, chances], axis=1)
        total = chances.sum(axis=1, keepdims=True)
        return np.where(total > 0, chances / np.where(total > 0, total, 1), equal)

    def _apply_curve(self, number: int, curve: FloatArray) -> FloatArray:
        """Return the probabilities for one curve's scores; 0 and 1 at the infinities."""
        finite = np.where(np.isfinite(curve), curve, 0)
        if self.method == "sigmoid":
            chances = sigmoid(self.slopes[number] * finite + self.offsets[number])
        else:
            chances = np.interp(finite, *self.knots[number])
        return np.where(np.isfinite(curve), chances, curve > 0)


def check_scores(scores: ArrayLike) -> NDArray[np.floating[Any]]:
    """Refuse scores that cannot be calibrated; return those in float32 as they are, and others in float64.

    Raises:
        DataError: If they are not a matrix of items and classes, or have NaN, infinity, or a row of minus infinity.
    """
    given = np.asarray(scores)
    given = given if given.dtype == np.float32 else given.astype(np.float64, copy=False)
    if given.ndim != 2 or len(given) == 0 or given.shape[1] < _BINARY:  # noqa: PLR2004 - items and classes
        msg = f"scores have the shape {given.shape}; pass (items, classes), with at least one item and two classes"
        raise DataError(msg)
    if np.isnan(given).any() or (given == np.inf).any() or (given == -np.inf).all(axis=1).any():
        msg = "scores contain NaN, infinity, or a row without a finite score; pass margins or log-probabilities"
        raise DataError(msg)
    return given


def list_curves(scores: FloatArray) -> FloatArray:
    """Return the scores that the curves map, float64 (n_items, n_curves); of two classes their difference."""
    return scores[:, 1:] - scores[:, :1] if scores.shape[1] == _BINARY else scores


@dataclass(frozen=True)
class PlainHead:
    """A fitted head as arrays.

    Attributes:
        classes_: int64 (n_classes,).
        weights: As Keras orders them, see `featx.heads.architectures`; a linear head is a network of one layer.
        scores: One of `SCORES`.
        scaling: One of `SCALINGS`, of the features before the first layer; or `DIVIDED`.
        shift, scale: float64 (dim,), for the scaling `standard`.
        calibration: None if the probabilities are the softmax of the outputs.
        widths: Columns of each part of the features, each divided by its length before the scaling; empty for none.
    """

    classes_: NDArray[np.int64]
    weights: list[NDArray[Any]]
    scores: str
    scaling: str = "none"
    shift: FloatArray | None = None
    scale: FloatArray | None = None
    calibration: Calibration | None = None
    widths: tuple[int, ...] = ()

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Return probabilities (n_items, n_classes) of float32 features (n_items, dim).

        Raises:
            DataError: If the features have another width, or are not finite.
        """
        features = np.asarray(X, np.float32)
        dim = len(self.weights[0])
        if features.ndim != 2 or features.shape[1] != dim:  # noqa: PLR2004 - items and features
            msg = f"features have the shape {features.shape}; the head was trained on {dim} columns"
            raise DataError(msg)
        outputs = self._compute(divide_parts(features, self.widths) if self.widths else features)
        if not np.isfinite(outputs).all():
            msg = "the features of some items are not finite, or too large for the head; embed these items again"
            raise DataError(msg)
        if self.calibration is None:
            if self.scores == "log-probabilities":
                return take_probabilities(outputs).astype(np.float64)
            return softmax(_spread(outputs).astype(np.float64))
        return self.calibration.predict_proba(self._score(outputs))

    def _compute(self, features: NDArray[np.float32]) -> NDArray[Any]:
        if self.scaling == DIVIDED:
            kernel, bias = self.weights
            return np.asarray((features @ kernel) / _measure_lengths(features) + bias)
        if self.scaling == "standard":
            shift, scale = np.asarray(self.shift, np.float32), np.asarray(self.scale, np.float32)
            features = (features - shift) / scale
        elif self.scaling == "l2":
            features = features / _measure_lengths(features)
        return compute_logits(self.weights, features, _count_outputs(self.classes_))

    def _score(self, outputs: NDArray[Any]) -> NDArray[Any]:
        if self.scores == "opposed" and outputs.shape[1] == 1:
            return np.concatenate([-outputs, outputs], axis=1)
        spread = _spread(outputs)
        if self.scores == "log-softmax":
            below = spread - spread.max(axis=1, keepdims=True)
            return np.asarray(below - np.log(np.exp(below).sum(axis=1, keepdims=True)))
        if self.scores == "log-probabilities":
            return np.asarray(np.log(take_probabilities(outputs) + np.asarray(_SMALLEST, outputs.dtype)))
        return spread

    def check(self) -> None:
        """Check arrays that come from a file.

        Raises:
            AttributeError, TypeError: If a part is missing, or of another type than `make_plain_head` leaves.
            ValueError: If the parts do not fit together, or are not finite.
        """
        classes, dim = self.classes_, len(self.weights[0])
        if classes.dtype != np.int64 or classes.ndim != 1 or len(classes) < _BINARY:
            msg = f"classes of {classes.dtype} {classes.shape}"
            raise ValueError(msg)
        if (
            len(set(classes.tolist())) != len(classes)  # `np.unique` imports another part of NumPy
            or self.scores not in SCORES
            or self.scaling not in (*SCALINGS, DIVIDED)
            or (self.scaling == DIVIDED and len(self.weights) != 2)  # noqa: PLR2004 - one layer
        ):
            msg = "classes that occur twice, or an unknown scaling or kind of scores"
            raise ValueError(msg)
        if not all(part.dtype in (np.float32, np.float64) and np.isfinite(part).all() for part in self.weights):
            msg = "weights that are not finite numbers"
            raise ValueError(msg)
        blocks = list(split_blocks(self.weights, dim, _count_outputs(classes)))
        if not dim or any(not 0 < block.bias.size <= MOST_UNITS for block in blocks[:-1]):
            msg = "a layer without units, or with too many"
            raise ValueError(msg)
        if any(block.normalization and block.normalization[3].min() < 0 for block in blocks):
            msg = "a variance below 0"
            raise ValueError(msg)
        if self.widths and (sum(self.widths) != dim or min(self.widths) < 1):
            msg = "parts of features that do not fit"
            raise ValueError(msg)
        if self.scaling == "standard":
            _check_moments(self.shift, self.scale, dim)
        if self.calibration is not None:
            self.calibration.check()

    def write(self, path: Path) -> None:
        """Write the head; an existing file is replaced."""
        arrays: dict[str, NDArray[Any]] = {"classes": self.classes_}
        arrays |= {f"weights_{number}": part for number, part in enumerate(self.weights)}
        record: dict[str, Any] = {"scores": self.scores, "scaling": self.scaling, "calibration": None}
        if self.shift is not None and self.scale is not None:
            arrays |= {"shift": self.shift, "scale": self.scale}
        if self.widths:
            record["widths"] = list(self.widths)
        if calibration := self.calibration:
            record["calibration"] = {name: getattr(calibration, name) for name in ("method", "factor", "share")}
            arrays |= {name: getattr(calibration, name) for name in _ARRAYS.get(calibration.method, ())}
            if calibration.method == "isotonic":
                arrays["knots"] = np.concatenate(calibration.knots, axis=1)
                arrays["knot_counts"] = np.array([curve.shape[1] for curve in calibration.knots], np.int64)
        write_result(path, Result(record, arrays))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a head from a file that may be untrusted.

        Raises:
            BundleError: If the file is damaged.
        """
        try:
            return cls.read(path)
        except (*DAMAGES, AttributeError, TypeError, MemoryError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            msg = f"{path} is damaged ({reason}); copy the bundle again, or fit it again"
            raise BundleError(msg) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a head from a file that may be untrusted.

        Raises:
            DAMAGES, AttributeError, TypeError: Any of them (see `featx.files`), if the file is damaged.
        """
        if list_members(path)["record.npy"] > _MOST_RECORD_BYTES:
            msg = f"{path.name} has a record that is too large"
            raise ValueError(msg)
        result = read_result(path)
        record, arrays = result.record, dict(result.arrays)
        classes = arrays.pop("classes")
        n_weights = sum(name.startswith("weights_") for name in arrays)
        weights = [arrays.pop(f"weights_{number}") for number in range(n_weights)]
        shift, scale = (
            [arrays.pop(name) for name in ("shift", "scale")] if record["scaling"] == "standard" else (None,) * 2
        )
        calibration = _read_calibration(record["calibration"], arrays, len(classes))
        widths = tuple(map(int, record.get("widths", ())))
        head = cls(classes, weights, record["scores"], record["scaling"], shift, scale, calibration, widths)
        if arrays or not weights:
            msg = f"{path.name} has no weights, or arrays that no head has: {', '.join(arrays)[:200]}"
            raise ValueError(msg)
        head.check()
        return head


def _read_calibration(
    values: Mapping[str, Any] | None, arrays: dict[str, NDArray[Any]], n_classes: int
) -> Calibration | None:
    """Read a calibration, and take its arrays out of those of the file."""
    if values is None:
        return None
    curves = {name: arrays.pop(name) for name in _ARRAYS.get(values["method"], ())}
    if any(array.dtype != np.float64 for array in curves.values()):
        msg = "a calibration in other numbers than float64"
        raise ValueError(msg)
    knots: list[NDArray[Any]] = []
    if values["method"] == "isotonic":
        joined, counts = arrays.pop("knots"), arrays.pop("knot_counts")
        if (
            counts.dtype != np.int64
            or joined.dtype != np.float64
            or (counts.ndim, joined.ndim) != (1, 2)
            or not ((counts >= 1) & (counts <= joined.shape[1])).all()
            or counts.sum() != joined.shape[1]
        ):
            msg = "a calibration whose knots do not fit"
            raise ValueError(msg)
        knots = np.split(joined, np.cumsum(counts)[:-1], axis=1)
    return Calibration(values["method"], n_classes, values["factor"], values["share"], **curves, knots=knots)


def _check_moments(shift: Any, scale: Any, dim: int) -> None:  # noqa: ANN401 - what a file holds
    for array in (shift, scale):
        if array.dtype != np.float64 or array.shape != (dim,) or not np.isfinite(array).all():
            msg = "a scaling that does not fit its features"
            raise ValueError(msg)
    with np.errstate(over="ignore"):
        if not (scale.astype(np.float32) > 0).all():
            msg = "a scaling by 0 or less"
            raise ValueError(msg)


def _count_outputs(classes: NDArray[Any]) -> int:
    return 1 if len(classes) == _BINARY else len(classes)


def _measure_lengths(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure the length of each item, float32 (n_items, 1); 0 counts as 1."""
    lengths = np.sqrt(np.einsum("ij,ij->i", features, features))
    return np.asarray(np.where(lengths > 0, lengths, np.float32(1))[:, None])


def _spread(outputs: NDArray[Any]) -> NDArray[Any]:
    """Give both classes a column, 0 and the output, where there is one output for two."""
    return outputs if outputs.shape[1] > 1 else np.concatenate([np.zeros_like(outputs), outputs], axis=1)
