"""Runs an exported model with the runtime of its format: `python inference.py FORMAT MODEL IMAGES RESULT`.

This file is run as a script, in a process of its own that imports nothing of featx, so what it shows is what a user
without featx gets. IMAGES is a .npy file of uint8 `(n, height, width, 3)`, or a folder of pictures of any size, which
Pillow opens. RESULT is a .npz file with the probabilities, the seconds to the first answer, and images per second.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

#: Images in one call.
_BATCH = 8


def start_openvino(path: str) -> tuple[str, Callable[[Any], Any]]:
    """Load an OpenVINO model; return the name of the runtime, and what answers a batch."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # or OpenVINO reports its import
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return f"openvino {openvino.__version__.partition('-')[0]}", lambda images: model(images)[0]


def start_onnx(path: str) -> tuple[str, Callable[[Any], Any]]:
    """Load an ONNX model, as `start_openvino`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return f"onnxruntime {onnxruntime.__version__}", lambda images: session.run(None, {name: images})[0]


def start_keras(path: str) -> tuple[str, Callable[[Any], Any]]:
    """Load a Keras model, as `start_openvino`."""
    import keras

    model = keras.saving.load_model(path, compile=False)
    return f"keras {keras.__version__}", lambda images: np.asarray(model(images, training=False))


def start_savedmodel(path: str) -> tuple[str, Callable[[Any], Any]]:
    """Load a SavedModel of TensorFlow, as `start_openvino`."""
    import tensorflow as tf

    model = tf.saved_model.load(path)
    return f"tensorflow {tf.__version__}", lambda images: model.serve(tf.constant(images))["probabilities"].numpy()


def start_litert(path: str) -> tuple[str, Callable[[Any], Any]]:
    """Load a LiteRT model, as `start_openvino`."""
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    given, found = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def answer(images: Any) -> Any:  # noqa: ANN401 - an array
        interpreter.resize_tensor_input(given, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, images)
        interpreter.invoke()
        return interpreter.get_tensor(found)

    return f"ai-edge-litert {version('ai-edge-litert')}", answer


STARTS = {
    "openvino": start_openvino,
    "onnx": start_onnx,
    "keras": start_keras,
    "savedmodel": start_savedmodel,
    "litert": start_litert,
}


def read_batches(images: Path) -> Iterator[Any]:
    """Read the images: batches of an array, or the pictures of a folder one by one."""
    if images.is_file():
        pixels = np.load(images)
        yield from (pixels[at : at + _BATCH] for at in range(0, len(pixels), _BATCH))
        return
    from PIL import Image, ImageOps

    for path in sorted(images.iterdir()):
        with Image.open(path) as picture:
            yield np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))[None]


def run(kind: str, model: str, images: Path, result: Path) -> None:
    """Run a model on images, and write what it answers."""
    batches = read_batches(images)
    first = next(batches)
    begun = time.perf_counter()
    runtime, answer = STARTS[kind](model)
    found = [answer(first)]
    start_seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    found += [answer(batch) for batch in batches]
    rate = sum(map(len, found[1:])) / (time.perf_counter() - begun)
    imported = [name for name in ("featx", "tensorflow") if name in sys.modules]
    np.savez(
        result,
        probabilities=np.concatenate([np.asarray(one, np.float64) for one in found]),
        first=np.zeros(len(found[0])),
        start=start_seconds,
        rate=rate,
        runtime=runtime,
        imported=np.array(imported, np.str_),
    )


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
