"""Heads as operations of a graph: each answers as `PlainHead` does."""

import itertools

import numpy as np
import pytest

from featx.exporting.folding import fold_head
from featx.heads.plain import Calibration, PlainHead

DIM = 12
rng = np.random.default_rng(3)
FEATURES = rng.normal(size=(40, DIM)).astype(np.float32)
FEATURES[0] = 0  # of no length


def make_sigmoids(n):
    count = 1 if n == 2 else n
    offsets = np.linspace(-1, 1, count)
    offsets[-1] = -np.inf if n > 2 else 0.3  # the curve of a class without items
    return Calibration("sigmoid", n, slopes=np.linspace(0.5, 2, count), offsets=offsets)


def make_knots(n):
    count = 1 if n == 2 else n
    knots = [np.array([np.linspace(-3, 3, 4 + at), np.linspace(0, 0.9, 4 + at)]) for at in range(count)]
    if n > 2:
        knots[1][1] = 0  # where all others are 0 too, the classes are equal
        knots[2] = np.array([[0.5], [0.4]])  # a curve of one step
    return knots


CALIBRATIONS = {
    "none": lambda _: None,
    "temperature": lambda n: Calibration("temperature", n, factor=0.7),
    "mixture": lambda n: Calibration("mixture", n, factor=1.3, share=0.2),
    "bias": lambda n: Calibration("bias", n, factor=1.3, biases=np.linspace(-1, 1, n)),
    "sigmoid": make_sigmoids,
    "isotonic": lambda n: Calibration("isotonic", n, knots=make_knots(n)),
}


def make_head(n=3, scores="log-softmax", scaling="none", calibration="none", hidden=(), **options):
    widths = [DIM, *hidden, 1 if n == 2 else n]
    weights = []
    for given, made in itertools.pairwise(widths):
        if hidden:
            weights += [rng.uniform(0.5, 1, given), rng.normal(size=given), rng.normal(size=given), np.ones(given)]
        weights += [rng.normal(size=(given, made)), rng.normal(size=made)]
    moments = {"shift": rng.normal(size=DIM), "scale": rng.uniform(0.5, 2, DIM)} if scaling == "standard" else {}
    head = PlainHead(
        options.pop("classes", np.arange(n)),
        [part.astype(np.float32) for part in weights],
        scores,
        scaling,
        calibration=CALIBRATIONS[calibration](n),
        **moments,
        **options,
    )
    head.check()
    return head


HEADS = [
    *(make_head(n, calibration=name) for n in (2, 3) for name in CALIBRATIONS),
    *(make_head(n, scores, calibration="sigmoid") for n in (2, 3) for scores in ("opposed", "margins")),
    make_head(2, "opposed"),
    *(make_head(n, "log-probabilities", calibration="temperature") for n in (2, 3)),
    *(make_head(scaling=scaling) for scaling in ("standard", "l2", "l2-divided")),
    make_head(2, "log-probabilities", "standard", hidden=(7, 5)),
    make_head(classes=np.array([0, 2, 3])),
    make_head(widths=(DIM,)),
]


def check(head, answer):
    n_classes = int(head.classes_.max()) + 1
    expected = np.zeros((len(FEATURES), n_classes))
    expected[:, head.classes_] = head.predict_proba(FEATURES)
    found = answer(head, n_classes)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-6


@pytest.mark.parametrize("number", range(len(HEADS)))
def test_a_head_in_openvino_answers_as_in_numpy(number):
    from featx.backbones.openvino import openvino, start
    from featx.exporting.openvino_model import OpenVinoOperations

    def answer(head, n_classes):
        features = openvino.opset14.parameter([-1, DIM], np.float32)
        model = openvino.Model([fold_head(head, n_classes, features, OpenVinoOperations())], [features])
        return start().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(FEATURES)[0]

    check(HEADS[number], answer)


@pytest.mark.keras
def test_heads_in_keras_answer_as_in_numpy():
    from featx.exporting.keras_model import KerasOperations
    from featx.frameworks import keras

    def answer(head, n_classes):
        features = keras.Input((DIM,))
        return np.asarray(keras.Model(features, fold_head(head, n_classes, features, KerasOperations()))(FEATURES))

    for head in HEADS:
        check(head, answer)
