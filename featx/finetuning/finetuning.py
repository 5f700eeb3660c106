"""Fine-tuning: a backbone and its head trained end to end, on the items and the split that `fit` uses."""

import contextlib
import functools
import hashlib
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_class_weight

from featx.backbones import Backbone, load_backbone, parse_uri
from featx.backbones.protocol import LayerInfo
from featx.bundle import Draft, align_probabilities, write_bundle
from featx.embedding import check_image, embed_golden, make_spec
from featx.errors import BackboneError, DataError, UsageError
from featx.evaluation import Evaluation
from featx.evaluation.plots import plot_reliability
from featx.evaluation.reliability import measure_reliability
from featx.files import make_folder, say_failures, write_table
from featx.finetuning.feature_maps import Cut, Supply, supply_items
from featx.finetuning.loop import CURVES, Course, Lesson, Progressed, Roles, embed_items, stream_features
from featx.finetuning.unfreezing import Stage, normalize_plan, plan_stages
from featx.fitting.dataset import Dataset, Partition, split_dataset
from featx.fitting.illustrations import tabulate_reliability
from featx.fitting.procedure import deal_folds, evaluate_items, explain_failure, read_versions, tabulate_predictions
from featx.golden import MAX_DRIFT, Golden, make_golden_files, measure_drift
from featx.heads import Head, find_head, fit_head, tune
from featx.heads.fitting import describe_warning
from featx.heads.logistic import ScaledLogisticRegression
from featx.heads.networks import NetworkClassifier, hold_out_units
from featx.heads.rows import FeatureRows
from featx.heads.sweeps import record_warnings
from featx.items import Manifest, read_source
from featx.items.augmentation import draw_contact_sheet, parse_augmentation
from featx.items.decoding import decode
from featx.measuring import watch_memory
from featx.options import FINETUNE_DEFAULTS, FineTuneOptions
from featx.results import Run
from featx.specs import FineTuneSpec, HeadSpec, ImageSpec
from featx.store.lock import StoreLock
from featx.wording import to_text


@dataclass(frozen=True, slots=True)
class Opening:
    """Frozen features, and what a head learns from them.

    Attributes:
        features: `(n_items, dim)`.
        targets: int `(n_items,)`.
        held: bool `(n_items,)`, the items that are watched and not learnt from.
        units: int `(n_items,)`, the items that stay together.
        deal_folds: Deals those that are learnt from to the folds on which parameters are chosen, int `(n_learnt,)`.
    """

    features: FeatureRows
    targets: NDArray[np.intp]
    held: NDArray[np.bool_]
    units: NDArray[np.intp]
    deal_folds: Callable[[], NDArray[np.intp]]


def plan_first_head(spec: FineTuneSpec) -> FineTuneSpec:
    """Check the head of a spec, and give it the parameters that both kinds of training share.

    Raises:
        UnknownNameError: If there is no such head or parameter, or no such augmentation.
        UsageError: If gradients cannot go through it, or it is to be calibrated; if an augmentation does not fit.
    """
    head = find_head(spec.head.name)
    estimator = head.build({}, spec.head.seed, head.scalings[0])
    if not isinstance(estimator, NetworkClassifier | ScaledLogisticRegression):
        msg = f"{head.name} cannot be trained together with a backbone; choose logreg or keras, such as keras:512-512"
        raise UsageError(msg)
    if spec.head.calibration not in {None, "none"}:
        msg = f"calibration of a fine-tuned head by {spec.head.calibration} is not offered; leave it out"
        raise UsageError(msg)
    shared: dict[str, Any] = {"class_weight": spec.class_weight} if spec.class_weight else {}
    if isinstance(estimator, NetworkClassifier):
        shared |= {"optimizer": spec.optimizer, "label_smoothing": spec.label_smoothing}
    params = head.check_params({**shared, **spec.head.params})
    first = replace(spec.head, name=head.name, params=params, seed=spec.seed)
    augmentation, unfreeze = str(parse_augmentation(spec.augmentation)), normalize_plan(spec.unfreeze)
    return replace(spec, head=first, augmentation=augmentation, unfreeze=unfreeze)


@dataclass(frozen=True, slots=True)
class FirstHead:
    """A head that was trained on frozen features.

    Attributes:
        network: The head as a network, with its scaling.
        spec: The head, with the parameters that were chosen.
        notes: What the user should know.
    """

    network: NetworkClassifier
    spec: HeadSpec
    notes: tuple[str, ...]


