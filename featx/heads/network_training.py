"""Training of small networks in Keras, a block of features at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from featx.frameworks import keras, tf
from featx.heads.architectures import EPSILON, Architecture, TrainingPlan, Weights, compute_logits, score_logits
from featx.heads.early_stopping import EarlyStopping, check_loss
from featx.heads.rows import BLOCK_BYTES

#: The training curve is measured on at least this many training items, if there are so many.
_FEWEST_WATCHED = 1024

History = dict[str, list[float]]


class KerasNetwork:
    """A network in Keras, from scaled features to logits.

    It does not depend on Keras's settings, nor on any random state but its own.

    Args:
        architecture: Its shape.
        seed: Seed of the first weights and of dropout.
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
        self._network = keras.Model(inputs, outputs, name="network")

    def set_weights(self, weights: Weights) -> None:
        """Set the weights, in Keras's order.

        Raises:
            ValueError: If they do not fit.
        """
        self._network.set_weights(weights)

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
        for layer in self._network.layers[1:]:
            logits = layer(logits)
        return keras.Model(inputs, logits, name="logits")

    def get_weights(self) -> list[NDArray[np.float32]]:
        """Return the weights, in Keras's order."""
        weights: list[NDArray[np.float32]] = self._network.get_weights()
        return weights

    def train(self, plan: TrainingPlan) -> tuple[list[NDArray[np.float32]], History]:
        """Train until the loss stops falling; return the best weights and the curves.

        Raises:
            DataError: If the loss is not finite.
        """
        optimizer = make_optimizer(plan.optimizer, plan.learning_rate)
        optimizer.build(self._network.trainable_variables)
        loss = make_loss(self._architecture.widths[-1], plan.label_smoothing)
        step = self._make_step(optimizer, loss, plan.batch_size)
        n_watched = min(len(plan.train), max(len(plan.held), _FEWEST_WATCHED))
        watched = np.sort(plan.random.choice(plan.train, n_watched, replace=False))
        history: History = {}
        best, stopping = self._network.get_weights(), EarlyStopping()
        for epoch in range(1, plan.epochs + 1):
            for features, chosen in _shuffle(plan, self._architecture.widths[0]):
                step(features, plan.targets[chosen], plan.weights[chosen])
            weights = self._network.get_weights()
            record = self._measure(plan, weights, watched, loss, "")
            if len(plan.held):
                record |= self._measure(plan, weights, plan.held, loss, "val_")
            _note(history, record | {"learning_rate": float(optimizer.learning_rate)})
            reached = record.get("val_loss", record["loss"])
            if stopping.watch(reached, epoch=epoch, patience=plan.patience):
                best = weights
                if plan.keep is not None:
                    plan.keep()
            if stopping.is_over(plan.patience):
                break
            optimizer.learning_rate = plan.learning_rate * stopping.factor
        self._network.set_weights(best)
        return best, history

    def _make_step(self, optimizer: Any, loss: Any, batch_size: int) -> Any:  # noqa: ANN401 - Keras is untyped
        """Make the function that trains on a block of shuffled features, batch after batch, in one call of TensorFlow.

        With 2,000 x 1,024 features and batches of 32, an epoch without a hidden layer takes
        0.02 s, and 0.13 s by `Model.fit` or `train_on_batch`; with 512-512, 0.16 s and 0.58 s.
        """
        network, variables = self._network, self._network.trainable_variables

        def train_batch(features: Any, targets: Any, weights: Any) -> None:  # noqa: ANN401 - tensors
            with tf.GradientTape() as tape:
                value = loss(targets, network(features, training=True), weights)
            optimizer.apply(tape.gradient(value, variables), variables)

        def train(features: Any, targets: Any, weights: Any) -> None:  # noqa: ANN401 - as above
            n_items = tf.shape(features)[0]
            n_batches = -(-n_items // batch_size)

            def train_next(number: Any) -> tuple[Any]:  # noqa: ANN401 - as above
                rows = slice(number * n_items // n_batches, (number + 1) * n_items // n_batches)
                train_batch(features[rows], targets[rows], weights[rows])
                return (number + 1,)

            tf.while_loop(lambda number: number < n_batches, train_next, (tf.constant(0),), parallel_iterations=1)

        shapes = (
            tf.TensorSpec((None, self._architecture.widths[0]), tf.float32),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None,), tf.float32),
        )
        return tf.function(train, input_signature=shapes, autograph=False)

    def _measure(
        self,
        plan: TrainingPlan,
        weights: Weights,
        items: NDArray[np.intp],
        loss: Any,  # noqa: ANN401 - as above
        prefix: str,
    ) -> dict[str, float]:
        """Measure loss, accuracy and ROC-AUC of the network's predictions, without dropout."""
        n_outputs = self._architecture.widths[-1]
        blocks = np.array_split(items, _count_blocks(len(items), max(self._architecture.widths)))
        logits = np.concatenate([compute_logits(weights, plan.read(block), n_outputs) for block in blocks])
        targets = plan.targets[items]
        value = float(loss(targets, logits, plan.weights[items]))
        check_loss(value, plan.learning_rate)
        return {f"{prefix}{name}": one for name, one in {"loss": value, **score_logits(logits, targets)}.items()}


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


def _shuffle(plan: TrainingPlan, dim: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.intp]]]:
    """Yield the training items once in random order, in blocks that are read in the order of the file."""
    for part in np.array_split(plan.random.permutation(plan.train), _count_blocks(len(plan.train), dim)):
        order = plan.random.permutation(len(part))
        ordered = np.sort(part)
        yield plan.read(ordered)[order], ordered[order]


def _count_blocks(n_items: int, width: int) -> int:
    return -(-n_items // max(64, BLOCK_BYTES // (4 * width)))


def _note(history: History, record: dict[str, float]) -> None:
    for name, value in record.items():
        history.setdefault(name, []).append(value)
