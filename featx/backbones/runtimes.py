"""What runs a backbone's network: the backbone itself, or OpenVINO where that gives the same numbers faster."""

import itertools
import logging
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from featx.backbones.protocol import Backbone, Features, UInt8Images, embed_in_pieces
from featx.errors import BackboneError, MissingExtraError, UsageError
from featx.prefetching import prefetch
from featx.registry import RUNTIMES, resolve

# Each size is tried so often for so long; the best time counts, since a busy machine only adds to it.
_TRIALS = 3
_TRIAL_SECONDS = 0.15

_GROUP = "featx.runtimes"

#: What was converted in this process already; it takes 1 to 2 seconds.
_converted: "weakref.WeakKeyDictionary[Backbone, Runtime]" = weakref.WeakKeyDictionary()

#: Networks that nothing but Keras runs in this process, since something else failed or differed; with the difference.
_refused: "weakref.WeakKeyDictionary[Backbone, float]" = weakref.WeakKeyDictionary()

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
    if name == native.name or (name == "auto" and (refusal or native.is_on_gpu or network in _refused)):
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
        refuse_runtime(network)
        return native


def refuse_runtime(network: Backbone, drift: float = 0.0) -> None:
    """Leave a network to Keras for the rest of the process, so that it is tried, and said, once."""
    _refused[network] = drift


def get_refused_drift(network: Backbone) -> float:
    """Return by how much a runtime differed that is not used any more; 0 if there is none."""
    return _refused.get(network, 0.0)


def _find_refusal(network: Backbone, native: Native) -> str:
    if native.name != "keras":
        return "is computed in NumPy"
    precision = getattr(network, "precision", "float32")
    return "" if precision == "float32" else f"is computed in {precision}, which only Keras does"


def _make_openvino(network: Backbone) -> Runtime:
    if network not in _converted:
        try:
            _converted[network] = resolve("runtime", "openvino", RUNTIMES, _GROUP)(network)
        except MemoryError as error:
            msg = f"OpenVINO needs more memory for {network.uri} than there is ({error}); run it with --runtime keras"
            raise BackboneError(msg) from error
        except (ImportError, OSError, RuntimeError) as error:  # OpenVINO or a library it needs is missing or odd
            msg = f"OpenVINO is not installed or does not load here ({error}); pip install openvino, or --runtime keras"
            raise MissingExtraError(msg) from error
    return _converted[network]


def measure_rate(runtime: Runtime, size: int, shape: tuple[int, ...]) -> float:
    """Measure the images per second of a runtime with one batch size; 0 if such a batch does not fit."""
    images = np.random.default_rng(0).integers(0, 256, (size, *shape), dtype=np.uint8)
    try:
        runtime.fix_batch_size(size)
        _time_batches(runtime, images, 0.0)
        return max(_time_batches(runtime, images, _TRIAL_SECONDS) for _ in range(_TRIALS))
    except MemoryError:
        return 0.0


def _time_batches(runtime: Runtime, images: UInt8Images, least_seconds: float) -> float:
    """Return the images per second of as many batches as take so long, at least one for each that may be under way."""
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
    """Measure how far two runtimes differ: the norm of the difference over that of the features, of the worst image.

    Norms, because single values of a feature map that cancel out differ by up to 1e-3 between any two ways to add
    in float32, while the map as a whole does not. Values that are the same count as 0, also where they are
    not finite; where only one is not finite the result is inf.

    Args:
        expected: Of each output, float32 `(n, dim)`.
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