def fit_first_head(spec: FineTuneSpec, opening: Opening) -> FirstHead:
    """Fit the first head on frozen features.

    Args:
        spec: As `plan_first_head` returned it.
        opening: What it learns from.

    Raises:
        DataError: If nothing can be learnt from these items.
    """
    head = find_head(spec.head.name)
    scaling = spec.head.scaling or "standard"
    estimator = head.build(spec.head.params, spec.seed, scaling)
    if isinstance(estimator, NetworkClassifier):
        with explain_failure(spec.head), record_warnings() as caught:
            estimator.fit(opening.features, opening.targets, opening.held)
        notes = tuple(f"{head.name} {describe_warning(one, head, spec.head.params)}" for one in caught)
        return FirstHead(estimator, replace(spec.head, scaling=scaling), notes)
    with explain_failure(spec.head):
        return _fit_logistic(head, spec, opening)


def _fit_logistic(head: Head, spec: FineTuneSpec, opening: Opening) -> FirstHead:
    """Fit a logistic regression, and make it a layer.

    Its parameters are those of the lowest log-loss on the folds, not of the highest accuracy: where classes
    can be separated, nearly any penalty gives the same accuracy, and the weakest one coefficients so large
    that the first steps of the backbone undo what it knows.
    """
    X, targets = opening.features.take(~opening.held), opening.targets[~opening.held]
    folds, units = opening.deal_folds(), opening.units[~opening.held]
    plain = replace(spec.head, calibration="none")
    tuned = tune(head, X, targets, folds, spec=plain, units=units)
    best = min(tuned.candidates, key=lambda one: math.inf if one.log_loss is None else one.log_loss)
    chosen = replace(plain, params=best.params, scaling=best.scaling)
    fitted = fit_head(head, X, targets, chosen, folds, units=units)
    linear = fitted.estimator[-1]
    scaling = "l2" if chosen.scaling == "l2" else "standard"
    network = NetworkClassifier.adopt_linear(linear.coef_, linear.intercept_, X, scaling)
    network.classes_ = linear.classes_
    return FirstHead(network, chosen, fitted.notes)


#: The contact sheet of augmented images.
SHEET = "augmentation.png"

_BACKBONE = "backbone.keras"

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tuning:
    """A network that was trained, and what it was trained on.

    Attributes:
        tuner: The `TunableNetwork`; not typed, since its module imports TensorFlow.
        first: The head, with the weights that were learnt since.
        spec: How.
        supply: The items.
        partition: Which of them are tested.
        roles: Which are learnt from, and which are watched.
        progressed: How training went.
        read_peak: Tells the most memory that the process has had meanwhile, in bytes.
    """

    tuner: Any
    first: FirstHead
    spec: FineTuneSpec
    supply: Supply
    partition: Partition
    roles: Roles
    progressed: Progressed
    read_peak: Callable[[], int | None]

    def predict(self, items: NDArray[np.intp]) -> Probabilities:
        """Predict items, as they are: float64 `(n, n_classes)`."""
        features = embed_items(self.tuner, self.supply.feed, items, self.spec.batch_size)
        probabilities = self.first.network.predict_proba(features)
        return align_probabilities(probabilities, self.first.network.classes_, len(self.supply.dataset.classes))

    def evaluate_validation(self) -> Evaluation:
        """Evaluate the items that chose the epoch; those learnt from, if none could be held out."""
        dataset = self.supply.dataset
        members = np.zeros(len(dataset), bool)
        members[self.roles.validated if len(self.roles.validated) else self.roles.train] = True
        probabilities = self.predict(np.flatnonzero(members))
        return evaluate_items(dataset, members, probabilities, dataset.targets[members], self.spec.seed)

    def describe(self, backbone: str, elapsed: float) -> dict[str, Any]:
        """Return what `metrics.json` says of it under `finetuned`.

        Its `seconds` are what everything takes where nothing is there yet: epochs of an interrupted run count, and
        so does embedding that an earlier run did. `elapsed_seconds` are those of this run.

        Args:
            backbone: What the backbone is called.
            elapsed: Seconds since this run began.
        """
        supply, seconds = self.supply, elapsed + self.progressed.earlier_seconds
        if supply.embed_seconds is not None:
            seconds += supply.embed_seconds - supply.own_embed_seconds
        return {
            "backbone": backbone,
            "unfreeze": self.spec.unfreeze,
            **self.tuner.count_parameters(),
            "epochs": self.progressed.n_epochs,
            "best_epoch": self.progressed.best_epoch,
            "seconds": seconds,
            "elapsed_seconds": elapsed,
            "embed_seconds": supply.embed_seconds,
            "train_seconds": self.progressed.seconds,
            "validated_on": self.roles.validated_on,
            "batch_parts": self.progressed.parts,
            "peak_memory_bytes": self.read_peak(),
            "cached": supply.cached,
            "cut": list(self.tuner.frontier),
            "views": self.spec.views,
            "augmentation": self.spec.augmentation,
            "spec": self.spec.to_dict(),
        }


