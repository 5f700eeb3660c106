"""The protocol of a backbone, and the request to its provider."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from featx.errors import BackboneError, UsageError
from featx.specs import POOLINGS

#: Exponent of generalised-mean pooling and the floor under its root:
#: Radenović, Tolias & Chum 2019, "Fine-tuning CNN image retrieval with no human annotation", eq. 3.
GEM_EXPONENT = 3.0
GEM_FLOOR = 1e-6

#: The poolings of tokens, of which the first is the class token.
TOKEN_POOLINGS = ("cls", "mean-patch", "cls+mean")

#: Schemes of files that only OpenVINO runs, and of all files of the user's own.
OPENVINO_SCHEMES = ("onnx:", "ir:", "tflite:")
_FILE_SCHEMES = ("file:", *OPENVINO_SCHEMES)
#: Those that may name a file or a folder of the user's own.
OWN_SCHEMES = (*_FILE_SCHEMES, "hub:")

UInt8Images = NDArray[np.uint8]
Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a network: a layer at which it is cut, and the pooling there.

    Attributes:
        layer: Name of the layer, as in a freshly built model.
        pooling: How its feature map becomes a vector.
        dim: Width of the vector.
        feature_shape: Shape of one item before flattening:
            `(height, width, channels)` for an unpooled map, else `(dim,)`.
    """

    layer: str
    pooling: str
    dim: int
    feature_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer of a network, as `featx layers` shows it.

    Attributes:
        index: Position from the start; `index - n_layers` is the negative index.
        name: The name that `--layer` takes.
        kind: Its class, such as `Conv2D`.
        output_shape: Shape of its output for one item.
        parameters: Number of its parameters.
        bytes_per_item: Bytes of one float32 embedding under the default pooling.
        bytes_per_map: Bytes of one item's whole float32 output (`--pooling none`).
        depth: Layers with weights on the longest way from the pixels; None if they were not counted.
    """

    index: int
    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    bytes_per_item: int
    bytes_per_map: int
    depth: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


class Backbone(Protocol):
    """A frozen network that turns pixels into vectors.

    Attributes:
        uri: Its canonical name, with arguments.
        weights: `imagenet`, `none`, `computed`, `preset` (of keras-hub) or `file`.
        weights_digest: sha256 over its parameters, in hexadecimal.
        height: Rows of the images it takes, in px.
        width: Columns of the images it takes, in px.
        outputs: The outputs of a forward pass, in the order of `embed`'s result.
        layers: Every layer at which it can be cut.
        source_file: The user's file or folder that its parameters came from; empty if its uri is enough to
            build it again.

    A backbone may also have `decoding`; see `find_decoding`.
    """

    @property
    def uri(self) -> str: ...  # noqa: D102 - documented above, as are the rest
    @property
    def weights(self) -> str: ...  # noqa: D102
    @property
    def weights_digest(self) -> str: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[Output, ...]: ...  # noqa: D102
    @property
    def layers(self) -> tuple[LayerInfo, ...]: ...  # noqa: D102
    @property
    def source_file(self) -> str: ...  # noqa: D102

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed a batch.

        Args:
            images: uint8 RGB `(n, height, width, 3)`; left unchanged.

        Returns:
            For each output, float32 `(n, dim)`. A row does not depend on the other
            images of the batch.

        Raises:
            BackboneError: If dtype or shape are different.
        """
        ...


@dataclass(frozen=True, slots=True)
class BackboneRequest:
    """A request to a provider to build a backbone.

    Attributes:
        name: The uri without its arguments.
        arguments: The arguments after `?`, as text.
        layers: Where to cut, names or indices; empty for the provider's default.
        pooling: How to pool; None for the default of the layer's rank.
        weights: `imagenet`, `none`, a path, or None for the provider's default.
        height: Rows of the images in px; None for the network's own.
        width: Columns of the images in px; None for the network's own.

    Raises:
        UsageError: If the pooling does not exist, or a side is less than a pixel.
    """

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str | int, ...] = ()
    pooling: str | None = None
    weights: str | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no provider supports."""
        if self.pooling not in {None, *POOLINGS}:
            msg = f"there is no pooling called {self.pooling!r}; known: {', '.join(POOLINGS)}"
            raise UsageError(msg)
        for side in (self.height, self.width):
            if side is not None and (type(side) is not int or side < 1):
                msg = f"image size is {self.height!r}x{self.width!r} px; both must be whole numbers, at least 1"
                raise UsageError(msg)

    @property
    def uri(self) -> str:
        """The canonical uri: the name and its arguments in sorted order."""
        return f"{self.name}?{urlencode(sorted(self.arguments.items()))}" if self.arguments else self.name


def names_file(uri: str) -> bool:
    """Return whether a uri names a file of the user's own, in any case: an untrusted spec may have `FILE:/path`."""
    return uri.lower().startswith(_FILE_SCHEMES)


