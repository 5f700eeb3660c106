"""Fine-tuning: a backbone and its head trained end to end, on the items and the split that `fit` uses."""

import contextlib
import functools
import hashlib
import itertools
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
from featx.backbones.loading import find_backbone, name_backbone
from featx.backbones.protocol import LayerInfo, is_own, names_file, needs_openvino
from featx.bundle import Draft, DraftPart, read_versions, tabulate_predictions, write_bundle
from featx.embedding import check_image, make_spec
from featx.errors import BackboneError, DataError, UsageError
from featx.evaluation import Evaluation
from featx.evaluation.figure import make_title
from featx.evaluation.metrics import align_probabilities
from featx.evaluation.plots import EQUAL_BINS, plot_reliability
from featx.evaluation.reliability import measure_reliability_for_plot
from featx.explaining.basis import BASIS, Basis, write_basis
from featx.files import make_folder, say_failures, write_table
from featx.finetuning.feature_maps import Cut, FineTuneData, prepare_data
from featx.finetuning.first_head import FirstHead, FrozenFeatures, fit_first_head, is_tuned, plan_first_head
from featx.finetuning.loop import (
    CURVES,
    STATE,
    LoopState,
    Roles,
    TrainingLoop,
    TrainingSet,
    embed_items,
    stream_features,
)
from featx.finetuning.unfreezing import Stage, plan_stages
from featx.fitting.corrections import correct_manifest, is_table
from featx.fitting.dataset import (
    Dataset,
    Partition,
    deal_folds,
    describe_split,
    evaluate_items,
    is_tunable,
    split_dataset,
)
from featx.fitting.explanations import describe_basis, make_trained_basis
from featx.fitting.illustrations import tabulate_reliability
from featx.fitting.preconditions import check_manifest
from featx.golden import MAX_DRIFT, Golden, make_golden_files, measure_drift
from featx.heads.networks import NetworkClassifier, hold_out_units
from featx.heads.rows import FeatureRows
from featx.heads.tuning import RULES
from featx.items import Manifest, read_source
from featx.items.augmentation import draw_contact_sheet
from featx.items.decoding import decode
from featx.measuring import watch_memory
from featx.options import FINETUNE_DEFAULTS, FineTuneOptions, check_options
from featx.references import check_run_name
from featx.reporting import Reporter
from featx.results import KEPT_START, FineTuned, Run
from featx.specs import EmbedSpec, FineTuneSpec, ImageSpec
from featx.store.lock import StoreLock
from featx.wording import to_text

#: The contact sheet of augmented images.
SHEET = "augmentation.png"

