"""Conformal sets: the classes that cannot be excluded at a coverage, from items that the head was not fitted to.

This is split conformal prediction (V. Vovk, A. Gammerman and G. Shafer, "Algorithmic Learning in a Random World", 2005;
A. N. Angelopoulos and S. Bates, "A gentle introduction to conformal prediction", arXiv:2107.07511, section 1). The
score of an item is 1 minus the probability of its class. If the items that calibrate and new ones are exchangeable, the
set has the true class in at least the share of cases that was asked for.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featx.errors import UsageError

#: Each class has its own threshold if every class has so many items: its coverage is then at most two points above what
#: was asked for.
_FEWEST = 50

#: Rounding of a sum of weights.
_ROUNDING = 1e-9


def check_share(name: str, share: float) -> None:
    """Refuse a share that is not between 0 and 1.

    Raises:
        UsageError: The message names it.
    """
    if not 0 < share < 1:
        msg = f"{name} is {share}; it must be above 0 and below 1, such as 0.9"
        raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The largest scores that conformal sets take.

    Attributes:
        coverage: The coverage that was asked for.
        values: float32 `(n_classes,)`; infinity where any class must be taken.
        by_class: Whether each class has its own, so that the coverage holds for each class.
        note: Why the sets promise less than one may expect; empty if they do not.
    """

    coverage: float
    values: NDArray[np.float32]
    by_class: bool
    note: str = ""

    def find_sets(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return whether each class is in the set of each item, bool `(n, n_classes)`."""
        taken: NDArray[np.bool_] = make_scores(probabilities) <= self.values
        return taken


@dataclass(frozen=True, slots=True)
class Conformal:
    """The scores of items that calibrate.

    Attributes:
        scores: float32 `(n_items,)`, 1 minus the probability of the true class.
        positions: int32 `(n_items,)`, the true class.
        units: int32 `(n_items,)`; items with equal values belong together, as one group or as copies.
        classes: Names of all classes.
    """

    scores: NDArray[np.float32]
    positions: NDArray[np.int32]
    units: NDArray[np.int32]
    classes: tuple[str, ...]

    @classmethod
    def measure(
        cls,
        probabilities: NDArray[np.floating],
        positions: NDArray[np.integer],
        units: NDArray[np.integer],
        classes: tuple[str, ...],
    ) -> "Conformal":
        """Take the scores of items from their probabilities `(n_items, n_classes)`."""
        scores = make_scores(probabilities[np.arange(len(positions)), positions])
        return cls(scores, positions.astype(np.int32), units.astype(np.int32), classes)

    def find_thresholds(self, coverage: float) -> Thresholds:
        """Find the thresholds for a coverage.

        Every class gets its own (V. Vovk, "Conditional validity of inductive conformal predictors", ACML 2012) if each
        has 50 units, and as many as the coverage needs. Otherwise all share one. Where only the coverage is too high,
        it is not below those by class at the highest coverage that has them, so that sets only grow with the coverage.

        Raises:
            UsageError: If the coverage is not between 0 and 1.
        """
        check_share("coverage", coverage)
        members = [self.positions == place for place in range(len(self.classes))]
        counts = [len(np.unique(self.units[own])) for own in members]
        needed = max(_FEWEST, _count_needed(coverage))
        values = np.full(len(self.classes), -math.inf)
        if min(counts) >= _FEWEST:
            share = min(coverage, min(counts) / (min(counts) + 1))
            values = np.array([find_threshold(self.scores[own], self.units[own], share) for own in members])
        if min(counts) >= needed:
            return Thresholds(coverage, values.astype(np.float32), by_class=True)
        value = find_threshold(self.scores, self.units, coverage)
        note = self._note_pooling(coverage, counts, needed) if math.isfinite(value) else self._note_lack(coverage)
        return Thresholds(coverage, np.maximum(values, value).astype(np.float32), by_class=False, note=note)

    def _note_pooling(self, coverage: float, counts: list[int], fewest: int) -> str:
        least = int(np.argmin(counts))
        return (
            f"the coverage {coverage:g} holds for all classes together, not for each: class {self.classes[least]!r} "
            f"has {counts[least]:,} calibrating {self._name_units()}, and each class would need {fewest:,}"
        )

    def _note_lack(self, coverage: float) -> str:
        n_units = len(np.unique(self.units))
        needed = _count_needed(coverage)
        most = n_units / (n_units + 1)
        return (
            f"the coverage {coverage:g} needs {needed:,} calibrating {self._name_units()}, and the bundle has "
            f"{n_units:,}, so every set has all classes; ask for at most {math.floor(most * 1000) / 1000:g}"
        )

    def _name_units(self) -> str:
        return "items" if len(np.unique(self.units)) == len(self.units) else "groups"


def _count_needed(coverage: float) -> int:
    """Return how many units a coverage needs at least."""
    return math.ceil(coverage / (1 - coverage) - _ROUNDING)


def make_scores(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return 1 minus each probability; a small difference from 1 is kept in float32."""
    return (1 - np.asarray(probabilities, np.float64)).astype(np.float32)


def find_threshold(scores: NDArray[np.float32], units: NDArray[np.integer], coverage: float) -> float:
    """Find the smallest score that at least the asked share of items does not exceed; infinity if there is none.

    Each of K units has the weight 1 / (K + 1), shared equally by its items; the rest is that of a new unit, whose
    score may be anything (Y. Lee, R. F. Barber and R. Willett, "Distribution-free inference with hierarchical data",
    arXiv:2306.06342, section 2: it covers an item of a new group). If every item is a unit, this is the
    ceil((n + 1) * coverage)-th smallest of n scores.
    """
    if not len(scores):
        return math.inf
    _, places, sizes = np.unique(units, return_inverse=True, return_counts=True)
    weights = 1 / sizes[places] / (len(sizes) + 1)
    order = np.argsort(scores, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= coverage - _ROUNDING)
    return float(scores[order[reached[0]]]) if len(reached) else math.inf
