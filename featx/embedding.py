"""Embedding: manifest, decoding ahead, backbone, store.

`embed_plans` and `_embed_images`, the loop itself, are the whole algorithm; the other functions are its steps.
"""

import contextlib
import functools
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from featx.backbones import Backbone, Output
from featx.backbones.catalogue import BUILT_IN, PRETRAINED
from featx.backbones.loading import find_backbone, name_backbone
from featx.backbones.protocol import find_decoding, is_own
from featx.backbones.running import Runner, find_usual_runtime
from featx.cluster.jobs import NetworkCall, describe_call
from featx.errors import SourceError, SpecMismatchError, UsageError
from featx.golden import MAX_DRIFT, Golden, PromisedGolden, make_golden_files, measure_drift
from featx.golden_features import embed_golden
from featx.items import Manifest, read_source
from featx.items.augmentation import PRESETS, plan_views
from featx.items.reading import limit_ahead
from featx.ledger import Entry, Ledger, describe_source
from featx.measuring import WRITE, Timing
from featx.options import EMBED_DEFAULTS, EmbedOptions, check_options
from featx.prefetching import gather
from featx.registry import find_versions
from featx.reporting import Reporter
from featx.specs import DECODERS, DEFAULT_DECODER, DTYPES, BackboneSpec, EmbedSpec, ImageSpec, ViewSpec
from featx.store import FeatureStore
from featx.store.feature_store import read_spec
from featx.store.sealing import Provenance
from featx.store.writing import StoreWriter, check_space
from featx.urls import find_url, hide_secrets
from featx.wording import to_text

