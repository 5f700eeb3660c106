"""What the workers of a run are told, and what they answer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featx.backbones import Backbone
from featx.errors import UsageError
from featx.golden import Golden
from featx.items.manifest import Reader
from featx.options import EmbedOptions
from featx.specs import EmbedSpec

#: Variables of the driver that decide where networks and their weights are found.
_VARIABLES = ("FEATX_", "KERAS_")


def copy_environment() -> dict[str, str]:
    """Return the variables that decide where networks and their weights are found."""
    return {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}


@dataclass(frozen=True, slots=True)
class NetworkCall:
    """The arguments with which every worker builds the network; as in `featx.load_backbone`."""

    uri: str
    layers: Sequence[str | int] = ()
    pooling: str | None = None
    weights: str | None = None
    image_size: tuple[int, int] | None = None


def describe_call(
    backbone: str | Backbone,
    layers: Sequence[str | int],
    pooling: str | None,
    weights: str | None,
    image: Mapping[str, Any],
) -> NetworkCall:
    """Describe how to build a network elsewhere.

    Args:
        backbone: Its uri.
        layers: As in `featx.load_backbone`.
        pooling: As in `featx.load_backbone`.
        weights: As in `featx.load_backbone`.
        image: Requested fields of the image spec.

    Raises:
        UsageError: If the backbone is an object.
    """
    if not isinstance(backbone, str):
        msg = f"the workers of a cluster build the network themselves; pass the uri {backbone.uri!r}, and not an object"
        raise UsageError(msg)
    size = (int(image["height"]), int(image["width"])) if "height" in image else None
    return NetworkCall(backbone, tuple(layers), pooling, weights, size)


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """One of the stores of a run.

    Attributes:
        path: Its absolute path.
        spec: Its spec.
        lock: Content of its lock file while the driver has the store; without that file, no worker writes.
        golden: Golden pictures, with the features that the driver computed.
        handover: URL of the folder that its shards go through; empty if workers see the path.
    """

    path: Path
    spec: EmbedSpec
    lock: bytes
    golden: Golden
    handover: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same for all shards of a run.

    Attributes:
        network: The network.
        targets: One store for each of its outputs.
        reader: Reads the files of the source.
        source: The source, as stores record it.
        started_ns: Start of the run, in nanoseconds since 1970.
        options: Options of the run, without the reporter.
        expected: About how many items the run embeds.
        known: The sha256 of images that need not be embedded, whatever their names.
        folder: Working folder of the driver, to which paths may be relative.
        environment: Variables that decide where networks and their weights are found.
    """

    network: NetworkCall
    targets: Sequence[StoreTarget]
    reader: Reader
    source: str
    started_ns: int
    options: EmbedOptions
    expected: int
    known: frozenset[str]
    folder: str = field(default_factory=os.getcwd)
    environment: Mapping[str, str] = field(default_factory=copy_environment)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker answers when it has loaded the network, or written a shard.

    Attributes:
        seconds: How long that took.
        is_same: Whether a shard that another worker wrote before, if any, has the same rows.
        stage_seconds: Time in each of `featx.measuring.STAGES`.
        warnings: What featx warned of.
    """

    seconds: float
    is_same: bool = True
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
