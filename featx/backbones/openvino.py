"""OpenVINO as what runs a Keras network: the same graph, several times as fast on a CPU.

The graph is converted in this process and in float32; nothing is quantised. Each core gets
a stream of its own, so that no core waits for another one within a layer.
"""

import contextlib
import functools
import logging
import queue
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from featx.backbones.protocol import Features, UInt8Images, check_images, embed_in_pieces
from featx.errors import BackboneError
from featx.options import count_cores

# OpenVINO reports its import to its makers unless their module cannot be imported.
_telemetry = sys.modules.get("openvino_telemetry")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
try:
    import openvino
finally:
    if _telemetry is None:
        del sys.modules["openvino_telemetry"]
    else:
        sys.modules["openvino_telemetry"] = _telemetry

_OUT_OF_MEMORY = re.compile(
    r"bad.alloc|out of memory|not enough memory|(failed to|can'?t|cannot|could not) allocate", re.IGNORECASE
)


class OpenVino:
    """A Keras backbone, run by OpenVINO; a `Runtime`.

    Args:
        network: A `KerasBackbone`.

    Raises:
        BackboneError: If OpenVINO cannot convert it.
    """

    name = "openvino"
    is_on_gpu = False
    #: Measured on two cores: two images are within 5 % of the best for networks of all sizes, while of 8 on,
    #: feature maps may leave the cache. Where many cores share Python's lock, larger batches take it less often.
    batch_sizes: tuple[int, ...] = (2, 8)

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - a KerasBackbone, which this module cannot import
        self._shape = (network.height, network.width, 3)
        self._dims = [output.dim for output in network.outputs]
        self._uri = network.uri
        with _translate_errors(self._uri):
            self._network = _convert(network)
        self._size = 0
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.parallel = 0
        self.fix_batch_size(self.batch_sizes[0])

    def fix_batch_size(self, size: int) -> None:
        """Compile for batches of a size: with an open one, some networks take half as long again.

        Raises:
            MemoryError: If there is not enough memory.
            BackboneError: If OpenVINO cannot compile it.
        """
        if size == self._size:
            return
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with _translate_errors(self._uri):
            fixed = self._network.clone()
            fixed.reshape([size, *self._shape])
            compiled = _start().compile_model(fixed, "CPU", _choose_settings())
            # One more than there are streams, so that none waits while results are copied.
            parallel = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
            for _ in range(parallel):
                requests.put(compiled.create_infer_request())
        self._requests, self._size, self.parallel = requests, size, parallel

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images; see `Backbone.embed`. Safe to call from several threads at once.

        Raises:
            MemoryError: If there is not enough memory.
            BackboneError: If OpenVINO fails otherwise.
        """
        height, width, _ = self._shape
        check_images(images, height, width)
        if not len(images):
            return tuple(np.empty((0, dim), np.float32) for dim in self._dims)
        requests, size = self._requests, self._size
        return embed_in_pieces(functools.partial(self._infer, requests), images, size)

    def _infer(self, requests: "queue.SimpleQueue[Any]", images: UInt8Images) -> tuple[Features, ...]:
        request = requests.get()
        try:
            with _translate_errors(self._uri):
                # Not `infer`, which runs in the caller's thread, without the stream's flushing of denormal numbers.
                request.start_async([np.ascontiguousarray(images)], share_inputs=True)
                request.wait()
                return tuple(
                    np.array(request.get_output_tensor(number).data, np.float32).reshape(len(images), dim)
                    for number, dim in enumerate(self._dims)
                )
        finally:
            requests.put(request)


@functools.cache
def _start() -> Any:  # noqa: ANN401 - OpenVINO has no types that mypy reads
    return openvino.Core()


def _choose_settings() -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 on processors that have it
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": count_cores(),
        "ENABLE_CPU_PINNING": False,  # decoding shares the cores: 6 % more images in all than with pinned streams
    }


def _convert(network: Any) -> Any:  # noqa: ANN401 - as above
    """Convert the graph, with the outputs in the network's order and no others.

    Of a function whose outputs have no names, the converter also keeps what only training would use (a second
    output of each swish), and with it a change of layout before and after: EfficientNetB0 then takes 1.8 times as long.
    """
    # In a thread, since OpenVINO takes an interrupt (Ctrl-C), which Python raises in the main thread, for a failure.
    with _keep_logging(), ThreadPoolExecutor(1, thread_name_prefix="featx-conversion") as pool:
        model = pool.submit(openvino.convert_model, network.graph).result()
    outputs = [model.output(f"output_{number}") for number in range(len(network.outputs))]
    return openvino.Model([output.get_node().input_value(0) for output in outputs], model.get_parameters())


@contextlib.contextmanager
def _keep_logging() -> Iterator[None]:
    """Undo what a conversion that fails leaves behind: a root logger that lets no warning through."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Turn whatever OpenVINO raises, which is of many types, into one of two.

    Raises:
        MemoryError: If there is not enough memory.
        BackboneError: If it is anything else.
    """
    try:
        yield
    except (BackboneError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if _OUT_OF_MEMORY.search(reason):
            raise MemoryError(reason[:200]) from error
        msg = f"OpenVINO cannot run {uri} ({reason[:200]}); run it with --runtime keras"
        raise BackboneError(msg) from error
