"""The networks of a scout: which backbones, cut at which layers and pooled how, and where their features are kept."""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from featx.backbones import Backbone
from featx.backbones.loading import parse_layer
from featx.embedding import Plan, build_network, choose_image_spec, name_files, name_store
from featx.errors import UsageError
from featx.items import Manifest
from featx.ledger import describe_source
from featx.reporting import Reporter
from featx.specs import DTYPES
from featx.store.copying import SCOUT


def parse_backbone(text: str) -> tuple[str, list[str | int]]:
    """Split `NAME@LAYER,LAYER` into the uri and its own layers; without an `@` there are none.

    The file of a network may have an `@` in its name.
    """
    uri, mark, layers = text.rpartition("@")
    path = text.partition(":")[2]
    if not mark or (path and Path(path).exists()):
        return text, []
    return uri, [parse_layer(name.strip()) for name in layers.split(",") if name.strip()]


@dataclass(frozen=True, slots=True)
class Network:
    """A network of a scout.

    Attributes:
        backbone: The backbone.
        uri: What `--backbone` takes for it.
        weights: What `--weights` takes for it; empty for the default.
        is_cut: Whether its layers were asked for by name or index.
        pooling: The pooling that was asked for; None for the default.
        seconds: Time that it took to build it.
    """

    backbone: Backbone
    uri: str
    weights: str
    is_cut: bool
    pooling: str | None
    seconds: float

    def list_flags(self, layer: str) -> tuple[str, ...]:
        """List the flags with which `featx embed` makes the features of one layer."""
        pairs = (
            ("--backbone", self.uri),
            ("--weights", self.weights),
            ("--layer", layer if self.is_cut else ""),
            ("--pooling", self.pooling or ""),
        )
        return tuple(word for pair in pairs if pair[1] for word in pair)

    def name(self, layer: str) -> str:
        """Name the features of one layer in a table."""
        return " ".join(filter(None, [self.uri, layer if self.is_cut else "", self.pooling]))

    def name_stores(self, folder: Path, mark: str, image: Mapping[str, Any]) -> list[Path]:
        """Name the store of each layer as `featx embed` does, with a mark at the end."""
        stem = name_store(self.backbone, self.pooling, image, DTYPES[0])
        layers = [output.layer if self.is_cut else "" for output in self.backbone.outputs]
        paths = name_files(folder, stem, layers)
        return [path.with_name(f"{path.name.removesuffix('.h5')}{mark}.h5") for path in paths]


def build_networks(
    backbones: Sequence[str | Backbone],
    layers: Sequence[str | int],
    poolings: Sequence[str],
    image: Mapping[str, Any],
    runtime: str,
) -> list[Network]:
    """Build every network.

    Args:
        backbones: Uris, also as `NAME@LAYER,LAYER`, or backbone objects.
        layers: Where to cut those that name no layers of their own.
        poolings: How to pool; each is a network of its own. Empty for the default of each layer.
        image: Fields of the image spec.
        runtime: As in `EmbedOptions`.

    Raises:
        UsageError: If there is no backbone, or two would have the same features.
        FeatxError: Another of its subclasses, for a backbone that cannot be built as requested.
    """
    networks: list[Network] = []
    asked: list[str | None] = [*poolings] or [None]
    for backbone, pooling in product(backbones, asked):
        begun = time.perf_counter()
        if isinstance(backbone, str):
            uri, own = parse_backbone(backbone)
            built, weights = build_network(uri, own or layers, pooling, None, image, runtime), ""
        else:
            own = [*layers]
            built, uri, weights = backbone, _name_uri(backbone), _name_weights(backbone)
            build_network(backbone, layers, pooling, None, image, runtime)  # refuses what an object cannot be given
        is_cut = len(built.outputs) > 1 or bool(own or layers)
        networks.append(Network(built, uri, weights, is_cut, pooling, time.perf_counter() - begun))
    _refuse_twins([path for network in networks for path in network.name_stores(Path(), "", image)])
    return networks


def plan_networks(
    networks: Sequence[Network], folder: Path, mark: str, image: Mapping[str, Any], reporter: Reporter
) -> list[Plan]:
    """Plan to embed with each network.

    Args:
        networks: The networks.
        folder: Folder of the stores.
        mark: End of their names; empty for none.
        image: Fields of the image spec.
        reporter: As in `choose_image_spec`.
    """
    plans = []
    for network in networks:
        paths = network.name_stores(folder, mark, image)
        spec = choose_image_spec(network.backbone, image, paths, reporter)
        plans.append(Plan(network.backbone, paths, spec, seconds=network.seconds))
    return plans


def _refuse_twins(paths: Sequence[Path]) -> None:
    if not paths:
        msg = "no backbone is named; name at least two, such as mobilenet and scattering"
        raise UsageError(msg)
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        msg = f"two backbones would have the same features ({twice.stem}); name each backbone and layer once"
        raise UsageError(msg)


def _name_uri(backbone: Backbone) -> str:
    return f"file:{backbone.source_file}" if backbone.uri.startswith("file:") else backbone.uri


def _name_weights(backbone: Backbone) -> str:
    """Return what `--weights` takes for a backbone object; empty for the default of its name."""
    own = backbone.source_file if backbone.weights == "file" and not backbone.uri.startswith("file:") else ""
    return "none" if backbone.weights == "none" else own


def group_by_image(plans: Sequence[Plan]) -> Iterator[list[Plan]]:
    """Yield the plans whose images are decoded alike."""
    for image in dict.fromkeys(plan.image for plan in plans):
        yield [plan for plan in plans if plan.image == image]


def name_source_folder(features: str | os.PathLike[str], manifest: Manifest) -> Path:
    """Name the folder of a source's features: its name, and a digest of its path, since names are not unique."""
    source = describe_source(manifest)
    stem = re.sub(r"[^\w.+]+", "-", Path(source).stem).strip("-.") or "images"
    return Path(features) / SCOUT / f"{stem}-{hashlib.sha256(source.encode()).hexdigest()[:6]}"