#: Packages that can change a feature's last bits; every store keeps their versions.
_STACK = ("featx", "numpy", "pillow", "h5py", "keras", "tensorflow", "openvino")


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The outcome of one `embed` run for one store; `new + cached + quarantined` is the whole manifest.

    Attributes:
        store: The sealed store.
        new: Items embedded by this run.
        cached: Items that the store already had.
        quarantined: Items that could not be embedded; the store lists their reasons.
        copied: Those of the cached items whose rows were copied from another store of the folder.
        removed: Items that the store had and the manifest no longer has.
        seconds: Time of the loop and of sealing.
        start_seconds: Time before the loop: building the network, golden pictures, converting it for the runtime.
        stage_seconds: Time in each of `featx.measuring.STAGES`, summed over all threads.
        runtime: The runtime of the network; empty if nothing was new.
        max_bad: Share of items in quarantine that the run accepts, 0 to 1.
    """

    store: FeatureStore = field(repr=False)
    new: int
    cached: int
    quarantined: int
    removed: int
    copied: int
    seconds: float
    start_seconds: float
    stage_seconds: Mapping[str, float]
    runtime: str
    max_bad: float

    @property
    def images_per_second(self) -> float:
        """New items per second."""
        return self.new / self.seconds if self.seconds else 0.0

    @property
    def bad_share(self) -> float:
        """Share of the manifest's items that is in quarantine, 0 to 1."""
        return self.quarantined / (self.new + self.cached + self.quarantined)

    def check(self) -> None:
        """Refuse a result with too many items in quarantine.

        Raises:
            SourceError: If the share is above `max_bad`; the store is sealed anyway.
        """
        if self.bad_share > self.max_bad:
            msg = (
                f"{self.bad_share:.1%} of the images are quarantined, more than the {self.max_bad:.1%} allowed; "
                f"`featx info {self.store.path}` lists the reasons: fix or remove these files, or accept them with "
                f"--max-bad {math.ceil(100 * self.bad_share)}%"
            )
            raise SourceError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx embed --json` prints."""
        uri = self.store.spec.backbone.uri
        size = {"store": str(self.store.path), "backbone": uri, "items": len(self.store), "dim": self.store.dim}
        counts = {"new": self.new, "cached": self.cached, "quarantined": self.quarantined}
        counts |= {"removed": self.removed, "copied": self.copied}
        speed = {"seconds": self.seconds, "images_per_second": self.images_per_second}
        stages = {"start_seconds": self.start_seconds, "stage_seconds": dict(self.stage_seconds)}
        return {**size, **counts, **speed, **stages, "runtime": self.runtime}


def embed(  # noqa: PLR0913 - one keyword for each part of the spec
    source: str | os.PathLike[str] | Manifest,
    backbone: str | Backbone | None = None,
    *,
    layer: str | int | None = None,
    pooling: str | None = None,
    weights: str | None = None,
    image: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    views: int = 0,
    augmentation: str = "",
    view_seed: int = 0,
    name: str | None = None,
    folder: str | os.PathLike[str] = "features",
    options: EmbedOptions = EMBED_DEFAULTS,
) -> EmbedResult:
    """Embed every image of a source, once, into a store.

    Args:
        source: A folder, table or archive (see `featx.read_source`), or a manifest.
        backbone: A uri (see `featx.load_backbone`), or a backbone object; None for `featx.specs.DEFAULT_BACKBONE`.
        layer: Name or index of the layer where the backbone is cut; None for the last one.
        pooling: How a feature map becomes a vector; None for the layer's default.
        weights: `imagenet`, `none` or a path; None for the backbone's default.
        image: Fields of `ImageSpec` that differ from its defaults and the backbone's size.
        dtype: Dtype of the stored features, `float32` or `float16`.
        views: Number of augmented views of each image, which are stored in the image's row.
        augmentation: How the views are made: `light`, or `flip,rotate:15,zoom:0.2`; see
            `featx.items.augmentation.parse_augmentation`.
        view_seed: Seed of the views.
        name: Name of the store without `.h5`; None derives it from the spec.
        folder: Folder of the stores.
        options: Options of the run.

    Returns:
        The store and the counts, however many items went to quarantine; `EmbedResult.check`
        refuses a result with too many, as the command line does.

    Raises:
        UsageError: If a backbone object has several outputs; see `embed_layers`.
        FeatxError: Another of its subclasses, for a source, backbone or store that cannot be used.

    Examples:
        >>> import featx
        >>> result = featx.embed("digits", "colour")
        >>> len(result.store), result.quarantined
        (400, 0)
    """
    if not isinstance(backbone, str | None) and len(backbone.outputs) > 1:
        layers = ", ".join(output.layer for output in backbone.outputs)
        msg = f"{backbone.uri} was built with several layers ({layers}), and each needs its own store; use embed_layers"
        raise UsageError(msg)
    (result,) = embed_layers(
        source,
        backbone,
        layers=() if layer is None else (layer,),
        pooling=pooling,
        weights=weights,
        image=image,
        dtype=dtype,
        views=views,
        augmentation=augmentation,
        view_seed=view_seed,
        name=name,
        folder=folder,
        options=options,
    )
    return result


def embed_layers(  # noqa: PLR0913 - one keyword for each part of the spec
    source: str | os.PathLike[str] | Manifest,
    backbone: str | Backbone | None = None,
    *,
    layers: Sequence[str | int] = (),
    pooling: str | None = None,
    weights: str | None = None,
    image: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    views: int = 0,
    augmentation: str = "",
    view_seed: int = 0,
    name: str | None = None,
    folder: str | os.PathLike[str] = "features",
    salvage: bool = False,
    options: EmbedOptions = EMBED_DEFAULTS,
) -> list[EmbedResult]:
    """Embed every image of a source, once, at several layers in one pass, into one store per layer.

    Args:
        source: As in `embed`.
        backbone: As in `embed`; a backbone object may have several outputs.
        layers: Names or indices of the layers where the backbone is cut; the last layer if empty.
        pooling: As in `embed`.
        weights: As in `embed`.
        image: As in `embed`.
        dtype: As in `embed`.
        views: As in `embed`.
        augmentation: As in `embed`.
        view_seed: As in `embed`.
        name: Name of the stores without `.h5`, to which the layer is appended; None derives it from the spec.
        folder: As in `embed`.
        salvage: Embed the damaged rows of an older store again, instead of refusing the store; see `repair_store`.
        options: As in `embed`.

    Returns:
        One `EmbedResult` per layer, in the order of the layers.

    Raises:
        FeatxError: One of its subclasses, for a source, backbone or store that cannot be used.
    """
    check_options(options, EmbedOptions)
    if find_url(folder):
        msg = f"stores are written on this machine, not to {hide_secrets(find_url(folder))}: embed into a folder, then "
        raise UsageError(msg + "write the store there with `featx publish`")
    begun, planned = time.perf_counter(), plan_views(views, augmentation, view_seed)
    manifest = source if isinstance(source, Manifest) else read_source(source)
    chosen = name_backbone(backbone, options.reporter) if isinstance(backbone, str | None) else backbone
    network = build_network(chosen, layers, pooling, weights, check_image(image or {}), options.runtime)
    stem = name.removesuffix(".h5") if name else name_store(network, pooling, image or {}, dtype, planned)
    named = len(network.outputs) > 1 or (layers and not name)
    layers_named = [output.layer if named else "" for output in network.outputs]
    paths = name_files(Path(folder), stem, layers_named, manifest.reading.get("shard"))
    image_spec = choose_image_spec(network, image or {}, paths, options.reporter)
    call = describe_call(chosen, layers, pooling, weights, image or {}) if options.executor != "local" else None
    plan = Plan(network, paths, image_spec, dtype, planned, time.perf_counter() - begun, call)
    (results,) = embed_plans(manifest, [plan], options, salvage=salvage)
    return results


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan to embed with one network.

    Attributes:
        network: The backbone.
        paths: The store of each of its outputs.
        image: How images are decoded.
        dtype: Dtype of the stored features.
        views: The augmented views, if any.
        seconds: Time that it took to build the network.
        call: How others build it too; None if the executor is `local`.
    """

    network: Backbone
    paths: Sequence[Path]
    image: ImageSpec
    dtype: str = DTYPES[0]
    views: ViewSpec | None = None
    seconds: float = 0.0
    call: NetworkCall | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """A network at work: its stores, and `prepare`, which must be called before its first row is kept."""

    runner: Runner
    writers: Sequence[StoreWriter]
    prepare: Callable[[], None]


def embed_plans(
    manifest: Manifest, plans: Sequence[Plan], options: EmbedOptions, *, salvage: bool = False
) -> list[list[EmbedResult]]:
    """Embed every image with several networks: each image is read and decoded once, for all of them.

    Args:
        manifest: The items.
        plans: One plan for each network, all with the same image spec and views.
        options: As in `embed`.
        salvage: As in `embed_layers`.

    Returns:
        For each plan, one `EmbedResult` per output. The time of the loop is that of all networks; what a store
        records as its time leaves out that of the other networks.

    Raises:
        FeatxError: As `embed_layers`.
    """
    image, views, entered = plans[0].image, plans[0].views, time.perf_counter()
    with contextlib.ExitStack() as stack:
        opened = [_open_writers(stack, plan, manifest, options, salvage=salvage) for plan in plans]
        options.reporter.begin("embedding")
        ledger = Ledger([writer for writers, _ in opened for writer in writers], manifest, options)
        check_space(ledger.writers, len(manifest), ledger.expected)
        parts = []
        for plan, (writers, goldens) in zip(plans, opened, strict=True):
            expected = ledger.count_expected(writers)
            runner = Runner(plan.network, options, expected=expected, views=views.count + 1 if views else 1)
            own = runner if plan.call is None else None  # else workers run the network
            prepare = functools.cache(functools.partial(_prepare, own, writers, goldens, plan.network, image))
            parts.append(_Part(runner, writers, prepare))
            if expected:
                with _charge(parts[-1], ledger):
                    prepare()
        timing, started = Timing(), time.perf_counter()
        if plans[0].call is not None:
            stores = iter(_embed_on_cluster(plans[0].call, parts[0], opened[0][1], ledger, options, timing))
        else:
            stores = iter(_embed_here(plans[0], parts, ledger, options, timing))
    seconds, stages = time.perf_counter() - started, timing.conclude()
    return [
        [
            EmbedResult(
                store := next(stores),
                *(counts := ledger.count(writer)),
                seconds,
                plan.seconds + started - entered,
                stages,
                (part.runner.name or store.runtime) if counts[0] else "",
                options.max_bad,
            )
            for writer in part.writers
        ]
        for plan, part in zip(plans, parts, strict=True)
    ]


def _open_writers(
    stack: contextlib.ExitStack, plan: Plan, manifest: Manifest, options: EmbedOptions, *, salvage: bool
) -> tuple[list[StoreWriter], list[Golden]]:
    """Open the stores of a network, and promise its golden pictures."""
    writers, goldens = [], _promise_golden(plan.network, plan.image)
    for path, output, golden in zip(plan.paths, plan.network.outputs, goldens, strict=True):
        spec = make_spec(plan.network, output, plan.image, plan.dtype, plan.views)
        about = _describe_provenance(manifest, plan.network, _shape_row(output, spec), golden)
        begun, above = time.perf_counter() - plan.seconds, options.index_above
        writer = StoreWriter(path, spec, about, salvage=salvage, begun=begun, n_items=len(manifest), index_above=above)
        writers.append(stack.enter_context(writer))
    return writers, goldens


@contextlib.contextmanager
def _charge(part: _Part, ledger: Ledger) -> Iterator[None]:
    """Leave the time of the block out of what the stores of all other networks record."""
    started = time.perf_counter()
    yield
    for writer in ledger.writers:
        if writer not in part.writers:
            writer.leave_out(time.perf_counter() - started)


def _embed_images(
    chunks: Iterable[Iterable[tuple[Entry, Any]]], parts: Sequence[_Part], ledger: Ledger, timing: Timing
) -> list[FeatureStore]:
    """Run the networks on decoded images, batch by batch, and seal the stores.

    A single network takes one chunk, the images as they are decoded. Several take one chunk after the other, while
    the next is decoded. A network is prepared before its first row is kept, if not earlier: it runs on golden
    pictures, which a run without new images does not need.
    """
    for chunk in chunks:
        for number, part in enumerate(parts, 1):
            lacking = chunk if len(parts) == 1 else ledger.select(chunk, part.writers)
            with _charge(part, ledger), contextlib.closing(part.runner.stream(lacking, timing)) as batches:
                for batch, vectors in batches:
                    part.prepare()
                    with timing.measure(WRITE):
                        for writer, rows in zip(part.writers, vectors, strict=True):
                            writer.note_runtime(part.runner.name, part.runner.drift)
                            ledger.keep(writer, batch, rows)
                    if len(parts) == 1:
                        ledger.settle(batch)
            if len(parts) > 1:
                ledger.settle([entry for entry, _ in chunk], number / len(parts))
    return _seal(ledger, timing)


def _embed_here(
    plan: Plan, parts: Sequence[_Part], ledger: Ledger, options: EmbedOptions, timing: Timing
) -> list[FeatureStore]:
    """Read and decode images in this process, and run the networks on them."""
    # Closed at once when the run ends early, so that no thread keeps decoding.
    with contextlib.closing(ledger.examine(plan.image, timing, plan.views)) as images:
        size = limit_ahead(plan.image, options.count_workers(), plan.views.count + 1 if plan.views else 1)
        return _embed_images([images] if len(parts) == 1 else gather(images, size), parts, ledger, timing)


def _embed_on_cluster(
    call: NetworkCall, part: _Part, goldens: Sequence[Golden], ledger: Ledger, options: EmbedOptions, timing: Timing
) -> list[FeatureStore]:
    """Let workers embed what the stores of the only network lack, and seal the stores."""
    from featx.cluster.running import embed_shards

    embed_shards(call, ledger, goldens, part.prepare, options, timing)
    return _seal(ledger, timing)


def _seal(ledger: Ledger, timing: Timing) -> list[FeatureStore]:
    with timing.measure(WRITE):
        stores = [writer.seal(*rows) for writer, rows in zip(ledger.writers, ledger.conclude(), strict=True)]
    ledger.report_uniform(stores)
    return stores


def choose_image_spec(
    network: Backbone, image: Mapping[str, Any], paths: Iterable[Path], reporter: Reporter
) -> ImageSpec:
    """Complete the requested fields: the network's size, and the decoder of an existing store.

    Args:
        network: The backbone.
        image: The requested fields.
        paths: The stores, which may exist.
        reporter: Told where the decoder is not the usual one.
    """
    sized = {**find_decoding(network), **image, "height": network.height, "width": network.width}
    if "crop" not in image and sized.get("resize") != "crop":
        sized.pop("crop", None)  # of a recipe whose resize was replaced
    if "decoder" in image:
        return ImageSpec(**sized)
    for path in paths:
        known = read_spec(path)
        if known and known.image.decoder != DEFAULT_DECODER:
            reporter.say(f"{path} was made with the decoder {known.image.decoder}, and continues with it")
            return ImageSpec(**sized, decoder=known.image.decoder)
    if DECODERS[0] != DEFAULT_DECODER:
        reporter.say(
            f"the decoder is {DEFAULT_DECODER}, since cykooz-resizer is not installed; features of {DECODERS[0]}, the "
            "default of other machines, differ a little"
        )
    return ImageSpec(**sized)


def make_spec(
    network: Backbone, output: Output, image: ImageSpec, dtype: str = "float32", views: ViewSpec | None = None
) -> EmbedSpec:
    """Return the spec of the features that one output of a backbone produces."""
    backbone = BackboneSpec(network.uri, output.layer, output.pooling, network.weights, network.weights_digest)
    return EmbedSpec(backbone, image, dtype, views)


def _shape_row(output: Output, spec: EmbedSpec) -> tuple[int, ...]:
    """Return the shape of one item's features: of the image, or of the image and its views, image first."""
    return (spec.n_views, *output.feature_shape) if spec.views else output.feature_shape


def name_store(
    network: Backbone, pooling: str | None, image: Mapping[str, Any], dtype: str, views: ViewSpec | None = None
) -> str:
    """Name a store after every setting that differs from its default, so that other settings get another store.

    Args:
        network: The backbone.
        pooling: The requested pooling, if any.
        image: The requested fields of the image spec.
        dtype: Dtype of the stored features.
        views: The augmented views, if any.

    Returns:
        A file name without `.h5`, such as `inceptionv3` or `mobilenet-alpha-0.75-max`.
    """
    name, _, arguments = network.uri.partition("?")
    own = is_own(network.uri, network.weights)
    words = [Path(network.source_file).stem if own else name, arguments, pooling or ""]
    if network.weights == "none":
        words.append("random")
    elif network.weights == "file" and not own:
        words.append(network.weights_digest[:8])
    known = BUILT_IN.get(name) or PRETRAINED.get(name)
    if "height" in image and not (known and image["height"] == image["width"] == known.size_px):
        words.append(f"{network.height}x{network.width}")
    usual = {**{field.name: field.default for field in fields(ImageSpec)}, **find_decoding(network)}
    words += [
        f"bits{value}" if key == "bits" else str(value)
        for key, value in image.items()
        if key not in {"height", "width"} and value != usual[key]
    ]
    words.append("" if dtype == DTYPES[0] else dtype)
    if views is not None:
        presets = {text: name for name, text in PRESETS.items()}
        words += [f"views{views.count}", presets.get(views.augmentation, views.augmentation)]
        words.append(f"seed{views.seed}" if views.seed else "")
    return _slug("-".join(word for word in words if word))


def name_files(folder: Path, stem: str, layers: Sequence[str], shard: Mapping[str, int] | None = None) -> list[Path]:
    """Return the paths of stores, one for each layer.

    Args:
        folder: Folder of the stores.
        stem: The common start of their names.
        layers: Layer of each store; empty for a store whose name must not include it.
        shard: `number` and `count` of the shard of the source that they hold; None if they hold all of it.

    Raises:
        UsageError: If two stores would have the same name.
    """
    part = f".shard-{shard['number']:0{len(str(shard['count']))}d}-of-{shard['count']}" if shard else ""
    paths = [folder / f"{stem}{'-' if layer else ''}{_slug(layer)}{part}.h5" for layer in layers]
    if len(set(paths)) < len(paths):
        msg = f"the layers {', '.join(layers)} would be written to the same store; name each of them once"
        raise UsageError(msg)
    return paths


def _promise_golden(network: Backbone, spec: ImageSpec) -> list[Golden]:
    """Return the golden pictures of each output, whose features are computed when one is needed."""
    files = make_golden_files()
    compute = functools.cache(lambda: embed_golden(network, spec, files))
    return [
        PromisedGolden(files, functools.partial(lambda at: compute()[at].features, at))
        for at in range(len(network.outputs))
    ]


def _prepare(
    runner: Runner | None,
    writers: Sequence[StoreWriter],
    goldens: Sequence[Golden],
    network: Backbone,
    image: ImageSpec,
) -> None:
    """Prepare what runs the network, and refuse to mix rows of two software stacks.

    The same spec can give other numbers under other versions. Every store and every unfinished row is kept with the
    features of the golden pictures on this machine.
    """
    _ = goldens[0].features
    known = [(at, writer, expected) for at, writer in enumerate(writers) for expected in writer.goldens]
    for at, writer, expected in known:
        same = goldens[at].files == expected.files  # else another encoder made the pictures
        found = goldens[at] if same else embed_golden(network, image, expected.files)[at]
        drift = measure_drift(expected, found)
        if not drift <= MAX_DRIFT:
            msg = (
                f"{writer.path} holds features, or unfinished work, that this machine does not reproduce: they "
                f"differ by {drift:.1e} of their range (limit {MAX_DRIFT:.0e}); install the versions that `featx info` "
                f"lists, or write another store with --name NAME"
            )
            raise SpecMismatchError(msg)
    if runner is not None:
        runner.prepare()


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+]+", "-", text).strip("-.")


def check_image(image: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the names of the requested fields of an image spec, and return the fields.

    Raises:
        UsageError: If a field does not exist, or height is given without width or the reverse.
    """
    known = [field.name for field in fields(ImageSpec)]
    unknown = sorted(set(image) - set(known))
    if unknown or ("height" in image) != ("width" in image):
        what = f"not {', '.join(unknown)}" if unknown else "and height and width together"
        msg = f"image accepts the fields {', '.join(known)}, {what}"
        raise UsageError(msg)
    return image


def build_network(
    backbone: str | Backbone,
    layers: Sequence[str | int],
    pooling: str | None,
    weights: str | None,
    image: Mapping[str, Any],
    runtime: str,
) -> Backbone:
    """Build the backbone of a uri with the requested image size, or check that an object needs nothing else.

    Raises:
        UsageError: If layers, pooling, weights or size are given for an object.
        FeatxError: As `featx.load_backbone`.
    """
    if isinstance(backbone, str):
        size = (int(image["height"]), int(image["width"])) if "height" in image else None
        return find_backbone(
            backbone, layers=layers, pooling=pooling, weights=weights, image_size=size, runtime=runtime
        )
    if layers or pooling or weights or "height" in image:
        msg = (
            "layers, pooling, weights and size of a backbone object are fixed when it is built; "
            "pass them to load_backbone"
        )
        raise UsageError(msg)
    return backbone


def _describe_provenance(manifest: Manifest, network: Backbone, shape: tuple[int, ...], golden: Golden) -> Provenance:
    versions = {"python": platform.python_version(), **find_versions(_STACK)}
    runtime = find_usual_runtime(network)
    file, now = to_text(network.source_file), time.time_ns()
    return Provenance(describe_source(manifest), versions, runtime, 0.0, shape, file, golden, now, manifest.reading)
