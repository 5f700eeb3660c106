"""The OpenVINO runtime: runs the graph of a Keras network, several times as fast on a CPU.

The graph is converted once, in float32 and without quantisation, and can be kept in a file. Each core has its own
stream, so that no core waits for another within a layer.
"""

import contextlib
import copy
import functools
import logging
import math
import queue
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from featx.backbones.protocol import Backbone, Features, UInt8Images, check_images, embed_in_pieces
from featx.backbones.untrusted_networks import read_checked
from featx.errors import BackboneError
from featx.options import count_cores


@contextlib.contextmanager
def _hide(*names: str) -> Iterator[None]:
    """Let the import of some modules fail in a block, unless they are there already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is what stops an import
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# OpenVINO reports its import to its makers unless this module cannot be imported. Its converter, which only a network
# of Keras needs, takes half of the time of its import.
_TELEMETRY, _CONVERTER = "openvino_telemetry", "openvino.tools.ovc"
with _hide(_TELEMETRY, _CONVERTER):
    import openvino


def _convert(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - OpenVINO has no types for mypy
    """Import OpenVINO's converter, and run it."""
    with _hide(_TELEMETRY):
        from openvino.tools.ovc import convert_model
    openvino.convert_model = convert_model
    return convert_model(*arguments, **options)


if not hasattr(openvino, "convert_model"):
    openvino.convert_model = _convert

# The first array that becomes a tensor makes OpenVINO's binding load NumPy's functions, under a lock for which other
# threads wait without releasing Python's. Two threads at once never return, so the first tensor is made here.
openvino.Tensor(np.zeros(1, np.uint8))

#: The largest output of a layer for one image, as for a Keras network; and of one value.
MOST_LAYER_BYTES, _MOST_VALUE_BYTES = 2 * 2**30, 8

_OUT_OF_MEMORY = re.compile(
    r"bad.alloc|out of memory|not enough memory|(failed to|can'?t|cannot|could not) allocate", re.IGNORECASE
)

#: What OpenVINO writes before the reason: where in its source it gave up.
_PREFIXES = re.compile(
    r"Exception from \S+: |Check '.*?' failed at \S+: |FrontEnd API failed with \w+: "
    r"|Model wasn't fully converted. Failed operations detailed log: -- "
)

__all__ = [
    "MOST_LAYER_BYTES",
    "OpenVino",
    "convert_network",
    "fold_constants",
    "openvino",
    "read_file",
    "read_network",
    "read_untrusted_network",
    "start",
    "translate_errors",
]


class OpenVino:
    """A converted network, run by OpenVINO; a `Runtime`.

    Args:
        backbone: What the network computes.
        network: What `convert_network` or `read_network` returned.
    """

    name = "openvino"
    is_on_gpu = False
    #: Measured on two cores: batches of 2 are within 5 % of the best for networks of all sizes; from 8 on, feature
    #: maps may exceed the cache. With many cores, larger batches take Python's lock less often.
    batch_sizes: tuple[int, ...] = (2, 8)

    def __init__(self, backbone: Backbone, network: Any) -> None:  # noqa: ANN401 - OpenVINO has no types for mypy
        self._shape = (backbone.height, backbone.width, 3)
        self._dims = [output.dim for output in backbone.outputs]
        self._uri = backbone.uri
        self._network = network
        batch = network.inputs[0].partial_shape[0]
        self._fixed = 0 if batch.is_dynamic else int(batch.get_length())
        if self._fixed:
            self.batch_sizes = (self._fixed,)
        self._size = 0
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.parallel = count_cores() + 1

    def save(self, path: Path) -> None:
        """Write the network and, next to it, its weights in float32.

        Args:
            path: The file of the network, which ends in `.xml`.

        Raises:
            BackboneError: If OpenVINO cannot write it.
        """
        with translate_errors(self._uri):
            openvino.save_model(self._network, path, compress_to_fp16=False)

    def fix_batch_size(self, size: int) -> None:
        """Compile for a fixed batch size: with an open batch size, some networks take 1.5 times as long.

        Some files fix it themselves; the network is then compiled for theirs.

        Raises:
            MemoryError: If there is not enough memory.
            BackboneError: If OpenVINO cannot compile it.
        """
        size = self._fixed or size
        if size == self._size:
            return
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with translate_errors(self._uri):
            fixed = self._network.clone()
            if not self._fixed:
                fixed.reshape([size, *self._shape])
            compiled = start().compile_model(fixed, "CPU", _choose_settings())
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
        if not self._size:
            self.fix_batch_size(min(len(images), self.batch_sizes[0]))
        requests, size = self._requests, self._size
        return embed_in_pieces(functools.partial(self._infer, requests), images, size)

    def open_map(self) -> "tuple[OpenVino, tuple[int, ...]] | None":
        """Open the map whose mean over its rows and columns is the only output of the network.

        Returns:
            What runs the same network up to the map, and the shape of the map of one image, channels last. None if the
            network ends with another pooling.
        """
        with translate_errors(self._uri):
            network = self._network.clone()
            if not self._fixed:
                network.reshape([-1, *self._shape])
            found = _find_averaged(network)
            if found is None:
                return None
            value, channels = found
            if channels == 1:
                order = openvino.opset13.constant(np.array([0, 2, 3, 1], np.int64))
                value = openvino.opset13.transpose(value, order).output(0)
            shape = tuple(side.get_length() for side in list(value.get_partial_shape())[1:])
            opened = copy.copy(self)
            opened._network = openvino.Model([value], network.get_parameters())  # noqa: SLF001 - its own class
        opened._dims, opened._size, opened._requests = [math.prod(shape)], 0, queue.SimpleQueue()  # noqa: SLF001
        return opened, shape

    def _infer(self, requests: "queue.SimpleQueue[Any]", images: UInt8Images) -> tuple[Features, ...]:
        request = requests.get()
        try:
            with translate_errors(self._uri):
                # Not `infer`: it runs in the caller's thread, which does not flush denormal numbers as a stream does.
                request.start_async([np.ascontiguousarray(images)], share_inputs=True)
                request.wait()
                return tuple(
                    np.array(request.get_output_tensor(number).data, np.float32).reshape(len(images), dim)
                    for number, dim in enumerate(self._dims)
                )
        finally:
            requests.put(request)


