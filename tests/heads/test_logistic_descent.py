import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.heads.logistic import Point, descend


def minimise(start, measure, steps=500, tol=1e-4):
    """Drive a descent with a function of a point: its value and gradient."""
    descent = descend(start, steps)
    x = next(descent)
    while True:
        value, gradient = measure(x.astype(np.float64))
        try:
            x = descent.send(Point(value, gradient.astype(np.float32), bool(np.abs(gradient).max() <= tol)))
        except StopIteration as stop:
            return stop.value


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(1, 1e3))
def test_the_minimum_of_a_quadratic_is_found(seed, size, spread):
    random = np.random.default_rng(seed)
    scales, target = np.geomspace(1, spread, size), random.standard_normal(size)
    found = minimise(np.zeros(size, np.float32), lambda x: (scales @ (x - target) ** 2 / 2, scales * (x - target)))
    assert found.converged
    np.testing.assert_allclose(found.x, target, atol=2e-2)


def test_a_start_at_the_minimum_takes_no_step():
    found = minimise(np.ones(3, np.float32), lambda x: (float(np.sum((x - 1) ** 2)), 2 * (x - 1)))
    assert (found.steps, found.converged) == (0, True)


def test_too_few_steps_are_said():
    scales = np.geomspace(1, 1e4, 50)
    found = minimise(np.ones(50, np.float32), lambda x: (scales @ x**2 / 2, scales * x), steps=3)
    assert (found.steps, found.converged) == (3, False)


def test_a_first_step_that_is_far_too_long_is_shortened():
    found = minimise(np.full(2, 5, np.float32), lambda x: (float(np.logaddexp(x, -x).sum()), np.tanh(x)), tol=1e-3)
    assert found.converged
    np.testing.assert_allclose(found.x, 0, atol=1e-2)
