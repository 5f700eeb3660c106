"""What tutorials show, for benchmarks/serve.py: a Flask app that calls `model.predict` for each request.

python serve_flask.py PORT
"""

import io
import sys

import keras
import numpy as np
from flask import Flask, jsonify, request
from PIL import Image

SIDE = 224


def read_pixels(data):
    """Decode a picture as tutorials do."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def main(port):
    """Answer requests."""
    network = keras.applications.MobileNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3)
    )
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), network, keras.layers.Dense(2, activation="softmax")])
    app = Flask("rival")

    @app.post("/predict")
    def predict():
        pixels = keras.applications.mobilenet_v2.preprocess_input(read_pixels(request.data).astype(np.float32))
        return jsonify(model.predict(pixels[None], verbose=0)[0].tolist())

    app.run(port=port, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
