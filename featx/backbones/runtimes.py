"""What runs a backbone's network: the backbone itself, or OpenVINO where that gives the same numbers faster.

`Runner` chooses, compares, and keeps the network busy; who embeds images for a user goes through it.
"""

import contextlib
import functools
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.backbones.protocol import Backbone, Features, UInt8Images, embed_in_pieces
from featx.errors import BackboneError, MissingExtraError, UsageError
from featx.options import EmbedOptions
from featx.prefetching import prefetch
from featx.registry import RUNTIMES, resolve
from featx.timing import INFER, Timing

#: The largest difference from Keras, relative to the largest feature of the image, that a runtime may
#: have. Those measured are 2e-7 to 2e-6; an operation that is done otherwise gives more than 1e-2.
MAX_RUNTIME_DRIFT = 1e-4

#: With fewer images than that, trying out batch sizes takes longer than the best one saves.
PROBED_IMAGES = 2000

# A size that is not this much faster than the usual one is not worth another rounding of the last digits.
_WORTHWHILE = 1.1

_GROUP = "featx.runtimes"

Key = TypeVar("Key")

#: What was converted in this process already; it takes 1 to 2 seconds.
_converted: "weakref.WeakKeyDictionary[Backbone, Runtime]" = weakref.WeakKeyDictionary()

logger = logging.getLogger(__name__)


class Runtime(Protocol):
    """What runs a network.

    Attributes:
        name: `keras`, `openvino`, or `numpy` for a backbone without a network.
        is_on_gpu: Whether it computes on another device than this process.
        batch_sizes: Sizes worth trying, the usual one first.
        parallel: Batches under way at one time that keep the machine busy.
    """

    name: str
    is_on_gpu: bool
    batch_sizes: tuple[int, ...]
    parallel: int

    def fix_batch_size(self, size: int) -> None:
        """Get ready for batches of a size; `embed` still takes any number."""
        ...

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images; see `Backbone.embed`. Safe to call from `parallel` threads. Raises MemoryError."""
        ...


class Native:
    """A backbone as it runs by itself; a `Runtime`."""

    def __init__(self, network: Backbone) -> None:
        self._network = network
        self.name = "keras" if hasattr(network, "model") else "numpy"
        self.is_on_gpu = bool(getattr(network, "is_on_gpu", False))
        self.batch_sizes: tuple[int, ...] = (64, 16, 256) if self.is_on_gpu else (32,)
        # On a GPU, the next batch is copied to it while it computes; on a CPU, TensorFlow uses all cores.
        self.parallel = 2 if self.is_on_gpu else 1
        self._size = self.batch_sizes[0]

    def fix_batch_size(self, size: int) -> None:
        """Cut larger batches to this size; on a GPU also fill up smaller ones, since each size is tuned anew there."""
        self._size = size

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images; see `Backbone.embed`."""
        if len(images) > self._size or (self.is_on_gpu and 0 < len(images) < self._size):
            return embed_in_pieces(self._embed_piece, images, self._size)
        return self._network.embed(images)

    def _embed_piece(self, images: UInt8Images) -> tuple[Features, ...]:
        return self._network.embed(images)


class Runner:
    """Runs a backbone by the runtime that the options ask for.

    Nothing is converted or compiled before there is an image to embed.

    Args:
        network: The backbone, which is also what another runtime is compared with.
        options: Of these, the runtime and the batch size.
        expected: About how many images there will be; decides whether batch sizes are tried out.
        few: With fewer images than this, `auto` converts nothing.
        timing: What the network's time is added to.

    Attributes:
        drift: Largest difference from Keras on the first batch, relative to each image's largest feature; 0 if
            nothing but Keras was tried, above `MAX_RUNTIME_DRIFT` if the other runtime was refused.
    """

    def __init__(
        self,
        network: Backbone,
        options: EmbedOptions,
        *,
        expected: int = 0,
        few: int = 0,
        timing: Timing | None = None,
    ) -> None:
        self._network = network
        self._options = options
        self._expected = expected
        self._is_worth_converting = expected >= few
        self._timing = timing or Timing()
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
        if self._options.runtime == "auto" and not self._is_worth_converting:
            return Native(self._network)
        return choose_runtime(self._network, self._options.runtime)

    def _set_runtime(self, runtime: Runtime) -> Runtime:
        self._size = self._options.batch_size or self._choose_batch_size(runtime)
        runtime.fix_batch_size(self._size)
        self._runtime = runtime
        self._timing.is_on_device = runtime.is_on_gpu
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

    def stream(
        self, batches: Iterable[tuple[Key, Sequence[NDArray[np.uint8]]]]
    ) -> Generator[tuple[Key, tuple[Features, ...]]]:
        """Embed batches, several at a time, in order.

        Args:
            batches: Anything that tells a batch, and its images, each uint8 RGB `(height, width, 3)`; may be none.

        Yields:
            The same with the features of the images, one matrix `(n, dim)` per output.

        Raises:
            FeatxError: As `prepare`, and if one image alone does not fit into the memory.
        """
        iterator = iter(batches)
        for key, images in iterator:
            yield key, self._embed_first(np.stack(images)) if images else self._make_empty()
            if images:
                break

        def embed_one(batch: tuple[Key, Sequence[NDArray[np.uint8]]]) -> tuple[Key, tuple[Features, ...]]:
            key, images = batch
            return key, self.embed(np.stack(images)) if images else self._make_empty()

        parallel = self._runtime.parallel if self._runtime else 1
        with contextlib.closing(prefetch(embed_one, iterator, workers=parallel, ahead=2 * parallel)) as found:
            yield from found

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images, in halves where they do not fit into the memory; see `Backbone.embed`.

        Raises:
            BackboneError: If one image alone does not fit.
        """
        runtime = self.prepare()
        while True:
            size = self._size
            try:
                with self._timing.measure(INFER):
                    return runtime.embed(images)
            except MemoryError as error:
                self._shrink(runtime, size, error)

    def _make_empty(self) -> tuple[Features, ...]:
        return tuple(np.empty((0, output.dim), np.float32) for output in self._network.outputs)

    def _shrink(self, runtime: Runtime, failed: int, error: MemoryError) -> None:
        with self._lock:
            if self._size < failed:  # another thread was faster
                return
            if failed == 1:
                msg = (
                    f"one image does not fit into the memory for {self._network.uri}: "
                    f"{' '.join(str(error).split())[:200]}; choose a smaller --image-size or network"
                )
                raise BackboneError(msg) from error
            smaller = failed // 2
            logger.warning("batches of %d do not fit into the memory; going on with %d", failed, smaller)
            runtime.fix_batch_size(smaller)
            self._size = smaller

    def _embed_first(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed the first images, and go on without the runtime if the backbone itself gives other features for them.

        Raises:
            BackboneError: If the runtime was asked for by name.
        """
        runtime, found = self.prepare(), self.embed(images)
        if isinstance(runtime, Native):
            return found
        expected = self._network.embed(images)
        self.drift = measure_runtime_drift(expected, found)
        logger.debug("%s differs from Keras by %.1e", runtime.name, self.drift)
        if self.drift <= MAX_RUNTIME_DRIFT:
            return found
        what = f"{runtime.name} differs from Keras by {self.drift:.1e} of the features (limit {MAX_RUNTIME_DRIFT:.0e})"
        if self._options.runtime == runtime.name:
            msg = f"{what} for {self._network.uri}; run it with --runtime keras"
            raise BackboneError(msg)
        logger.warning("%s for %s, so Keras runs it", what, self._network.uri)
        self._set_runtime(Native(self._network))
        return expected


