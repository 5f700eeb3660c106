"""The data of a fine-tuning: its labelled items, the feed of the network, and cached feature maps.

Items, quarantine and splits are those of a feature store, as for `fit`. The store holds the frozen features, or the
feature maps if these are cached.
"""

import contextlib
import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.backbones import Backbone
from featx.embedding import EmbedResult, embed_layers, make_spec, name_files, name_store
from featx.errors import DataError, StoreError, UsageError
from featx.finetuning.feeds import Feed, MapFeed, PixelFeed
from featx.fitting.dataset import Dataset, load_dataset
from featx.items import Manifest
from featx.items.augmentation import parse_augmentation, plan_views
from featx.ledger import describe_source
from featx.options import EmbedOptions, FineTuneOptions
from featx.specs import DTYPES, FineTuneSpec, ImageSpec
from featx.store import FeatureStore
from featx.wording import format_bytes, to_printable

#: `--cache auto` caches feature maps if they take at most one part in this many of the free disk space.
_FREE_PARTS = 2

_MAPS = "maps"

_NAMED_IMAGES = 5


@dataclass(frozen=True, slots=True)
class FineTuneData:
    """The data that a network is fine-tuned on.

    Attributes:
        dataset: The labelled items.
        feed: The inputs of the network.
        pixels: The same inputs from pixels, for the contact sheet.
        cached: Whether the inputs are feature maps from stores.
        stores: The stores.
        embed_seconds: Time of embedding them, in whatever run; None if the stores do not record it.
        own_embed_seconds: Time of embedding in this run; close to 0 if the stores existed.
    """

    dataset: Dataset
    feed: Feed
    pixels: PixelFeed
    cached: bool
    stores: tuple[FeatureStore, ...]
    embed_seconds: float | None
    own_embed_seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The layers at which a network is cut.

    Attributes:
        layers: Their names; none if the first layers are trainable.
        shapes: Shape of the feature map of each, for one image.
        has_weights: Whether a layer with weights comes before them.
        obstacle: Why the network cannot be cut although its first layers are frozen.
    """

    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    has_weights: bool = True
    obstacle: str = ""

    @property
    def map_bytes(self) -> int:
        """Size of all maps of one image in bytes, as float32."""
        return 4 * sum(map(math.prod, self.shapes))


def prepare_data(
    manifest: Manifest,
    network: Any,  # noqa: ANN401 - a KerasBackbone, whose module imports TensorFlow
    find: Callable[..., Backbone],
    cut: Cut,
    spec: FineTuneSpec,
    options: FineTuneOptions,
    image: Mapping[str, Any],
) -> FineTuneData:
    """Embed the frozen part of a network, and prepare the items and the feed.

    Args:
        manifest: The items.
        network: The `KerasBackbone`, not yet trained.
        find: Finds it converted, as `find_backbone` with its uri does; takes `layers`, `pooling` and `build`.
        cut: Where the trainable part begins.
        spec: What is trained.
        options: Whether to cache, and where.
        image: Fields of `ImageSpec` except for the size, as `featx.embed` takes them.

    Raises:
        DataError: If the labels are not classes that a head can be fitted to, or the stores hold different items.
        UsageError: If caching was asked for and is impossible.
    """
    maps = None
    obstacle = _find_obstacle(cut, spec)
    if not obstacle and options.cache != "no":
        maps = _plan_maps(manifest, network.cut(cut.layers, "none"), cut, spec, options, image)
    cached, reason = _decide(maps, cut, len(manifest), spec, options, obstacle)
    options.reporter.say(reason)
    kept = maps if cached else None
    if kept:
        converted = find(layers=cut.layers, pooling="none", build=lambda: kept.network)
        found = _embed_maps(manifest, replace(kept, network=converted), spec, options, image)
    else:
        found = _embed(manifest, find(build=lambda: network), options, image)
    _report_quarantine(found, options)
    for result in found:
        result.check()
    tables = {"without": options.without, "relabel": options.relabel}
    dataset = load_dataset(found[0].store, group=options.group, views=None, **tables)
    stores = tuple(result.store for result in found)
    ids = stores[0].ids[dataset.rows]
    image_spec = stores[0].spec.image
    augmentation = parse_augmentation(spec.augmentation)
    workers = _plan_embedding(options).count_workers()
    pixels = PixelFeed(manifest, ids.tolist(), dataset.keys.tolist(), image_spec, augmentation, spec.seed, workers)
    return FineTuneData(
        dataset=dataset,
        feed=MapFeed(stores, [_find_rows(store, ids) for store in stores], cut.shapes, spec.views)
        if cached
        else pixels,
        pixels=pixels,
        cached=cached,
        stores=stores,
        embed_seconds=_find_longest(stores),
        own_embed_seconds=found[0].seconds + found[0].start_seconds,
    )


def _find_longest(stores: Sequence[FeatureStore]) -> float | None:
    """Return the time of embedding; each store of one run records the time of the whole run."""
    times = [store.embed_seconds for store in stores]
    return None if None in times else max(one for one in times if one is not None)


def _plan_embedding(options: FineTuneOptions) -> EmbedOptions:
    return EmbedOptions(workers=options.workers, runtime=options.runtime, reporter=options.reporter)


def _embed(
    manifest: Manifest, network: Backbone, options: FineTuneOptions, image: Mapping[str, Any]
) -> list[EmbedResult]:
    """Embed frozen features into the store that `featx embed` would use, unless that one holds other features."""
    name = _name_frozen(Path(options.features), manifest, network, image)
    return embed_layers(
        manifest, network, image=image, name=name, folder=options.features, options=_plan_embedding(options)
    )


@dataclass(frozen=True, slots=True)
class _Maps:
    """Stores of feature maps, which may exist already.

    Attributes:
        network: The network that gives the maps.
        name: Name of the stores; with several layers, each is followed by its layer's name.
        paths: The stores.
    """

    network: Backbone
    name: str
    paths: tuple[Path, ...]


def _plan_maps(
    manifest: Manifest,
    network: Backbone,
    cut: Cut,
    spec: FineTuneSpec,
    options: FineTuneOptions,
    image: Mapping[str, Any],
) -> _Maps:
    """Name the stores of feature maps after the source, the network, and all that decides their numbers."""
    sized = {**image, "height": network.height, "width": network.width}
    planned = plan_views(spec.views, spec.augmentation, spec.seed) if spec.views else None
    specs = [make_spec(network, output, ImageSpec(**sized), DTYPES[0], planned) for output in network.outputs]
    digest = hashlib.sha256("".join(one.digest for one in specs).encode()).hexdigest()[:8]
    stem = f"{_name_source(manifest)}-{name_store(network, 'none', sized, DTYPES[0], planned)}-{digest}"
    folder, several = Path(options.features) / _MAPS, len(cut.layers) > 1
    paths = name_files(folder, stem, list(cut.layers) if several else [""])
    return _Maps(network, stem, tuple(paths))


def _embed_maps(
    manifest: Manifest, maps: _Maps, spec: FineTuneSpec, options: FineTuneOptions, image: Mapping[str, Any]
) -> list[EmbedResult]:
    """Embed the feature maps at a cut, one store per layer."""
    varied: dict[str, Any] = {"views": spec.views, "augmentation": spec.augmentation} if spec.views else {}
    return embed_layers(
        manifest,
        maps.network,
        image=image,
        name=maps.name,
        folder=Path(options.features) / _MAPS,
        options=_plan_embedding(options),
        view_seed=spec.seed,
        **varied,
    )


def _report_quarantine(found: Sequence[EmbedResult], options: FineTuneOptions) -> None:
    """Report the images that cannot be used, with the reasons."""
    bad = {name: reason for embedding in found for name, _, reason in embedding.store.quarantine}
    for name, reason in list(bad.items())[:_NAMED_IMAGES]:
        options.reporter.say(f"quarantined {to_printable(name)}: {to_printable(reason)}")
    if len(bad) > _NAMED_IMAGES:
        options.reporter.say(
            f"quarantined: {len(bad) - _NAMED_IMAGES:,} more; `featx info {found[0].store.path}` lists them"
        )


def _name_source(manifest: Manifest) -> str:
    """Name the source, so that another source with the same file names gets another store."""
    source = describe_source(manifest)
    return f"{Path(source).stem}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"


def _name_frozen(folder: Path, manifest: Manifest, network: Backbone, image: Mapping[str, Any]) -> str:
    """Name the store of frozen features: an existing one of this source under any name, or a new one."""
    output, size = network.outputs[0], {"height": network.height, "width": network.width}
    spec = make_spec(network, output, ImageSpec(**{**image, **size}))
    taken = set[str]()
    for path in sorted(folder.glob("[!.]*.h5")):
        taken.add(path.stem)
        with contextlib.suppress(StoreError):
            store = FeatureStore(path)
            if store.spec.digest == spec.digest and store.source == describe_source(manifest):
                return path.stem
    usual = name_store(network, None, image, DTYPES[0])
    of_source = f"{_name_source(manifest)}-{usual}"
    names = (usual, of_source, f"{of_source}-{spec.digest[:8]}")
    return next((name for name in names if name not in taken), names[-1])


def _decide(
    maps: _Maps | None, cut: Cut, n_items: int, spec: FineTuneSpec, options: FineTuneOptions, obstacle: str
) -> tuple[bool, str]:
    """Decide whether to cache feature maps, and describe the decision in one line."""
    if obstacle and options.cache == "yes":
        msg = f"feature maps cannot be cached: {obstacle}; leave out --cache yes to train without the cache"
        raise UsageError(msg)
    views = f" x {1 + spec.views} views" if spec.views else ""
    needed = n_items * (1 + spec.views) * cut.map_bytes
    size = f"{n_items:,} images{views} x {format_bytes(cut.map_bytes)} = {format_bytes(needed)} of disk"
    folder, layers = Path(options.features), ", ".join(cut.layers)
    if maps and all(path.is_file() for path in maps.paths):
        return True, f"the frozen layers are not run again: the maps of {layers} are in {folder / _MAPS} ({size})"
    reason = obstacle
    if not reason and options.cache == "no":
        reason = f"caching is off (it would take {size})"
    if not reason and options.cache == "auto" and not cut.has_weights:
        reason = f"no layer before {layers} has weights, so cached maps would only save the decoding"
    if not reason and options.cache == "auto" and needed > _find_free(folder) / _FREE_PARTS:
        reason = f"the maps would take {size}, more than half of the free space; --cache yes caches them anyway"
    if reason:
        return False, f"the whole network runs in every epoch: {reason}"
    kept = f"embedded into {folder / _MAPS}, {size}, which you can delete when no run needs them"
    return True, f"the frozen layers run once: the maps of {layers} are {kept}"


def _find_obstacle(cut: Cut, spec: FineTuneSpec) -> str:
    if not cut.layers:
        return cut.obstacle or "its first layer is trained too"
    if spec.augmentation and not spec.views:
        return "each epoch augments the images differently; keep a fixed number of views instead, such as --views 4"
    return ""


def _find_free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on, or will be on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _find_rows(store: FeatureStore, ids: NDArray[np.str_]) -> NDArray[np.intp]:
    """Find the row of each item in a store.

    Raises:
        DataError: If an item is missing.
    """
    rows = {name: row for row, name in enumerate(store.ids.tolist())}
    missing = [name for name in ids.tolist() if name not in rows]
    if missing:
        msg = (
            f"{store.path} lacks {len(missing)} images that the other maps have, such as {missing[0]}; "
            "run again with --cache no"
        )
        raise DataError(msg)
    return np.array([rows[name] for name in ids.tolist()], np.intp)
