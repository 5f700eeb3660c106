"""Heat maps: which parts of an image speak for its label."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featx.backbones import Backbone
from featx.backbones.converted import OpenVinoBackbone
from featx.backbones.loading import rebuild_backbone
from featx.bundle import Part
from featx.errors import FeatxError
from featx.heads.plain import PlainHead

ACTIVATION, OCCLUSION = "class activation", "occlusion"

#: Occlusion covers one place after the other of a grid of so many rows and columns, each as large as two cells.
_CELLS = 7

#: Least probability in a logarithm.
_SMALLEST = 1e-12

_LINEAR = 2

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

#: Returns the maps of images, float32 `(n, rows, columns, channels)`.
MapReader = Callable[[NDArray[np.uint8]], Floats]


def scale_heat(evidence: NDArray[np.floating]) -> Floats:
    """Scale what speaks for a label to 0 to 1; what speaks against it is 0."""
    positive = np.maximum(evidence, 0)
    return np.asarray(positive / (positive.max() or 1), np.float32)


def compute_evidence(head: PlainHead, place: int, maps: Floats) -> NDArray[np.float64]:
    """Compute how much each place of a map adds to the score of a class, compared with the mean of all classes.

    This is the class activation map of B. Zhou et al., "Learning deep features for discriminative localization", CVPR
    2016, with the scaling of the head folded in. The mean over all places is the score without the intercept.

    Args:
        head: A linear head, on features that are the means of maps.
        place: Column of the class among those of the head.
        maps: float32 `(rows, columns, channels)`, of one image.

    Returns:
        float64 `(rows, columns)`.
    """
    kernel = np.asarray(head.weights[0], np.float64)
    weights = kernel - kernel.mean(axis=1, keepdims=True) if kernel.shape[1] > 1 else kernel * np.array([[-1.0, 1.0]])
    values = maps.astype(np.float64)
    if head.scaling == "standard":
        values = (values - np.asarray(head.shift)) / np.asarray(head.scale)
    elif head.scaling != "none" or head.widths:  # some form of l2
        values = values / (np.linalg.norm(values.mean(axis=(0, 1))) or 1)
    return np.asarray(values @ weights[:, place])


def open_maps(part: Part, backbone: Backbone, head: object, runtime: str) -> MapReader | None:
    """Open the maps whose means are the features of a linear head.

    Returns:
        What reads them; None if the head is not linear, or the network ends with another pooling.

    Raises:
        FeatxError: If the network cannot be built without its pooling.
    """
    if not isinstance(head, PlainHead) or len(head.weights) != _LINEAR:
        return None
    if isinstance(backbone, OpenVinoBackbone):
        opened = backbone.runtime.open_map()
        if opened is None:
            return None
        network, shape = opened
        return lambda images: network.embed(images)[0].reshape(len(images), *shape)
    spec = part.embed_spec.backbone
    if spec.pooling != "avg" or not hasattr(backbone, "model"):
        return None
    unpooled = rebuild_backbone(replace(spec, pooling="none"), part.embed_spec.image, part.backbone_file, runtime)
    shape = unpooled.outputs[0].feature_shape
    if len(shape) != 3:  # noqa: PLR2004 - rows, columns, channels
        return None
    return lambda images: unpooled.embed(images)[0].reshape(len(images), *shape)


def find_maps(part: Part, backbone: Backbone, head: object, runtime: str) -> MapReader | None:
    """Open the maps as `open_maps`; where they cannot be had, say why, and return None."""
    try:
        return open_maps(part, backbone, head, runtime)
    except FeatxError as error:
        logger.warning("heat maps are made by occlusion, since the network gives no feature maps here: %s", error)
        return None


def occlude(
    image: NDArray[np.uint8], place: int, predict: Callable[[NDArray[np.uint8]], NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Measure how much less probable a class is when a part of an image is covered.

    A square of the mean colour of the image moves over it (M. D. Zeiler and R. Fergus, "Visualizing and understanding
    convolutional networks", ECCV 2014, section 4.2).

    Args:
        image: uint8 RGB `(height, width, 3)`.
        place: Column of the class.
        predict: Returns the probabilities `(n, n_classes)` of images `(n, height, width, 3)`.

    Returns:
        float64 `(rows, columns)`: the fall of the logarithm of the odds, in nats.
    """
    height, width = image.shape[:2]
    rows, columns = min(_CELLS, height), min(_CELLS, width)
    colour = image.mean(axis=(0, 1)).round().astype(np.uint8)
    images = np.repeat(image[None], 1 + rows * columns, axis=0)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        top, bottom = _find_sides(row, rows, height)
        left, right = _find_sides(column, columns, width)
        images[1 + number, top:bottom, left:right] = colour
    shares = np.clip(np.asarray(predict(images), np.float64)[:, place], _SMALLEST, 1 - _SMALLEST)
    odds = np.log(shares / (1 - shares))
    return np.asarray((odds[0] - odds[1:]).reshape(rows, columns))


def _find_sides(cell: int, cells: int, length: int) -> tuple[int, int]:
    """Return where a square of two cells around the middle of a cell begins and ends."""
    return max(0, math.floor((cell - 0.5) * length / cells)), min(length, math.ceil((cell + 1.5) * length / cells))