def describe_freezing(tuning: Tuning, unchanged: list[str]) -> str:
    """Say that what was frozen has not changed, and what should have and has not."""
    counts, state = tuning.tuner.count_parameters(), tuning.progressed
    frozen = (
        f"checked: all {counts['frozen_parameters']:,} frozen parameters of the backbone are as they were, bit by bit"
    )
    if not state.best_epoch:
        return f"{frozen}; no epoch was better than the start, so the backbone and head that it began with are kept"
    if unchanged and "gradual" in tuning.spec.unfreeze:
        return f"{frozen}; {len(unchanged)} weights learn in later stages only, of which none was better"
    if unchanged:
        return f"{frozen}; {len(unchanged)} weights that could learn have not, such as {unchanged[0]}"
    return f"{frozen}, and all weights that learn have changed"


def draft_bundle(
    run: Run, tuning: Tuning, network: Backbone, probabilities: Probabilities, folder: Path, options: FineTuneOptions
) -> Draft:
    """Draft the bundle: the tuned backbone is a network of the user's own, as far as whoever loads it is concerned.

    Raises:
        BackboneError: If what was saved gives other features than what was trained.
    """
    path, output = folder / _BACKBONE, network.outputs[0]
    tuning.tuner.save(path)
    tuned = load_backbone(f"file:{path}", pooling=output.pooling)
    image = tuning.supply.stores[0].spec.image
    (golden,) = embed_golden(tuned, image, make_golden_files())
    _compare(tuning, golden, image)
    dataset, supply = tuning.supply.dataset, tuning.supply
    store, tested = supply.stores[0], np.flatnonzero(tuning.partition.test.members)
    ids = store.ids[dataset.rows]
    record = {
        "created_with": {**store.created_with, **read_versions()},
        "split": describe_split(tuning.partition, options.test_size, options.group, tuning.spec.seed),
        "store": {"path": str(store.path), "source": store.source, "items": len(store)},
        "finetune": tuning.spec.to_dict(),
        "backbone": make_spec(network, output, image).backbone.to_dict(),
    }
    return Draft(
        embed_spec=make_spec(tuned, tuned.outputs[0], image),
        head_spec=run.head,
        classes=dataset.classes,
        golden=golden,
        head=Pipeline([("scaler", "passthrough"), ("classifier", tuning.first.network)]),
        backbone_file=str(path),
        record=record,
        test=run.test,
        metrics={name: value for name, value in run.to_dict().items() if name not in {"bundle", "candidates"}},
        items={"id": ids, "sha256": dataset.keys, "label": dataset.labels, "role": _name_roles(tuning)},
        predictions=tabulate_predictions(ids, dataset.labels, tested, probabilities, dataset.classes),
        extras=_list_illustrations(run, tuning, probabilities, folder),
    )


def describe_split(partition: Partition, test_size: float, group: str, seed: int) -> dict[str, Any]:
    """Describe a split as a bundle records it, so that a run on the same one can be found."""
    return {"origin": partition.origin, "test_size": test_size, "cv": 0, "group": group, "seed": seed}


def _compare(tuning: Tuning, golden: Golden, image: ImageSpec) -> None:
    """Compare what the saved backbone gives for the golden pictures with what the trained network gives."""
    tuning.tuner.takes_maps = False
    pixels = np.stack([decode(data, image).pixels for data in golden.files])
    drift = measure_drift(Golden(golden.files, tuning.tuner.embed([pixels])), golden)
    if not drift <= MAX_DRIFT:
        msg = (
            f"the saved backbone gives other features than the trained one ({drift:.1e} of their range); "
            "please report this as a bug"
        )
        raise BackboneError(msg)


def _name_roles(tuning: Tuning) -> NDArray[np.str_]:
    roles = np.full(len(tuning.supply.dataset), "unused", "U9")
    for positions, role in ((tuning.roles.train, "trained"), (tuning.roles.validated, "validated")):
        roles[positions] = role
    roles[tuning.partition.test.members] = "tested"
    return roles


