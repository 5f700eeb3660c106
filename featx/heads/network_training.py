"""Training of small networks in Keras, a block of features at a time."""

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from featx.frameworks import keras, tf
from featx.heads.architectures import (
    EPSILON,
    Architecture,
    TrainingPlan,
    Weights,
    compute_logits,
    measure_loss,
    score_logits,
)
from featx.heads.early_stopping import EarlyStopping, check_loss
from featx.heads.rows import BLOCK_BYTES

#: The training curve is measured on at least this many training items, if there are so many.
_FEWEST_WATCHED = 1024

#: Batches of one call of TensorFlow.
_MOST_BATCHES = 16

#: Values of 16 random bits: a share of them is the dropout.
_NOISE = 2**16

#: TensorFlow for Windows comes without XLA.
_HAS_XLA = sys.platform != "win32"

History = dict[str, list[float]]


class KerasNetwork:
    """A network in Keras, from scaled features to logits.

    It does not depend on Keras's settings, nor on any random state but its own.

    Args:
        architecture: Its shape.
        seed: Seed of the first weights and of dropout.

    Attributes:
        network: The `keras.Model`.
    """

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self._architecture = architecture
        seeds = iter(np.random.default_rng(seed).integers(2**31, size=2 * len(architecture.widths)).tolist())
        inputs = outputs = keras.Input((architecture.widths[0],), name="features")
        last = len(architecture.widths) - 1
        for number, width in enumerate(architecture.widths[1:], start=1):
            if architecture.batch_norm:
                outputs = keras.layers.BatchNormalization(
                    epsilon=EPSILON, dtype="float32", name=f"batch_normalization_{number}"
                )(outputs)
            if architecture.dropout:
                outputs = keras.layers.Dropout(
                    architecture.dropout, seed=next(seeds), dtype="float32", name=f"dropout_{number}"
                )(outputs)
            outputs = keras.layers.Dense(
                width,
                activation="relu" if number < last else None,
                kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds)),
                dtype="float32",
                name=f"dense_{number}" if number < last else "logits",
            )(outputs)
        self.network = keras.Model(inputs, outputs, name="network")

    def set_weights(self, weights: Weights) -> None:
        """Set the weights, in Keras's order.

        Raises:
            ValueError: If they do not fit.
        """
        self.network.set_weights(weights)

    def build(self, scaler: Any) -> Any:  # noqa: ANN401 - a scaler; a keras.Model, which is untyped
        """Build the model from features, not scaled, to probabilities; it shares this network's weights.

        Args:
            scaler: `passthrough`, or a fitted StandardScaler or Normalizer.
        """
        inner = self.build_logits(scaler)
        activation = "sigmoid" if self._architecture.widths[-1] == 1 else "softmax"
        outputs = keras.layers.Activation(activation, dtype="float32", name="probabilities")(inner.output)
        return keras.Model(inner.input, outputs, name="head")

    def build_logits(self, scaler: Any) -> Any:  # noqa: ANN401 - as `build`
        """Build the model from features, not scaled, to logits; see `build`."""
        inputs = scaled = keras.Input((self._architecture.widths[0],), name="features")
        if isinstance(scaler, StandardScaler):
            mean, variance = scaler.mean_.tolist(), (scaler.scale_**2).tolist()
            layer = keras.layers.Normalization(mean=mean, variance=variance, dtype="float32", name="standard")
            scaled = layer(inputs)
        elif not isinstance(scaler, str):
            scaled = keras.layers.UnitNormalization(dtype="float32", name="l2")(inputs)
        logits = scaled
        for layer in self.network.layers[1:]:
            logits = layer(logits)
        return keras.Model(inputs, logits, name="logits")

    def get_weights(self) -> list[NDArray[np.float32]]:
        """Return the weights, in Keras's order."""
        weights: list[NDArray[np.float32]] = self.network.get_weights()
        return weights

    def train(self, plan: TrainingPlan) -> tuple[list[NDArray[np.float32]], History]:
        """Train until the loss stops falling; return the best weights and the curves.

        Raises:
            DataError: If the loss is not finite.
        """
        batch_size = min(plan.batch_size, len(plan.train))
        compiled = _HAS_XLA and len(plan.train) > _MOST_BATCHES * batch_size
        steps = _prepare_steps(self._architecture, plan.optimizer, plan.label_smoothing, batch_size, compiled=compiled)
        with steps.lock:
            steps.start(self.network.get_weights(), plan.learning_rate)
            best, history = self._follow(plan, steps)
        self.network.set_weights(best)
        return best, history

    def _follow(self, plan: TrainingPlan, steps: "_Steps") -> tuple[list[NDArray[np.float32]], History]:
        n_watched = min(len(plan.train), max(len(plan.held), _FEWEST_WATCHED))
        watched = np.sort(plan.random.choice(plan.train, n_watched, replace=False))
        history: History = {}
        best, stopping, rate = steps.get_weights(), EarlyStopping(), plan.learning_rate
        for epoch in range(1, plan.epochs + 1):
            steps.train_epoch(plan, rate)
            weights, record = steps.get_weights(), {}
            if plan.curves or not len(plan.held):
                record = self._measure(plan, weights, watched, "")
            if len(plan.held):
                record |= self._measure(plan, weights, plan.held, "val_")
            _note(history, record | {"learning_rate": rate})
            reached = record["val_loss" if len(plan.held) else "loss"]
            if stopping.watch(reached, epoch=epoch, patience=plan.patience):
                best = weights
                if plan.keep is not None:
                    self.network.set_weights(best)
                    plan.keep()
            if stopping.is_over(plan.patience):
                break
            rate = plan.learning_rate * stopping.factor
        return best, history

    def _measure(self, plan: TrainingPlan, weights: Weights, items: NDArray[np.intp], prefix: str) -> dict[str, float]:
        """Measure the network's predictions without dropout: the loss, and for the curves accuracy and ROC-AUC."""
        n_outputs = self._architecture.widths[-1]
        blocks = np.array_split(items, _count_blocks(len(items), max(self._architecture.widths)))
        logits = np.concatenate([compute_logits(weights, plan.read(block), n_outputs) for block in blocks])
        targets = plan.targets[items]
        value = measure_loss(logits, targets, plan.weights[items], plan.label_smoothing)
        check_loss(value, plan.learning_rate)
        scores = score_logits(logits, targets) if plan.curves else {}
        return {f"{prefix}{name}": one for name, one in {"loss": value, **scores}.items()}


