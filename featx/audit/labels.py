"""Labels that the features contradict, and items that are far from all others."""

import numpy as np
from numpy.typing import NDArray

from featx.audit.findings import Finding
from featx.errors import FeatxError
from featx.fitting.fitting import fit
from featx.heads.rows import FeatureRows
from featx.nearest import Nearest
from featx.options import FitOptions
from featx.reporting import Progress, Reporter
from featx.store import FeatureStore

Floats = NDArray[np.float64]

#: The head that predicts each item while it is held out, and the folds.
_HEAD, _FOLDS = "logreg", 5

#: Neighbours whose mean distance counts, and how many quartile ranges above the upper quartile an outlier begins
#: (the inner fence of Tukey 1977, "Exploratory Data Analysis", chapter 2).
_NEIGHBOURS, _RANGES = 10, 1.5

_QUERIES, _KEYS = 1024, 4096


def find_suspicious_labels(store: FeatureStore, seed: int, reporter: Reporter) -> tuple[list[Finding], list[str]]:
    """Find items whose label is probably wrong, by confident learning on held-out probabilities.

    The probabilities come from a cross-validation of logistic regression. cleanlab compares them with the labels
    (Northcutt, Jiang & Chuang 2021, "Confident learning: estimating uncertainty in dataset labels") and estimates how
    many are wrong; so many items are found, those with the least probability of their own label first.

    Args:
        store: The store.
        seed: Seed of the folds.
        reporter: Receives the progress.

    Returns:
        The findings, and why there are none if labels cannot be examined.
    """
    from cleanlab.count import num_label_issues
    from cleanlab.rank import get_label_quality_scores

    try:
        run = fit(store, _HEAD, options=FitOptions(cv=_FOLDS, folder=None, seed=seed, reporter=reporter))
    except FeatxError as error:
        return [], [f"labels were not examined: {error}"]
    columns = run.tested or {}
    ids, labels = columns["id"], np.asarray(columns["label"])
    classes = [name.removeprefix("probability_") for name in columns if name.startswith("probability_")]
    probabilities = np.column_stack([columns[f"probability_{name}"] for name in classes])
    targets = (
        np.searchsorted(classes, labels) if classes == sorted(classes) else np.array([classes.index(x) for x in labels])
    )
    quality = get_label_quality_scores(targets, probabilities, method="self_confidence")
    order = np.argsort(quality, kind="stable")[: num_label_issues(targets, probabilities)]
    found = []
    for row in order:
        likely = int(probabilities[row].argmax())
        own = float(probabilities[row, targets[row]])
        if likely != targets[row]:
            detail = (
                f"labelled {labels[row]} ({own:.3f}), looks like {classes[likely]} ({probabilities[row, likely]:.3f})"
            )
            found.append(Finding(str(ids[row]), "suspicious label", 1 - own, f"label {classes[likely]}", "", detail))
    return found, []


def find_outliers(store: FeatureStore, progress: Progress | None = None) -> list[Finding]:
    """Find items whose nearest items are unusually far away.

    The distance is 1 - cosine to the 10 nearest items, on average. What is more than 1.5 quartile ranges above the
    upper quartile of all distances is an outlier; of equal files, one counts in the quartiles.

    Args:
        store: The store.
        progress: Called with the items that are done, and all.
    """
    n_items = len(store)
    count = min(_NEIGHBOURS, n_items - 1)
    if count < 1:
        return []
    distances = _measure_distances(store, count, progress)
    _, distinct = np.unique(store.sha256, return_index=True)
    low, high = np.quantile(distances[distinct], (0.25, 0.75))
    limit = high + _RANGES * max(high - low, 1e-6)
    far = np.flatnonzero(distances > limit)
    return [
        Finding(
            str(store.ids[row]),
            "outlier",
            float(distances[row]),
            "check",
            "",
            f"mean distance to the {count} nearest is {distances[row]:.3f}; three quarters of all are below {high:.3f}",
        )
        for row in far[np.argsort(-distances[far], kind="stable")]
    ]


def _measure_distances(store: FeatureStore, count: int, progress: Progress | None) -> Floats:
    """Return the mean distance of each item to its nearest others, float64 `(n_items,)`."""
    rows = FeatureRows(store.features)
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _QUERIES):
        queries = _normalise(rows[start : start + _QUERIES])
        nearest = Nearest(len(queries), count + 1)  # itself is one of them
        for first in range(0, len(rows), _KEYS):
            nearest.add(queries @ _normalise(rows[first : first + _KEYS]).T, first)
        own = nearest.positions == np.arange(start, start + len(queries))[:, None]
        own[~own.any(axis=1), -1] = True  # of equal items, another may be in its place
        others = nearest.similarities[~own].reshape(len(queries), count)
        distances[start : start + len(queries)] = np.maximum(1 - others.mean(axis=1, dtype=np.float64), 0)
        if progress:
            progress(min(start + _QUERIES, len(rows)), len(rows))
    return distances


def _normalise(block: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
    return np.asarray(block / np.where(lengths > 0, lengths, 1)[:, None])
