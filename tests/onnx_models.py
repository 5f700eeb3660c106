"""Small ONNX files, written without the package onnx, so that they can also be wrong."""

import numpy as np

FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7
_TYPES = {"float32": FLOAT, "uint8": UINT8, "int32": INT32, "int64": INT64}


def varint(value):
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(*fields):
    """Join fields: pairs of a number and an int, or text, bytes or another message."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            data = value.encode() if isinstance(value, str) else value
            parts.append(varint(number << 3 | 2) + varint(len(data)) + data)
    return b"".join(parts)


def tensor(name, values, sides=None):
    values = np.asarray(values)
    shape = [(1, side) for side in (values.shape if sides is None else sides)]
    return message(*shape, (2, _TYPES[values.dtype.name]), (8, name), (9, values.tobytes()))


def external(name, sides, location, **entry):
    entry = {"location": location, **entry}
    pairs = [(13, message((1, key), (2, str(value)))) for key, value in entry.items()]
    return message(*((1, side) for side in sides), (2, FLOAT), (8, name), *pairs, (14, 1))


def node(kind, inputs, outputs, domain="", **attributes):
    fields = [*((1, name) for name in inputs), *((2, name) for name in outputs), (4, kind)]
    for name, value in attributes.items():
        if isinstance(value, int):
            fields.append((5, message((1, name), (3, value), (20, 2))))
        elif isinstance(value, bytes):
            fields.append((5, message((1, name), (5, value), (20, 4))))
        else:
            fields.append((5, message((1, name), *((8, each) for each in value), (20, 7))))
    return message(*fields, *([(7, domain)] if domain else []))


def value(name, sides, kind=FLOAT):
    """Describe an input or output; a side that is text is open, and None for any rank."""
    shape = message(*((1, message((1 if isinstance(side, int) else 2, side))) for side in sides or ()))
    typed = message((1, kind), *([(2, shape)] if sides is not None else []))
    return message((1, name), (2, message((1, typed))))


def model(nodes, weights, inputs, outputs, metadata=(), producer="tests"):
    graph = message(
        *((1, each) for each in nodes),
        (2, "graph"),
        *((5, each) for each in weights),
        *((11, each) for each in inputs),
        *((12, each) for each in outputs),
    )
    pairs = [(14, message((1, key), (2, text))) for key, text in dict(metadata).items()]
    return message((1, 8), (2, producer), (7, graph), (8, message((1, ""), (2, 17))), *pairs)


PATCH, CHANNELS, CLASSES, SIDE = 4, 6, 5, 16
KERNEL = np.random.default_rng(3).normal(0, 0.3, (CHANNELS, 3, PATCH, PATCH)).astype(np.float32)
CLASSIFIER = np.random.default_rng(4).normal(size=(CHANNELS, CLASSES)).astype(np.float32)
TOKENS = np.random.default_rng(5).normal(size=(1, 3, CHANNELS)).astype(np.float32)  # a class token and two registers
CONV = node("Conv", ["x", "kernel"], ["patches"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
IMAGES = value("x", ["n", 3, SIDE, SIDE])


def make_classifier(images=IMAGES, metadata=(), extra=(), nodes=(CONV,), **options):
    """Patches, ReLU, the average, and a matrix product."""
    nodes = [
        *nodes,
        node("Relu", ["patches"], ["active"]),
        node("GlobalAveragePool", ["active"], ["mean"]),
        node("Flatten", ["mean"], ["vector"], axis=1),
        node("MatMul", ["vector", "classifier"], ["logits"]),
    ]
    weights = [tensor("kernel", KERNEL), tensor("classifier", CLASSIFIER), *extra]
    return model(nodes, weights, [images], [value("logits", ["n", CLASSES])], metadata, **options)


def make_transformer(images=IMAGES, metadata=()):
    """Patches as tokens after three tokens of its own, which are repeated for each image."""
    nodes = [
        CONV,
        node("Reshape", ["patches", "rows"], ["row"]),
        node("Transpose", ["row"], ["tokens"], perm=[0, 2, 1]),
        node("Shape", ["tokens"], ["shape"]),
        node("Gather", ["shape", "first"], ["count"], axis=0),
        node("Concat", ["count", "rest"], ["wanted"], axis=0),
        node("Expand", ["own", "wanted"], ["owned"]),
        node("Concat", ["owned", "tokens"], ["out"], axis=1),
    ]
    weights = [
        tensor("kernel", KERNEL),
        tensor("own", TOKENS),
        tensor("rows", np.array([0, CHANNELS, -1])),
        tensor("first", np.array([0])),
        tensor("rest", np.array(TOKENS.shape[1:])),
    ]
    return model(nodes, weights, [images], [value("out", ["n", "t", CHANNELS])], metadata)


def embed_patches(pixels):
    """Compute `patches` in NumPy, channels last, from float `(n, SIDE, SIDE, 3)`."""
    n, grid = len(pixels), SIDE // PATCH
    cells = np.asarray(pixels, np.float64).reshape(n, grid, PATCH, grid, PATCH, 3)
    return np.einsum("nhiwjc,kcij->nhwk", cells, KERNEL.astype(np.float64))
