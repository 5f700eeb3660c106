"""Fine-tuning: a backbone and its head trained end to end, on the items and the split that `fit` uses."""

import functools
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from featx.backbones import Backbone, load_backbone, parse_uri
from featx.backbones.protocol import LayerInfo
from featx.backbones.unfreezing import Stage, plan_stages
from featx.delivery.bundle import write_bundle
from featx.errors import UsageError
from featx.heads.networks import NetworkClassifier, hold_out_units
from featx.heads.rows import FeatureRows
from featx.items import Manifest, read_source
from featx.items.augmentation import draw_contact_sheet
from featx.items.manifest import to_text
from featx.options import FINETUNE_DEFAULTS, FineTuneOptions
from featx.registry import TUNERS, resolve
from featx.specs import FineTuneSpec
from featx.store.durability import make_folder, say_failures
from featx.store.lock import StoreLock
from featx.training.dataset import Partition, split_dataset
from featx.training.epochs import Course, Lesson, embed_items
from featx.training.frozen import Run
from featx.training.memory import watch_memory
from featx.training.openings import Opening, fit_first_head, plan_first_head
from featx.training.procedure import deal_folds, evaluate_items, read_versions
from featx.training.supply import Cut, Supply, supply_items
from featx.training.tuned import Tuning, describe_freezing, draft_bundle

#: Images on the contact sheet.
_SHOWN_IMAGES = 6

SHEET = "augmentation.png"

Positions = NDArray[np.intp]


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
    spec = plan_first_head(spec or FineTuneSpec())
    manifest = source if isinstance(source, Manifest) else read_source(source)
    load = _plan_loading(backbone, layer, pooling, weights, image or {}, options)
    network = load_tunable(load, backbone)
    stages = plan_stages(spec.unfreeze, list_own_layers(network), backbone)
    tuner = resolve("tuner", "keras", TUNERS, "featx.tuners")(network, stages, spec)
    cut = Cut(tuner.frontier, tuner.map_shapes)
    fields = {name: value for name, value in (image or {}).items() if name not in {"height", "width"}}
    supply = supply_items(manifest, load, cut, spec, options, fields)
    tuner.takes_maps = supply.cached
    partition = split_dataset(supply.dataset, test_size=options.test_size, seed=spec.seed)
    train, held, notes = _hold_out(supply, partition, spec)
    folder = _open_folder(spec, supply, network, (train, held), options)
    with StoreLock(folder):  # the same command, twice at a time, would write one state
        _show_views(supply, train, spec, folder, options)
        head, of_head = _fit_head(tuner, supply, (train, held), spec, folder)
        tuner.attach(head)
        _describe_parameters(tuner.count_parameters(), stages, options)
        course = Course(tuner, head, _plan_lesson(supply, head, (train, held), spec), stages, spec, folder, options)
        course.run()
        told = (*notes, *of_head)
        tuning = Tuning(tuner, head, spec, supply, partition, (train, held), course.progressed, told, read_peak)
        return _conclude(tuning, network, folder, options, started)


def list_own_layers(network: Any) -> list[LayerInfo]:  # noqa: ANN401 - a KerasBackbone, whose module imports TensorFlow
    """List the layers of a Keras backbone that are run: those before its cut, and not beside it."""
    run = {id(layer) for layer in network.parts.trunk.layers}
    return [layer for layer in network.layers if id(network.parts.layers[layer.name]) in run]


def _plan_loading(
    uri: str,
    layer: str | int | None,
    pooling: str | None,
    weights: str | None,
    image: Mapping[str, Any],
    options: FineTuneOptions,
) -> Callable[..., Backbone]:
    """Make what builds the backbone, anew at each call."""
    size = (int(image["height"]), int(image["width"])) if "height" in image else None
    precise = functools.partial(
        load_backbone, weights=weights, image_size=size, pooling=pooling, layers=() if layer is None else (layer,)
    )
    if not options.mixed_precision:
        return functools.partial(precise, uri)
    if not getattr(precise(uri), "is_on_gpu", False):
        options.say("note: mixed precision is for GPUs, and there is none; training goes on in float32")
        return functools.partial(precise, uri)
    return functools.partial(precise, f"{uri}{'&' if '?' in uri else '?'}precision=mixed_bfloat16")


def load_tunable(load: Callable[..., Backbone], title: str) -> Backbone:
    """Build a backbone that can learn.

    Raises:
        UsageError: If it has no weights that could.
    """
    network = load()
    if not hasattr(network, "parts"):
        msg = f"{title} has no weights that could learn; choose a network of Keras, or train a head with `featx fit`"
        raise UsageError(msg)
    return network


