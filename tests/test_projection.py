"""Features in two dimensions."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from featx.errors import DataError, MissingExtraError, UsageError
from featx.projection import measure_explained, project_features

GENERATOR = np.random.default_rng(7)


def make_groups(n=600, dim=20, spread=6.0):
    centres = spread * GENERATOR.standard_normal((3, dim))
    groups = np.arange(n) % 3
    return (centres[groups] + GENERATOR.standard_normal((n, dim)) + 50).astype(np.float32), groups


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("n", "dim"), [(600, 20), (10, 40), (60, 400), (30, 5000)])
def test_components_are_those_of_scikit_learn(n, dim, dtype):
    X, _ = make_groups(n, dim)
    X = X.astype(dtype)
    found = project_features(X)
    expected = PCA(2, svd_solver="full").fit(X.astype(np.float64))
    assert found.dtype == np.float32
    assert found.shape == (n, 2)
    np.testing.assert_allclose(np.abs(found), np.abs(expected.transform(X.astype(np.float64))), atol=0.02)
    assert measure_explained(X, found) == pytest.approx(expected.explained_variance_ratio_.sum(), abs=1e-4)


def test_blocks_and_signs_give_the_same_picture(monkeypatch):
    X, _ = make_groups()
    whole = project_features(X)
    monkeypatch.setattr("featx.projection._BLOCK_BYTES", 1)
    np.testing.assert_allclose(project_features(X), whole, atol=1e-3)


@pytest.mark.parametrize(("n", "dim"), [(1, 3), (2, 3), (5, 1), (3, 400), (1, 5000)])
def test_tiny_matrices_have_a_map(n, dim):
    found = project_features(np.ones((n, dim), np.float32))
    assert found.shape == (n, 2)
    assert not found.any()
    assert measure_explained(np.ones((n, dim), np.float32), found) == 1


def test_a_line_has_one_component():
    X = np.outer(np.arange(7, dtype=np.float32), np.linspace(0, 1, 300, dtype=np.float32))
    found = project_features(X)
    assert np.abs(np.diff(found[:, 0])).min() > 1
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-4)


def test_what_cannot_be_projected_is_said():
    with pytest.raises(UsageError, match="choose pca or umap"):
        project_features(np.ones((3, 3)), "tsne")
    with pytest.raises(DataError, match="nothing to project"):
        project_features(np.ones((0, 3)))
    broken = np.ones((3, 3), np.float32)
    broken[1, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        project_features(broken)


def test_a_missing_umap_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'featx\[map\]'") as caught:
        project_features(np.ones((3, 3)), "umap")
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_umap_separates_groups_and_repeats_itself():
    pytest.importorskip("umap", reason="umap-learn is not installed (extra `map`)")
    # In a process of its own: numba's first compilation takes memory for the rest of the process.
    code = """
import warnings; warnings.simplefilter("error")
import numpy as np, sys
sys.path.insert(0, "tests")
from test_projection import make_groups
from featx.projection import project_features
X, groups = make_groups(90)
first, second = project_features(X, "umap", seed=3), project_features(X, "umap", seed=3)
assert (first == second).all() and first.shape == (90, 2)
centres = np.stack([first[groups == each].mean(axis=0) for each in range(3)])
nearest = ((first[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
assert (nearest == groups).mean() > 0.95
assert project_features(X[:12], "umap").shape == (12, 2)
assert project_features(X[:3], "umap").shape == (3, 2)
assert not {"tensorflow", "keras", "umap.parametric_umap"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
