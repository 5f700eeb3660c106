"""Lessons: what a head learns from and predicts, told in few words to whatever process does it."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # it ships no types

from featx.delivery.bundle import align_probabilities
from featx.errors import DataError, StoreError
from featx.heads import FittedHead, Head, find_head, fit_head, tune
from featx.heads.fitting import record_warnings
from featx.heads.rows import FeatureRows
from featx.heads.tuning import plan_candidates
from featx.specs import HeadSpec
from featx.store import FeatureStore
from featx.training.procedure import explain_failure, read_versions
from featx.training.tasks import Result


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a head learns from and what it predicts, told in rows of a store.

    It is all that another process is given: no features, and no labels but those to learn from.

    Attributes:
        store: The file.
        head: Name, fixed parameters and seed.
        learnt: int `(n_learnt,)`, rows to learn from.
        targets: int `(n_learnt,)`, their classes.
        folds: int `(n_learnt,)`, the folds on which parameters are chosen and probabilities calibrated.
        predicted: int `(n_predicted,)`, rows to predict.
        n_classes: Number of classes, of which `targets` may lack some.
        items_digest: Digest of the store's spec and of the sha256 of all these items, by `digest_items`.
    """

    store: Path
    head: HeadSpec
    learnt: NDArray[np.intp]
    targets: NDArray[np.intp]
    folds: NDArray[np.intp]
    predicted: NDArray[np.intp]
    n_classes: int
    items_digest: str

    @property
    def digest(self) -> str:
        """A digest of everything that decides the probabilities, whatever rows the items are in."""
        versions = sorted(read_versions().items())
        state = hashlib.sha256(f"{self.items_digest} {self.head.to_json()} {self.n_classes} {versions}".encode())
        state.update(self.targets.astype("<i8").tobytes())
        state.update(self.folds.astype("<i8").tobytes())
        return state.hexdigest()


def digest_items(store: FeatureStore, learnt: NDArray[np.intp], predicted: NDArray[np.intp]) -> str:
    """Digest what the features of items are: the spec, and the sha256 of each item."""
    state = hashlib.sha256(store.spec.digest.encode())
    for rows in (learnt, predicted):
        state.update(f" {len(rows)} ".encode())
        state.update("".join(store.sha256[rows].tolist()).encode())
    return state.hexdigest()


def learn_and_predict(lesson: Lesson) -> Result:
    """Tune and fit a head, and predict.

    Returns:
        The record has `params`, `scaling`, `fit_seconds` (tuning included), `predict_seconds`,
        `threads` (that were allowed) and `notes`; the array `probabilities` is float64 `(n_predicted, n_classes)`.

    Raises:
        StoreError: If the store is another one by now.
        DataError: If the head cannot learn from these items, or gives no probabilities.
    """
    store = _open_store(lesson.store)
    if digest_items(store, lesson.learnt, lesson.predicted) != lesson.items_digest:
        msg = f"{store.path} was replaced while it was read; run the same command again"
        raise StoreError(msg)
    head, X = find_head(lesson.head.name), _read_rows(store, lesson.learnt)
    with record_warnings():  # those of fits are notes by now; of predictions there is nothing to tell
        started = time.perf_counter()
        with explain_failure(lesson.head):
            fitted, scaling, params, notes = _learn(head, lesson, X)
        fit_seconds = time.perf_counter() - started
        del X
        unseen = _read_rows(store, lesson.predicted)
        started = time.perf_counter()
        predicted = fitted.estimator.predict_proba(unseen)
        predict_seconds = time.perf_counter() - started
    if not np.isfinite(predicted).all():
        msg = f"{head.name} gives no probabilities for {int((~np.isfinite(predicted)).any(axis=1).sum())} items"
        raise DataError(msg)
    record = {
        "params": dict(params),
        "scaling": scaling,
        "fit_seconds": fit_seconds,
        "predict_seconds": predict_seconds,
        "threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
        "notes": [*notes, *fitted.notes],
    }
    probabilities = align_probabilities(predicted, fitted.estimator.classes_, lesson.n_classes)
    return Result(record, {"probabilities": probabilities})


def _learn(
    head: Head, lesson: Lesson, X: NDArray[np.float32]
) -> tuple[FittedHead, str, Mapping[str, Any], tuple[str, ...]]:
    spec, notes = lesson.head, tuple[str, ...]()
    plan = plan_candidates(head, X, spec, len(X))
    choices = [(scaling, params) for scaling, grid in plan.items() for params in grid]
    scaling, params = choices[0]
    if len(choices) > 1:
        tuned = tune(head, X, lesson.targets, lesson.folds, spec=spec)
        scaling, params, notes = tuned.scaling, dict(tuned.params), tuned.notes
    return fit_head(head, X, lesson.targets, params, scaling, spec.seed, lesson.folds), scaling, params, notes


@lru_cache(maxsize=2)
def _open_store(path: Path) -> FeatureStore:
    return FeatureStore(path)


def _read_rows(store: FeatureStore, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    return np.asarray(FeatureRows(store.features, rows))
