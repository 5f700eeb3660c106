"""How many parameters a fitted head has learnt."""

import math
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

#: The arrays that are learnt parameters, in a linear head, in scikit-learn's network and in Keras's.
_LEARNT = (("coef_", "intercept_"), ("coefs_", "intercepts_"), ("weights_",))


def count_parameters(estimator: Pipeline) -> int | None:
    """Count coefficients and intercepts of a linear head, or all weights of a network.

    The few of calibration and scaling are left out.

    Args:
        estimator: A fitted head.

    Returns:
        The number; None for what keeps items, trees or moments in place of parameters.
    """
    classifier = estimator[-1]
    classifier = getattr(classifier, "classifier_", classifier)
    for names in _LEARNT:
        parts = [vars(classifier)[name] for name in names if name in vars(classifier)]
        if len(parts) == len(names):
            return sum(map(_count, parts))
    return None


def _count(part: Any) -> int:  # noqa: ANN401 - an array, or a list of arrays
    return sum(map(_count, part)) if isinstance(part, list | tuple) else math.prod(np.shape(part))