_BACKBONE = "backbone.keras"

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A fine-tuned network, and the data that it was trained on.

    Attributes:
        trainable: The `TrainableNetwork`; not typed, since its module imports TensorFlow.
        first: The head, with its trained weights.
        spec: How it was trained.
        data: The items.
        partition: Which items are tested.
        roles: Which items are trained on, and which validate.
        state: How training went.
        read_peak: Returns the peak memory of the process since the start, in bytes.
    """

    trainable: Any
    first: FirstHead
    spec: FineTuneSpec
    data: FineTuneData
    partition: Partition
    roles: Roles
    state: LoopState
    read_peak: Callable[[], int | None]

    def predict(self, items: NDArray[np.intp]) -> Probabilities:
        """Predict items without augmentation: float64 `(n, n_classes)`."""
        return self.classify(self.embed(items))

    def embed(self, items: NDArray[np.intp]) -> NDArray[np.float32]:
        """Embed items without augmentation: float32 `(n, dim)`."""
        return embed_items(self.trainable, self.data.feed, items, self.spec.batch_size)

    def classify(self, features: NDArray[np.float32]) -> Probabilities:
        """Predict features: float64 `(n, n_classes)`."""
        probabilities = self.first.network.predict_proba(features)
        return align_probabilities(probabilities, self.first.network.classes_, len(self.data.dataset.classes))

    def evaluate_validation(self) -> Evaluation:
        """Evaluate on the items that chose the epoch, or on the training items if none could be held out."""
        dataset = self.data.dataset
        members = np.zeros(len(dataset), bool)
        members[self.roles.validated if len(self.roles.validated) else self.roles.train] = True
        probabilities = self.predict(np.flatnonzero(members))
        return evaluate_items(dataset, members, probabilities, dataset.targets[members], self.spec.seed)

    def describe(self, backbone: str, elapsed: float) -> FineTuned:
        """Describe how the backbone was trained.

        Args:
            backbone: The uri of the backbone.
            elapsed: Seconds since this run began.
        """
        data, seconds = self.data, elapsed + self.state.earlier_seconds
        if data.embed_seconds is not None:
            seconds += data.embed_seconds - data.own_embed_seconds
        return FineTuned(
            backbone=backbone,
            unfreeze=self.spec.unfreeze,
            **self.trainable.count_parameters(),
            epochs=self.state.n_epochs,
            best_epoch=self.state.best_epoch,
            seconds=seconds,
            elapsed_seconds=elapsed,
            embed_seconds=data.embed_seconds,
            train_seconds=self.state.seconds,
            validated_on=self.roles.validated_on,
            batch_parts=self.state.parts,
            peak_memory_bytes=self.read_peak(),
            cached=data.cached,
            cut=tuple(self.trainable.frontier),
            views=self.spec.views,
            augmentation=self.spec.augmentation,
            spec=self.spec,
        )


def describe_freezing(trained: TrainedNetwork, unchanged: list[str]) -> str:
    """Report that frozen weights are unchanged, and which trainable weights did not change either."""
    counts, state = trained.trainable.count_parameters(), trained.state
    frozen = f"checked: all {counts['frozen_parameters']:,} frozen parameters of the backbone are bit-for-bit unchanged"
    if not state.best_epoch:
        return f"{frozen}; no epoch was better than the start"
    if unchanged and "gradual" in trained.spec.unfreeze:
        return f"{frozen}; {len(unchanged)} weights are trained in later stages only, and no later stage was better"
    if unchanged:
        return f"{frozen}; {len(unchanged)} trainable weights did not change, such as {unchanged[0]}"
    return f"{frozen}, and all trainable weights have changed"


def _note_start(trained: TrainedNetwork) -> tuple[str, ...]:
    """Note that nothing was trained, if no epoch improved on the start."""
    state = trained.state
    if state.best_epoch:
        return ()
    images = "validation images" if trained.roles.validated_on == "validation" else "training images"
    return (
        f"{KEPT_START}, since no epoch ({state.n_epochs} in all) had a better {trained.spec.monitor} on the {images}",
    )


def draft_bundle(
    run: Run,
    trained: TrainedNetwork,
    network: Backbone,
    probabilities: Probabilities,
    folder: Path,
    options: FineTuneOptions,
) -> Draft:
    """Draft the bundle, which holds the fine-tuned backbone as a network of the user's own.

    Raises:
        BackboneError: If the saved network gives other features than the trained one.
    """
    path, output = folder / _BACKBONE, network.outputs[0]
    trained.trainable.save(path)
    tuned: Any = load_backbone(f"file:{path}", pooling=output.pooling)
    image = trained.data.stores[0].spec.image
    golden = _make_golden(trained, tuned, image)
    dataset, data = trained.data.dataset, trained.data
    store, tested = data.stores[0], np.flatnonzero(trained.partition.test.members)
    ids = store.ids[dataset.rows]
    basis = make_trained_basis(
        dataset,
        trained.roles.train,
        trained.roles.held,
        trained.embed,
        trained.classify,
        with_items=options.neighbours,
    )
    return Draft(
        parts=(DraftPart(make_spec(tuned, tuned.outputs[0], image), golden, str(path)),),
        head_spec=run.head,
        classes=dataset.classes,
        head=Pipeline([("scaler", "passthrough"), ("classifier", trained.first.network)]),
        record=_make_record(trained, make_spec(network, output, image), basis, options),
        test=run.test,
        metrics={name: value for name, value in run.to_dict().items() if name not in {"bundle", "candidates"}},
        items={"id": ids, "sha256": dataset.keys, "label": dataset.labels, "role": _name_roles(trained)},
        predictions=tabulate_predictions(ids, dataset.labels, tested, probabilities, dataset.classes),
        extras=_list_extras(run, trained, probabilities, folder, basis),
        title=_make_title(trained.spec, data, split=run.test_name, n_items=run.test.n_items),
    )


def _make_golden(trained: TrainedNetwork, tuned: Any, image: ImageSpec) -> Golden:  # noqa: ANN401 - a KerasBackbone
    """Embed golden pictures with the saved backbone, and check that the trained network has the same features.

    Raises:
        BackboneError: If it has others.
    """
    files = make_golden_files()
    pixels = np.stack([decode(data, image).pixels for data in files])
    golden = Golden(files, tuned.embed_few(pixels))
    drift = measure_drift(Golden(files, trained.trainable.embed_few(pixels)), golden)
    if not drift <= MAX_DRIFT:
        msg = (
            f"the saved backbone gives other features than the trained one ({drift:.1e} of their range); "
            "please report this as a bug"
        )
        raise BackboneError(msg)
    return golden


def _name_roles(trained: TrainedNetwork) -> NDArray[np.str_]:
    roles = np.full(len(trained.data.dataset), "unused", "U9")
    for positions, role in ((trained.roles.train, "trained"), (trained.roles.validated, "validated")):
        roles[positions] = role
    roles[trained.partition.test.members] = "tested"
    return roles


def _make_record(trained: TrainedNetwork, start: EmbedSpec, basis: Basis, options: FineTuneOptions) -> dict[str, Any]:
    """Make the record of a bundle: from which network, on what split, and by which plan it was trained."""
    dataset, store = trained.data.dataset, trained.data.stores[0]
    record = {
        "created_with": {**store.created_with, **read_versions()},
        "split": describe_split(
            trained.partition.origin, test_size=options.test_size, group=options.group, seed=trained.spec.seed
        ),
        "store": {"path": str(store.path), "source": store.source, "items": len(store)},
        "finetune": trained.spec.to_dict(),
        "rules": RULES,
        "backbone": start.backbone.to_dict(),
        "explanation": describe_basis(basis),
    }
    if dataset.corrections:
        record["corrections"] = dict(dataset.corrections)
    return record


def _make_title(spec: FineTuneSpec, data: FineTuneData, *, split: str = "", n_items: int = 0) -> str:
    store = data.stores[0]
    what = f"fine-tuned {store.spec.backbone.uri} ({spec.unfreeze})"
    return make_title(what, source=store.source, split=split, n_items=n_items)


def _list_extras(
    run: Run, trained: TrainedNetwork, probabilities: Probabilities, folder: Path, basis: Basis
) -> dict[str, Any]:
    truth = trained.data.dataset.targets[trained.partition.test.members]
    curves = {run.test_name: measure_reliability_for_plot(probabilities, truth)}
    files: dict[str, Any] = {
        BASIS: functools.partial(write_basis, basis),
        "reliability.csv": functools.partial(write_table, tabulate_reliability(curves)),
        "reliability.png": functools.partial(
            plot_reliability, curves, note=EQUAL_BINS, title=_make_title(trained.spec, trained.data)
        ),
        "head.keras": lambda path: trained.first.network.to_keras().save(path),
    }
    for path in sorted(folder.glob(f"{CURVES}.*")) + sorted(folder.glob(SHEET)):
        files[path.name] = functools.partial(shutil.copyfile, path)
    return files


#: Images on the contact sheet.
_SHOWN_IMAGES = 6

#: With few items, one in this many is held out.
_FEW_FOLDS = 5


def finetune(
    source: str | os.PathLike[str] | Manifest,
    backbone: str | None = None,
    *,
    spec: FineTuneSpec | None = None,
    layer: str | int | None = None,
    pooling: str | None = None,
    weights: str | None = None,
    image: Mapping[str, Any] | None = None,
    options: FineTuneOptions = FINETUNE_DEFAULTS,
) -> Run:
    """Train a backbone and a head end to end, and report on items that neither saw.

    The head is fitted first, on frozen features. Then the head and the unfrozen layers are trained together.
    After each epoch the network is evaluated on held-out items: the val split of the source, or about a tenth of
    the training items. The weights of the best epoch are kept, which may be those of the start. The test is
    evaluated once. An interrupted run resumes from its last epoch.

    Args:
        source: A folder, table or archive, or a manifest; it is split as `fit` splits it.
        backbone: A uri (see `featx.load_backbone`) of a Keras network; None for
            `featx.specs.DEFAULT_BACKBONE`.
        spec: What is trained, and how; None for the defaults of `FineTuneSpec`.
        layer: Where the network ends and the head begins; None for its last layer.
        pooling: How the feature map there becomes a vector; None for the layer's default.
        weights: `imagenet`, `none` or a path; None for the backbone's default.
        image: Fields of `ImageSpec` that differ from its defaults and the backbone's size.
        options: How to split, where to write, and where to report progress.

    Returns:
        The run; its bundle is on disk.

    Raises:
        FeatxError: One of its kinds, for a source, backbone, plan or head that cannot be used.
    """
    check_options(options, FineTuneOptions)
    started, read_peak = time.perf_counter(), watch_memory()
    check_run_name(options.folder, options.name)
    spec, image = plan_first_head(spec or FineTuneSpec()), check_image(image or {})
    manifest = source if isinstance(source, Manifest) else read_source(source)
    _check_source(manifest, spec, options)
    find, network = _load_network(backbone, layer, pooling, weights, image, options)
    stages = plan_stages(spec.unfreeze, list_own_layers(network), backbone or network.uri)
    from featx.finetuning.network import TrainableNetwork

    trainable = TrainableNetwork(network, stages, spec)
    cut = Cut(trainable.frontier, trainable.map_shapes, trainable.has_frozen, trainable.obstacle)
    fields = {name: value for name, value in image.items() if name not in {"height", "width"}}
    options.reporter.begin("embedding")
    data = prepare_data(manifest, network, find, cut, spec, options, fields)
    trainable.takes_maps = data.cached
    partition = split_dataset(data.dataset, test_size=options.test_size, seed=spec.seed)
    roles = _deal_roles(data.dataset, partition, spec)
    folder = _open_folder(spec, data, network, roles, options)
    with StoreLock(folder):  # two runs of the same command at once would write the same state
        _show_views(data, roles, spec, folder, options)
        options.reporter.begin("running the frozen network")
        first = _fit_head(trainable, data, roles, spec, folder, options.reporter)
        trainable.attach(first.network)
        _describe_parameters(trainable.count_parameters(), stages, options)
        training_set = _make_training_set(data, first.network, roles, spec)
        loop = TrainingLoop(trainable, first.network, training_set, stages, spec, folder, options)
        options.reporter.begin("training")
        loop.run()
        options.reporter.begin("testing and writing")
        trained = TrainedNetwork(trainable, first, spec, data, partition, roles, loop.state, read_peak)
        return _conclude(trained, network, folder, options, started)


def _check_source(manifest: Manifest, spec: FineTuneSpec, options: FineTuneOptions) -> None:
    """Refuse a source, or tables of corrections, that cannot be used, before anything is embedded."""
    table = options.group if is_table(options.group) else ""
    if table or options.without or options.relabel:
        manifest = correct_manifest(manifest, without=options.without, relabel=options.relabel, group=table)
    check_manifest(manifest, group="" if table else options.group, tuned=is_tuned(spec), reporter=options.reporter)


def list_own_layers(network: Any) -> list[LayerInfo]:  # noqa: ANN401 - a KerasBackbone, whose module imports TensorFlow
    """List the layers that a Keras backbone runs: those on the path to its cut."""
    run = {id(layer) for layer in network.parts.trunk.layers}
    return [layer for layer in network.layers if id(network.parts.layers[layer.name]) in run]


def _load_network(
    backbone: str | None,
    layer: str | int | None,
    pooling: str | None,
    weights: str | None,
    image: Mapping[str, Any],
    options: FineTuneOptions,
) -> tuple[Callable[..., Backbone], Any]:
    """Build the backbone, and return it with a function that finds it, or another cut of it, converted."""
    uri = name_backbone(backbone, options.reporter)
    size = (int(image["height"]), int(image["width"])) if "height" in image else None
    layers = () if layer is None else (layer,)
    asked: dict[str, Any] = {"weights": weights, "image_size": size, "pooling": pooling, "layers": layers}
    network = load_trainable(functools.partial(load_backbone, uri, **asked), uri)
    if options.mixed_precision and not network.is_on_gpu:
        options.reporter.say("note: mixed precision needs a GPU and none was found; training continues in float32")
    elif options.mixed_precision and network.precision == "float32":
        if names_file(uri):
            msg = f"{uri} computes in the precision that it was saved with; leave out mixed precision"
            raise UsageError(msg)
        uri = f"{uri}{'&' if '?' in uri else '?'}precision=mixed_bfloat16"
        network = load_backbone(uri, **asked)
    return functools.partial(find_backbone, uri, **asked, runtime=options.runtime), network


def load_trainable(load: Callable[[], Backbone], title: str) -> Any:  # noqa: ANN401 - a KerasBackbone, as above
    """Build a backbone that can be trained.

    Raises:
        UsageError: If it has no trainable weights.
    """
    network = load()
    if not hasattr(network, "parts") or network.weights == "computed":
        why = "is run by OpenVINO, which does not train it" if needs_openvino(title) else "has no trainable weights"
        msg = f"{title} {why}; choose a Keras network, or train a head with `featx fit`"
        raise UsageError(msg)
    if network.uri.startswith("hub:"):
        msg = f"{title} is a preset of keras-hub, which featx does not fine-tune; train a head with `featx fit`"
        raise UsageError(msg)
    return network


def _deal_roles(dataset: Dataset, partition: Partition, spec: FineTuneSpec) -> Roles:
    """Choose the items that are trained on and those that validate."""
    train, validated, notes = partition.train, partition.validation, []
    if not validated.any():
        validated = _hold_out(dataset, train, spec.seed)
        train = train & ~validated
    # The loss has no output for a class without training items; such items count as wrong in the validation.
    held = validated & np.isin(dataset.targets, dataset.targets[train])
    if held.any():
        notes.append(f"the epoch was chosen on {int(held.sum()):,} validation images, which were not trained on")
    else:
        notes.append(
            f"no image could be held out for validation, so the epoch was chosen by the {spec.monitor} on the training "
            "images, which cannot show overfitting; add images"
        )
    return Roles(np.flatnonzero(train), np.flatnonzero(held), np.flatnonzero(validated), tuple(notes))


def _hold_out(dataset: Dataset, train: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Hold out about a tenth of the training items, or a fifth if a tenth would be a handful."""
    held = np.zeros(len(dataset), bool)
    held[np.flatnonzero(train)[hold_out_units(dataset.targets[train], seed, dataset.find_units(train))]] = True
    folds = min(_FEW_FOLDS, dataset.count_units(train))
    if not held.any() and folds > 1:
        with contextlib.suppress(DataError):  # a class would be lost
            held[np.flatnonzero(train)[dataset.assign_folds(train, folds, seed) == 0]] = True
    # As in `fit`, all training items are kept for the folds of the head if the others are too few for these.
    return held if is_tunable(dataset, train & ~held) or not is_tunable(dataset, train) else np.zeros_like(held)


