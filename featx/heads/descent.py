"""L-BFGS for several problems at a time, so that one pass over the features serves all of them.

Each problem is a generator: it yields the point whose value and gradient it wants next,
and gets them sent. Whoever drives the generators gathers the points of all problems that
are not done, and computes them together.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Pairs of steps and changes of the gradient that a problem remembers.
_MEMORY = 6
#: A step is taken if it brings this part of what the slope promises (Nocedal & Wright 2006, eq. 3.4).
_SUFFICIENT = 1e-4
_MOST_HALVINGS = 20
#: Values that differ by less, relatively, are equal: their sums of float32 terms are not better known.
_NOISE = 1e-6
#: After so many steps between equal values there is nothing left to find.
_MOST_IDLE = 10


@dataclass(frozen=True, slots=True)
class Point:
    """What is known at a point.

    Attributes:
        value: The function's value.
        gradient: float32, of the point's shape.
        done: Whether the gradient is small enough, in the units of whoever asks.
    """

    value: float
    gradient: Floats
    done: bool


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where a descent ended.

    Attributes:
        x: float32, the best point.
        steps: Steps taken.
        converged: Whether the gradient became small enough, or the value as small as float32 can tell.
    """

    x: Floats
    steps: int
    converged: bool


def descend(start: Floats, max_steps: int) -> Generator[Floats, Point, Minimum]:
    """Minimise a smooth convex function by L-BFGS.

    J. Nocedal and S. J. Wright, "Numerical Optimization" (2006), algorithm 7.4 with
    backtracking; a convex function needs no more, as every step then has curvature.

    Args:
        start: float32, any shape.
        max_steps: The most steps to take.

    Yields:
        The points whose `Point` is wanted next.

    Returns:
        The minimum.
    """
    x, here = start, (yield start)
    pairs: deque[tuple[Floats, Floats, float]] = deque(maxlen=_MEMORY)
    idle = 0
    for step in range(max_steps):
        if here.done or idle > _MOST_IDLE:
            return Minimum(x, step, converged=True)
        direction = _find_direction(here.gradient, pairs)
        slope = _dot(direction, here.gradient)
        length, found = 1.0 if pairs else min(1.0, 1.0 / (float(np.sqrt(-slope)) or 1.0)), None
        for _ in range(_MOST_HALVINGS):
            trial = x + np.float32(length) * direction
            found = yield trial
            if found.value <= here.value + _SUFFICIENT * length * slope + _NOISE * abs(here.value):
                break
            length *= _shrink(here.value, slope, found.value, length)
        else:
            return Minimum(x, step, converged=True)  # nothing lower can be told apart
        change = found.gradient - here.gradient
        curvature = length * _dot(direction, change)
        if curvature > 0:
            pairs.append((np.float32(length) * direction, change, curvature))
        idle = idle + 1 if here.value - found.value <= _NOISE * abs(here.value) else 0
        x, here = trial, found
    return Minimum(x, max_steps, converged=here.done)


def _find_direction(gradient: Floats, pairs: deque[tuple[Floats, Floats, float]]) -> Floats:
    """Multiply the gradient by minus the inverse Hessian that the pairs suggest."""
    direction = -gradient
    shares = []
    for moved, change, curvature in reversed(pairs):
        share = _dot(moved, direction) / curvature
        shares.append(share)
        direction -= np.float32(share) * change
    if pairs:
        _, change, curvature = pairs[-1]
        direction *= np.float32(curvature / _dot(change, change))
    for (moved, change, curvature), share in zip(pairs, reversed(shares), strict=True):
        direction += np.float32(share - _dot(change, direction) / curvature) * moved
    return direction


def _shrink(value: float, slope: float, found: float, length: float) -> float:
    """Return the factor to the minimum of the parabola through what is known, kept between 0.1 and 0.5."""
    excess = found - value - slope * length
    factor = -slope * length / (2 * excess) if np.isfinite(excess) and excess > 0 else 0.1
    return min(0.5, max(0.1, factor))


def _dot(a: Floats, b: Floats) -> float:
    return float(np.vdot(a, b))
