"""Fine-tuning: a backbone and its head trained end to end, on the items and the split that `fit` uses."""

import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from featx.embedding import check_image
from featx.errors import DataError, UsageError
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
from featx.training.dataset import Dataset, Partition, split_dataset
from featx.training.epochs import Course, Lesson, Roles, stream_features
from featx.training.frozen import Run
from featx.training.memory import watch_memory
from featx.training.openings import FirstHead, Opening, fit_first_head, plan_first_head
from featx.training.procedure import deal_folds, evaluate_items, read_versions
from featx.training.supply import Cut, Supply, supply_items
from featx.training.tuned import SHEET, Tuning, describe_freezing, draft_bundle

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
    tuner = resolve("tuner", "keras", TUNERS, "featx.tuners")(network, stages, spec)
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