def _open_folder(
    spec: FineTuneSpec, data: FineTuneData, network: Backbone, roles: Roles, options: FineTuneOptions
) -> Path:
    """Open the folder of this run, which depends on the spec, the network, the versions and rules, and the items."""
    state = hashlib.sha256(f"{spec.digest} {sorted(read_versions().items())} {RULES}".encode())
    output, dataset = network.outputs[0], data.dataset
    state.update(f"{network.uri} {network.weights_digest} {output.layer} {output.pooling}".encode())
    state.update(data.stores[0].spec.image.digest.encode())
    for positions in (roles.train, roles.held):
        state.update("".join(dataset.keys[positions].tolist()).encode())
        state.update(dataset.targets[positions].astype("<i8").tobytes())
    # Groups decide the folds on which the first head is tuned.
    everything = np.ones(len(dataset), bool)
    state.update(dataset.find_units(everything).astype("<i8").tobytes())
    folder = Path(options.folder) / ".finetune" / state.hexdigest()[:16]
    with say_failures(folder):
        make_folder(folder)
    others = sum(path.is_dir() and path != folder for path in folder.parent.iterdir())
    which = "run next to it has" if others == 1 else f"runs next to it ({others}) have"
    begun = f"; this run starts from scratch, since the unfinished {which} other settings, images or versions"
    options.reporter.say(f"curves and state: {folder}{begun if others and not (folder / STATE).is_file() else ''}")
    return folder


