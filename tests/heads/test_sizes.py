import numpy as np
import pytest

from featx.heads import find_head, fit_head
from featx.heads.sizes import count_parameters
from featx.specs import HeadSpec

DIM = 6


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("logreg", {"C": 1.0}, 3 * (DIM + 1)),
        ("ridge", {"alpha": 1.0}, 3 * (DIM + 1)),
        ("linear-svm", {"C": 1.0}, 3 * (DIM + 1)),
        ("lda", {"shrinkage": 0.1}, 3 * (DIM + 1)),
        ("centroid", {}, 3 * (DIM + 1)),
        ("mlp", {"hidden_layer_sizes": (4,), "max_iter": 500}, 4 * (DIM + 1) + 3 * (4 + 1)),
        ("knn", {"n_neighbors": 3}, None),
        ("random-forest", {"n_estimators": 5}, None),
        ("naive-bayes", {}, None),
        ("svm", {}, None),
        ("dummy", {}, None),
    ],
)
def test_what_a_head_has_learnt(name, params, expected):
    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = (random.normal(size=(60, DIM)) + y[:, np.newaxis]).astype(np.float32)
    head = find_head(name)
    fitted = fit_head(head, X, y, HeadSpec(name, params, head.scalings[0]), np.arange(60) // 3 % 3)
    assert count_parameters(fitted.estimator) == expected
