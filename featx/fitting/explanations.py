"""What a fit leaves in its bundle to explain predictions with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import SourceError
from featx.evaluation.metrics import align_probabilities
from featx.explaining.basis import Basis, KnownItems, find_directions, limit_items, measure_familiarity, sample_rows
from featx.explaining.conformal import Conformal
from featx.fitting.choice import Chosen
from featx.fitting.dataset import Dataset, deal_folds
from featx.heads.tuning import tune_rows
from featx.items.folders import FolderReader
from featx.items.sources import find_reader

#: The items that calibrate conformal sets are predicted by heads that were fitted to four fifths of the items.
CALIBRATING_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Calibrating:
    """Items that were held out when they were predicted: they validate, and calibrate conformal sets.

    Attributes:
        members: bool `(n_items,)`.
        probabilities: float64 `(n_members, n_classes)`.
    """

    members: NDArray[np.bool_]
    probabilities: NDArray[np.float64]


def predict_held_out(
    chosen: Chosen, dataset: Dataset, members: NDArray[np.bool_], folds: int = CALIBRATING_FOLDS
) -> Calibrating:
    """Predict the items that a head was tuned on, each while its fold was held out, for conformal sets.

    There are more folds than for tuning. A head that is fitted to two thirds of the items is less sure than the final
    one, so that its scores would make the sets too large; see decision 31.

    Args:
        chosen: The head.
        dataset: All items.
        members: bool `(n_items,)`, those that it was tuned on.
        folds: Number of folds, if the items allow so many.
    """
    (head, _), tuned = chosen.plan, chosen.tuned
    rows = dataset.take_training_rows(members, deal_folds(dataset, members, tuned.spec.seed, folds))
    held_out = tune_rows(head, rows, tuned.spec)
    return Calibrating(members, align_probabilities(held_out.probabilities, held_out.classes, len(dataset.classes)))


def make_basis(dataset: Dataset, trained: NDArray[np.bool_], calibrating: Calibrating, *, with_items: bool) -> Basis:
    """Make the basis of explanations, without any item of the test.

    Args:
        dataset: All items.
        trained: bool `(n_items,)`, those that the head is fitted to.
        calibrating: Those that calibrate.
        with_items: Whether it has the features of the training items.
    """
    members = calibrating.members
    conformal = Conformal.measure(
        calibrating.probabilities, dataset.targets[members], dataset.find_units(members), dataset.classes
    )
    if not with_items:
        return Basis(conformal, None)
    widths = dataset.take_features(trained).widths or (dataset.take_features(trained).shape[1],)
    chosen = np.flatnonzero(trained)
    chosen = chosen[sample_rows(dataset.targets[chosen], limit_items(sum(widths)))]
    kept = np.zeros(len(dataset), bool)
    kept[chosen] = True
    rows = dataset.take_features(kept)
    features = np.empty(rows.shape, np.float32)
    for part, block in rows.iterate_blocks():
        features[part] = find_directions(block, widths)
    rows.release(0)  # they are all over the file
    familiarity = measure_familiarity(features, dataset.find_units(kept))
    return Basis(conformal, KnownItems(features, chosen.astype(np.int32), familiarity, widths, find_root(dataset)))


def make_trained_basis(
    dataset: Dataset,
    train: NDArray[np.intp],
    held: NDArray[np.intp],
    embed: Callable[[NDArray[np.intp]], NDArray[np.float32]],
    classify: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    *,
    with_items: bool,
) -> Basis:
    """Make the basis of explanations for a network that was trained itself.

    It knows the items that it was trained on better than new ones, so what is familiar is measured by those that were
    held out.

    Args:
        dataset: All items.
        train: int `(n_train,)`, the items that it was trained on.
        held: int `(n_held,)`, the items that were held out to choose the epoch.
        embed: Returns the features of items, float32 `(n, dim)`.
        classify: Returns the probabilities `(n, n_classes)` of features.
        with_items: Whether it has the features of the training items.
    """
    units = dataset.find_units(np.ones(len(dataset), bool))
    held_features = embed(held) if len(held) else embed(train[:1])[:0]
    dim = held_features.shape[1]
    conformal = None
    if len(held):
        chances = classify(held_features)
        conformal = Conformal.measure(chances, dataset.targets[held], units[held], dataset.classes)
    if not with_items:
        return Basis(conformal, None)
    chosen = train[sample_rows(dataset.targets[train], limit_items(dim))]
    features = find_directions(embed(chosen), (dim,))
    familiarity = measure_familiarity(features, units[chosen], find_directions(held_features, (dim,)))
    return Basis(conformal, KnownItems(features, chosen.astype(np.int32), familiarity, (dim,), find_root(dataset)))


def find_root(dataset: Dataset) -> str:
    """Find the folder that the items were read from; empty if they are gone, or were in an archive."""
    store = dataset.store
    try:
        reader = find_reader(store.source, store.reading, str(store.read_ids(np.arange(1))[0]))
    except SourceError:
        return ""
    return str(reader.locate("")) if isinstance(reader, FolderReader) else ""


def describe_basis(basis: Basis) -> dict[str, Any]:
    """Describe a basis for the record of a bundle."""
    about: dict[str, Any] = {"calibrating": 0 if basis.conformal is None else len(basis.conformal.scores)}
    if basis.known is not None:
        n_items, dim = basis.known.features.shape
        about |= {"neighbours": n_items, "bytes": 2 * n_items * dim}
    return about