def _show_views(data: FineTuneData, roles: Roles, spec: FineTuneSpec, folder: Path, options: FineTuneOptions) -> None:
    """Draw a contact sheet of the augmented images before training starts."""
    if not spec.augmentation:
        return
    shown = np.random.default_rng(spec.seed).permutation(roles.train)[:_SHOWN_IMAGES].tolist()
    images = [data.pixels.read_plain(item) for item in shown]
    keys = [data.pixels.sha256s[item] for item in shown]
    with say_failures(folder):
        draw_contact_sheet(images, data.pixels.augmentation, seed=spec.seed, sha256s=keys, path=folder / SHEET)
    options.reporter.say(f"augmented images, as the network will see them: {folder / SHEET}")


def _fit_head(
    trainable: Any,  # noqa: ANN401 - a TrainableNetwork, whose module imports TensorFlow
    data: FineTuneData,
    roles: Roles,
    spec: FineTuneSpec,
    folder: Path,
    reporter: Reporter,
) -> FirstHead:
    """Fit the first head on the frozen features of all items except those of the test."""
    dataset = data.dataset
    members, watched = np.zeros(len(dataset), bool), np.zeros(len(dataset), bool)
    members[roles.train] = members[roles.held] = watched[roles.held] = True
    trained_on = members & ~watched
    with _embed_frozen(trainable, data, members, spec, folder) as features:
        targets, units = dataset.targets[members], dataset.find_units(members)
        folds = functools.partial(deal_folds, dataset, trained_on, spec.seed)
        frozen = FrozenFeatures(features, targets, watched[members], units, folds)
        reporter.begin("fitting the head on folds")
        return fit_first_head(spec, frozen, reporter.advance)


