"""Results of prediction: the prediction for one image, and what explains it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: The image, as the user named it; `image 3` for the fourth picture, if it has no path.
        label: The most probable class; empty if the image cannot be read.
        probability: The probability of that class; NaN if the image cannot be read.
        probabilities: `(n_classes,)`, in the order of the bundle's classes; None if
            the image cannot be read.
        error: The reason why the image cannot be read; empty if it can.
        sha256: Digest of the image's file, hexadecimal; empty if the file cannot be read.
    """

    path: str
    label: str = ""
    probability: float = float("nan")
    probabilities: NDArray[np.float64] | None = None
    error: str = ""
    sha256: str = ""

    @classmethod
    def choose(
        cls, path: str, classes: Sequence[str], probabilities: NDArray[np.float64], sha256: str = ""
    ) -> "Prediction":
        """Predict the most probable of the classes."""
        best = int(probabilities.argmax())
        return cls(path, classes[best], float(probabilities[best]), probabilities, sha256=sha256)

    def rank(self, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
        """Return the best classes with their probabilities, best first; none if the image cannot be read."""
        if self.probabilities is None:
            return []
        order = (-self.probabilities).argsort(kind="stable")[:top]
        return [(classes[at], float(self.probabilities[at])) for at in order.tolist()]

    def to_row(self, classes: Sequence[str], top: int = 0) -> dict[str, Any]:
        """Return the row that `featx predict --json` prints and a server answers, ready for JSON.

        Args:
            classes: The classes of the bundle.
            top: Number of best classes, best first; 0 for all of them, in the order of the bundle.
        """
        if self.probabilities is None:
            return {"path": self.path, "error": self.error}
        row: dict[str, Any] = {"path": self.path, "label": self.label, "probability": self.probability}
        if top:
            return row | {"top": [{"label": name, "probability": share} for name, share in self.rank(classes, top)]}
        return row | {"probabilities": dict(zip(classes, self.probabilities.tolist(), strict=True))}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training item that is similar to an image.

    Attributes:
        label: Its class.
        similarity: Cosine of the angle between both features, -1 to 1.
        item: Its id in the source that the bundle was trained on.
        sha256: Digest of its file, hexadecimal.
        path: Its file, if it is still where it was when it was embedded; else empty.
    """

    label: str
    similarity: float
    item: str
    sha256: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Explanation(Prediction):
    """The prediction for one image, and how far it can be trusted.

    What a bundle has no items for is left out: its field then has the default.

    Attributes:
        labels: The conformal set: the classes that cannot be excluded at the coverage that was asked for, the most
            probable first. It is empty if no class is probable enough, and has all classes if too few items calibrate,
            or none do.
        note: What the set does not promise, such as the coverage of each class; empty if it promises all of that.
        neighbours: The most similar training items, the nearest first.
        unfamiliarity: Share of training items that are nearer to the others than this image is, in percent; NaN if too
            few items were compared to tell.
        unfamiliar: Whether that is above the threshold.
        heat: float32 `(rows, columns)`, 0 to 1: what parts of the image speak for the label. It covers the image as
            the network takes it, in coarse cells: all of a stretched picture, the middle of a cropped one. None if it
            was not asked for.
        heat_method: `class activation` or `occlusion`; empty if there is no heat map.
        heat_box: The part of the image that the heat map covers: left, top, width and height, in shares of the image;
            empty if there is no heat map. A padded image is covered with its borders, which are outside 0 to 1.
    """

    labels: tuple[str, ...] = ()
    note: str = ""
    neighbours: tuple[Neighbour, ...] = ()
    unfamiliarity: float = float("nan")
    unfamiliar: bool = False
    heat: NDArray[np.float32] | None = None
    heat_method: str = ""
    heat_box: tuple[float, ...] = ()

    def to_row(self, classes: Sequence[str], top: int = 0) -> dict[str, Any]:
        """Return the row of the prediction with what explains it; see `Prediction.to_row`."""
        row = Prediction.to_row(self, classes, top)
        return row if "error" in row else row | self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return what explains the prediction as plain values, ready for JSON; None stands for what is unknown."""
        return {
            "set": list(self.labels),
            "note": self.note,
            "unfamiliarity": None if math.isnan(self.unfamiliarity) else self.unfamiliarity,
            "unfamiliar": None if math.isnan(self.unfamiliarity) else self.unfamiliar,
            "neighbours": [asdict(one) for one in self.neighbours],
            "heat": None if self.heat is None else [[round(cell, 3) for cell in row] for row in self.heat.tolist()],
            "heat_method": self.heat_method,
            "heat_box": list(self.heat_box),
        }
