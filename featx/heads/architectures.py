"""Architectures: the layers of small networks, their answers in NumPy alone, and the plan of their training.

A network is a row of blocks: batch normalisation if asked for, dropout, and a dense layer, with ReLU on all but the
last. Its weights are the list that Keras gives, so a network is trained in Keras and predicts without it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featx.errors import UsageError
from featx.evaluation.ranking import make_roc_auc

#: Added to a variance before its root is taken; Keras's own default.
EPSILON = 1e-3

#: A larger hidden layer is a typing error: with 2,048 features it would take half a gigabyte.
MOST_UNITS = 65_536

_MOST_DIGITS = 6

_NORMALIZATION = 4  # gamma, beta, moving mean, moving variance

Weights = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a network.

    Attributes:
        widths: Numbers of features, of units in each hidden layer, and of outputs:
            one per class, or a single one for two classes.
        batch_norm: Whether each dense layer's input is normalised (Ioffe & Szegedy 2015).
        dropout: Share of each dense layer's input that is left out at random in
            training (Srivastava et al. 2014).
    """

    widths: tuple[int, ...]
    batch_norm: bool
    dropout: float

    @classmethod
    def plan(cls, dim: int, hidden: str, n_classes: int, *, batch_norm: bool, dropout: float) -> "Architecture":
        """Plan a network for features of a width and a number of classes.

        Raises:
            UsageError: If `hidden` is not a list of layer sizes.
        """
        n_outputs = 1 if n_classes == 2 else n_classes  # noqa: PLR2004 - one number separates two classes
        return cls((dim, *read_hidden(hidden), n_outputs), batch_norm, dropout)


class Block(NamedTuple):
    """A dense layer and the normalisation of its input.

    Attributes:
        normalization: Gamma, beta, mean and variance, each float32 (n_inputs,); or empty.
        kernel: float32 (n_inputs, n_units).
        bias: float32 (n_units,).
    """

    normalization: Weights
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]


def read_hidden(text: str) -> tuple[int, ...]:
    """Read sizes of hidden layers: `512-256` is (512, 256), and an empty text ().

    Raises:
        UsageError: If the text is something else, or a layer is too large.
    """
    sizes = text.split("-") if text else []
    if not all(
        size.isascii() and size.isdigit() and len(size) <= _MOST_DIGITS and 0 < int(size) <= MOST_UNITS
        for size in sizes
    ):
        msg = (
            f"hidden layers cannot have the sizes {text[:40]!r}; write 1 to {MOST_UNITS:,} units for each, such as "
            "256 or 512-256"
        )
        raise UsageError(msg)
    return tuple(map(int, sizes))


def split_blocks(weights: Weights, dim: int, n_outputs: int) -> Iterator[Block]:
    """Split a list of weights into blocks, and check that these fit together.

    Args:
        weights: As Keras's `get_weights` orders them.
        dim: Number of features.
        n_outputs: Units of the last layer.

    Raises:
        ValueError: If they are not the weights of a network from `dim` features to `n_outputs` outputs.
    """
    width, at = dim, 0
    while at < len(weights):
        first = at + (_NORMALIZATION if weights[at].ndim == 1 else 0)
        block = Block(weights[at:first], *weights[first : first + 2])
        at = first + 2
        units = n_outputs if at >= len(weights) else block.bias.size
        shapes = [part.shape for part in (*block.normalization, block.kernel, block.bias)]
        if shapes != [*[(width,)] * len(block.normalization), (width, units), (units,)]:
            msg = f"weights of the shapes {shapes} do not connect {width} inputs to {units} units"
            raise ValueError(msg)
        yield block
        width = units