def choose_runtime(network: Backbone, name: str) -> Runtime:
    """Choose what runs a network: one that is asked for by name, or the fastest.

    Args:
        network: The backbone.
        name: `keras`, `openvino`, or `auto`: Keras on a GPU and for reduced precision, else OpenVINO, else Keras.

    Raises:
        UsageError: If it is asked for by name and cannot run such a backbone.
        MissingExtraError: If it is asked for by name and is not installed.
        BackboneError: If it is asked for by name and cannot run this network.
    """
    native = Native(network)
    refusal = _find_refusal(network, native)
    if name == native.name or (name == "auto" and (refusal or native.is_on_gpu)):
        return native
    if refusal:
        msg = f"{network.uri} {refusal}; leave out --runtime {name}"
        raise UsageError(msg)
    try:
        return _make_openvino(network)
    except (MissingExtraError, BackboneError) as error:
        if name != "auto":
            raise
        logger.warning("Keras runs the network, which takes longer: %s", error)
        return native


def _find_refusal(network: Backbone, native: Native) -> str:
    if native.name != "keras":
        return "is computed in NumPy"
    precision = getattr(network, "precision", "float32")
    return "" if precision == "float32" else f"is computed in {precision}, which only Keras does"


def _make_openvino(network: Backbone) -> Runtime:
    if network not in _converted:
        try:
            _converted[network] = resolve("runtime", "openvino", RUNTIMES, _GROUP)(network)
        except ImportError as error:
            msg = f"OpenVINO is not installed or does not load here ({error}); pip install openvino, or --runtime keras"
            raise MissingExtraError(msg) from error
    return _converted[network]


def measure_rate(runtime: Runtime, size: int, shape: tuple[int, ...]) -> float:
    """Measure the images per second of a runtime with one batch size; 0 if such a batch does not fit."""
    images = np.random.default_rng(0).integers(0, 256, (size, *shape), dtype=np.uint8)
    try:
        runtime.fix_batch_size(size)
        run = functools.partial(_run_batches, runtime, images)
        run(runtime.parallel)
        count = 2 * runtime.parallel
        started = time.perf_counter()
        run(count)
    except MemoryError:
        return 0.0
    return count * size / (time.perf_counter() - started)


def _run_batches(runtime: Runtime, images: UInt8Images, count: int) -> None:
    batches: Iterator[UInt8Images] = itertools.repeat(images, count)
    for _ in prefetch(runtime.embed, batches, workers=runtime.parallel, ahead=count):
        pass


def measure_runtime_drift(expected: Sequence[Features], found: Sequence[Features]) -> float:
    """Measure how far two runtimes differ: the largest difference over the largest value, of the worst image.

    Values that are the same count as 0, also where they are not finite; where only one is not finite it is inf or nan.
    """
    worst = 0.0
    for ours, theirs in zip(expected, found, strict=True):
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        finite = np.where(np.isfinite(ours), np.abs(ours), 0)
        scale = np.maximum(finite.max(axis=1, initial=0, keepdims=True), np.finfo(np.float32).tiny)
        with np.errstate(invalid="ignore", over="ignore"):
            drift = np.where(same, 0, np.abs(ours - theirs) / scale)
        worst = float(np.max(drift, initial=worst))
    return worst