@functools.lru_cache(maxsize=2)
def _prepare_steps(
    architecture: Architecture, optimizer: str, label_smoothing: float, batch_size: int, *, compiled: bool
) -> "_Steps":
    """Make the steps of training, or take those of an earlier network of the same shape."""
    return _Steps(architecture, optimizer, label_smoothing, batch_size, compiled=compiled)


class _Steps:
    """The steps of training, which TensorFlow traces or compiles once for all networks of one shape.

    Compiling takes a second, which few batches do not win back. XLA knows arrays of fixed shapes only: batches are
    filled up to `batch_size` with rows that do not count. Its own random numbers take ten times as long as the rest of
    a step, so those of dropout come from NumPy.

    Optimizer, layers and loss are Keras's.

    Args:
        architecture: The shape of the networks.
        optimizer: One of `featx.specs.OPTIMIZERS`.
        label_smoothing: As in `NetworkClassifier`.
        batch_size: The most items of a batch.
        compiled: Whether XLA compiles them.
    """

    def __init__(
        self, architecture: Architecture, optimizer: str, label_smoothing: float, batch_size: int, *, compiled: bool
    ) -> None:
        self.lock = threading.Lock()
        self._widths, self._batch_size = architecture.widths, batch_size
        self._n_batches = max(1, min(_MOST_BATCHES, BLOCK_BYTES // (4 * batch_size * self._widths[0])))
        self._left_out = min(round(architecture.dropout * _NOISE), _NOISE - 1)
        self._network = KerasNetwork(architecture, 0).network
        self._optimizer = make_optimizer(optimizer, 1.0)
        self._optimizer.build(self._network.trainable_variables)
        self._loss = make_loss(self._widths[-1], label_smoothing)
        self._run = tf.function(self._train_batches, autograph=False, jit_compile=compiled)

    def start(self, weights: Weights, learning_rate: float) -> None:
        """Begin with these weights, in Keras's order, and a new optimizer."""
        self._network.set_weights(weights)
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable.value))
        self._optimizer.learning_rate = learning_rate

    def get_weights(self) -> list[NDArray[np.float32]]:
        """Return the weights, in Keras's order."""
        weights: list[NDArray[np.float32]] = self._network.get_weights()
        return weights

    def train_epoch(self, plan: TrainingPlan, learning_rate: float) -> None:
        """Train on all items once, in random order and batches of nearly equal size."""
        self._optimizer.learning_rate = learning_rate
        numbers = np.arange(self._batch_size)
        for features, items, order in _shuffle(plan, self._widths[0]):
            n_batches = -(-len(order) // self._batch_size)
            edges = np.arange(n_batches + 1) * len(order) // n_batches
            for first in range(0, n_batches, self._n_batches):
                starts, ends = edges[:-1][first : first + self._n_batches], edges[1:][first : first + self._n_batches]
                places = np.zeros((self._n_batches, self._batch_size), int)
                places[: len(starts)] = np.minimum(starts[:, None] + numbers, ends[:, None] - 1)
                chosen = order[places]
                sizes = np.zeros(self._n_batches, np.int32)
                sizes[: len(starts)] = ends - starts
                targets, weights = plan.targets[items[chosen]], plan.weights[items[chosen]]
                noise = plan.random.integers(_NOISE, size=(*chosen.shape, self._count_noise()), dtype=np.uint16)
                self._run(np.int32(len(starts)), features[chosen], targets, weights, sizes, noise)

    def _count_noise(self) -> int:
        return sum(self._widths[:-1]) if self._left_out else 0

    def _train_batches(self, n_batches: Any, *batches: Any) -> None:  # noqa: ANN401 - tensors
        def train_next(number: Any) -> tuple[Any]:  # noqa: ANN401 - as above
            self._train_batch(*(part[number] for part in batches))
            return (number + 1,)

        tf.while_loop(lambda number: number < n_batches, train_next, (tf.constant(0),), parallel_iterations=1)

    def _train_batch(self, features: Any, targets: Any, weights: Any, size: Any, noise: Any) -> None:  # noqa: ANN401 - as above
        counts = tf.range(self._batch_size) < size
        # The loss is divided by all rows of the batch, those that do not count included.
        factor = tf.cast(self._batch_size / size, tf.float32)
        weights = tf.where(counts, weights * factor, 0.0)
        variables = self._network.trainable_variables
        with tf.GradientTape() as tape:
            value = self._loss(targets, self._compute_logits(features, counts, noise), weights)
        self._optimizer.apply(tape.gradient(value, variables), variables)

    def _compute_logits(self, features: Any, counts: Any, noise: Any) -> Any:  # noqa: ANN401 - as above
        """Compute logits as the network does in training, with dropout by given numbers."""
        values, used = features, 0
        for layer in self._network.layers[1:]:
            if isinstance(layer, keras.layers.BatchNormalization):
                # A copy is without the mask, by which Keras's losses would also weight.
                values = tf.identity(layer(values, training=True, mask=counts))
            elif isinstance(layer, keras.layers.Dropout):
                width = values.shape[1] if self._left_out else 0
                values = drop_out(values, noise[:, used : used + width], self._left_out) if width else values
                used += width
            else:
                values = layer(values)
        return values


def drop_out(values: Any, noise: Any, left_out: int) -> Any:  # noqa: ANN401 - tensors
    """Set those values to 0 whose noise, uint16, is below a number, and multiply the others so that the mean stays."""
    return tf.where(tf.cast(noise, tf.int32) >= left_out, values / (1 - left_out / _NOISE), 0.0)


def make_optimizer(name: str, learning_rate: float) -> Any:  # noqa: ANN401 - Keras is untyped
    """Make one of `featx.specs.OPTIMIZERS`."""
    if name == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=0.9)
    classes = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}
    return classes[name](learning_rate)


def make_loss(n_outputs: int, label_smoothing: float) -> Callable[[Any, Any, Any], Any]:
    """Make the mean weighted loss of targets, int32 (n,), and logits, float32 (n, n_outputs)."""
    if n_outputs == 1:
        binary = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        return lambda targets, logits, weights: binary(tf.cast(targets, tf.float32)[:, None], logits, weights)
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # type: ignore[no-any-return]
    categorical = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    return lambda targets, logits, weights: categorical(tf.one_hot(targets, n_outputs), logits, weights)


def _shuffle(plan: TrainingPlan, dim: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the training items once in random order, in blocks: features, items and a random order of these rows.

    The rows of a block are read in the order of the file.
    """
    for part in np.array_split(plan.random.permutation(plan.train), _count_blocks(len(plan.train), dim)):
        items = np.sort(part)
        yield plan.read(items), items, plan.random.permutation(len(items))


def _count_blocks(n_items: int, width: int) -> int:
    return -(-n_items // max(64, BLOCK_BYTES // (4 * width)))


def _note(history: History, record: dict[str, float]) -> None:
    for name, value in record.items():
        history.setdefault(name, []).append(value)
