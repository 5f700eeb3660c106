"""The OpenVINO runtime: runs the graph of a Keras network, several times as fast on a CPU.

The graph is converted in this process, in float32 and without quantisation. Each core has its own
stream, so that no core waits for another within a layer.
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

# OpenVINO reports its import to its makers unless this module cannot be imported.
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
    #: Measured on two cores: batches of 2 are within 5 % of the best for networks of all sizes; from 8 on, feature
    #: maps may exceed the cache. With many cores, larger batches take Python's lock less often.
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
        """Compile for a fixed batch size: with an open batch size, some networks take 1.5 times as long.

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
            # One more than the number of streams, so that no stream waits while results are copied.
            parallel = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
            for _ in range(parallel):
                requests.put(compiled.create_infer_request())
        self._requests, self._size, self.parallel = requests, size, parallel

    def embed(self, images: UInt8Images) -> tuple[Features, ...]:
        """Embed images; see `Backbone.embed`. Safe to call from several threads at once.

        Raises:
            MemoryError: If there is not enough memory.
            BackboneError: If OpenVINO fails for another reason.
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
                # Not `infer`: it runs in the caller's thread, which does not flush denormal numbers as a stream does.
                request.start_async([np.ascontiguousarray(images)], share_inputs=True)
                request.wait()
                return tuple(
                    np.array(request.get_output_tensor(number).data, np.float32).reshape(len(images), dim)
                    for number, dim in enumerate(self._dims)
                )
        finally:
            requests.put(request)


@functools.cache
def _start() -> Any:  # noqa: ANN401 - OpenVINO has no types for mypy
    return openvino.Core()


def _choose_settings() -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 on processors that have it
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": count_cores(),
        "ENABLE_CPU_PINNING": False,  # decoding shares the cores: 6 % more images/s than with pinned streams
    }


def _convert(network: Any) -> Any:  # noqa: ANN401 - as above
    """Convert the graph, with only the outputs of the network, in its order.

    If the outputs have no names, the converter also keeps outputs that only training uses (a second one per swish)
    and a change of layout before and after each. EfficientNetB0 then takes 1.8 times as long.
    """
    # In a thread, since Python raises an interrupt (Ctrl-C) in the main thread, where OpenVINO takes it for a failure.
    with _keep_logging(), ThreadPoolExecutor(1, thread_name_prefix="featx-conversion") as pool:
        model = pool.submit(openvino.convert_model, network.graph).result()
    outputs = [model.output(f"output_{number}") for number in range(len(network.outputs))]
    return openvino.Model([output.get_node().input_value(0) for output in outputs], model.get_parameters())


@contextlib.contextmanager
def _keep_logging() -> Iterator[None]:
    """Restore the root logger, which a failed conversion leaves in a state that drops warnings."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Turn the many types of errors that OpenVINO raises into two.

    Raises:
        MemoryError: If there is not enough memory.
        BackboneError: For every other error.
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
