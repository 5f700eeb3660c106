"""Running a backbone for a user: the runtime chosen, compared with Keras, kept busy, and given what fits the memory."""

import contextlib
import logging
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.backbones.protocol import Backbone, Features, UInt8Images, embed_in_pieces
from featx.backbones.runtimes import (
    Native,
    Runtime,
    choose_runtime,
    get_refused_drift,
    measure_rate,
    measure_runtime_drift,
    refuse_runtime,
)
from featx.errors import BackboneError
from featx.options import EmbedOptions
from featx.prefetching import prefetch
from featx.timing import INFER, Timing

#: The largest difference from Keras that a runtime may have, as a share of an image's features. Those measured are
#: below 1e-5 for pooled features, up to 3e-5 for whole maps; an operation that is done otherwise gives above 1e-2.
MAX_RUNTIME_DRIFT = 1e-4

#: With fewer images than that, trying out batch sizes takes longer than the best one saves.
PROBED_IMAGES = 5000

# Of a large first batch, so many images are compared.
_COMPARED = 32

# A batch ends after so many names, also where few of them bring an image.
_LONGEST = 256

# A size that is not this much faster than the usual one is not worth another rounding of the last digits.
_WORTHWHILE = 1.1

Key = TypeVar("Key")

logger = logging.getLogger(__name__)