def _list_illustrations(run: Run, tuning: Tuning, probabilities: Probabilities, folder: Path) -> dict[str, Any]:
    truth = tuning.supply.dataset.targets[tuning.partition.test.members]
    curves = {run.test_name: measure_reliability(probabilities, truth)}
    files: dict[str, Any] = {
        "reliability.csv": functools.partial(write_table, tabulate_reliability(curves)),
        "reliability.png": functools.partial(plot_reliability, curves),
        "head.keras": lambda path: tuning.first.network.to_keras().save(path),
    }
    for path in sorted(folder.glob(f"{CURVES}.*")) + sorted(folder.glob(SHEET)):
        files[path.name] = functools.partial(shutil.copyfile, path)
    return files


#: Images on the contact sheet.
_SHOWN_IMAGES = 6

#: Of few items, one part in so many is held out.
_FEW_FOLDS = 5


def finetune(
    source: str | os.PathLike[str] | Manifest,
    backbone: str,
    *,
    spec: FineTuneSpec | None = None,
    layer: str | int | None = None,
    pooling: str | None = None,
    weights: str | None = None,
    image: Mapping[str, Any] | None = None,
    options: FineTuneOptions = FINETUNE_DEFAULTS,
) -> Run:
    """Train a backbone and a head end to end, and report on items that neither saw.

    The head is trained first, on frozen features; then it learns together with the layers that are
    unfrozen, from where it is. After each epoch items that are held out are measured: the val split of
    the source, or about a tenth of the training items. The weights of the best epoch are kept, be it the
    start, and the test is evaluated once. A run that is interrupted goes on from its last epoch.

    Args:
        source: A folder, table or archive, or a manifest; what it is split into is what `fit` does.
        backbone: A uri (see `featx.load_backbone`) of a Keras network.
        spec: What is trained, and how; None for the defaults of `FineTuneSpec`.
        layer: Where the network ends and the head begins; None for its last layer.
        pooling: How the feature map there becomes a vector; None for the layer's default.
        weights: `imagenet`, `none` or a path; None for the backbone's default.
        image: Fields of `ImageSpec` that differ from its defaults and the backbone's size.
        options: How to split, where to write, and whom to tell.

    Returns:
        The run; its bundle is on disk.

    Raises:
        FeatxError: One of its kinds, for a source, backbone, plan or head that cannot be used.
    """
    started, read_peak = time.perf_counter(), watch_memory()
    spec, image = plan_first_head(spec or FineTuneSpec()), check_image(image or {})
    manifest = source if isinstance(source, Manifest) else read_source(source)
    load, network = _load_network(backbone, layer, pooling, weights, image, options)
    stages = plan_stages(spec.unfreeze, list_own_layers(network), backbone)
    from featx.finetuning.network import TunableNetwork

    tuner = TunableNetwork(network, stages, spec)
    cut = Cut(tuner.frontier, tuner.map_shapes, tuner.has_frozen, tuner.obstacle)
    fields = {name: value for name, value in image.items() if name not in {"height", "width"}}
    options.enter("embedding")
    supply = supply_items(manifest, network, load, cut, spec, options, fields)
    tuner.takes_maps = supply.cached
    partition = split_dataset(supply.dataset, test_size=options.test_size, seed=spec.seed)
    roles = _deal_roles(supply.dataset, partition, spec)
    folder = _open_folder(spec, supply, network, roles, options)
    with StoreLock(folder):  # the same command, twice at a time, would write one state
        _show_views(supply, roles, spec, folder, options)
        options.enter("fitting the head")
        first = _fit_head(tuner, supply, roles, spec, folder)
        tuner.attach(first.network)
        _describe_parameters(tuner.count_parameters(), stages, options)
        lesson = _plan_lesson(supply, first.network, roles, spec)
        course = Course(tuner, first.network, lesson, stages, spec, folder, options)
        options.enter("training")
        course.run()
        options.enter("testing and writing")
        tuning = Tuning(tuner, first, spec, supply, partition, roles, course.progressed, read_peak)
        return _conclude(tuning, network, folder, options, started)


def list_own_layers(network: Any) -> list[LayerInfo]:  # noqa: ANN401 - a KerasBackbone, whose module imports TensorFlow
    """List the layers of a Keras backbone that are run: those before its cut, and not beside it."""
    run = {id(layer) for layer in network.parts.trunk.layers}
    return [layer for layer in network.layers if id(network.parts.layers[layer.name]) in run]