@contextlib.contextmanager
def _embed_frozen(
    trainable: Any,  # noqa: ANN401 - as above
    data: FineTuneData,
    members: NDArray[np.bool_],
    spec: FineTuneSpec,
    folder: Path,
) -> Iterator[FeatureRows]:
    """Yield the frozen features of some items, from their store or from cached feature maps."""
    if not data.cached:
        yield data.dataset.take_features(members)
        return
    rows, path = np.flatnonzero(members), folder / "features.bin"
    try:
        with say_failures(folder), path.open("wb") as file:
            for batch in stream_features(trainable, data.feed, rows, spec.batch_size):
                file.write(batch.tobytes())
        yield FeatureRows(np.memmap(path, np.float32, "r", shape=(len(rows), trainable.dim)))
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is mapped; the folder goes in the end
            path.unlink(missing_ok=True)


def _describe_parameters(counts: Mapping[str, int], stages: Sequence[Stage], options: FineTuneOptions) -> None:
    options.reporter.say(
        f"{stages[-1].name if len(stages) == 1 else 'gradual'}: {counts['trainable_parameters']:,} parameters of the "
        f"backbone are trained, {counts['frozen_parameters']:,} stay frozen; the head has {counts['head_parameters']:,}"
    )


def _make_training_set(data: FineTuneData, head: NetworkClassifier, roles: Roles, spec: FineTuneSpec) -> TrainingSet:
    train, held = roles.train, roles.held
    targets = np.zeros(len(data.dataset), np.int32)
    known = np.concatenate([train, held])
    targets[known] = np.searchsorted(head.classes_, data.dataset.targets[known])
    weights = np.ones(len(targets), np.float32)
    if spec.class_weight:
        present = np.unique(targets[train])
        weights[known] = compute_class_weight(spec.class_weight, classes=present, y=targets[train])[targets[known]]
    title = _make_title(spec, data, split="training", n_items=len(train))
    return TrainingSet(data.feed, train, held, targets, weights, title)


