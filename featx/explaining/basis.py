"""What explanations are based on, in one file of a bundle: scores of items that calibrate, features of training items.

`explanation.npz` holds plain arrays. The names of items are in `items.csv`, whose rows it refers to by number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.bundle import Bundle
from featx.errors import BundleError
from featx.explaining.conformal import Conformal
from featx.files import DAMAGES, Result, list_members, read_result, write_result
from featx.heads.rows import divide_parts

BASIS = "explanation.npz"

#: At most so many training items are kept, in at most so many bytes of float16.
MOST_ITEMS, MOST_BYTES = 20_000, 64 * 2**20

#: An image is as familiar as its similarity to the training item of this rank (Y. Sun et al., "Out-of-distribution
#: detection with deep nearest neighbors", ICML 2022), so that no single item makes it familiar; see decision 31.
RANK = 5

#: At most so many training items are compared with the others, and so many at once.
_MOST_COMPARED, _BLOCK = 2000, 256

#: A record has a few words and numbers.
_MOST_RECORD_BYTES = 1 << 16

_MATRIX = 2

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KnownItems:
    """Training items, or a sample of them, by their features.

    Attributes:
        features: float32 `(n_items, dim)`, each of length 1.
        rows: int32 `(n_items,)`, their rows in `items.csv`.
        familiarity: float32 `(n_compared,)`, rising: of some of them, the similarity to the item of rank `RANK` among
            those that are neither of the same group nor copies.
        widths: Columns of the features of each network.
        root: The folder that the items were read from; empty if they were in an archive.
    """

    features: Floats
    rows: NDArray[np.int32]
    familiarity: Floats
    widths: tuple[int, ...]
    root: str = ""

    def compare(self, features: Floats) -> Floats:
        """Return the cosine similarity of an image `(dim,)` to each item, float32 `(n_items,)`."""
        cosines: Floats = self.features @ find_directions(features[None], self.widths)[0]
        return cosines.clip(-1, 1)

    def measure_unfamiliarity(self, similarities: Floats) -> float:
        """Return the share of training items that are nearer to the others than an image is, in percent.

        It is NaN where fewer than `RANK` items were compared: the share of so few says nothing.

        Args:
            similarities: float32 `(n_items,)`, as `compare` returns them.
        """
        if len(self.familiarity) < RANK:
            return math.nan
        rank = min(RANK, len(similarities))
        nearness = np.partition(similarities, -rank)[-rank]
        return 100 * (1 - float(np.searchsorted(self.familiarity, nearness, "right")) / len(self.familiarity))


@dataclass(frozen=True, slots=True)
class Basis:
    """What explanations are based on; either part may be missing.

    Attributes:
        conformal: The items that calibrate.
        known: The training items.
    """

    conformal: Conformal | None
    known: KnownItems | None


def find_directions(features: Floats, widths: tuple[int, ...]) -> Floats:
    """Divide features `(n, dim)` by their length, those of several networks each by its own first."""
    return divide_parts(divide_parts(features, widths) if len(widths) > 1 else features, (features.shape[1],))


def sample_rows(labels: NDArray[Any], most: int, seed: int = 0) -> NDArray[np.intp]:
    """Sample rows, of each class the same share, int `(n_sampled,)`, rising; all if there are no more than `most`."""
    if len(labels) <= most:
        return np.arange(len(labels))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    places = np.empty(len(labels))
    for name in np.unique(labels):
        own = shuffled[labels[shuffled] == name]
        places[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(np.argsort(places, kind="stable")[:most])


def limit_items(dim: int) -> int:
    """Return how many items are kept, by the width of their features."""
    return max(1, min(MOST_ITEMS, MOST_BYTES // (2 * dim)))


def measure_familiarity(features: Floats, units: NDArray[np.integer], others: Floats | None = None) -> Floats:
    """Measure the similarity of items to the training item of rank `RANK` among those of other units, rising.

    Args:
        features: float32 `(n_items, dim)`, of the training items, of length 1.
        units: int `(n_items,)`; items with equal values belong together, and are not compared.
        others: float32 `(n_others, dim)`, of length 1: items that the network was not trained on. None compares the
            training items with each other, which says the same of a frozen network.

    Returns:
        float32 `(n_compared,)`; none if there are too few units.
    """
    queries = features if others is None else others
    chosen = sample_rows(np.zeros(len(queries)), _MOST_COMPARED)
    _, places, sizes = np.unique(units, return_inverse=True, return_counts=True)
    # A lower rank would be compared with the rank `RANK` of new images, and call all of these unfamiliar.
    if len(units) - (int(sizes.max(initial=0)) if others is None else 0) < RANK or not len(chosen):
        return np.empty(0, np.float32)
    found = []
    for start in range(0, len(chosen), _BLOCK):
        block = chosen[start : start + _BLOCK]
        similarities = queries[block] @ features.T
        if others is None:
            similarities[places[block, None] == places] = -np.inf
        found.append(np.partition(similarities, -RANK, axis=1)[:, -RANK])
    return np.sort(np.concatenate(found))


def write_basis(basis: Basis, path: Path) -> None:
    """Write a basis, and read it back.

    Raises:
        BundleError: If it cannot be read back.
        StoreError: If it cannot be written.
    """
    arrays: dict[str, Any] = {}
    record: dict[str, Any] = {}
    if basis.conformal is not None:
        arrays |= {name: getattr(basis.conformal, name) for name in ("scores", "positions", "units")}
    if basis.known is not None:
        known = basis.known
        arrays |= {"features": known.features.astype(np.float16), "rows": known.rows, "familiarity": known.familiarity}
        record |= {"widths": list(known.widths), "root": known.root}
    write_result(path, Result(record, arrays))
    classes = basis.conformal.classes if basis.conformal else ()
    _load(path, lambda: _read(path, classes, basis.known.widths if basis.known else ()))


def read_basis(bundle: Bundle) -> Basis:
    """Read the basis of a bundle, which may be untrusted.

    Raises:
        BundleError: If it has none, or it is damaged.
    """
    if BASIS not in bundle.files:
        msg = (
            f"{bundle.path} cannot explain its predictions, since it has no {BASIS}: an older featx wrote it; fit it "
            f"again"
        )
        raise BundleError(msg)
    widths = tuple(part.golden.features.shape[1] for part in bundle.parts)
    return _load(bundle.path / BASIS, lambda: _read(bundle.path / BASIS, bundle.classes, widths))


def _load(path: Path, read: Callable[[], Basis]) -> Basis:
    try:
        return read()
    except (*DAMAGES, AttributeError, TypeError, MemoryError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{path} is damaged ({reason}); copy the bundle again, or fit it again"
        raise BundleError(msg) from error


def _read(path: Path, classes: tuple[str, ...], widths: tuple[int, ...]) -> Basis:
    if list_members(path)["record.npy"] > _MOST_RECORD_BYTES:
        msg = f"{path.name} has a record that is too large"
        raise ValueError(msg)
    result = read_result(path)
    record, arrays = result.record, dict(result.arrays)
    conformal = known = None
    if "scores" in arrays:
        scores, positions, units = (arrays.pop(name) for name in ("scores", "positions", "units"))
        _check(scores, np.float32, (len(scores),))
        _check(positions, np.int32, (len(scores),), len(classes))
        _check(units, np.int32, (len(scores),), 2**31)
        conformal = Conformal(scores, positions, units, classes)
    if "features" in arrays:
        features, rows, familiarity = (arrays.pop(name) for name in ("features", "rows", "familiarity"))
        _check(features, np.float16, (len(rows), sum(widths)))
        _check(rows, np.int32, (len(rows),), 2**31)
        _check(familiarity, np.float32, (len(familiarity),))
        root = record["root"]
        if tuple(record["widths"]) != widths or not isinstance(root, str) or not len(rows):
            msg = f"{path.name} does not fit the networks of the bundle"
            raise ValueError(msg)
        known = KnownItems(features.astype(np.float32), rows, np.sort(familiarity), widths, root)
    if arrays:
        msg = f"{path.name} has arrays that explain nothing: {', '.join(arrays)[:200]}"
        raise ValueError(msg)
    return Basis(conformal, known)


def _check(array: NDArray[Any], dtype: type, shape: tuple[int, ...], below: int | None = None) -> None:
    """Check an array from a file; whole numbers must be at least 0 and below a limit.

    Raises:
        ValueError: If it has another type or shape, or values that cannot be.
    """
    fits = array.dtype == dtype and array.shape == shape and bool(np.isfinite(array).all())
    if not fits or (below is not None and array.size and not (array.min() >= 0 and array.max() < below)):
        msg = f"an array of {array.dtype} {array.shape} that does not fit"
        raise ValueError(msg)
