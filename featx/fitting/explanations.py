"""What a fit leaves in its bundle to explain predictions with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import SourceError
from featx.explaining.basis import Basis, KnownItems, find_directions, limit_items, measure_familiarity, sample_rows
from featx.explaining.conformal import Conformal
from featx.fitting.dataset import Dataset
from featx.items.folders import FolderReader
from featx.items.sources import find_reader


@dataclass(frozen=True, slots=True)
class Calibrating:
    """Items that were held out when they were predicted: they validate, and calibrate conformal sets.

    Attributes:
        members: bool `(n_items,)`.
        probabilities: float64 `(n_members, n_classes)`.
    """

    members: NDArray[np.bool_]
    probabilities: NDArray[np.float64]


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
    features = find_directions(dataset.take_features(kept)[:], widths)
    familiarity = measure_familiarity(features, dataset.find_units(kept))
    return Basis(conformal, KnownItems(features, chosen.astype(np.int32), familiarity, widths, find_root(dataset)))


def find_root(dataset: Dataset) -> str:
    """Find the folder that the items were read from; empty if they are gone, or were in an archive."""
    store = dataset.store
    try:
        reader = find_reader(store.source, store.reading, str(store.ids[0]))
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
