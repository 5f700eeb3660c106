"""Feeds: the inputs of a network that is fine-tuned, one batch at a time, prepared ahead.

The inputs are pixels, decoded again in every epoch, or feature maps that are read from stores.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featx.errors import DataError
from featx.items.augmentation import Augmentation, view_image
from featx.items.decoding import decode
from featx.items.manifest import Manifest
from featx.items.reading import limit_ahead
from featx.prefetching import prefetch
from featx.specs import ImageSpec
from featx.store import FeatureStore

#: Numbers of items, and for each of them the number of a view; 0 is the plain image.
Batch = tuple[NDArray[np.intp], NDArray[np.intp]]

#: Batches of feature maps that wait for the network.
_BATCHES_AHEAD = 3


class Feed(Protocol):
    """Where batches come from."""

    def stream(self, batches: Iterable[Batch]) -> Generator[tuple[NDArray[np.intp], list[NDArray[Any]]]]:
        """Yield the items of each batch and their inputs, in order."""
        ...


@dataclass(frozen=True, slots=True)
class MapFeed:
    """Feature maps from stores.

    Attributes:
        stores: A store for each layer.
        rows: For each store, int `(n_items,)`: the row of each item.
        shapes: Shape of one map, for each store.
        views: Number of augmented views per item, beside the plain one.
    """

    stores: Sequence[FeatureStore]
    rows: Sequence[NDArray[np.intp]]
    shapes: Sequence[tuple[int, ...]]
    views: int = 0

    def stream(self, batches: Iterable[Batch]) -> Generator[tuple[NDArray[np.intp], list[NDArray[Any]]]]:
        """Read maps, float32 `(n, *shape)` for each store."""
        with contextlib.closing(prefetch(self._read, batches, workers=1, ahead=_BATCHES_AHEAD)) as found:
            yield from found

    def _read(self, batch: Batch) -> tuple[NDArray[np.intp], list[NDArray[Any]]]:
        items, numbers = batch
        maps = []
        for store, rows, shape in zip(self.stores, self.rows, self.shapes, strict=True):
            n_views = 1 + self.views
            views = store.features.reshape(len(store) * n_views, -1)
            maps.append(np.asarray(views[n_views * rows[items] + numbers], np.float32).reshape(len(items), *shape))
        return items, maps


@dataclass(frozen=True, slots=True)
class PixelFeed:
    """Pixels, decoded and augmented in threads.

    Attributes:
        manifest: Where files are read.
        ids, sha256s: Text `(n_items,)`: the id and the sha256 of each item.
        image: How files become pixels.
        augmentation: How pixels are augmented.
        seed: Seed of the augmentation.
        workers: Number of threads.
    """

    manifest: Manifest
    ids: Sequence[str]
    sha256s: Sequence[str]
    image: ImageSpec
    augmentation: Augmentation
    seed: int
    workers: int

    def stream(self, batches: Iterable[Batch]) -> Generator[tuple[NDArray[np.intp], list[NDArray[Any]]]]:
        """Decode pixels, uint8 `(n, height, width, 3)`.

        Raises:
            DataError: If a file has changed.
        """
        sizes: list[NDArray[np.intp]] = []

        def list_images() -> Iterable[tuple[int, int]]:
            for items, numbers in batches:
                sizes.append(items)
                yield from zip(items.tolist(), numbers.tolist(), strict=True)

        ahead = limit_ahead(self.image, self.workers)
        images = prefetch(lambda one: self._read(*one), list_images(), workers=self.workers, ahead=ahead)
        gathered: list[NDArray[np.uint8]] = []
        with contextlib.closing(images):
            for image in images:
                gathered.append(image)
                if len(gathered) == len(sizes[0]):
                    yield sizes.pop(0), [np.stack(gathered)]
                    gathered = []

    def _read(self, item: int, number: int) -> NDArray[np.uint8]:
        pixels = self.read_plain(item)
        return view_image(pixels, self.augmentation, seed=self.seed, sha256=self.sha256s[item], number=number)

    def read_plain(self, item: int) -> NDArray[np.uint8]:
        """Decode one image without augmentation: uint8 `(height, width, 3)`.

        Raises:
            DataError: If its file is gone or has changed.
        """
        try:
            data = self.manifest.reader.read(self.ids[item])
        except OSError as error:
            msg = f"{self.ids[item]} can no longer be read ({error.strerror or error}); run the same command again"
            raise DataError(msg) from error
        if hashlib.sha256(data).hexdigest() != self.sha256s[item]:
            msg = f"{self.ids[item]} has changed since it was embedded; run the same command again"
            raise DataError(msg)
        return decode(data, self.image).pixels


def choose_views(spec_views: int, *, seed: int, epoch: int, n_items: int, varied: bool) -> NDArray[np.intp]:
    """Choose the view of each item for an epoch, int `(n_items,)`.

    Args:
        spec_views: Number of views per item; 0 for a new view in each epoch.
        seed: Seed of the choice.
        epoch: Number of the epoch, starting at 1.
        n_items: Number of items.
        varied: Whether images are augmented at all.
    """
    if not varied:
        return np.zeros(n_items, np.intp)
    if not spec_views:
        return np.full(n_items, epoch, np.intp)
    return 1 + np.random.default_rng([seed, epoch, 1]).integers(spec_views, size=n_items)