def _conclude(
    trained: TrainedNetwork, network: Backbone, folder: Path, options: FineTuneOptions, started: float
) -> Run:
    """Test once, write the bundle, and remove the state."""
    unchanged = trained.trainable.check_freezing()
    notes = (
        *(_note_start(trained), trained.data.dataset.notes, trained.partition.notes),
        *(trained.roles.notes, trained.first.notes),
    )
    options.reporter.say(describe_freezing(trained, unchanged))
    tested = trained.partition.test.members
    probabilities = trained.predict(np.flatnonzero(tested))
    targets = trained.partition.test.open_targets()
    run = Run(
        bundle=None,
        head=trained.first.spec,
        validation=trained.evaluate_validation(),
        test=evaluate_items(trained.data.dataset, tested, probabilities, targets, trained.spec.seed),
        n_train=len(trained.roles.train),
        test_name=trained.partition.test_name,
        notes=tuple(dict.fromkeys(itertools.chain.from_iterable(notes))),
        seconds=time.perf_counter() - started,
        finetuned=trained.describe(network.uri, time.perf_counter() - started),
    )
    draft = draft_bundle(run, trained, network, probabilities, folder, options)
    own = is_own(network.uri, network.weights) and network.source_file
    name = Path(network.source_file).stem if own else parse_uri(network.uri).name
    path = write_bundle(draft, options.folder, f"finetune-{to_text(name)}-{trained.spec.unfreeze}", options.name)
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # where other runs are unfinished, it is not empty
        folder.parent.rmdir()
    return replace(run, bundle=path)