def _load_network(
    uri: str,
    layer: str | int | None,
    pooling: str | None,
    weights: str | None,
    image: Mapping[str, Any],
    options: FineTuneOptions,
) -> tuple[Callable[..., Backbone], Any]:
    """Build the backbone, and return what builds another one like it as well."""
    size = (int(image["height"]), int(image["width"])) if "height" in image else None
    layers = () if layer is None else (layer,)
    load = functools.partial(load_backbone, weights=weights, image_size=size, pooling=pooling, layers=layers)
    network = load_tunable(functools.partial(load, uri), uri)
    if options.mixed_precision and not network.is_on_gpu:
        options.say("note: mixed precision is for GPUs, and there is none; training goes on in float32")
    elif options.mixed_precision and network.precision == "float32":
        if uri.startswith("file:"):
            msg = f"{uri} computes in the precision that it was saved with; leave out mixed precision"
            raise UsageError(msg)
        uri = f"{uri}{'&' if '?' in uri else '?'}precision=mixed_bfloat16"
        network = load(uri)
    return functools.partial(load, uri), network


def load_tunable(load: Callable[[], Backbone], title: str) -> Any:  # noqa: ANN401 - a KerasBackbone, as above
    """Build a backbone that can learn.

    Raises:
        UsageError: If it has no weights that could.
    """
    network = load()
    if not hasattr(network, "parts") or network.weights == "computed":
        msg = f"{title} has no weights that could learn; choose a network of Keras, or train a head with `featx fit`"
        raise UsageError(msg)
    return network


def _deal_roles(dataset: Dataset, partition: Partition, spec: FineTuneSpec) -> Roles:
    """Choose the items that are learnt from and those that are watched."""
    train, validated, notes = partition.train, partition.validation, []
    if not validated.any():
        validated = _hold_out(dataset, train, spec.seed)
        train = train & ~validated
    # A class that is not learnt has no place in the loss; it counts as wrong in the validation.
    held = validated & np.isin(dataset.targets, dataset.targets[train])
    if held.any():
        notes.append(f"{int(held.sum()):,} validation images chose the epoch, and were not learnt from")
    else:
        notes.append(f"no image can be held out for validation: {spec.monitor} of the training images chose the epoch")
    return Roles(np.flatnonzero(train), np.flatnonzero(held), np.flatnonzero(validated), tuple(notes))