def _find_averaged(network: Any) -> tuple[Any, int] | None:  # noqa: ANN401 - OpenVINO has no types for mypy
    """Find the map whose mean is the only output of a network, and the axis of its channels."""
    if len(network.outputs) != 1:
        return None
    node = network.outputs[0].get_node().input_value(0).get_node()
    while node.get_type_name() in {"Reshape", "Squeeze", "Convert"}:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "ReduceMean" or node.input_value(1).get_node().get_type_name() != "Constant":
        return None
    value, shape = node.input_value(0), node.input_value(0).get_partial_shape()
    if not shape.rank.is_static or shape.rank.get_length() != 4 or any(side.is_dynamic for side in list(shape)[1:]):  # noqa: PLR2004 - n, h, w, c
        return None
    axes = {int(axis) % 4 for axis in node.input_value(1).get_node().get_data().ravel()}
    return (value, 6 - sum(axes)) if axes in ({1, 2}, {2, 3}) else None


@functools.cache
def start() -> Any:  # noqa: ANN401 - OpenVINO has no types for mypy
    """Start OpenVINO, once in a process."""
    return openvino.Core()


def _choose_settings() -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 on processors that have it
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": count_cores(),
        "ENABLE_CPU_PINNING": False,  # decoding shares the cores: 6 % more images/s than with pinned streams
    }


def convert_network(network: Any) -> Any:  # noqa: ANN401 - a KerasBackbone, which this module cannot import
    """Convert the graph of a Keras backbone, with only the outputs of the network, in its order.

    If the outputs have no names, the converter also keeps outputs that only training uses (a second one per swish)
    and a change of layout before and after each. EfficientNetB0 then takes 1.8 times as long.

    Raises:
        MemoryError: If there is not enough memory.
        BackboneError: If OpenVINO cannot convert it.
    """
    # In a thread, since Python raises an interrupt (Ctrl-C) in the main thread, where OpenVINO takes it for a failure.
    with (
        translate_errors(network.uri),
        _keep_logging(),
        ThreadPoolExecutor(1, thread_name_prefix="featx-conversion") as pool,
    ):
        model = pool.submit(openvino.convert_model, network.graph).result()
        outputs = [model.output(f"output_{number}") for number in range(len(network.outputs))]
        return openvino.Model([output.get_node().input_value(0) for output in outputs], model.get_parameters())


def read_network(path: Path, uri: str) -> Any:  # noqa: ANN401 - as above
    """Read a network that `OpenVino.save` wrote.

    Args:
        path: The file of the network.
        uri: Name of the backbone, for messages.

    Raises:
        MemoryError: If there is not enough memory.
        BackboneError: If OpenVINO cannot read it.
    """
    with translate_errors(uri):
        return start().read_model(path)


def read_file(path: Path, framework: str) -> Any:  # noqa: ANN401 - as above
    """Read a file of one format, `onnx` or `tflite`; OpenVINO itself would try all of its formats."""
    from openvino.frontend import FrontEndManager

    frontend = FrontEndManager().load_by_framework(framework)
    return frontend.convert(frontend.load(str(path)))


def fold_constants(network: Any) -> None:  # noqa: ANN401 - as above
    """Compute what depends on weights alone, in place."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(network)


def read_untrusted_network(path: Path, uri: str, size: tuple[int, int], dim: int) -> Any:  # noqa: ANN401 - as above
    """Read a network that somebody else may have made, after a check of all of it.

    Args:
        path: The file of the network; its weights are next to it.
        uri: Name of the backbone, for messages.
        size: Height and width of the images that it must take, in px.
        dim: Width of the features that it must return.

    Raises:
        MemoryError: If there is not enough memory.
        BackboneError: If it is not such a network, or would take too much memory, or OpenVINO cannot read it.
    """
    try:
        description, weights = read_checked(path, *size)
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be used: {' '.join(str(error).split())[:200]}"
        raise BackboneError(msg) from error
    with translate_errors(uri):
        network = start().read_model(description, openvino.Tensor(np.frombuffer(weights, np.uint8)))
        single = network.clone()
        batch = network.inputs[0].partial_shape[0]
        n_rows = 1 if batch.is_dynamic else batch.get_length()
        single.reshape([n_rows, *size, 3])
        shapes = [tuple(output.get_shape()) for part in single.get_ordered_ops() for output in part.outputs()]
        (result,) = (tuple(output.get_shape()) for output in single.outputs)
    largest = max(map(math.prod, shapes)) * _MOST_VALUE_BYTES
    if largest > MOST_LAYER_BYTES or math.prod(result) != n_rows * dim:
        msg = f"{path} cannot be used: its largest layer takes {largest:,} bytes, and its result has the shape {result}"
        raise BackboneError(msg)
    return network


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
def translate_errors(title: str, advice: str = "; run it with --runtime keras") -> Iterator[None]:
    """Turn the many types of errors that OpenVINO raises into two.

    Args:
        title: What is run, for messages.
        advice: What to do if it cannot be.

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
        shown = _PREFIXES.sub("", reason).strip()[:200]
        msg = f"OpenVINO cannot run {title} ({shown}){advice}"
        raise BackboneError(msg) from error
