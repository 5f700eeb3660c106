"""Running a backbone: choose the runtime, compare it with Keras, keep it busy, and fit batches into the memory."""

import contextlib
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from featx.backbones.converted import OpenVinoBackbone
from featx.backbones.protocol import Backbone, Features, UInt8Images, embed_in_pieces, refuse_keras
from featx.errors import BackboneError, MissingExtraError, UsageError
from featx.measuring import INFER, Timing
from featx.options import EmbedOptions
from featx.prefetching import prefetch

if TYPE_CHECKING:
    from featx.backbones.openvino import OpenVino

# How often and how long each batch size is tried. The best time counts, since other load only adds to it.
_TRIALS = 3
_TRIAL_SECONDS = 0.15

#: Runtimes of the networks converted in this process; a conversion takes 1 to 2 seconds.
_converted: "weakref.WeakKeyDictionary[Backbone, OpenVino]" = weakref.WeakKeyDictionary()

#: Networks that only Keras runs in this process, since the other runtime failed or differed; with the difference.
_refused: "weakref.WeakKeyDictionary[Backbone, float]" = weakref.WeakKeyDictionary()

logger = logging.getLogger(__name__)


class Runtime(Protocol):
    """The protocol of a runtime, which runs a network.

    Attributes:
        name: `keras`, `openvino`, or `numpy` for a backbone without a network.
        is_on_gpu: Whether it computes on a GPU.
        batch_sizes: Batch sizes worth trying, the usual one first.
        parallel: Number of concurrent batches that keep the machine busy.
    """

    name: str
    is_on_gpu: bool
    batch_sizes: tuple[int, ...]
    parallel: int

    def fix_batch_size(self, size: int) -> None:
        """Prepare for batches of one size; `embed` still takes any number of images."""
        ...

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images; see `Backbone.embed`. Safe to call from `parallel` threads. Raises MemoryError."""
        ...


class Native:
    """The backbone's own `embed`; a `Runtime`."""

    def __init__(self, network: Backbone) -> None:
        self._network = network
        self.name = find_usual_runtime(network)
        self.is_on_gpu = bool(getattr(network, "is_on_gpu", False))
        self.batch_sizes: tuple[int, ...] = (64, 16, 256) if self.is_on_gpu else (32,)
        # A GPU receives the next batch while it computes; on a CPU, TensorFlow uses all cores for one batch.
        self.parallel = 2 if self.is_on_gpu else 1
        self._size = self.batch_sizes[0]

    def fix_batch_size(self, size: int) -> None:
        """Split larger batches to this size; on a GPU also pad smaller ones, which tunes each size separately."""
        self._size = size

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images; see `Backbone.embed`."""
        if len(images) > self._size or (self.is_on_gpu and 0 < len(images) < self._size):
            return embed_in_pieces(self._embed_piece, images, self._size)
        return self._network.embed(images)

    def _embed_piece(self, images: UInt8Images) -> tuple[Features, ...]:
        return self._network.embed(images)


def find_usual_runtime(network: Backbone) -> str:
    """Return the name of what runs a backbone by its own `embed`: `keras`, `openvino` or `numpy`."""
    if isinstance(network, OpenVinoBackbone):
        return "openvino"
    return "keras" if hasattr(network, "model") else "numpy"


def choose_runtime(network: Backbone, name: str) -> Runtime:
    """Choose the runtime of a network: the one that is named, or the fastest.

    Args:
        network: The backbone.
        name: `keras`, `openvino`, or `auto`: Keras on a GPU and for reduced precision, else OpenVINO, else Keras.

    Raises:
        UsageError: If the named runtime does not support such a backbone.
        MissingExtraError: If the named runtime is not installed.
        BackboneError: If the named runtime cannot run this network.
    """
    if isinstance(network, OpenVinoBackbone):
        refuse_keras(network.uri, name)
        return network.runtime
    native = Native(network)
    refusal = _find_refusal(network, native)
    if name == native.name or (name == "auto" and (refusal or native.is_on_gpu or network in _refused)):
        return native
    if refusal:
        msg = f"{network.uri} {refusal}; leave out --runtime {name}"
        raise UsageError(msg)
    try:
        return convert(network)
    except (MissingExtraError, BackboneError) as error:
        if name != "auto":
            raise
        logger.warning("Keras runs the network, which takes longer: %s", error)
        refuse_runtime(network)
        return native


def refuse_runtime(network: Backbone, drift: float = 0.0) -> None:
    """Let only Keras run a network for the rest of the process, so that the failure occurs, and is reported, once."""
    _refused[network] = drift


def get_refused_drift(network: Backbone) -> float:
    """Return the difference of a runtime that was refused for a network; 0 if none was."""
    return _refused.get(network, 0.0)


def _find_refusal(network: Backbone, native: Native) -> str:
    if native.name != "keras":
        return "is computed in NumPy"
    precision = getattr(network, "precision", "float32")
    return "" if precision == "float32" else f"is computed in {precision}, which only Keras supports"


def convert(network: Backbone) -> "OpenVino":
    """Convert a Keras backbone for OpenVINO, once in a process.

    Raises:
        MissingExtraError: If OpenVINO is not installed.
        BackboneError: If OpenVINO cannot convert it.
    """
    if network not in _converted:
        try:
            from featx.backbones.openvino import OpenVino, convert_network

            _converted[network] = OpenVino(network, convert_network(network))
        except MemoryError as error:
            msg = f"not enough memory to run {network.uri} with OpenVINO ({error}); run it with --runtime keras"
            raise BackboneError(msg) from error
        except (ImportError, OSError, RuntimeError) as error:  # OpenVINO or one of its libraries is missing or broken
            msg = f"OpenVINO is missing or broken ({error}); run pip install openvino, or use --runtime keras"
            raise MissingExtraError(msg) from error
    return _converted[network]


def measure_rate(runtime: Runtime, size: int, shape: tuple[int, ...], trials: int = _TRIALS) -> float:
    """Measure the images per second of a runtime at one batch size; 0 if there is not enough memory for it."""
    images = np.random.default_rng(0).integers(0, 256, (size, *shape), dtype=np.uint8)
    try:
        runtime.fix_batch_size(size)
        _time_batches(runtime, images, 0.0)
        return max(_time_batches(runtime, images, _TRIAL_SECONDS) for _ in range(trials))
    except MemoryError:
        return 0.0


def _time_batches(runtime: Runtime, images: UInt8Images, least_seconds: float) -> float:
    """Return the images per second over at least so many seconds, and at least `parallel` batches."""
    count, started = 0, time.perf_counter()

    def go_on() -> Iterator[UInt8Images]:
        for number in itertools.count():
            if number >= runtime.parallel and time.perf_counter() - started >= least_seconds:
                return
            yield images

    for _ in prefetch(runtime.embed, go_on(), workers=runtime.parallel, ahead=2 * runtime.parallel):
        count += len(images)
    return count / (time.perf_counter() - started)


def measure_runtime_drift(expected: Sequence[Features], found: Sequence[Features]) -> float:
    """Measure the difference of two runtimes: its norm over that of the features, for the worst image.

    Norms are used because single values of a feature map near zero differ by up to 1e-3 between any two orders of
    addition in float32, while the map as a whole does not. Equal values count as 0, also if they are not finite;
    if only one of two values is finite, the result is inf.

    Args:
        expected: For each output, float32 `(n, dim)`.
        found: The same from the other runtime.
    """
    worst = 0.0
    for ours, theirs in zip(expected, found, strict=True):
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        with np.errstate(invalid="ignore", over="ignore"):
            differences = np.linalg.norm(np.where(same, 0, np.subtract(ours, theirs, dtype=np.float64)), axis=1)
        norms = np.linalg.norm(np.where(np.isfinite(ours), ours, 0).astype(np.float64), axis=1)
        drifts = differences / np.maximum(norms, np.finfo(np.float32).tiny)
        worst = max(worst, float(np.max(np.where(np.isfinite(drifts), drifts, np.inf), initial=0)))
    return worst


#: The largest difference from Keras that a runtime may have, as a share of the norm of an image's features. Measured:
#: below 1e-5 for pooled features, up to 3e-5 for whole maps, above 1e-2 if an operation is computed differently.
MAX_RUNTIME_DRIFT = 1e-4

#: With fewer images than this, trying batch sizes takes longer than the best one saves.
PROBED_IMAGES = 5000

# At most so many images of the first batch are compared.
_COMPARED = 32

# A batch ends after so many items, even if few of them have an image.
_LONGEST = 256

# A batch size that is not faster by this factor is not worth other roundings of the last digits.
_WORTHWHILE = 1.1

Key = TypeVar("Key")


class Runner:
    """Runs a backbone with the runtime that the options name.

    Nothing is converted or compiled before there is an image to embed, or one is expected.

    Args:
        network: The backbone; other runtimes are compared with it.
        options: Their runtime and batch size are used.
        expected: The largest number of items; 0 if unknown. It decides whether batch sizes are tried, and limits
            them.
        few: With fewer images than this, `auto` does not convert the network.
        views: Images per item, which `stream` puts into one row.

    Attributes:
        drift: Largest difference from Keras on the first batch (see `measure_runtime_drift`); 0 if only Keras was
            tried, above `MAX_RUNTIME_DRIFT` if the other runtime was refused.
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
        self._is_compared = False
        self.drift = network.drift if isinstance(network, OpenVinoBackbone) else 0.0

    @property
    def name(self) -> str:
        """Name of the runtime that ran the network; empty if nothing was run."""
        return self._runtime.name if self._runtime else ""

    @property
    def batch_size(self) -> int:
        """Images per forward pass; the first access chooses the runtime, and may try sizes."""
        self.prepare()
        return self._size

    def prepare(self) -> Runtime:
        """Choose the runtime, convert the network for it, and choose the batch size.

        Raises:
            UsageError: If the named runtime does not support such a backbone.
            MissingExtraError: If the named runtime is not installed.
            BackboneError: If the named runtime cannot run this network.
        """
        return self._runtime or self._set_runtime(self._choose_runtime())

    def measure_rate(self) -> float:
        """Measure the images per second of the network alone, once and briefly; 0 if there is not enough memory."""
        return measure_rate(self.prepare(), self.batch_size, (self._network.height, self._network.width, 3), trials=1)

    def _choose_runtime(self) -> Runtime:
        if self._options.runtime != "auto":
            return choose_runtime(self._network, self._options.runtime)
        if isinstance(self._network, OpenVinoBackbone):
            return self._network.runtime
        self.drift = get_refused_drift(self._network)
        return choose_runtime(self._network, "auto") if self._is_worth_converting else Native(self._network)

    def _set_runtime(self, runtime: Runtime) -> Runtime:
        size = self._options.batch_size or self._choose_batch_size(runtime)
        # A batch that can never be full would be padded, which takes memory and time.
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
        """Fix the batch size, and halve it until it fits into the memory."""
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
                f"not enough memory to run {self._network.uri} on one image: "
                f"{' '.join(str(error).split())[:200]}; choose a smaller --image-size or network"
            )
            raise BackboneError(msg) from error
        logger.warning("batches of %d do not fit into the memory; continuing with %d", size, size // 2)
        return size // 2

    def stream(
        self, images: Iterable[tuple[Key, NDArray[np.uint8] | None]], timing: Timing | None = None
    ) -> Generator[tuple[list[Key], tuple[Features, ...]]]:
        """Embed images in batches, several at a time, in order.

        Args:
            images: Pairs of a key and an image, uint8 RGB `(height, width, 3)`, or with several views
                `(views, height, width, 3)`; None if there is no image.
            timing: The timing to which the time of the network is added.

        Yields:
            The keys of a batch, and the features of those with an image: one matrix `(n, views * dim)` per
            output, with the views of an image one after the other.

        Raises:
            FeatxError: As `prepare`, and if there is not enough memory for a single image.
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
            self.prepare()  # before threads decode, since it measures time and holds Python's lock
        batches = self._gather(images)
        for keys, pixels in () if self._is_compared else batches:
            yield keys, self._embed_first(np.stack(pixels)) if pixels else self._make_empty()
            if pixels:
                self._is_compared = True
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
        """Gather batches of the current size."""
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
        """Embed images, in halves if they do not fit into the memory; see `Backbone.embed`.

        Raises:
            BackboneError: If there is not enough memory for a single image.
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
        """Embed the first images, and continue with the backbone itself if the runtime returns other features.

        Raises:
            BackboneError: If the options name the runtime.
        """
        runtime = self.prepare()
        if isinstance(runtime, Native) or isinstance(self._network, OpenVinoBackbone):
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
        """Compare features with those of the backbone itself, a few images at a time."""
        size = min(len(images), _COMPARED)
        while True:
            try:
                expected = embed_in_pieces(self._network.embed, images[:_COMPARED], size)
            except MemoryError as error:
                size = self._halve(size, error)
            else:
                return measure_runtime_drift(expected, [matrix[:_COMPARED] for matrix in found])

    def _refuse(self, runtime: Runtime, reason: str, error: Exception | None = None) -> None:
        """Continue with the backbone itself, or fail if the options name the runtime."""
        if self._options.runtime == runtime.name:
            msg = f"{runtime.name} cannot run {self._network.uri}: {reason}; run it with --runtime keras"
            raise BackboneError(msg) from error
        logger.warning("%s is not used for %s: %s", runtime.name, self._network.uri, reason)
        refuse_runtime(self._network, self.drift)
        self._set_runtime(Native(self._network))


def _part_views(
    images: Iterable[tuple[Key, NDArray[np.uint8] | None]],
) -> Iterator[tuple[tuple[Key, bool], NDArray[np.uint8] | None]]:
    """Yield the views of each image one by one, so that batches are full; mark the last view of each."""
    for key, views in images:
        if views is None:
            yield (key, True), None
            continue
        for number, view in enumerate(views, 1):
            yield (key, number == len(views)), view


def _join_views(
    batches: Iterable[tuple[list[tuple[Key, bool]], tuple[Features, ...]]], views: int
) -> Iterator[tuple[list[Key], tuple[Features, ...]]]:
    """Join the rows of the views of each image again, once its last view is embedded."""
    waiting: tuple[Features, ...] | None = None
    for marked, matrices in batches:
        rows = matrices if waiting is None else tuple(map(np.concatenate, zip(waiting, matrices, strict=True)))
        n_whole = len(rows[0]) // views
        keys = [key for key, is_last in marked if is_last]
        waiting = tuple(matrix[n_whole * views :] for matrix in rows)
        if keys:
            yield keys, tuple(matrix[: n_whole * views].reshape(n_whole, views * matrix.shape[1]) for matrix in rows)
