"""A backbone as a scikit-learn transformer: images in, features out."""

import contextlib
import functools
import os
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from featx.backbones import Backbone, load_backbone
from featx.backbones.protocol import find_decoding, find_path
from featx.backbones.running import Runner
from featx.errors import DataError, ImageError
from featx.items.decoding import decode
from featx.items.pictures import Picture, make_item
from featx.items.reading import limit_ahead
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.prefetching import prefetch
from featx.specs import DEFAULT_BACKBONE, ImageSpec

_ARRAY_RANK = 3
_CHANNELS = (3, 4)


class ImageEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embed images with a frozen backbone inside a scikit-learn pipeline.

    It embeds at every call; `featx.embed` stores the features instead. Estimators with equal settings,
    such as clones, share one network in a process.

    A classifier after it is not tuned. `featx.fit` tunes: among parameters whose held-out accuracy is within
    one standard error of the best, it takes those with the lowest log-loss. In a grid search of scikit-learn,
    `scoring="neg_log_loss"` comes closest.

    Args:
        backbone: A uri; see `featx.load_backbone`.
        layer: Where to cut, a name or index; None for the last layer.
        pooling: How a feature map becomes a vector; None for the layer's default.
        weights: `imagenet`, `none` or a path; None for the backbone's default.
        image_size: Height and width in px, a number or a pair; None for the network's own.
        batch_size: Images per forward pass, which does not change the numbers; None for the fastest size.
        runtime: `auto`, `keras` or `openvino`; see `featx.EmbedOptions`.

    Attributes:
        n_features_in_: 1: each sample is one image.
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        *,
        layer: str | int | None = None,
        pooling: str | None = None,
        weights: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int | None = EMBED_DEFAULTS.batch_size,
        runtime: str = EMBED_DEFAULTS.runtime,
    ) -> None:
        self.backbone = backbone
        self.layer = layer
        self.pooling = pooling
        self.weights = weights
        self.image_size = image_size
        self.batch_size = batch_size
        self.runtime = runtime

    def fit(self, X: Iterable[Picture], y: object = None) -> Self:  # noqa: ARG002 - scikit-learn passes it
        """Build the backbone; nothing is trained.

        Args:
            X: Paths, bytes of image files, file objects, images of Pillow, or uint8 arrays of shape
                (height, width, 3), (height, width, 4) with alpha, or (height, width) or (height, width, 1) if grey.
                Sizes and kinds may differ.
            y: Ignored.

        Raises:
            FeatxError: If the backbone cannot be built.
        """
        self._n_features_out = self._load().outputs[0].dim
        self.n_features_in_ = 1
        return self

    def transform(self, X: Iterable[Picture]) -> NDArray[np.float32]:
        """Embed images.

        Args:
            X: As in `fit`.

        Returns:
            float32 `(n_images, dim)`.

        Raises:
            DataError: If an image cannot be decoded; the message names it.
            UsageError: If the batch size is less than 1, or there is no such runtime.
        """
        check_is_fitted(self)
        _check_collection(X)
        options = EmbedOptions(batch_size=self.batch_size, runtime=self.runtime)
        backbone = self._load()
        spec = ImageSpec(**{**find_decoding(backbone), "height": backbone.height, "width": backbone.width})
        workers = options.count_workers()
        runner = Runner(backbone, options, expected=len(X) if isinstance(X, Sized) else 0)
        ahead = min(2 * workers, limit_ahead(spec, workers))  # pictures in memory may be large
        # An iterator may use its arrays or files again, so that they are read before the next one is taken.
        tasks = ((number, _read_picture(number, picture)) for number, picture in enumerate(X))
        decoded = prefetch(lambda task: _decode_picture(*task, spec), tasks, workers=workers, ahead=ahead)
        images = ((None, pixels) for pixels in decoded)
        features = [np.empty((0, backbone.outputs[0].dim), np.float32)]
        with contextlib.closing(decoded), contextlib.closing(runner.stream(images)) as embedded:
            features += [rows for _, (rows,) in embedded]
        return np.concatenate(features)

    def _load(self) -> Backbone:
        size = np.asarray(self.image_size).tolist()  # a parameter search passes NumPy's numbers
        pair = None if size is None else tuple(size) if isinstance(size, list) else (size, size)
        files = (find_path(self.backbone), self.weights)
        stamps = tuple(map(_stamp, files))
        return _load_shared(self.backbone, self.layer, self.pooling, self.weights, pair, stamps)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's tags are untyped
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = True
        return tags


@functools.lru_cache(maxsize=4)
def _load_shared(
    uri: str,
    layer: str | int | None,
    pooling: str | None,
    weights: str | None,
    size: tuple[int, int] | None,
    stamps: tuple[tuple[int, int] | None, ...],  # noqa: ARG001 - a file that was written again is another network
) -> Backbone:
    layers = () if layer is None else (layer,)
    return load_backbone(uri, layers=layers, pooling=pooling, weights=weights, image_size=size)


def _stamp(name: str | None) -> tuple[int, int] | None:
    """Return size and time of a file or of the files of a folder together, or None if there is neither."""
    path = Path(name or "").expanduser()
    if name and path.is_dir():
        stats = [file.stat() for file in path.iterdir()]
        return sum(status.st_size for status in stats), max((status.st_mtime_ns for status in stats), default=0)
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _check_collection(X: object) -> None:
    """Refuse a single image and a table, whose elements could be mistaken for images."""
    if isinstance(X, str | os.PathLike):
        msg = f"X is a single path, {os.fspath(X)!r}; pass a list of images"
    elif isinstance(X, bytes | bytearray | Image.Image) or hasattr(X, "read"):
        msg = f"X is a single {type(X).__name__}; pass a list of images"
    elif isinstance(X, np.ndarray) and X.ndim == _ARRAY_RANK and X.shape[-1] in _CHANNELS:
        msg = f"X is a single image of shape {X.shape}; pass a list of images"
    elif hasattr(X, "columns"):
        msg = "X is a table; pass one of its columns, such as X['path']"
    else:
        return
    raise DataError(msg)


def _read_picture(number: int, picture: Picture) -> str | bytes:
    """Return the bytes of a picture; a path as it is, since threads read files faster."""
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture)
    item = make_item(f"image {number}", picture)
    if item.reason:
        raise _make_error(item.id, item.reason)
    return item.data


def _decode_picture(number: int, picture: str | bytes, spec: ImageSpec) -> NDArray[np.uint8]:
    try:
        return decode(picture if isinstance(picture, bytes) else Path(picture).read_bytes(), spec).pixels
    except (ImageError, OSError) as error:
        name = f"image {number}" if isinstance(picture, bytes) else f"image {number} ({picture})"
        # Without the path, which is part of the name.
        raise _make_error(name, getattr(error, "strerror", None) or str(error)) from error


def _make_error(name: str, reason: str) -> DataError:
    return DataError(f"{name} cannot be embedded: {reason}; leave it out")