class Runner:
    """Runs a backbone by the runtime that the options ask for.

    Nothing is converted or compiled before there is an image to embed, or one is expected.

    Args:
        network: The backbone, which is also what another runtime is compared with.
        options: Of these, the runtime and the batch size.
        expected: How many items there will be at most; 0 if that is not known. Decides whether batch sizes are tried
            out, and limits them.
        few: With fewer images than this, `auto` converts nothing.
        views: Images of each item, which `stream` puts into one row.

    Attributes:
        drift: Largest difference from Keras on the first batch (see `measure_runtime_drift`); 0 if nothing but
            Keras was tried, above `MAX_RUNTIME_DRIFT` if the other runtime was refused.
    """

    def __init__(
        self,
        network: Backbone,
        options: EmbedOptions,
        *,
        expected: int = 0,
        few: int = 0,
        views: int = 1,
    ) -> None:
        self._network = network
        self._options = options
        self._expected = expected * views
        self._views = views
        self._is_worth_converting = self._expected >= few
        self._timing = Timing()
        self._lock = threading.Lock()
        self._size = 0
        self._runtime: Runtime | None = None
        self.drift = 0.0

    @property
    def name(self) -> str:
        """Name of the runtime that ran the network; empty if there was nothing to run."""
        return self._runtime.name if self._runtime else ""

    @property
    def batch_size(self) -> int:
        """Images per forward pass; the first look at it chooses the runtime, and may try out sizes."""
        self.prepare()
        return self._size

    def prepare(self) -> Runtime:
        """Choose the runtime, convert the network for it, and choose the batch size.

        Raises:
            UsageError: If the runtime that was asked for cannot run such a backbone.
            MissingExtraError: If it is not installed.
            BackboneError: If it cannot run this network.
        """
        return self._runtime or self._set_runtime(self._choose_runtime())

    def _choose_runtime(self) -> Runtime:
        if self._options.runtime != "auto":
            return choose_runtime(self._network, self._options.runtime)
        self.drift = get_refused_drift(self._network)
        return choose_runtime(self._network, "auto") if self._is_worth_converting else Native(self._network)

    def _set_runtime(self, runtime: Runtime) -> Runtime:
        size = self._options.batch_size or self._choose_batch_size(runtime)
        # A batch that can never be full would be filled up, and take memory and time.
        self._fix_batch_size(runtime, min(size, self._expected) if self._expected else size)
        self._runtime = runtime
        return runtime

    def _choose_batch_size(self, runtime: Runtime) -> int:
        usual = runtime.batch_sizes[0]
        if self._expected < PROBED_IMAGES or len(runtime.batch_sizes) == 1:
            return usual
        shape = (self._network.height, self._network.width, 3)
        rates = {size: measure_rate(runtime, size, shape) for size in runtime.batch_sizes}
        logger.debug("images/s by batch size: %s", rates)
        best = max(rates, key=lambda size: rates[size])
        return best if rates[best] >= _WORTHWHILE * rates[usual] else usual

    def _fix_batch_size(self, runtime: Runtime, size: int) -> None:
        """Fix the batch size, or the largest half of it that fits into the memory."""
        while True:
            try:
                runtime.fix_batch_size(size)
            except MemoryError as error:
                size = self._halve(size, error)
            else:
                self._size = size
                return

    def _halve(self, size: int, error: MemoryError) -> int:
        if size == 1:
            msg = (
                f"one image does not fit into the memory for {self._network.uri}: "
                f"{' '.join(str(error).split())[:200]}; choose a smaller --image-size or network"
            )
            raise BackboneError(msg) from error
        logger.warning("batches of %d do not fit into the memory; going on with %d", size, size // 2)
        return size // 2

    def stream(
        self, images: Iterable[tuple[Key, NDArray[np.uint8] | None]], timing: Timing | None = None
    ) -> Generator[tuple[list[Key], tuple[Features, ...]]]:
        """Embed images in batches, several at a time, in order.

        Args:
            images: Anything that tells an image, and the image, uint8 RGB `(height, width, 3)`, or with several
                views `(views, height, width, 3)`; None if there is none.
            timing: What the network's time is added to.

        Yields:
            What tells the images of a batch, and the features of those that there are, one matrix
            `(n, views * dim)` per output: the rows of an image's views behind each other.

        Raises:
            FeatxError: As `prepare`, and if one image alone does not fit into the memory.
        """
        if self._views == 1:
            yield from self._stream(images, timing)
            return
        with contextlib.closing(self._stream(_part_views(images), timing)) as embedded:
            yield from _join_views(embedded, self._views)

    def _stream(
        self, images: Iterable[tuple[Key, NDArray[np.uint8] | None]], timing: Timing | None
    ) -> Generator[tuple[list[Key], tuple[Features, ...]]]:
        self._timing = timing or self._timing
        if self._expected:
            self.prepare()  # before threads decode, since it measures and keeps Python's lock
        batches = self._gather(images)
        for keys, pixels in batches:
            yield keys, self._embed_first(np.stack(pixels)) if pixels else self._make_empty()
            if pixels:
                break

        def embed_one(batch: tuple[list[Key], list[NDArray[np.uint8]]]) -> tuple[list[Key], tuple[Features, ...]]:
            keys, pixels = batch
            return keys, self.embed(np.stack(pixels)) if pixels else self._make_empty()

        parallel = self._runtime.parallel if self._runtime else 1
        with contextlib.closing(prefetch(embed_one, batches, workers=parallel, ahead=2 * parallel)) as found:
            yield from found

    def _gather(
        self, images: Iterable[tuple[Key, NDArray[np.uint8] | None]]
    ) -> Iterator[tuple[list[Key], list[NDArray[np.uint8]]]]:
        """Gather batches of the size that fits at the moment."""
        keys: list[Key] = []
        pixels: list[NDArray[np.uint8]] = []
        for key, image in images:
            keys.append(key)
            if image is not None:
                pixels.append(image)
            if len(keys) >= _LONGEST or (pixels and len(pixels) >= self.batch_size):
                yield keys, pixels
                keys, pixels = [], []
        if keys:
            yield keys, pixels

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images, in halves where they do not fit into the memory; see `Backbone.embed`.

        Raises:
            BackboneError: If one image alone does not fit.
        """
        runtime = self.prepare()
        while True:
            size = self._size
            try:
                self._timing.is_on_device = runtime.is_on_gpu
                with self._timing.measure(INFER):
                    return runtime.embed(images)
            except MemoryError as error:
                with self._lock:
                    if self._size == size:  # else another thread was faster
                        self._fix_batch_size(runtime, self._halve(size, error))

    def _make_empty(self) -> tuple[Features, ...]:
        return tuple(np.empty((0, output.dim), np.float32) for output in self._network.outputs)

    def _embed_first(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed the first images, and go on without the runtime if the backbone itself gives other features for them.

        Raises:
            BackboneError: If the runtime was asked for by name.
        """
        runtime = self.prepare()
        if isinstance(runtime, Native):
            return self.embed(images)
        try:
            found = self.embed(images)
            self.drift = self._compare(images, found)
        except BackboneError as error:
            self._refuse(runtime, str(error), error)
            return self.embed(images)
        logger.debug("%s differs from Keras by %.1e", runtime.name, self.drift)
        if self.drift <= MAX_RUNTIME_DRIFT:
            return found
        self._refuse(
            runtime, f"it differs from Keras by {self.drift:.1e} of the features' norm (limit {MAX_RUNTIME_DRIFT:.0e})"
        )
        return self.embed(images)

    def _compare(self, images: UInt8Images, found: tuple[Features, ...]) -> float:
        """Compare features with those that the backbone itself gives, of a few images at a time."""
        size = min(len(images), _COMPARED)
        while True:
            try:
                expected = embed_in_pieces(self._network.embed, images[:_COMPARED], size)
            except MemoryError as error:
                size = self._halve(size, error)
            else:
                return measure_runtime_drift(expected, [matrix[:_COMPARED] for matrix in found])

    def _refuse(self, runtime: Runtime, reason: str, error: Exception | None = None) -> None:
        """Go on with the backbone itself, or not at all if the runtime was asked for by name."""
        if self._options.runtime == runtime.name:
            msg = f"{runtime.name} cannot run {self._network.uri}: {reason}; run it with --runtime keras"
            raise BackboneError(msg) from error
        logger.warning("%s is not used for %s: %s", runtime.name, self._network.uri, reason)
        refuse_runtime(self._network, self.drift)
        self._set_runtime(Native(self._network))


def _part_views(
    images: Iterable[tuple[Key, NDArray[np.uint8] | None]],
) -> Iterator[tuple[tuple[Key, bool], NDArray[np.uint8] | None]]:
    """Hand out the views of each image one by one, so that batches are full; tell the last of each."""
    for key, views in images:
        if views is None:
            yield (key, True), None
            continue
        for number, view in enumerate(views, 1):
            yield (key, number == len(views)), view


def _join_views(
    batches: Iterable[tuple[list[tuple[Key, bool]], tuple[Features, ...]]], views: int
) -> Iterator[tuple[list[Key], tuple[Features, ...]]]:
    """Put the rows of the views of each image behind each other again, once the last of them is there."""
    waiting: tuple[Features, ...] | None = None
    for told, matrices in batches:
        rows = matrices if waiting is None else tuple(map(np.concatenate, zip(waiting, matrices, strict=True)))
        n_whole = len(rows[0]) // views
        keys = [key for key, is_last in told if is_last]
        waiting = tuple(matrix[n_whole * views :] for matrix in rows)
        if keys:
            yield keys, tuple(matrix[: n_whole * views].reshape(n_whole, views * matrix.shape[1]) for matrix in rows)
