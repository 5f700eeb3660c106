"""Backbones that OpenVINO runs, which need neither TensorFlow nor Keras."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featx.backbones.cache import Entry
from featx.backbones.protocol import Features, LayerInfo, Output, UInt8Images

if TYPE_CHECKING:
    from featx.backbones.openvino import OpenVino


class OpenVinoBackbone:
    """A `Backbone` that OpenVINO runs.

    Attributes:
        drift: Largest difference from Keras; 0 if Keras does not run it.
        decoding: As `find_decoding` returns it.
    """

    uri: str
    weights: str
    weights_digest: str
    source_file: str
    height: int
    width: int
    outputs: tuple[Output, ...]
    layers: tuple[LayerInfo, ...]
    drift: float = 0.0
    decoding: Mapping[str, Any]

    @property
    def runtime(self) -> "OpenVino":
        """What runs it."""
        raise NotImplementedError

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed a batch; see `Backbone.embed`."""
        return self.runtime.embed(images)


class ConvertedBackbone(OpenVinoBackbone):
    """A `Backbone` that was converted before; its network is read when it is first used.

    Args:
        entry: Where it is, and what it says of itself.
        is_trusted: Whether this machine wrote it, as all that is in the cache; else it is checked when it is read.

    Attributes:
        drift: Largest difference from Keras, measured when it was converted (see `measure_runtime_drift`).
        path: The file of its network; its weights are next to it.
        is_trusted: Whether it is read without a check.
        digest: sha256 of the converted network.
    """

    def __init__(self, entry: Entry, *, is_trusted: bool = True) -> None:
        self.path: Path = entry.network
        self.is_trusted = is_trusted
        self.uri = entry.uri
        self.weights = entry.weights
        self.weights_digest = entry.weights_digest
        self.source_file = entry.source_file
        self.height, self.width = entry.height, entry.width
        self.outputs = entry.outputs
        self.layers = entry.layers
        self.drift = entry.drift
        self.decoding = entry.decoding
        self.digest = entry.digest

    @functools.cached_property
    def runtime(self) -> "OpenVino":
        """What runs it."""
        from featx.backbones.openvino import OpenVino, read_network, read_untrusted_network

        if self.is_trusted:
            return OpenVino(self, read_network(self.path, self.uri))
        (output,) = self.outputs
        return OpenVino(self, read_untrusted_network(self.path, self.uri, (self.height, self.width), output.dim))