def check_weights(weights: Any, widths: tuple[int, ...]) -> None:  # noqa: ANN401 - what a file holds
    """Check weights that come from a file.

    Raises:
        TypeError: If they are not a list of float32 arrays.
        ValueError: If they do not fit a network of these widths, or are not finite.
    """
    if not isinstance(weights, list) or not all(
        isinstance(part, np.ndarray) and part.dtype == np.float32 for part in weights
    ):
        msg = "a network without its list of weights"
        raise TypeError(msg)
    blocks = list(split_blocks(weights, widths[0], widths[-1]))
    finite = all(np.isfinite(part).all() for part in weights)
    if tuple(block.bias.size for block in blocks) != widths[1:] or not finite:
        msg = "a network whose weights do not fit its layers, or are not finite"
        raise ValueError(msg)
    if any(block.normalization and block.normalization[3].min() < 0 for block in blocks):
        msg = "a network with a variance below 0"
        raise ValueError(msg)


def compute_logits(weights: Weights, features: NDArray[np.float32], n_outputs: int) -> NDArray[np.float32]:
    """Compute the network's logits outside of training: float32 (n_items, n_outputs).

    Args:
        weights: As Keras's `get_weights` orders them.
        features: float32 (n_items, dim), scaled.
        n_outputs: Units of the last layer.

    Raises:
        ValueError: If the weights do not fit.
    """
    values = features
    for number, (normalization, kernel, bias) in enumerate(split_blocks(weights, features.shape[1], n_outputs)):
        if number:
            values = np.maximum(values, 0)
        if normalization:
            gamma, beta, mean, variance = normalization
            values = (values - mean) * (gamma / np.sqrt(variance + np.float32(EPSILON))) + beta
        values = values @ kernel + bias
    return values


def measure_loss(
    logits: NDArray[np.float32], targets: NDArray[np.int32], weights: NDArray[np.float32], label_smoothing: float
) -> float:
    """Return the mean weighted cross-entropy, with label smoothing (Szegedy et al. 2016, section 7).

    Args:
        logits: float32 (n, n_outputs); a single column is that of the second of two classes.
        targets: int32 (n,).
        weights: float32 (n,).
        label_smoothing: Share of the target that is spread over all classes.
    """
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    highest = logits.max(axis=1)
    totals = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    expected = (1 - label_smoothing) * logits[np.arange(len(logits)), targets] + label_smoothing * logits.mean(axis=1)
    return float(np.mean(weights * (totals - expected), dtype=np.float64))


def score_logits(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> dict[str, float]:
    """Return `accuracy` and `auc` (ROC-AUC) of logits float32 `(n, n_outputs)` for targets int32 `(n,)`."""
    probabilities = take_probabilities(logits)
    area = make_roc_auc(probabilities.astype(np.float64), targets.astype(np.int64))(np.ones((len(targets), 1)))
    return {"accuracy": float(np.mean(probabilities.argmax(axis=1) == targets)), "auc": float(area[0, 0])}


def take_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn logits into probabilities, float32 (n_items, n_classes): softmax, or the sigmoid of a single column."""
    if logits.shape[1] == 1:
        return np.concatenate([sigmoid(-logits), sigmoid(logits)], axis=1)
    return softmax(logits)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the softmax of each row of (n_items, n_classes), in the same precision."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray(shares)


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / (1 + exp(-x)) of each value, in the same precision."""
    with np.errstate(over="ignore"):  # the exponential of a large number is infinite, and the share 0
        return np.asarray(1 / (1 + np.exp(-logits)))


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The data that a network is trained on, and the settings of the training.

    Attributes:
        read: Returns the scaled features float32 (n, dim) of items, given their numbers, int (n,).
        targets: int32 (n_items,), the position of each item's class.
        weights: float32 (n_items,), the weight of each item in the loss.
        train, held: int, the items that are trained on, and the held-out items by which training stops.
        optimizer: One of `featx.specs.OPTIMIZERS`.
        learning_rate, epochs, batch_size, label_smoothing, patience: As in `NetworkClassifier`.
        random: Generator of the order of items and of dropout.
        curves: Whether all curves are measured, or only the loss by which training stops.
        keep: Called when the loss has fallen.
    """

    read: Callable[[NDArray[np.intp]], NDArray[np.float32]]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    train: NDArray[np.intp]
    held: NDArray[np.intp]
    optimizer: str
    learning_rate: float
    epochs: int
    batch_size: int
    label_smoothing: float
    patience: int
    random: np.random.Generator
    curves: bool
    keep: Callable[[], None] | None
