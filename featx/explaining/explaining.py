"""Explaining predictions: the conformal set, similar training items, how unfamiliar an image is, and a heat map."""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.backbones import Backbone
from featx.bundle import ITEMS, Bundle
from featx.errors import BundleError, UsageError
from featx.explaining.basis import BASIS, RANK, KnownItems, read_basis
from featx.explaining.conformal import Thresholds, check_share
from featx.explaining.heat_maps import (
    ACTIVATION,
    OCCLUSION,
    MapReader,
    compute_evidence,
    find_maps,
    occlude,
    scale_heat,
)
from featx.files import read_columns
from featx.items.decoding import find_view
from featx.items.folders import FolderReader
from featx.prediction_results import Explanation, Neighbour, Prediction

logger = logging.getLogger(__name__)

#: What is asked for, if nothing is said.
COVERAGE, NEIGHBOURS, THRESHOLD = 0.9, 5, 0.95

NO_SETS = "no items calibrate, so every set has all classes"


@dataclass(frozen=True, slots=True)
class Network:
    """What a predictor computes.

    Attributes:
        backbones: Its networks.
        head: Its head.
        predict: Returns the probabilities `(n, n_classes)` of images `(n, height, width, 3)`; None if its networks
            take images of several forms.
        runtime: As in `EmbedOptions`.
    """

    backbones: Sequence[Backbone]
    head: Any
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float64]] | None
    runtime: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What explanations shall have.

    Attributes:
        coverage: Share of images whose conformal set has the true class.
        neighbours: Number of similar training items; 0 for none.
        heat: Whether there is a heat map.
        threshold: Share of training items that are nearer to the others than an image that is called unfamiliar.

    Raises:
        UsageError: If a share is not between 0 and 1, or the number is negative.
    """

    coverage: float = COVERAGE
    neighbours: int = NEIGHBOURS
    heat: bool = True
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""
        check_share("coverage", self.coverage)
        check_share("threshold", self.threshold)
        if self.neighbours < 0:
            msg = f"neighbours is {self.neighbours}; it must be at least 0"
            raise UsageError(msg)


class Explainer:
    """Explains the predictions of a bundle; see `Explainer.open`."""

    def __init__(
        self,
        bundle: Bundle,
        network: Network,
        wanted: Wanted,
        thresholds: Thresholds | None,
        known: "_Neighbourhood | None",
    ) -> None:
        self._classes, self._image = bundle.classes, bundle.parts[0].embed_spec.image
        self._network, self._wanted, self._thresholds, self._known = network, wanted, thresholds, known
        self._maps: MapReader | None = None
        if wanted.heat and len(bundle.parts) == 1 and bundle.views is None:
            self._maps = find_maps(bundle.parts[0], network.backbones[0], network.head, network.runtime)
        if wanted.heat and self._maps is None and network.predict is None:
            logger.warning("there are no heat maps: the networks of %s take images of several forms", bundle.path)

    @classmethod
    def open(cls, bundle: Bundle, network: Network, wanted: Wanted) -> Self:
        """Read what a bundle has to explain its predictions, and say what it lacks.

        Raises:
            BundleError: If it has nothing, or that is damaged.
            UsageError: If there cannot be such a coverage.
        """
        basis = read_basis(bundle)
        thresholds = basis.conformal.find_thresholds(wanted.coverage) if basis.conformal else None
        if thresholds is None:
            logger.warning("%s: %s", bundle.path, NO_SETS)
        elif thresholds.note:
            logger.warning("%s", thresholds.note)
        if basis.known is None:
            logger.warning("%s has no features of its training items, so nothing is compared with them", bundle.path)
            return cls(bundle, network, wanted, thresholds, None)
        if len(basis.known.familiarity) < RANK:
            logger.warning(
                "%s compares too few items to say how unfamiliar an image is: fewer than %d", bundle.path, RANK
            )
        return cls(bundle, network, wanted, thresholds, _Neighbourhood.read(bundle, basis.known))

    def explain(
        self, prediction: Prediction, features: NDArray[np.float32], image: NDArray[np.uint8], size: tuple[int, int]
    ) -> Explanation:
        """Explain the prediction of one image.

        Args:
            prediction: The prediction, of an image that could be read.
            features: float32 `(dim,)`.
            image: uint8 RGB `(height, width, 3)`, as the network takes it, or its views, of which the first counts.
            size: Width and height of the image as displayed, in pixels.
        """
        image = image if image.ndim == 3 else image[0]  # noqa: PLR2004 - without views
        given = copy_fields(prediction)
        unfamiliarity, neighbours = math.nan, tuple[Neighbour, ...]()
        if self._known is not None:
            unfamiliarity, neighbours = self._known.find(features, self._wanted.neighbours)
        heat, method = self._draw_heat(prediction, image) if self._wanted.heat else (None, "")
        return Explanation(
            **given,
            labels=self._find_set(prediction),
            note=self._thresholds.note if self._thresholds else NO_SETS,
            neighbours=neighbours,
            unfamiliarity=unfamiliarity,
            unfamiliar=unfamiliarity > 100 * self._wanted.threshold,
            heat=heat,
            heat_method=method,
            heat_box=() if heat is None else find_view(*size, self._image),
        )

    def _find_set(self, prediction: Prediction) -> tuple[str, ...]:
        assert prediction.probabilities is not None  # noqa: S101 - of an image that could be read
        if self._thresholds is None:
            return self._classes
        taken = self._thresholds.find_sets(prediction.probabilities[None])[0]
        order = np.argsort(-prediction.probabilities, kind="stable")
        return tuple(self._classes[place] for place in order if taken[place])

    def _draw_heat(self, prediction: Prediction, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32] | None, str]:
        place = self._classes.index(prediction.label)
        if self._maps is not None:
            column = int(np.flatnonzero(self._network.head.classes_ == place)[0])
            return scale_heat(compute_evidence(self._network.head, column, self._maps(image[None])[0])), ACTIVATION
        if self._network.predict is None:
            return None, ""
        return scale_heat(occlude(image, place, self._network.predict)), OCCLUSION


def copy_fields(prediction: Prediction) -> dict[str, Any]:
    """Return the fields of a prediction, for an explanation of it."""
    return {one.name: getattr(prediction, one.name) for one in fields(Prediction)}


class _Neighbourhood:
    """Training items with their names, among which those are found that are similar to an image."""

    def __init__(self, known: KnownItems, named: Sequence[tuple[str, str, str]]) -> None:
        self._known, self._named = known, named
        self._reader = FolderReader(known.root) if known.root else None

    @classmethod
    def read(cls, bundle: Bundle, known: KnownItems) -> Self:
        """Read the names of the items.

        Raises:
            BundleError: If the list of items lacks some.
        """
        wanted = set(known.rows.tolist())
        rows = enumerate(read_columns(bundle.path / ITEMS, ("id", "label", "sha256")))
        named = {place: row for place, row in rows if place in wanted}
        if len(named) < len(wanted):
            msg = f"{bundle.path / BASIS} names items that {ITEMS} lacks; copy the bundle again, or fit it again"
            raise BundleError(msg)
        return cls(known, [named[row] for row in known.rows.tolist()])  # type: ignore[misc]  # three columns

    def find(self, features: NDArray[np.float32], count: int) -> tuple[float, tuple[Neighbour, ...]]:
        """Return how unfamiliar an image is, and the most similar items."""
        similarities = self._known.compare(features)
        nearest = np.argsort(-similarities, kind="stable")[:count]
        found = []
        for place in nearest.tolist():
            name, label, sha256 = self._named[place]
            path = str(self._reader.locate(name)) if self._reader else ""
            found.append(
                Neighbour(label, float(similarities[place]), name, sha256, path if os.path.isfile(path) else "")  # noqa: PTH113
            )
        return self._known.measure_unfamiliarity(similarities), tuple(found)


def read_neighbour(neighbour: Neighbour) -> bytes | None:
    """Read the file of a training item; None if it is gone, or is another one now.

    A bundle may be untrusted, and name any file; only one with the content that it names is returned.
    """
    if not neighbour.path:
        return None
    path = Path(neighbour.path)
    try:
        data = FolderReader(path.parent).read(path.name)
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == neighbour.sha256 else None
