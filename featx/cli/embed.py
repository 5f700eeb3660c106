"""`featx embed`."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.ctrl_c import end_at_second_interrupt
from featx.cli.output import print_json, print_quarantine, print_text
from featx.options import EMBED_DEFAULTS, FINETUNE_DEFAULTS, ON_BAD, EmbedOptions, read_bytes
from featx.reporting import ProgressReporter
from featx.specs import DTYPES

EXAMPLE = "featx embed photos/ --backbone mobilenetv2"

#: Slower runs are shown with a decimal, so that they never seem to stand still.
_WHOLE_RATE = 10


def parse_share(text: str) -> float:
    """Read a share: `5%` or `0.05`; at least 0, at most 1.

    Raises:
        BadParameter: If the text is not a share.
    """
    number, percent, rest = str(text).partition("%")  # typer passes the default as it is
    try:
        share = float(number) / 100 if percent else float(number)
    except ValueError:
        share = math.nan
    if rest or not 0 <= share <= 1:
        msg = f"{text!r} is not a share from 0 to 1; write 5% or 0.05"
        raise typer.BadParameter(msg)
    return share


def parse_shard(text: str) -> tuple[int, int] | str:
    """Read a shard: `3/16`; empty for all images.

    Raises:
        BadParameter: If the text is not a shard.
    """
    number, slash, count = str(text).partition("/")
    if text and not (slash and number.isdecimal() and count.isdecimal()):
        msg = f"{text!r} is not a shard; write 3/16 for the third of 16"
        raise typer.BadParameter(msg)
    return (int(number), int(count)) if text else ""


def embed(
    source: flags.Source,
    backbone: flags.Backbone = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="LAYER",
            help="Cut the backbone at this layer, by name or index (-1 is the last); repeatable, with one store for "
            "each. By default, the last.",
        ),
    ] = None,
    pooling: flags.Pooling = None,
    weights: flags.Weights = None,
    image_size: flags.ImageSize = None,
    recipe: flags.Recipe = None,
    mean: flags.Mean = None,
    std: flags.Std = None,
    scale: flags.Scale = None,
    channels: flags.Channels = None,
    resize: flags.Resize = None,
    crop: flags.Crop = None,
    interpolation: flags.Interpolation = None,
    decoder: flags.Decoder = None,
    bits: flags.Bits = None,
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help=f"Number format of the stored features: {' or '.join(DTYPES)}.")
    ] = DTYPES[0],
    views: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Also embed N augmented views of each image. Needs --augment."),
    ] = 0,
    augment: flags.Augment = "",
    view_seed: flags.ViewSeed = 0,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the store. By default, made from the backbone.")
    ] = None,
    features: flags.Features = Path(str(FINETUNE_DEFAULTS.features)),
    root: flags.Root = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    split_column: flags.SplitColumn = None,
    group: flags.GroupColumn = None,
    without: flags.Without = None,
    layout: flags.Layout = "",
    label_pattern: flags.LabelPattern = "",
    map_labels: flags.MapLabels = None,
    only: flags.Only = None,
    except_: flags.Except = None,
    batch_size: flags.BatchSize = EMBED_DEFAULTS.batch_size,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Threads that read and decode images. By default, one per core. With --executor ray: processes that "
            "embed; by default, as many as the cluster has room for.",
        ),
    ] = EMBED_DEFAULTS.workers,
    runtime: flags.Runtime = EMBED_DEFAULTS.runtime,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Hash every file again, even if its size and time are unchanged.")
    ] = EMBED_DEFAULTS.rehash,
    on_bad: Annotated[
        str,
        typer.Option(
            metavar="ACTION",
            help=f"If an image cannot be embedded: {ON_BAD[0]} leaves it out and records why; {ON_BAD[1]} stops "
            "without a store.",
        ),
    ] = EMBED_DEFAULTS.on_bad,
    max_bad: Annotated[
        float,
        typer.Option(
            parser=parse_share,
            metavar="SHARE",
            help="Exit with status 1 if more images than this are quarantined, such as 5% or 0.05.",
        ),
    ] = EMBED_DEFAULTS.max_bad,
    executor: flags.Executor = EMBED_DEFAULTS.executor,
    ray_address: flags.RayAddress = EMBED_DEFAULTS.ray_address,
    gpus_per_worker: flags.GpusPerWorker = EMBED_DEFAULTS.gpus_per_worker,
    cpus_per_worker: flags.CpusPerWorker = EMBED_DEFAULTS.cpus_per_worker,
    handover: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="With --executor ray: a folder such as s3://bucket/tmp that finished shards go through, where the "
            "workers do not see the folder of the stores.",
        ),
    ] = EMBED_DEFAULTS.handover,
    shard: Annotated[
        str,
        typer.Option(
            parser=parse_shard,
            metavar="I/N",
            help="Embed only the Ith of N parts of the images, into a store of its own. `featx merge` joins them.",
        ),
    ] = "",
    index_above: flags.IndexAbove = None,
    as_json: flags.Json = False,
) -> None:
    """Embed images into a feature store.

    Images that the store already holds are not embedded again, so the same command also updates a store. After
    Ctrl-C, it continues where it stopped.
    """
    import featx
    from featx.items.augmentation import plan_views

    plan_views(views, augment, view_seed)  # mistakes are reported before a large source is listed
    image = flags.parse_image_options(image_size, resize, interpolation, decoder, bits, crop)
    backbone = flags.add_recipe(backbone, recipe=recipe, mean=mean, std=std, scale=scale, channels=channels)
    options = EmbedOptions(
        batch_size=batch_size,
        workers=workers,
        rehash=rehash,
        on_bad=on_bad,
        max_bad=max_bad,
        runtime=runtime,
        executor=executor,
        ray_address=ray_address,
        gpus_per_worker=gpus_per_worker,
        cpus_per_worker=cpus_per_worker,
        handover=handover,
        index_above=read_bytes(index_above, "--index-above") if index_above else EMBED_DEFAULTS.index_above,
    )
    manifest = flags.read_source(
        source,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        group=group,
        layout=layout,
        label_pattern=label_pattern,
        map_labels=map_labels,
        only=only,
        except_=except_,
        without=without,
    )
    manifest = featx.take_shard(manifest, *shard) if shard else manifest
    with end_at_second_interrupt(), ProgressReporter("embedding") as reporter:
        results = featx.embed_layers(
            manifest,
            backbone,
            layers=[flags.parse_layer(value) for value in layer or ()],
            pooling=pooling,
            weights=weights,
            image=image,
            dtype=dtype,
            views=views,
            augmentation=augment,
            view_seed=view_seed,
            name=name,
            folder=features,
            options=replace(options, reporter=reporter),
        )
    print_quarantine(results)
    for number, result in enumerate(results, 1):
        if as_json:
            print_json(result.to_dict())
        else:
            print_text(_describe(result, with_stages=number == len(results)))
    for result in results:
        result.check()


def _describe(result: Any, *, with_stages: bool) -> str:  # noqa: ANN401 - an EmbedResult, whose module loads numpy
    removed = f", {result.removed:,} removed" if result.removed else ""
    copied = f" ({result.copied:,} copied from other stores)" if result.copied else ""
    counts = f"{result.new:,} new, {result.cached:,} cached{copied}, {result.quarantined:,} quarantined{removed}"
    rate = ""
    if result.new:  # all stores of a run share one time
        stages = f" ({_describe_stages(result.stage_seconds)})" if with_stages else ""
        speed = result.images_per_second
        rate = f", {speed:,.0f} images/s{stages}" if speed >= _WHOLE_RATE else f", {speed:.1f} images/s{stages}"
    return f"{counts}{rate} -> {result.store.path}"


def _describe_stages(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{stage} {spent / total:.0%}" for stage, spent in seconds.items())
