"""Features in two dimensions, for maps: principal components, or UMAP where its package is installed."""

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError, MissingExtraError, UsageError

Floats = NDArray[np.float32]

#: The methods of `project_features`.
METHODS = ("pca", "umap")

#: Bytes of float32 in one block.
_BLOCK_BYTES = 8 * 2**20

#: Columns up to which the moment matrix is computed; it has 128 MB.
_MOST_COLUMNS = 4096

#: Columns up to which all eigenvectors are computed.
_FEW_COLUMNS = 200

#: Neighbours of an item in UMAP, its default; with fewer items, its spectral start has no solution.
_NEIGHBOURS, _FEW = 15, 8


def project_features(X: Any, method: str = METHODS[0], seed: int = 0) -> Floats:  # noqa: ANN401 - FeatureRows lies above
    """Project features to two dimensions.

    `pca` gives the exact first two principal components in one pass of blocks over the features; above 4,096 columns,
    scikit-learn's randomised ones of a copy in memory. The signs are fixed: the largest weight of each component is
    positive. `umap` (McInnes, Healy & Melville 2018, https://arxiv.org/abs/1802.03426) compares rows by their
    cosine. The same features and seed give the same points on the same machine.

    Args:
        X: Float `(n, dim)`, such as the features of a store; only slices of it are read.
        method: `pca` or `umap`.
        seed: Seed of UMAP; exact components need none.

    Returns:
        float32 `(n, 2)`; zeros where the features have fewer dimensions.

    Raises:
        UsageError: If there is no such method.
        DataError: If there are no features, or some are not finite.
        MissingExtraError: If UMAP is not installed.
    """
    if method not in METHODS:
        msg = f"there is no method {method!r}; choose {' or '.join(METHODS)}"
        raise UsageError(msg)
    project = _import_umap() if method == "umap" else None
    if not all(X.shape) or len(X.shape) != 2:  # noqa: PLR2004 - rows and columns
        msg = f"there is nothing to project: the shape of the features is {tuple(X.shape)}; it must be (items, dim)"
        raise DataError(msg)
    if not np.isfinite(_average(X)).all():
        msg = "the features cannot be projected, because some are not finite; run `featx verify` on their store"
        raise DataError(msg)
    if project and len(X) > _FEW:
        return _project_by_umap(project, X, seed)
    return _project_randomly(X, seed) if X.shape[1] > _MOST_COLUMNS else _project_exactly(X)


def measure_explained(X: Any, points: Floats) -> float:  # noqa: ANN401 - as above
    """Return the share of the variance of features `(n, dim)` that their principal components `(n, 2)` hold."""
    mean = _average(X)
    total = sum(float(np.square(block - mean, dtype=np.float64).sum()) for _, block in _iterate(X))
    kept = float(points.var(axis=0, dtype=np.float64).sum()) * len(points)
    return min(kept / total, 1.0) if total else 1.0


def _iterate(X: Any) -> Iterator[tuple[slice, Floats]]:  # noqa: ANN401 - as above
    step = max(64, _BLOCK_BYTES // (4 * X.shape[1]))
    for start in range(0, len(X), step):
        part = slice(start, min(start + step, len(X)))
        yield part, np.asarray(X[part], np.float32)


def _average(X: Any) -> Floats:  # noqa: ANN401 - as above
    total = sum(block.sum(axis=0, dtype=np.float64) for _, block in _iterate(X))
    return np.asarray(total / len(X), np.float32)


def _project_exactly(X: Any) -> Floats:  # noqa: ANN401 - as above
    """Project on the two eigenvectors of the moment matrix of the centred rows with the largest eigenvalues."""
    mean, dim = _average(X), X.shape[1]
    moments = np.zeros((dim, dim))
    for _, block in _iterate(X):
        centred = block - mean
        moments += centred.T @ centred
    points = np.zeros((len(X), 2), np.float32)
    if not moments.any():  # all rows are equal
        return points
    axes = np.asarray(_fix_signs(_find_axes(moments)), np.float32)
    for part, block in _iterate(X):
        points[part, : axes.shape[1]] = (block - mean) @ axes
    return points


def _find_axes(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two eigenvectors with the largest eigenvalues, the largest first; by Lanczos' method for many columns.

    At 3,472 columns, all eigenvectors take 10 s, and the two by Lanczos' method 0.2 s.
    """
    if len(moments) <= _FEW_COLUMNS:
        return np.asarray(np.linalg.eigh(moments)[1][:, :-3:-1])
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(len(moments))
    values, vectors = eigsh(moments, k=2, v0=start)
    return np.asarray(vectors[:, np.argsort(-values)])


def _project_randomly(X: Any, seed: int) -> Floats:  # noqa: ANN401 - as above
    from sklearn.decomposition import PCA

    everything = np.asarray(X[:], np.float32)
    if len(everything) < 2:  # noqa: PLR2004 - a single row is its own mean
        return np.zeros((len(everything), 2), np.float32)
    pca = PCA(2, svd_solver="randomized", iterated_power=7, random_state=seed).fit(everything)
    axes = _fix_signs(pca.components_.T)
    return np.asarray((everything - pca.mean_) @ axes, np.float32)


def _fix_signs(axes: NDArray[Any]) -> NDArray[Any]:
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return np.asarray(axes * np.where(largest < 0, -1, 1))


def _import_umap() -> Callable[..., Any]:
    # Its parametric form would load TensorFlow, for seconds, and is not used; without it, umap warns and goes on.
    parametric = "umap.parametric_umap"
    is_left_out = sys.modules.setdefault(parametric, None) is None  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=ImportWarning, module="umap")
            from umap import UMAP
    except ImportError as error:
        msg = f"the method umap needs another package: pip install 'featx[map]' ({error})"
        raise MissingExtraError(msg) from error
    finally:
        if is_left_out:
            del sys.modules[parametric]
    return UMAP  # type: ignore[no-any-return]


def _project_by_umap(umap: Callable[..., Any], X: Any, seed: int) -> Floats:  # noqa: ANN401 - as above
    everything = np.asarray(X[:], np.float32)
    # One thread, which a seed asks for anyway; said here, it needs no warning.
    model = umap(n_components=2, n_neighbors=min(_NEIGHBOURS, len(X) - 1), metric="cosine", random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        # Groups that no neighbours join are what a map may show.
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        warnings.filterwarnings("ignore", message="Spectral initialisation failed")
        return np.asarray(model.fit_transform(everything), np.float32)
