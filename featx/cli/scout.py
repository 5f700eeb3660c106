"""`featx scout`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.ctrl_c import end_at_second_interrupt
from featx.cli.embed import parse_share
from featx.cli.output import format_table, print_json, print_notes, print_quarantine, print_text
from featx.options import SCOUT_DEFAULTS, ScoutOptions
from featx.reporting import ProgressReporter
from featx.specs import POOLINGS

EXAMPLE = "featx scout photos/ -b mobilenet -b mobilenetv2 --layer -1 --layer -20 --sample 20%"

#: Columns that a narrow terminal can do without, the first one first.
_DISPENSABLE = ("p", "embed s", "bytes", "95 %", "points to the best")


def parse_sample(text: str) -> float:
    """Read a sample: `20%`, `0.2`, or a number of images.

    Raises:
        BadParameter: If the text is neither.
    """
    value = str(text)
    return float(value) if value.isdecimal() and int(value) > 1 else parse_share(value)


def check_backbones(names: Any) -> Any:  # noqa: ANN401 - a list of names or none, as the option takes
    """Check the names of backbones, with or without layers, before a large source is listed."""
    from featx.scouting.networks import parse_backbone

    for name in names or ():
        flags.check_backbone(parse_backbone(name)[0])
    return names


def check_poolings(names: Any) -> Any:  # noqa: ANN401 - as above
    """Check the names of poolings."""
    for name in names or ():
        flags.check_choice("pooling", POOLINGS)(name)
    return names


def scout(
    source: flags.Source,
    backbone: Annotated[
        list[str],
        typer.Option(
            "--backbone",
            "-b",
            metavar="NAME",
            callback=check_backbones,
            help="A backbone, as `featx embed` takes it; NAME@LAYER,LAYER names layers of its own. Repeatable.",
        ),
    ],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="LAYER",
            help="Cut every backbone without layers of its own here, by name or index (-1 is the last); repeatable. By "
            "default, the last.",
        ),
    ] = None,
    pooling: Annotated[
        list[str] | None,
        typer.Option(
            "--pooling",
            metavar="POOLING",
            callback=check_poolings,
            help=f"How a feature map becomes a vector: {flags.join(POOLINGS)}. Repeatable; each runs the networks "
            "again. By default, what suits the layer.",
        ),
    ] = None,
    image_size: flags.ImageSize = None,
    resize: flags.Resize = None,
    interpolation: flags.Interpolation = None,
    decoder: flags.Decoder = None,
    bits: flags.Bits = None,
    sample: Annotated[
        float,
        typer.Option(
            parser=parse_sample,
            metavar="SAMPLE",
            show_default="all",
            help="How many of the training images: a share, such as 20% or 0.2, or a number.",
        ),
    ] = SCOUT_DEFAULTS.sample,
    clf: Annotated[
        str,
        typer.Option(
            "--clf",
            metavar="HEAD",
            callback=flags.check_heads,
            help="The head that is tuned on each, on standardised features.",
        ),
    ] = "lda",
    folds: Annotated[
        int, typer.Option(metavar="K", help="Measure the accuracy on K folds of these images.")
    ] = SCOUT_DEFAULTS.folds,
    test_size: Annotated[
        float,
        typer.Option(
            metavar="FRACTION",
            help="Fraction that `featx fit` will hold out, if the source has no test split; it is not embedded.",
        ),
    ] = SCOUT_DEFAULTS.test_size,
    group: flags.Group = SCOUT_DEFAULTS.group,
    seed: flags.Seed = SCOUT_DEFAULTS.seed,
    features: flags.Features = Path(str(SCOUT_DEFAULTS.features)),
    runs: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder in which the results get a dated name.")] = Path(
        str(SCOUT_DEFAULTS.folder)
    ),
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the results here. By default, <runs>/<date>-scout."),
    ] = None,
    root: flags.Root = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    split_column: flags.SplitColumn = None,
    layout: flags.Layout = "",
    label_pattern: flags.LabelPattern = "",
    map_labels: flags.MapLabels = None,
    only: flags.Only = None,
    except_: flags.Except = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes that fit heads. By default, one per core."),
    ] = SCOUT_DEFAULTS.jobs,
    workers: flags.Workers = SCOUT_DEFAULTS.workers,
    runtime: flags.Runtime = SCOUT_DEFAULTS.runtime,
    max_bad: Annotated[
        float,
        typer.Option(
            parser=parse_share,
            metavar="SHARE",
            help="Exit with status 1 if more images than this are quarantined, such as 5% or 0.05.",
        ),
    ] = SCOUT_DEFAULTS.max_bad,
    as_json: flags.Json = False,
) -> None:
    """Compare backbones, layers and poolings on a sample, before embedding everything.

    Each training image is decoded once for all backbones of one image size. A quick head then shows which features
    are worth embedding. The test is not used. After Ctrl-C, the same command continues where it stopped.
    """
    import featx

    image = flags.parse_image_options(image_size, resize, interpolation, decoder, bits)
    options = ScoutOptions(
        sample=sample,
        folds=folds,
        test_size=test_size,
        group=group,
        seed=seed,
        jobs=jobs,
        workers=workers,
        runtime=runtime,
        max_bad=max_bad,
        features=features,
        folder=runs,
        out=out,
    )
    manifest = flags.read_source(
        source,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        layout=layout,
        label_pattern=label_pattern,
        map_labels=map_labels,
        only=only,
        except_=except_,
    )
    with end_at_second_interrupt(), ProgressReporter("scouting") as reporter:
        result = featx.scout(
            manifest,
            backbone,
            layers=[flags.parse_layer(value) for value in layer or ()],
            poolings=pooling or (),
            head=clf,
            image=image,
            options=replace(options, reporter=reporter),
        )
    print_quarantine(result.embedded)
    print_notes(result.notes)
    if as_json:
        print_json(result.to_dict())
    else:
        print_text(_describe(result))
    result.check()


def _describe(result: Any) -> str:  # noqa: ANN401 - a ScoutResult, whose module loads numpy
    from featx.scouting.report import describe_scout

    header, rows = result.tabulate()
    table = format_table(header, rows, left=[0, len(header) - 1], drop=_DISPENSABLE)
    lines = describe_scout(result)
    return "\n".join([table, "", *lines, f"{result.seconds:.1f} s -> {result.folder}", "", result.command]).rstrip()
