"""`featx embed`."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.interruption import end_at_second_interrupt
from featx.cli.output import print_json
from featx.errors import UsageError
from featx.options import EMBED_DEFAULTS, ON_BAD, RUNTIMES, EmbedOptions
from featx.reporting import ProgressReporter
from featx.specs import DECODERS, DTYPES, INTERPOLATIONS, POOLINGS, RESIZES
from featx.wording import to_printable

_SHOWN_REASONS = 5

# A slower run is told with a decimal, so that it never seems to stand still.
_WHOLE_RATE = 10

Source = Annotated[
    str,
    typer.Argument(help="Folder of class folders (also under train/, val/, test/), CSV or Parquet table, zip or tar."),
]
Backbone = Annotated[
    str, typer.Option("--backbone", "-b", help="A keras.applications model, scattering, or file:model.keras.")
]
Pooling = Annotated[str | None, typer.Option(help=f"One of {', '.join(POOLINGS)}.")]
Resize = Annotated[str | None, typer.Option(help=f"One of {', '.join(RESIZES)}.")]
Interpolation = Annotated[str | None, typer.Option(help=f"One of {', '.join(INTERPOLATIONS)}.")]
Decoder = Annotated[str | None, typer.Option(help=f"One of {', '.join(DECODERS)}.")]
Weights = Annotated[str | None, typer.Option(help="imagenet, none (random, seeded) or the path of a weights file.")]
ImageSize = Annotated[str | None, typer.Option(help="Pixels: 224, or 240x320 (height x width).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Root = Annotated[Path | None, typer.Option(help="Folder that the paths in a table are relative to.")]
PathColumn = Annotated[str | None, typer.Option(help="Column of the files in a table.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the classes in a table.")]
SplitColumn = Annotated[str | None, typer.Option(help="Column of train, val and test in a table.")]
GroupColumn = Annotated[
    str | None, typer.Option("--group", help="Column of a table: what must stay together, such as the patient.")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images per forward pass, which changes no number; chosen if not given.")
]
Runtime = Annotated[
    str, typer.Option(help=f"What runs the network: {', '.join(RUNTIMES)}; auto is OpenVINO where there is no GPU.")
]
Views = Annotated[
    int, typer.Option(min=0, help="Augmented views of each image beside itself; they are made by --augment.")
]
Augment = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="light, medium, strong, or some of flip,rotate:15,zoom:0.2,shear:0.2,shift:0.1,contrast:0.2,crop:0.5.",
    ),
]
ViewSeed = Annotated[int, typer.Option(min=0, help="Seed of the views.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Decoding threads; one per core if not given.")]


def parse_share(text: str) -> float:
    """Read a share: `5%` or `0.05`; at least 0, at most 1.

    Raises:
        BadParameter: If it is none.
    """
    number, percent, rest = str(text).partition("%")  # typer passes the default as it is
    try:
        share = float(number) / 100 if percent else float(number)
    except ValueError:
        share = math.nan
    if rest or not 0 <= share <= 1:
        msg = f"{text!r} is no share; write 5% or 0.05, from 0 to 1"
        raise typer.BadParameter(msg)
    return share


def embed(
    source: Source,
    backbone: Backbone,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", help="Name or index (-1 is the last) to cut at; several give several stores."),
    ] = None,
    pooling: Pooling = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    decoder: Decoder = None,
    dtype: Annotated[str, typer.Option(help=f"Of the stored features: {' or '.join(DTYPES)}.")] = DTYPES[0],
    views: Views = 0,
    augment: Augment = "",
    view_seed: ViewSeed = 0,
    name: Annotated[str | None, typer.Option(help="Name of the store; made from the backbone if not given.")] = None,
    features: Annotated[Path, typer.Option(help="Folder of the stores.")] = Path("features"),
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    group: GroupColumn = None,
    batch_size: BatchSize = EMBED_DEFAULTS.batch_size,
    workers: Workers = EMBED_DEFAULTS.workers,
    runtime: Runtime = EMBED_DEFAULTS.runtime,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Hash every file, also where size and time are unchanged.")
    ] = False,
    on_bad: Annotated[
        str, typer.Option(help=f"What images that cannot be embedded do: {' or '.join(ON_BAD)} (nothing is sealed).")
    ] = EMBED_DEFAULTS.on_bad,
    max_bad: Annotated[
        float,
        typer.Option(parser=parse_share, metavar="SHARE", help="Exit with 1 if more are in quarantine: 5%, 0.05."),
    ] = EMBED_DEFAULTS.max_bad,
    as_json: Json = False,
) -> None:
    """Embed images once, into a feature store; what is embedded already is not embedded again."""
    import featx
    from featx.items.augmentation import plan_views

    plan_views(views, augment, view_seed)  # what cannot be meant is said before a large source is listed
    image = parse_image_options(image_size, resize, interpolation, decoder)
    options = EmbedOptions(
        batch_size=batch_size, workers=workers, rehash=rehash, on_bad=on_bad, max_bad=max_bad, runtime=runtime
    )
    manifest = read_and_describe(source, root, path_column, label_column, split_column, group)
    with end_at_second_interrupt(), ProgressReporter("embedding") as reporter:
        results = featx.embed_layers(
            manifest,
            backbone,
            layers=[parse_layer(value) for value in layer or ()],
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
    show_quarantine(results)
    for number, result in enumerate(results, 1):
        if as_json:
            print_json(result.to_dict())
        else:
            typer.echo(_describe(result, with_stages=number == len(results)))
    for result in results:
        result.check()


def read_and_describe(
    source: str, root: Path | None, path: str | None, label: str | None, split: str | None, group: str | None
) -> Any:  # noqa: ANN401 - a Manifest, whose package is loaded only here
    """Read a source by the flags of its columns, and say on stderr what was understood."""
    import featx

    manifest = featx.read_source(source, root=root, columns=featx.Columns(path, label, split, group))
    typer.echo("\n".join(manifest.describe()), err=True)
    return manifest


def parse_image_options(
    size: str | None, resize: str | None, interpolation: str | None, decoder: str | None
) -> dict[str, Any]:
    """Collect the fields of an image spec that a user gave.

    Raises:
        UsageError: If the size is no number or pair of numbers, or a choice does not exist.
    """
    image: dict[str, Any] = {}
    if size is not None:
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", size)
        if not match or not int(match[1]) or match[2] == "0":
            msg = f"--image-size is {size!r}; write 224, or 240x320 for height x width"
            raise UsageError(msg)
        image = {"height": int(match[1]), "width": int(match[2] or match[1])}
    choices = (
        ("resize", resize, RESIZES),
        ("interpolation", interpolation, INTERPOLATIONS),
        ("decoder", decoder, DECODERS),
    )
    for field, value, allowed in choices:
        if value is not None and value not in allowed:
            msg = f"--{field} is {value!r}; it must be one of {', '.join(allowed)}"
            raise UsageError(msg)
        if value is not None:
            image[field] = value
    return image


def parse_layer(text: str) -> str | int:
    """Read a layer's name or index."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def show_quarantine(results: list[Any]) -> None:
    """Say on stderr why images are quarantined, and how many are."""
    reasons = {name: reason for result in results for name, _, reason in result.store.quarantine}
    for item, reason in list(reasons.items())[:_SHOWN_REASONS]:
        typer.echo(f"quarantined {to_printable(item)}: {to_printable(reason)}", err=True)
    worst = max(results, key=lambda result: result.bad_share)
    if 0 < worst.bad_share <= worst.max_bad:
        typer.echo(
            f"note: {worst.bad_share:.1%} of the images are quarantined, up to {worst.max_bad:.1%} is accepted; "
            f"`featx info {worst.store.path}` lists all reasons, and the next run tries them again",
            err=True,
        )


def _describe(result: Any, *, with_stages: bool) -> str:  # noqa: ANN401 - an EmbedResult, whose module loads numpy
    removed = f", {result.removed:,} removed" if result.removed else ""
    counts = f"{result.new:,} new, {result.cached:,} cached, {result.quarantined:,} quarantined{removed}"
    rate = ""
    if result.new:  # all stores of a run share one time
        stages = f" ({_describe_stages(result.stage_seconds)})" if with_stages else ""
        speed = result.images_per_second
        rate = f", {speed:,.0f} images/s{stages}" if speed >= _WHOLE_RATE else f", {speed:.1f} images/s{stages}"
    return f"{counts}{rate} -> {result.store.path}"


def _describe_stages(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{stage} {spent / total:.0%}" for stage, spent in seconds.items())
