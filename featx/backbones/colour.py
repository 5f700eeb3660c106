"""Colours and their positions, computed with NumPy: the baseline that every network has to beat.

It needs no framework and counts in integers, so an image has the same vector in every batch and on
every machine.
"""

import hashlib

import numpy as np

from featx.backbones.protocol import BackboneRequest, Features, LayerInfo, Output, UInt8Images, check_images
from featx.errors import BackboneError, WeightsError
from featx.registry import make_unknown_name_error

#: Cells per side of the grid of mean colours, and bins per channel of the histograms.
CELLS = 8
BINS = 16

_DEFAULT_SIDE_PX = 64
_LAYER = "colour"
_DIM = 3 * (CELLS**2 + BINS)
#: Digested in place of weights, which colour does not have: change it when the numbers change.
_VERSION = f"colour 1: means of {CELLS}x{CELLS} cells, histograms of {BINS} bins"


class ColourBackbone:
    """A `Backbone` of mean colours on a grid and a histogram per channel; see `load_colour`."""

    def __init__(self, *, uri: str, height: int, width: int) -> None:
        self.uri = uri
        self.weights = "computed"
        self.weights_digest = hashlib.sha256(_VERSION.encode("ascii")).hexdigest()
        self.height = height
        self.width = width
        self.outputs = (Output(_LAYER, "none", _DIM, (_DIM,)),)
        self.layers = (LayerInfo(0, _LAYER, "colour", (_DIM,), 0, 4 * _DIM, 4 * _DIM),)
        self.source_file = ""

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed a batch; see `Backbone.embed`.

        Returns:
            One float32 array `(n, 240)`: the means by row, column and channel, then the shares
            of pixels by channel and bin; all from 0 to 1.
        """
        check_images(images, self.height, self.width)
        n, pixels = len(images), self.height * self.width
        cells = images.reshape(n, CELLS, self.height // CELLS, CELLS, self.width // CELLS, 3)
        means = cells.sum(axis=(2, 4), dtype=np.int64) / (255 * pixels / CELLS**2)
        # One number per image, channel and bin, so that a single count serves the batch.
        bins = (np.arange(n)[:, None, None, None] * 3 + np.arange(3)) * BINS + images // (256 // BINS)
        shares = np.bincount(bins.ravel(), minlength=n * 3 * BINS) / pixels
        return (np.hstack([means.reshape(n, 3 * CELLS**2), shares.reshape(n, 3 * BINS)]).astype(np.float32),)


def load_colour(request: BackboneRequest) -> ColourBackbone:
    """Build the colour backbone: `colour`, for images of 64x64 px unless the request has another size.

    Args:
        request: It must have no arguments; the only layer is `colour`.

    Raises:
        BackboneError: If the request has an argument, pooling, weights or size that is not supported.
        UnknownNameError: If there is no such layer.
    """
    if request.arguments:
        msg = f"colour takes no arguments; leave out {', '.join(sorted(request.arguments))}"
        raise BackboneError(msg)
    if request.weights not in {None, "computed"}:
        msg = f"the weights of colour are computed, not loaded; leave out --weights {request.weights}"
        raise WeightsError(msg)
    if request.pooling not in {None, "none"}:
        msg = f"colour returns vectors, which pooling {request.pooling!r} cannot reduce; use none"
        raise BackboneError(msg)
    for layer in request.layers:
        if layer not in {_LAYER, 0, -1}:
            kind = "layer of colour"
            raise make_unknown_name_error(kind, str(layer), [_LAYER])
    height, width = request.height or _DEFAULT_SIDE_PX, request.width or _DEFAULT_SIDE_PX
    if height % CELLS or width % CELLS:
        msg = f"colour takes images whose sides are multiples of {CELLS} px, not {height}x{width}; choose another size"
        raise BackboneError(msg)
    return ColourBackbone(uri=request.uri, height=height, width=width)
