"""A trainable network in Keras: its frozen layers, its trainable layers and its head.

The network is cut at the frontier: the feature maps that only frozen layers compute and that a trainable layer, or
a layer after one, takes. Nothing below the frontier changes, so its maps can be read from a store.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones.networks import KerasBackbone, Parts, find_output, pool, walk_operations
from featx.backbones.savedmodels import flatten
from featx.errors import BackboneError, UsageError
from featx.finetuning.unfreezing import Stage
from featx.frameworks import keras, tf
from featx.heads.network_training import KerasNetwork, make_loss, make_optimizer
from featx.heads.networks import NetworkClassifier
from featx.specs import FineTuneSpec

#: A batch: pixels, uint8 `(n, height, width, 3)`, or the maps of the frontier.
Inputs = Sequence[NDArray[Any]]


class TrainableNetwork:
    """A backbone and a head that are trained together.

    Args:
        backbone: The backbone; its layers are shared, so training changes it.
        stages: Which layers are trained.
        spec: How they are trained.

    Attributes:
        frontier: Names of the layers and operations whose maps are below all trainable layers; empty if the first
            layers are trainable, or if there is an obstacle.
        obstacle: Why the network cannot be cut although its first layers are frozen; empty if it can.
        map_shapes: Shape of each map of the frontier, for one item.
        dim: Width of the features.
        has_frozen: Whether a layer with weights is below the frontier.
        takes_maps: Whether the inputs are these maps instead of pixels.

    Raises:
        UsageError: If the backbone computes in float16, or has no trainable weights.
    """

    def __init__(self, backbone: KerasBackbone, stages: Sequence[Stage], spec: FineTuneSpec) -> None:
        _check_precision(backbone)
        self._parts, self._spec = backbone.parts, spec
        self._trunk = backbone.parts.trunk
        names = {id(one): name for name, one in {**self._parts.operations, **self._parts.layers}.items()}
        unfrozen = frozenset().union(*(stage.layers for stage in stages))
        self._trainable_layers = _find_trainable_layers(self._parts, unfrozen)
        self.obstacle = find_obstacle(self._parts)
        variables = {id(v) for layer in self._trainable_layers.values() for v in _list_trainable(layer)}
        found = [] if self.obstacle else find_frontier(self._trunk, variables)
        self.frontier = tuple(names[id(operation)] for operation in found)
        tensors = [find_output(operation) for operation in found] or list(self._trunk.inputs)
        self.map_shapes = tuple(tuple(tensor.shape[1:]) for tensor in tensors)
        self.takes_maps = False
        self._build(backbone, tensors)
        self._set_seeds()
        self._infer = tf.function(lambda given: self._embed(given, training=False), autograph=False)

    def _build(self, backbone: KerasBackbone, tensors: Sequence[Any]) -> None:
        """Build the parts below and above the frontier."""
        pixels = keras.Input((backbone.height, backbone.width, 3), dtype="uint8", name="pixels")
        images = self._parts.take_pixels(pixels)
        maps = keras.Model(self._trunk.inputs[0], tensors)(images, training=False) if self.frontier else [images]
        self._bottom = keras.Model(pixels, maps, name="bottom")
        self.has_frozen = bool(self._bottom.weights)
        inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in tensors]
        above = keras.Model(tensors, self._trunk.outputs)(inputs)
        output = backbone.outputs[0]
        vectors = pool(above[0] if isinstance(above, list | tuple) else above, output.pooling, output.layer)
        vectors = keras.layers.Flatten(dtype="float32")(vectors)
        self._top = keras.Model(inputs, vectors, name="top")
        self.dim = int(vectors.shape[1])

    def attach(self, head: NetworkClassifier) -> None:
        """Put a fitted head on top.

        Args:
            head: Its scaling stays unchanged; its weights are where training starts.
        """
        classes = len(head.classes_)
        self._head_network = KerasNetwork(head.plan_architecture(), self._spec.seed)
        self._head_network.set_weights(head.weights_)
        self._head = self._head_network.build_logits(head.scaler_)
        self._loss = make_loss(1 if classes == 2 else classes, self._spec.label_smoothing)  # noqa: PLR2004 - one unit for two
        self._frozen = {id(v): v for v in self._trunk.weights}
        for variable in self._list_changing():
            self._frozen.pop(id(variable), None)
        self._digests = self._digest(self._frozen.values())
        self._first = [np.array(v.numpy()) for v in self._list_trained_variables()]

    def start(self, stage: Stage) -> None:
        """Begin a stage: make its layers trainable, with new optimizers."""
        for name, layer in self._trainable_layers.items():
            layer.trainable = name in stage.layers
        own = [
            v
            for name, layer in self._trainable_layers.items()
            if name in stage.layers
            for v in layer.trainable_variables
        ]
        self._rates = (self._spec.learning_rate * stage.rate, self._spec.head_learning_rate * stage.rate)
        self._groups = (own, self._head.trainable_variables)
        self._optimizers = tuple(make_optimizer(self._spec.optimizer, rate) for rate in self._rates)
        for optimizer, variables in zip(self._optimizers, self._groups, strict=True):
            optimizer.build(variables)
        self._variables = [*own, *self._head.trainable_variables]
        items = [tf.TensorSpec((None,), "int32"), tf.TensorSpec((None,)), tf.TensorSpec(())]
        self._differentiate = tf.function(
            self._compute_gradients, autograph=False, input_signature=[self._sign_inputs(), *items]
        )
        self._apply = tf.function(self._apply_gradients, autograph=False)

    def set_rate(self, factor: float) -> float:
        """Set the learning rates to a multiple of the stage's first ones; return that of the backbone."""
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            optimizer.learning_rate = rate * factor
        return self._rates[0] * factor

    def train_batch(
        self, inputs: Inputs, targets: NDArray[np.int32], weights: NDArray[np.float32], parts: int = 1
    ) -> tuple[float, NDArray[np.float32]]:
        """Train on a batch.

        Args:
            inputs: The batch.
            targets: int32 `(n,)`.
            weights: float32 `(n,)`.
            parts: Number of parts that the batch is divided into; their gradients are added up.

        Returns:
            The mean loss, and the logits, float32 `(n, n_outputs)`, both of the training pass.

        Raises:
            MemoryError: If the batch does not fit into memory; no weight has changed.
        """
        total: list[Any] = []
        loss, logits = 0.0, []
        try:
            for rows in np.array_split(np.arange(len(targets)), min(parts, len(targets))):
                share = np.float32(len(rows) / len(targets))
                part = [tf.convert_to_tensor(array[rows] if parts > 1 else array) for array in inputs]
                value, answer, gradients = self._differentiate(part, targets[rows], weights[rows], share)
                total = [a + b for a, b in zip(total, gradients, strict=True)] if total else gradients
                loss += float(value)
                logits.append(np.array(answer))
            self._apply(total)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(" ".join(str(error).split())[:200]) from error
        return loss, np.concatenate(logits)

    def _compute_gradients(self, inputs: Any, targets: Any, weights: Any, share: Any) -> tuple[Any, Any, list[Any]]:  # noqa: ANN401 - tensors
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in self._variables])
            features = self._embed(inputs, training=self._spec.batch_norm == "train")
            logits = self._head(features, training=True)
            loss = self._loss(targets, logits, weights) * share
            whole = loss + self._penalise() * share
        gradients = tape.gradient(whole, [variable.value for variable in self._variables])
        return loss, logits, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _penalise(self) -> Any:  # noqa: ANN401 - a tensor
        """Add up the losses of the layers' own regularisers, as Keras does."""
        return sum((tf.cast(loss, "float32") for loss in self._top.losses), tf.constant(0.0))

    def _apply_gradients(self, gradients: list[Any]) -> None:
        at = len(self._groups[0])
        for optimizer, part, variables in zip(
            self._optimizers, (gradients[:at], gradients[at:]), self._groups, strict=True
        ):
            optimizer.apply(part, variables)

    def _embed(self, inputs: Any, *, training: bool) -> Any:  # noqa: ANN401 - tensors
        return self._run_top(inputs if self.takes_maps else self._bottom(inputs[0], training=False), training=training)

    def _run_top(self, maps: Any, *, training: bool) -> Any:  # noqa: ANN401 - tensors
        maps = maps if isinstance(maps, list | tuple) else [maps]
        given = [tf.cast(one, wanted.dtype) for one, wanted in zip(maps, self._top.inputs, strict=True)]
        return self._top(given, training=training)

    def embed(self, inputs: Inputs) -> NDArray[np.float32]:
        """Embed a batch with the current weights: float32 `(n, dim)`.

        Raises:
            MemoryError: If the batch does not fit into memory.
        """
        try:
            infer = self._infer.get_concrete_function(self._sign_inputs())
            return np.array(infer([tf.convert_to_tensor(array) for array in inputs]), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(" ".join(str(error).split())[:200]) from error

    def embed_few(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a few images as `embed` does, without the seconds that it takes to trace a whole network."""
        maps = self._bottom(tf.convert_to_tensor(pixels), training=False)
        return np.array(self._run_top(maps, training=False), np.float32)

    def _sign_inputs(self) -> list[Any]:
        """Describe the inputs with an open batch dimension, so that a smaller last batch is not traced again."""
        if not self.takes_maps:
            return [tf.TensorSpec(self._bottom.inputs[0].shape, "uint8")]
        return [tf.TensorSpec((None, *shape), "float32") for shape in self.map_shapes]

    def measure_loss(
        self, targets: NDArray[np.int32], logits: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> float:
        """Measure the mean loss of logits float32 `(n, n_outputs)`."""
        return float(self._loss(targets, logits, weights))

    def get_head_weights(self) -> list[NDArray[np.float32]]:
        """Return the weights of the head, in Keras's order."""
        return self._head_network.get_weights()

    def dump(self) -> dict[str, NDArray[Any]]:
        """Return everything that training changes, except for the optimizers' state."""
        return {f"variable_{at}": np.array(variable.numpy()) for at, variable in enumerate(self._list_changing())}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Set what `dump` returned."""
        for at, variable in enumerate(self._list_changing()):
            variable.assign(arrays[f"variable_{at}"])

    def dump_optimizers(self) -> dict[str, NDArray[Any]]:
        """Return the optimizers' state."""
        return {f"optimizer_{at}": np.array(variable.numpy()) for at, variable in enumerate(self._list_moments())}

    def restore_optimizers(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Set what `dump_optimizers` returned."""
        for at, variable in enumerate(self._list_moments()):
            variable.assign(arrays[f"optimizer_{at}"])

    def count_parameters(self) -> dict[str, int]:
        """Count the trainable and frozen parameters of the backbone, and the parameters of the head."""
        own = {id(v): v for layer in self._trainable_layers.values() for v in _list_trainable(layer)}
        trainable = sum(int(np.prod(v.shape)) for v in own.values())
        whole = sum(int(np.prod(v.shape)) for v in self._trunk.weights)
        head = sum(int(np.prod(v.shape)) for v in self._head.trainable_variables)
        return {"trainable_parameters": trainable, "frozen_parameters": whole - trainable, "head_parameters": head}

    def check_freezing(self) -> list[str]:
        """Check that no frozen weight has changed, and return the names of trainable variables that did not either.

        Raises:
            BackboneError: If a frozen weight differs in any bit.
        """
        changed = [
            name for name, digest in self._digest(self._frozen.values()).items() if self._digests[name] != digest
        ]
        if changed:
            msg = f"{len(changed)} frozen weights have changed, such as {changed[0]}; please report this as a bug"
            raise BackboneError(msg)
        pairs = zip(self._list_trained_variables(), self._first, strict=True)
        return [variable.path for variable, first in pairs if np.array_equal(np.array(variable.numpy()), first)]

    def save(self, path: Path) -> None:
        """Save the backbone, from pixels to its feature map, as a `.keras` file."""
        flatten(self._parts).save(path)

    def _list_trained_variables(self) -> list[Any]:
        own = [v for layer in self._trainable_layers.values() for v in _list_trainable(layer)]
        return [*own, *self._head.trainable_variables]

    def _list_changing(self) -> list[Any]:
        kept = [*self._list_trained_variables(), *self._head.non_trainable_variables]
        if self._spec.batch_norm == "train":
            kept += [v for layer in self._trainable_layers.values() for v in layer.variables] + self._list_seeds()
        return list({id(variable): variable for variable in kept}.values())

    def _list_seeds(self) -> list[Any]:
        return [variable for variable in self._top.variables if variable.name == "seed_generator_state"]

    def _set_seeds(self) -> None:
        """Seed the random layers of the backbone, which Keras would seed by Python's own generator."""
        random = np.random.default_rng(self._spec.seed)
        for variable in self._list_seeds():
            variable.assign(random.integers(2**31, size=variable.shape))

    def _list_moments(self) -> Iterator[Any]:
        for optimizer in self._optimizers:
            yield from optimizer.variables

    @staticmethod
    def _digest(variables: Any) -> dict[str, str]:  # noqa: ANN401 - Keras's variables
        return {
            f"{variable.path} ({at})": hashlib.sha256(np.array(variable.numpy()).tobytes()).hexdigest()
            for at, variable in enumerate(variables)
        }


def find_obstacle(parts: Parts) -> str:
    """Find why a network cannot be cut: a layer that is called twice has two maps, and Keras reports only the first.

    Returns:
        The reason; empty if it can be cut.

    Raises:
        BackboneError: If a layer cannot be serialised, so that the trained network could not be saved.
    """
    try:
        entries = parts.network.get_config()["layers"]
    except NotImplementedError as error:
        msg = f"the trained network could not be saved: {' '.join(str(error).split())[:200]}"
        raise BackboneError(msg) from error
    reused = {entry["name"] for entry in entries if len(entry["inbound_nodes"]) > 1}
    here = {id(operation) for operation in parts.trunk.operations if operation.name in reused}
    named = {**parts.operations, **parts.layers}
    found = [name for name, operation in named.items() if id(operation) in here]
    return f"its layer {found[0]} is used more than once" if found else ""


def find_frontier(trunk: Any, variables: set[int]) -> list[Any]:  # noqa: ANN401 - Keras is untyped
    """Find the layers and operations to cut a network at, so that everything trainable is after the cut.

    Args:
        trunk: A functional model that calls each layer once.
        variables: `id` of each trainable variable.

    Returns:
        The layers, in order; none if the first layers are trainable.
    """
    operations = list(trunk.operations)
    maker = {id(tensor): operation for operation in operations for tensor in _flatten(_get_outputs(operation))}
    parents = {
        id(operation): [maker[id(tensor)] for tensor in _get_inputs(operation) if id(tensor) in maker]
        for operation in operations
    }
    after: set[int] = set()
    for operation in operations:  # in the order in which they are computed
        changes = any(id(variable) in variables for variable in getattr(operation, "weights", ()))
        if changes or any(id(parent) in after for parent in parents[id(operation)]):
            after.add(id(operation))
    while True:
        needed = {id(parent) for operation in operations if id(operation) in after for parent in parents[id(operation)]}
        border = [operation for operation in operations if id(operation) in needed - after]
        if any(isinstance(operation, keras.layers.InputLayer) for operation in border):
            return []
        wrong = [one for one in border if not _has_map(one)]
        if not wrong:
            return border
        after.update(map(id, wrong))


def _has_map(operation: Any) -> bool:  # noqa: ANN401 - as above
    """Return whether an operation gives one array of numbers per image, which can be stored."""
    output = find_output(operation)
    if output is None or len(output.shape) < 2 or "float" not in output.dtype:  # noqa: PLR2004 - images, and numbers
        return False
    return output.shape[0] is None and None not in output.shape[1:]


def _check_precision(backbone: KerasBackbone) -> None:
    types = {getattr(operation, "compute_dtype", None) for operation in walk_operations(backbone.parts.trunk)}
    if "float16" in types:
        msg = (
            f"{backbone.source_file or backbone.uri} computes in float16, in which small gradients vanish; use "
            "mixed_bfloat16 instead of mixed_float16, since it has the range of float32"
        )
        raise UsageError(msg)


def _find_trainable_layers(parts: Parts, names: Collection[str]) -> dict[str, Any]:
    """Find the trainable layers: those that the plan names, the network runs, and that have trainable weights.

    Raises:
        UsageError: If no layer is left.
    """
    run = {id(layer) for layer in parts.trunk.layers}
    found = {name: layer for name, layer in parts.layers.items() if name in names and id(layer) in run}
    if not any(_list_trainable(layer) for layer in found.values()):
        msg = "none of the unfrozen layers is used by the network and has trainable weights; unfreeze more"
        raise UsageError(msg)
    return found


def _get_inputs(operation: Any) -> list[Any]:  # noqa: ANN401 - Keras is untyped
    return [] if isinstance(operation, keras.layers.InputLayer) else _flatten(keras.Operation.input.fget(operation))


def _get_outputs(operation: Any) -> Any:  # noqa: ANN401 - as above
    return keras.Operation.output.fget(operation)


def _flatten(tensors: Any) -> list[Any]:  # noqa: ANN401 - as above
    flat: list[Any] = keras.tree.flatten(tensors)
    return flat


def _list_trainable(layer: Any) -> list[Any]:  # noqa: ANN401 - as above
    """List the variables that are trained when a layer is, whether it is trainable at the moment or not."""
    was = layer.trainable
    layer.trainable = True
    found: list[Any] = list(layer.trainable_variables)
    layer.trainable = was
    return found
