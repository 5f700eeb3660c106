"""LitServe, for benchmarks/serve.py, with a model of `featx export --to openvino`, as its documentation does it.

python serve_litserve.py PORT EXPORT
"""

import io
import sys
from pathlib import Path

import litserve
import numpy as np
import openvino
from PIL import Image

SIDE = 224


class Classifier(litserve.LitAPI):
    """Classifies pictures in batches."""

    def setup(self, device):  # noqa: ARG002 - LitServe passes it
        """Load the model."""
        path = Path(sys.argv[2]) / "model.xml"
        self._model = openvino.Core().compile_model(path, "CPU")

    def decode_request(self, request):
        """Decode a picture."""
        with Image.open(io.BytesIO(request["images"].file.read())) as image:
            return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    def batch(self, inputs):
        """Make a batch."""
        return np.stack(inputs)

    def predict(self, images):
        """Predict a batch."""
        return next(iter(self._model(images).values()))

    def unbatch(self, output):
        """Part the answers."""
        return list(output)

    def encode_response(self, output):
        """Make the answer."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.002)
    litserve.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), log_level="error", generate_client_file=False)