def _hold_out(supply: Supply, partition: Partition, spec: FineTuneSpec) -> tuple[Positions, Positions, tuple[str, ...]]:
    """Choose the items that are learnt from and those that are watched, as positions in the dataset."""
    dataset, notes = supply.dataset, []
    train, held = partition.train, partition.validation
    if not held.any():
        own = hold_out_units(dataset.targets[train], spec.seed, dataset.find_units(train))
        held = np.zeros(len(dataset), bool)
        held[np.flatnonzero(train)[own]] = True
        train = train & ~held
    known = np.isin(dataset.targets, dataset.targets[train])
    held = held & known  # a class that is not learnt has no place in the loss
    if held.any():
        notes.append(f"{int(held.sum()):,} validation images chose the epoch, and were not learnt from")
    else:
        notes.append("no validation images can be held out: the epoch was chosen by the loss on the training images")
    return np.flatnonzero(train), np.flatnonzero(held), tuple(notes)


def _open_folder(
    spec: FineTuneSpec, supply: Supply, network: Backbone, items: tuple[Positions, Positions], options: FineTuneOptions
) -> Path:
    """Open the folder of this training: another spec, network, version or set of items has another one."""
    state = hashlib.sha256(f"{spec.digest} {supply.cached} {sorted(read_versions().items())}".encode())
    output = network.outputs[0]
    state.update(f"{network.uri} {network.weights_digest} {output.layer} {output.pooling}".encode())
    state.update(supply.stores[0].spec.image.digest.encode())
    for positions in items:
        state.update("".join(supply.dataset.keys[positions].tolist()).encode())
        state.update(supply.dataset.targets[positions].astype("<i8").tobytes())
    folder = Path(options.folder) / ".finetune" / state.hexdigest()[:16]
    with say_failures(folder):
        make_folder(folder)
    options.say(f"curves and state: {folder}")
    return folder


def _show_views(supply: Supply, train: Positions, spec: FineTuneSpec, folder: Path, options: FineTuneOptions) -> None:
    """Draw what the network will see, before it does."""
    if not spec.augmentation:
        return
    shown = np.random.default_rng(spec.seed).permutation(train)[:_SHOWN_IMAGES].tolist()
    images = [supply.pixels.read_plain(item) for item in shown]
    keys = [supply.pixels.sha256s[item] for item in shown]
    draw_contact_sheet(images, supply.pixels.augmentation, seed=spec.seed, sha256s=keys, path=folder / SHEET)
    options.say(f"what the network will see: {folder / SHEET}")


def _fit_head(
    tuner: Any,  # noqa: ANN401 - a TunableNetwork, whose module imports TensorFlow
    supply: Supply,
    items: tuple[Positions, Positions],
    spec: FineTuneSpec,
    folder: Path,
) -> tuple[NetworkClassifier, tuple[str, ...]]:
    """Fit the first head on the frozen features of all items but those of the test."""
    dataset, (train, held) = supply.dataset, items
    members = np.zeros(len(dataset), bool)
    members[train] = members[held] = True
    if supply.cached:
        rows = np.flatnonzero(members)
        dim = tuner.dim
        path = folder / "features.npy"
        written = np.lib.format.open_memmap(path, "w+", np.float32, (len(rows), dim))
        features = FeatureRows(embed_items(tuner, supply.feed, rows, spec.batch_size, written))
    else:
        features = dataset.take_features(members)
    watched = np.zeros(len(dataset), bool)
    watched[held] = True
    learnt = members & ~watched
    folds = np.zeros(len(dataset), np.intp)
    folds[learnt] = deal_folds(dataset, learnt, spec.seed)
    units = dataset.find_units(members)
    opening = Opening(features, dataset.targets[members], watched[members], units, folds[members])
    return fit_first_head(spec, opening)


def _describe_parameters(counts: Mapping[str, int], stages: Sequence[Stage], options: FineTuneOptions) -> None:
    options.say(
        f"{stages[-1].name if len(stages) == 1 else 'gradual'}: {counts['trainable_parameters']:,} parameters of the "
        f"backbone learn, {counts['frozen_parameters']:,} stay frozen; the head has {counts['head_parameters']:,}"
    )


def _plan_lesson(
    supply: Supply, head: NetworkClassifier, items: tuple[Positions, Positions], spec: FineTuneSpec
) -> Lesson:
    train, held = items
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
    options.say(describe_freezing(tuning, unchanged))
    tested = tuning.partition.test.members
    probabilities = tuning.predict(np.flatnonzero(tested))
    targets = tuning.partition.test.open_targets()
    run = Run(
        bundle=None,
        head=replace(tuning.spec.head, scaling=tuning.head.scaling),
        validation=tuning.evaluate_validation(),
        test=evaluate_items(tuning.supply.dataset, tested, probabilities, targets, tuning.spec.seed),
        n_train=len(tuning.items[0]),
        test_name=tuning.partition.test_name,
        notes=tuple(dict.fromkeys([*tuning.supply.dataset.notes, *tuning.partition.notes, *tuning.notes])),
        seconds=time.perf_counter() - started,
        finetuned=tuning.describe(network.uri, time.perf_counter() - started),
    )
    draft = draft_bundle(run, tuning, network, probabilities, folder, options)
    name = parse_uri(network.uri).name if not network.uri.startswith("file:") else Path(network.source_file).stem
    path = write_bundle(draft, options.folder, f"finetune-{to_text(name)}-{tuning.spec.unfreeze}")
    shutil.rmtree(folder)
    return replace(run, bundle=path)
