"""The training loop: after each epoch the network is validated and saved, so that training can resume from there."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import BackboneError, DataError, StoreError
from featx.evaluation.plots import plot_history, write_history
from featx.files import DAMAGES, Result, read_result, say_failures, write_result
from featx.finetuning.feeds import Feed, choose_views
from featx.finetuning.unfreezing import Stage
from featx.heads.architectures import score_logits
from featx.heads.early_stopping import EarlyStopping, check_loss
from featx.heads.networks import NetworkClassifier
from featx.options import FineTuneOptions
from featx.specs import FineTuneSpec

STATE = "state.npz"
CURVES = "curves"

#: Drawing the curves takes at most one part in this many of the training time.
_DRAWN_PART = 30

#: Assumed drawing time until one is measured.
_DRAW_SECONDS = 0.5

_LEAST_RATE = 0.01

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The items that a network is trained on and validated with.

    Attributes:
        feed: The network's inputs.
        train, held: int, the training items and the validation items; there may be no validation items.
        targets: int32 `(n_items,)`.
        weights: float32 `(n_items,)`: the weight of each item in the loss.
        title: What is trained, for the picture of the curves.
    """

    feed: Feed
    train: NDArray[np.intp]
    held: NDArray[np.intp]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of items, as int positions in the dataset.

    Attributes:
        train: The items that are trained on.
        held: The items that choose the epoch; none if nothing can be held out.
        validated: The items of the validation: `held`, and items of classes without training items.
        notes: What the user should know.
    """

    train: NDArray[np.intp]
    held: NDArray[np.intp]
    validated: NDArray[np.intp]
    notes: tuple[str, ...]

    @property
    def validated_on(self) -> str:
        """The images that validate: `validation`, or `training` if none could be held out."""
        return "validation" if len(self.validated) else "training"


@dataclass(slots=True)
class LoopState(EarlyStopping):
    """The state of training; all of it is on disk.

    The best epoch is counted over all stages, and the epochs waited since then in this stage.

    Attributes:
        stage: Number of the stage.
        epoch: Epochs of this stage that are done.
        parts: Into how many parts a batch is divided, for it to fit into the memory.
        seconds: Time of all epochs.
        earlier_seconds: The part of it that earlier, interrupted runs took.
        history: The curves; the first value of each is that of the start.
    """

    stage: int = 0
    epoch: int = 0
    parts: int = 1
    seconds: float = 0.0
    earlier_seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def n_epochs(self) -> int:
        """Number of finished epochs, over all stages."""
        return len(self.history.get("loss", [0])) - 1


class TrainingLoop:
    """The training of one network, from its first epoch or from where it was interrupted.

    Args:
        network: A `TrainableNetwork` with its head; not typed, since its module imports TensorFlow.
        head: The head, which receives the trained weights.
        training_set: The items.
        stages: The layers that are trained.
        spec: How they are trained.
        folder: Where state and curves are kept.
        options: Where to report progress.

    Attributes:
        state: The progress so far.
    """

    def __init__(
        self,
        network: Any,  # noqa: ANN401 - as above
        head: NetworkClassifier,
        training_set: TrainingSet,
        stages: Sequence[Stage],
        spec: FineTuneSpec,
        folder: Path,
        options: FineTuneOptions,
    ) -> None:
        self._network, self._head, self._training_set = network, head, training_set
        self._stages, self._spec, self._folder, self._options = stages, spec, folder, options
        self.state = LoopState()
        self._best: Arrays = network.dump()
        self._drawn, self._draw_seconds = time.perf_counter(), _DRAW_SECONDS

    def run(self) -> None:
        """Train through all stages; afterwards the network and the head have the best weights.

        Raises:
            DataError: If the loss is not finite.
            BackboneError: If a single item does not fit into memory.
        """
        state = self.state = self._resume()
        while state.stage < len(self._stages):
            stage = self._stages[state.stage]
            if not state.epoch:
                self._network.start(stage)
            if len(self._stages) > 1 and not state.epoch:
                self._options.reporter.say(f"stage {state.stage + 1}/{len(self._stages)}: {stage.name}")
            while state.epoch < self._spec.epochs and not state.is_over(self._spec.patience):
                self._run_epoch()
            # The next stage starts from the best weights so far.
            self._network.restore(self._best)
            state.stage, state.epoch, state.waited, state.factor = state.stage + 1, 0, 0, 1.0
            self._save(optimizers=False)
        self._take_head()
        self._draw()

    def _run_epoch(self) -> None:
        state, started = self.state, time.perf_counter()
        if self._spec.schedule == "cosine":
            turn = math.cos(math.pi * state.epoch / self._spec.epochs)
            state.factor = _LEAST_RATE + (1 - _LEAST_RATE) * (1 + turn) / 2
        record = self._train() | self._validate()
        rate = self._network.set_rate(state.factor)
        self._record({**record, "learning_rate": rate}, time.perf_counter() - started)
        state.epoch += 1
        halves = self._spec.schedule == "plateau"
        value, patience = self._read_monitored(record), self._spec.patience
        if state.watch(value, epoch=state.n_epochs, patience=patience, halves=halves):
            self._best = self._network.dump()
        self._save(optimizers=True)
        self._report(record, time.perf_counter() - started)
        if time.perf_counter() - self._drawn > _DRAWN_PART * self._draw_seconds:
            self._draw()

    def _train(self) -> dict[str, float]:
        """Train on all items once, and return the loss and the metrics."""
        state, train, spec = self.state, self._training_set.train, self._spec
        number = state.n_epochs + 1
        order = np.random.default_rng([spec.seed, number]).permutation(train)
        seen = choose_views(
            spec.views, seed=spec.seed, epoch=number, n_items=len(train), varied=bool(spec.augmentation)
        )
        n_batches = -(-len(train) // spec.batch_size)
        batches = zip(np.array_split(order, n_batches), np.array_split(seen, n_batches), strict=True)
        total, done, logits = 0.0, 0, []
        with contextlib.closing(self._training_set.feed.stream(batches)) as shown:
            for batch, (items, inputs) in enumerate(shown, 1):
                # Adam's first steps are as long as all others although its averages are not yet reliable, so the
                # rate rises during the first epoch.
                rises = not state.epoch and spec.schedule != "constant"
                self._network.set_rate(state.factor * (batch / n_batches if rises else 1.0))
                loss, answer = self._train_batch(items, inputs)
                total, done = total + loss * len(items), done + len(items)
                logits.append(answer)
                self._options.reporter.advance(state.epoch * len(train) + done, spec.epochs * len(train))
        check_loss(total, spec.learning_rate)
        return {"loss": total / done, **score_logits(np.concatenate(logits), self._training_set.targets[order])}

    def _train_batch(self, items: NDArray[np.intp], inputs: list[NDArray[Any]]) -> tuple[float, NDArray[np.float32]]:
        targets, weights = self._training_set.targets[items], self._training_set.weights[items]
        while True:
            try:
                found: tuple[float, NDArray[np.float32]] = self._network.train_batch(
                    inputs, targets, weights, self.state.parts
                )
            except MemoryError as error:
                self._divide(error)
            else:
                return found

    def _divide(self, error: MemoryError) -> None:
        """Continue with half as many items at a time; the gradients of a batch's parts are added up.

        Raises:
            BackboneError: If less than one item would be left.
        """
        parts = 2 * self.state.parts
        if parts >= 2 * self._spec.batch_size:
            msg = f"a single image does not fit into memory ({error}); unfreeze less, or choose a smaller --image-size"
            raise BackboneError(msg) from error
        self.state.parts = parts
        self._options.reporter.say(
            f"note: {-(-2 * self._spec.batch_size // parts)} images do not fit into memory at once; each batch of "
            f"{self._spec.batch_size} is divided into {parts} parts, whose gradients are added up"
        )

    def _validate(self) -> dict[str, float]:
        """Evaluate on the held-out items or, if there are none, on the training items without augmentation."""
        held = self._training_set.held
        items, prefix = (held, "val_") if len(held) else (self._training_set.train, "plain_")
        self._take_head()
        logits = self._head.compute_logits(
            embed_items(self._network, self._training_set.feed, items, self._spec.batch_size)
        )
        targets = self._training_set.targets[items]
        loss = self._network.measure_loss(targets, logits, self._training_set.weights[items])
        check_loss(loss, self._spec.learning_rate)
        return {f"{prefix}{name}": value for name, value in {"loss": loss, **score_logits(logits, targets)}.items()}

    def _take_head(self) -> None:
        self._head.weights_ = self._network.get_head_weights()

    def _read_monitored(self, record: dict[str, float]) -> float:
        name = self._spec.monitor
        value = record[f"{'val' if len(self._training_set.held) else 'plain'}_{name}"]
        signed = value if name == "loss" else -value
        return signed if math.isfinite(signed) else math.inf

    def _record(self, record: dict[str, float], seconds: float) -> None:
        for name, value in {**record, "seconds": seconds}.items():
            self.state.history.setdefault(name, []).append(value)
        self.state.seconds += seconds

    def _report(self, record: dict[str, float], seconds: float) -> None:
        state = self.state
        trained = f"loss {record['loss']:.4f}, accuracy {record['accuracy']:.3f}"
        held = "validation" if len(self._training_set.held) else "after the epoch:"
        prefix = "val" if len(self._training_set.held) else "plain"
        watched = f"{held} loss {record[f'{prefix}_loss']:.4f}, accuracy {record[f'{prefix}_accuracy']:.3f}"
        area = f", AUC {record[f'{prefix}_auc']:.4f}" if self._spec.monitor == "auc" else ""
        best = f"best so far: epoch {state.best_epoch}" if state.best_epoch else "no better than the start"
        width = len(str(self._spec.epochs))
        self._options.reporter.say(
            f"epoch {state.epoch:{width}}/{self._spec.epochs}: {trained}; {watched}{area} ({best}); {seconds:.1f} s"
        )

    def _draw(self) -> None:
        started, state = time.perf_counter(), self.state
        with say_failures(self._folder):
            path, title = self._folder / f"{CURVES}.png", self._training_set.title
            plot_history(state.history, path, first=0, kept=state.best_epoch, title=title)
        self._drawn = time.perf_counter()
        self._draw_seconds = self._drawn - started

    def _save(self, *, optimizers: bool) -> None:
        """Write curves and state; a crash leaves the new state or that of the epoch before, never a part."""
        state = self.state
        with say_failures(self._folder):
            write_history(state.history, self._folder / f"{CURVES}.csv", first=0)
        record = {name: getattr(state, name) for name in LoopState.__dataclass_fields__}
        arrays = {**self._network.dump(), **{f"best_{name}": array for name, array in self._best.items()}}
        arrays |= self._network.dump_optimizers() if optimizers else {}
        write_result(self._folder / STATE, Result(record, arrays))

    def _resume(self) -> LoopState:
        path = self._folder / STATE
        if self._options.fresh or not path.is_file():
            self._options.reporter.say(self._describe_start())
            return self.state
        try:
            found = read_result(path)
            state = LoopState(**found.record)
            state.earlier_seconds = state.seconds
            self._network.restore(found.arrays)
            self._best = {name: found.arrays[f"best_{name}"] for name in self._best}
        except (*DAMAGES, TypeError) as error:
            msg = f"{path} is damaged ({' '.join(str(error).split())[:100]}); start again with --fresh"
            raise StoreError(msg) from error
        if state.stage < len(self._stages) and state.epoch:
            self._network.start(self._stages[state.stage])
            self._network.restore_optimizers(found.arrays)
        self._options.reporter.say(
            f"resuming after epoch {state.n_epochs} of an interrupted run; use --fresh to start from scratch"
        )
        return state

    def _describe_start(self) -> str:
        """Evaluate the start, which an epoch must beat to be kept, and describe it."""
        record = self._validate()
        start = dict.fromkeys(("loss", "accuracy", "auc"), math.nan)
        self._record({**start, **record, "learning_rate": self._spec.learning_rate * self._stages[0].rate}, 0.0)
        self.state.best = self._read_monitored(record)
        if not math.isfinite(self.state.best):
            msg = f"the {self._spec.monitor} of these images is undefined for a single class; use --monitor loss"
            raise DataError(msg)
        held = len(self._training_set.held)
        watched = f"{held:,} validation images" if held else "the training images, since none can be held out"
        name = "val" if held else "plain"
        return f"start: loss {record[f'{name}_loss']:.4f}, accuracy {record[f'{name}_accuracy']:.3f} on {watched}"


def stream_features(
    network: Any,  # noqa: ANN401 - a TrainableNetwork, whose module imports TensorFlow
    feed: Feed,
    items: NDArray[np.intp],
    batch_size: int,
) -> Iterator[NDArray[np.float32]]:
    """Embed items without augmentation and with the network's current weights, a batch at a time.

    Args:
        network: The network.
        feed: The network's inputs.
        items: int `(n_items,)`.
        batch_size: Items of a batch.

    Yields:
        float32 `(n_batch, dim)`.

    Raises:
        BackboneError: If a single item does not fit into memory.
        DataError: If features are not finite.
    """
    parts = np.array_split(items, -(-len(items) // batch_size))
    with contextlib.closing(feed.stream((part, np.zeros(len(part), np.intp)) for part in parts)) as shown:
        for _, inputs in shown:
            rows = _embed_halving(network, inputs)
            if not np.isfinite(rows).all():
                msg = "the features of the network are no longer finite; choose smaller learning rates"
                raise DataError(msg)
            yield rows


def embed_items(network: Any, feed: Feed, items: NDArray[np.intp], batch_size: int) -> NDArray[np.float32]:  # noqa: ANN401 - as above
    """Embed items into one matrix float32 `(n_items, dim)`; see `stream_features`."""
    return np.concatenate(list(stream_features(network, feed, items, batch_size)))


def _embed_halving(network: Any, inputs: list[NDArray[Any]]) -> NDArray[np.float32]:  # noqa: ANN401 - as above
    """Embed a batch, in halves if it does not fit into memory."""
    try:
        return np.asarray(network.embed(inputs))
    except MemoryError as error:
        half = len(inputs[0]) // 2
        if not half:
            msg = f"a single image does not fit into memory ({error}); choose a smaller --image-size"
            raise BackboneError(msg) from error
    return np.concatenate(
        [_embed_halving(network, [array[rows] for array in inputs]) for rows in (slice(half), slice(half, None))]
    )