def _hold_out(dataset: Dataset, train: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Hold out about a tenth of the training items, or, where that would be a handful, a fifth."""
    held = np.zeros(len(dataset), bool)
    held[np.flatnonzero(train)[hold_out_units(dataset.targets[train], seed, dataset.find_units(train))]] = True
    folds = min(_FEW_FOLDS, dataset.count_units(train))
    if not held.any() and folds > 1:
        with contextlib.suppress(DataError):  # a class would be lost
            held[np.flatnonzero(train)[dataset.assign_folds(train, folds, seed) == 0]] = True
    return held


def _open_folder(spec: FineTuneSpec, supply: Supply, network: Backbone, roles: Roles, options: FineTuneOptions) -> Path:
    """Open the folder of this training: another spec, network, version or set of items has another one."""
    state = hashlib.sha256(f"{spec.digest} {sorted(read_versions().items())}".encode())
    output, dataset = network.outputs[0], supply.dataset
    state.update(f"{network.uri} {network.weights_digest} {output.layer} {output.pooling}".encode())
    state.update(supply.stores[0].spec.image.digest.encode())
    for positions in (roles.train, roles.held):
        state.update("".join(dataset.keys[positions].tolist()).encode())
        state.update(dataset.targets[positions].astype("<i8").tobytes())
    # Groups decide the folds on which the first head is chosen.
    everything = np.ones(len(dataset), bool)
    state.update(dataset.find_units(everything).astype("<i8").tobytes())
    folder = Path(options.folder) / ".finetune" / state.hexdigest()[:16]
    with say_failures(folder):
        make_folder(folder)
    others = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    also = f" ({len(others)} of other settings, unfinished, beside it)" if others else ""
    options.say(f"curves and state: {folder}{also}")
    return folder


def _show_views(supply: Supply, roles: Roles, spec: FineTuneSpec, folder: Path, options: FineTuneOptions) -> None:
    """Draw what the network will see, before it does."""
    if not spec.augmentation:
        return
    shown = np.random.default_rng(spec.seed).permutation(roles.train)[:_SHOWN_IMAGES].tolist()
    images = [supply.pixels.read_plain(item) for item in shown]
    keys = [supply.pixels.sha256s[item] for item in shown]
    with say_failures(folder):
        draw_contact_sheet(images, supply.pixels.augmentation, seed=spec.seed, sha256s=keys, path=folder / SHEET)
    options.say(f"what the network will see: {folder / SHEET}")


def _fit_head(
    tuner: Any,  # noqa: ANN401 - a TunableNetwork, whose module imports TensorFlow
    supply: Supply,
    roles: Roles,
    spec: FineTuneSpec,
    folder: Path,
) -> FirstHead:
    """Fit the first head on the frozen features of all items but those of the test."""
    dataset = supply.dataset
    members, watched = np.zeros(len(dataset), bool), np.zeros(len(dataset), bool)
    members[roles.train] = members[roles.held] = watched[roles.held] = True
    learnt = members & ~watched
    with _embed_frozen(tuner, supply, members, spec, folder) as features:
        targets, units = dataset.targets[members], dataset.find_units(members)
        folds = functools.partial(deal_folds, dataset, learnt, spec.seed)
        return fit_first_head(spec, Opening(features, targets, watched[members], units, folds))


@contextlib.contextmanager
def _embed_frozen(
    tuner: Any,  # noqa: ANN401 - as above
    supply: Supply,
    members: NDArray[np.bool_],
    spec: FineTuneSpec,
    folder: Path,
) -> Iterator[FeatureRows]:
    """Give the frozen features of some items: from their store, or from the maps by the rest of the network."""
    if not supply.cached:
        yield supply.dataset.take_features(members)
        return
    rows, path = np.flatnonzero(members), folder / "features.bin"
    try:
        with say_failures(folder), path.open("wb") as file:
            for batch in stream_features(tuner, supply.feed, rows, spec.batch_size):
                file.write(batch.tobytes())
        yield FeatureRows(np.memmap(path, np.float32, "r", shape=(len(rows), tuner.dim)))
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is mapped; the folder goes in the end
            path.unlink(missing_ok=True)


def _describe_parameters(counts: Mapping[str, int], stages: Sequence[Stage], options: FineTuneOptions) -> None:
    options.say(
        f"{stages[-1].name if len(stages) == 1 else 'gradual'}: {counts['trainable_parameters']:,} parameters of the "
        f"backbone learn, {counts['frozen_parameters']:,} stay frozen; the head has {counts['head_parameters']:,}"
    )


def _plan_lesson(supply: Supply, head: NetworkClassifier, roles: Roles, spec: FineTuneSpec) -> Lesson:
    train, held = roles.train, roles.held
    targets = np.zeros(len(supply.dataset), np.int32)
    known = np.concatenate([train, held])
    targets[known] = np.searchsorted(head.classes_, supply.dataset.targets[known])
    weights = np.ones(len(targets), np.float32)
    if spec.class_weight:
        present = np.unique(targets[train])
        weights[known] = compute_class_weight(spec.class_weight, classes=present, y=targets[train])[targets[known]]
    return Lesson(supply.feed, train, held, targets, weights)


def _conclude(tuning: Tuning, network: Backbone, folder: Path, options: FineTuneOptions, started: float) -> Run:
    """Test once, write the bundle, and clear up."""
    unchanged = tuning.tuner.check_freezing()
    notes = (tuning.supply.dataset.notes, tuning.partition.notes, tuning.roles.notes, tuning.first.notes)
    options.say(describe_freezing(tuning, unchanged))
    tested = tuning.partition.test.members
    probabilities = tuning.predict(np.flatnonzero(tested))
    targets = tuning.partition.test.open_targets()
    run = Run(
        bundle=None,
        head=tuning.first.spec,
        validation=tuning.evaluate_validation(),
        test=evaluate_items(tuning.supply.dataset, tested, probabilities, targets, tuning.spec.seed),
        n_train=len(tuning.roles.train),
        test_name=tuning.partition.test_name,
        notes=tuple(dict.fromkeys(itertools.chain.from_iterable(notes))),
        seconds=time.perf_counter() - started,
        finetuned=tuning.describe(network.uri, time.perf_counter() - started),
    )
    draft = draft_bundle(run, tuning, network, probabilities, folder, options)
    name = parse_uri(network.uri).name if not network.uri.startswith("file:") else Path(network.source_file).stem
    path = write_bundle(draft, options.folder, f"finetune-{to_text(name)}-{tuning.spec.unfreeze}")
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # where other runs are unfinished, it is not empty
        folder.parent.rmdir()
    return replace(run, bundle=path)
