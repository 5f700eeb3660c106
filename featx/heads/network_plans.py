"""Plans of training: all that a network's training is told, checked before TensorFlow is imported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import UsageError
from featx.heads.architectures import read_hidden
from featx.heads.scaling import make_scaler
from featx.specs import OPTIMIZERS


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a network learns from, and how.

    Attributes:
        read: Gives the scaled features of some items, float32 (n, dim), for their numbers, int (n,).
        targets: int32 (n_items,), the position of each item's class.
        weights: float32 (n_items,), the weight of each item in the loss.
        train, held: int, the items that are learnt from, and those that tell when to stop.
        optimizer: One of `featx.specs.OPTIMIZERS`.
        learning_rate, epochs, batch_size, label_smoothing, patience: As in `NetworkClassifier`.
        random: Where order comes from.
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
    keep: Callable[[], None] | None


def check_settings(classifier: Any) -> None:  # noqa: ANN401 - a NetworkClassifier, which imports this module
    """Check the parameters that a network is to be trained with.

    Raises:
        UnknownNameError: If there is no such scaling.
        UsageError: If a value does not fit; the message says which would.
    """
    read_hidden(classifier.hidden)
    make_scaler(classifier.scaling)
    fits = {
        "dropout": (_is_number(classifier.dropout) and 0 <= classifier.dropout < 1, "a share from 0 to below 1"),
        "label_smoothing": (
            _is_number(classifier.label_smoothing) and 0 <= classifier.label_smoothing < 1,
            "a share from 0 to below 1",
        ),
        "learning_rate": (
            _is_number(classifier.learning_rate) and 0 < classifier.learning_rate < np.inf,
            "a number above 0",
        ),
        "optimizer": (classifier.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
        "checkpoint": (
            classifier.checkpoint is None or str(classifier.checkpoint).endswith(".keras"),
            "the path of a .keras file, or None",
        ),
    }
    for name in ("epochs", "batch_size", "patience"):
        value = getattr(classifier, name)
        fits[name] = (isinstance(value, int | np.integer) and value >= 1, "a whole number of at least 1")
    for name, (fit, words) in fits.items():
        if not fit:
            msg = f"{name} is {getattr(classifier, name)!r}; it must be {words}"
            raise UsageError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)
