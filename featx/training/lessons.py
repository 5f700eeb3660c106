"""Lessons: what a head learns from and predicts, told in few words to whatever process does it."""

import hashlib
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # it ships no types

from featx.delivery.bundle import align_probabilities
from featx.errors import DataError, StoreError
from featx.heads import find_head
from featx.heads.fitting import predict_rows
from featx.heads.sizes import count_parameters
from featx.heads.sweeps import record_warnings
from featx.specs import HeadSpec
from featx.store import FeatureStore
from featx.training.dataset import open_rows
from featx.training.memory import watch_memory
from featx.training.procedure import learn, read_versions
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
        units: int `(n_learnt,)`, the items to learn from that stay together.
        predicted: int `(n_predicted,)`, rows to predict.
        n_classes: Number of classes, of which `targets` may lack some.
        items_digest: Digest of the store's spec and of the sha256 of all these items, by `digest_items`.
    """

    store: Path
    head: HeadSpec
    learnt: NDArray[np.intp]
    targets: NDArray[np.intp]
    folds: NDArray[np.intp]
    units: NDArray[np.intp]
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
        state.update(self.units.astype("<i8").tobytes())
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
        The record has `params`, `scaling`, `fit_seconds` (tuning included), `predict_seconds`, `threads` (that were
        allowed), `peak_memory_bytes` (of this process while it tuned and fitted), `trained_parameters` and
        `notes`; the array `probabilities` is float64 `(n_predicted, n_classes)`.

    Raises:
        StoreError: If the store is another one by now.
        DataError: If the head cannot learn from these items, or gives no probabilities.
    """
    store = _open_store(lesson.store)
    if digest_items(store, lesson.learnt, lesson.predicted) != lesson.items_digest:
        msg = f"{store.path} was replaced while it was read; run the same command again"
        raise StoreError(msg)
    X = open_rows(store, lesson.learnt)
    with record_warnings():  # those of fits are notes by now; of predictions there is nothing to tell
        read_peak, started = watch_memory(), time.perf_counter()
        learned = learn(find_head(lesson.head.name), lesson.head, X, lesson.targets, lesson.folds, lesson.units)
        fit_seconds, peak = time.perf_counter() - started, read_peak()
        estimator = learned.fitted.estimator
        started = time.perf_counter()
        predicted = predict_rows(estimator, open_rows(store, lesson.predicted))
        predict_seconds = time.perf_counter() - started
    if not np.isfinite(predicted).all():
        msg = f"{lesson.head.name} gives no probabilities for {int((~np.isfinite(predicted)).any(axis=1).sum())} items"
        raise DataError(msg)
    record = {
        "params": dict(learned.spec.params),
        "scaling": learned.spec.scaling,
        "fit_seconds": fit_seconds,
        "predict_seconds": predict_seconds,
        "threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
        "peak_memory_bytes": peak,
        "trained_parameters": count_parameters(estimator),
        "notes": list(learned.notes),
    }
    probabilities = align_probabilities(predicted, estimator.classes_, lesson.n_classes)
    return Result(record, {"probabilities": probabilities})


@lru_cache(maxsize=2)
def _open_store(path: Path) -> FeatureStore:
    return FeatureStore(path)