def is_own(uri: str, weights: str) -> bool:
    """Return whether a backbone is built from a file or a folder of the user's own.

    Args:
        uri: Its uri.
        weights: As `Backbone` has them; those of a preset in a folder are `file`.
    """
    return names_file(uri) or (uri.lower().startswith(OWN_SCHEMES) and weights == "file")


def find_path(uri: str) -> str:
    """Return the path in the uri of a file of the user's own; empty for other backbones."""
    return uri.partition(":")[2].partition("?")[0] if uri.lower().startswith(OWN_SCHEMES) else ""


def needs_openvino(uri: str) -> bool:
    """Return whether a uri names a network that only OpenVINO runs."""
    return uri.lower().startswith(OPENVINO_SCHEMES)


def refuse_keras(uri: str, runtime: str) -> None:
    """Refuse to run with Keras what it cannot run.

    Raises:
        UsageError: If it only runs in OpenVINO.
    """
    if runtime == "keras" and needs_openvino(uri):
        msg = f"{uri} is run by OpenVINO alone; leave out --runtime keras"
        raise UsageError(msg)


def check_pooling(pooling: str, shape: Sequence[int | None], layer: str) -> None:
    """Refuse a pooling that does not suit the output of a layer.

    Args:
        pooling: One of `POOLINGS`.
        shape: Shape of the output for one image, channels last.
        layer: Name of the layer.

    Raises:
        BackboneError: If vectors would be reduced, or the class token taken of something else than tokens.
    """
    if pooling in TOKEN_POOLINGS and len(shape) != 2:  # noqa: PLR2004 - tokens, dim
        what = "vectors" if len(shape) == 1 else f"maps of shape {tuple(shape)}"
        msg = f"layer {layer!r} returns {what}, which have no class token; pooling {pooling} takes (tokens, dim)"
        raise BackboneError(msg)
    if len(shape) == 1 and pooling not in {"none", "flatten"}:
        msg = f"layer {layer!r} returns vectors, which pooling {pooling!r} cannot reduce; use none"
        raise BackboneError(msg)


def find_decoding(backbone: Backbone) -> Mapping[str, Any]:
    """Return the fields of `ImageSpec` whose default is another for this backbone, as its training asks for.

    A backbone has them in its attribute `decoding`, which is optional: most networks have none.
    """
    decoding: Mapping[str, Any] = getattr(backbone, "decoding", {})
    return decoding


def check_images(images: UInt8Images, height: int, width: int) -> None:
    """Refuse a batch that is not uint8 RGB of the given size.

    Raises:
        BackboneError: If dtype or shape are different; the message names both.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3):  # noqa: PLR2004 - n, h, w, c
        msg = (
            f"this backbone takes uint8 images of shape (n, {height}, {width}, 3), got {images.dtype} of shape "
            f"{images.shape}; decode them with featx.decode, which resizes them and does not scale the values"
        )
        raise BackboneError(msg)


def embed_in_pieces(
    run: Callable[[UInt8Images], tuple[Features, ...]], images: UInt8Images, size: int
) -> tuple[Features, ...]:
    """Embed images with a network that takes batches of one size only: split, pad the last piece, join.

    Args:
        run: Function that embeds exactly `size` images.
        images: uint8 RGB `(n, height, width, 3)`, at least one.
        size: Images per piece; the last piece is padded by repeating an image, so that nothing is compiled for it.

    Returns:
        For each output, float32 `(n, dim)`.
    """
    pieces = []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        missing = size - len(piece)
        whole = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)]) if missing else piece
        pieces.append(tuple(matrix[: len(piece)] for matrix in run(whole)))
    return pieces[0] if len(pieces) == 1 else tuple(map(np.concatenate, zip(*pieces, strict=True)))
