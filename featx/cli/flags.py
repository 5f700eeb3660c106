"""Options that several verbs share, and the functions that read their values."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from featx import registry
from featx.cli.output import print_message, print_notes
from featx.errors import BundleError, UsageError
from featx.options import INDEX_ABOVE, RUNTIMES, VIEWS, read_memory
from featx.specs import CALIBRATIONS, DECODERS, DEFAULT_BACKBONE, INTERPOLATIONS, POOLINGS, RESIZES, USED_BITS


def join(names: Any) -> str:  # noqa: ANN401 - any iterable of texts, of which a table of heads is one
    """Join names for a help text."""
    return ", ".join(names)


# Stores and bundles

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Feature store (.h5), or its URL.")]
NewestStore = Annotated[
    Path | None, typer.Argument(metavar="STORE", help="Feature store (.h5); by default the newest in ./features.")
]
Bundle = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="Bundle: a folder that `featx fit` or `featx finetune` wrote, its name in runs/, `latest`, or the latest "
        "of a head, such as `latest:logreg`; or its URL.",
    ),
]
RunName = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Name of the bundle. By default, the date, the head and the data.")
]
KeptNeighbours = Annotated[
    bool,
    typer.Option(
        "--neighbours/--no-neighbours",
        help="Put the features of the training items into the bundle, for the neighbours and the unfamiliarity of "
        "featx predict --explain.",
    ),
]
Features = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the feature stores.")]
Runs = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder in which the bundle gets a dated name.")]
IndexAbove = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="Largest size of features in one file, such as 1GiB; larger ones stay in shards, of which the store is an "
        f"index. By default, {INDEX_ABOVE >> 30}GiB.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

# Sources

MovedPictures = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Where the pictures are now, if they were moved.", show_default=False)
]
StorePictures = Annotated[
    str, typer.Option("--source", metavar="SOURCE", help="Where the store's pictures are now, if they were moved.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder with one folder per class (also inside train/, val/ and test/), a CSV or Parquet table, "
        "a zip or tar archive, or shards such as 'train-*.tar' or a folder of Parquet files with images; "
        "all also at a URL, such as s3://bucket/photos.",
    ),
]
Root = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="For a table: the folder that its paths are relative to.")
]
PathColumn = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="For a table: the column with the paths or images.")
]
LabelColumn = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="For a table or shards: where the classes are.")
]
SplitColumn = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="For a table: the column with train, val or test.")
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="COLUMN",
        help="For a table or shards: the column or key that names what must stay in one split, such as the patient. "
        "An empty name ignores the patients of DICOM files.",
    ),
]

Layout = Annotated[
    str,
    typer.Option(
        metavar="LAYOUT",
        help="What each level of folders means, from the top: split, class, group, or * for a level to ignore, such as "
        "'split/*/class'; or flat, if folders mean nothing. By default, their names decide.",
    ),
]
LabelPattern = Annotated[
    str,
    typer.Option(
        metavar="REGEX",
        help="Take the class from each path, by a regular expression: its first group is the class, such as "
        "'([a-z]+)[^/]*$'.",
    ),
]
MapLabels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="REGEX=NAME",
        help="Rename the classes whose whole name matches the expression; or name a CSV file with an old and a new "
        "name in each row. Repeatable; the first match counts.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=NAMES",
        help="Keep only these: class=cat,dog, split=train or folder=PATH. Repeatable.",
    ),
]
Except = Annotated[
    list[str] | None,
    typer.Option("--except", metavar="KIND=NAMES", help="Leave these out, in the form of --only. Repeatable."),
]

# Backbones and images


def check_backbone(name: str | None) -> str | None:
    """Check the name of a backbone before anything heavy is imported or read."""
    from featx.backbones.loading import check_uri

    if name is not None:
        check_uri(name)
    return name


def check_heads(names: Any) -> Any:  # noqa: ANN401 - a name, a list of names or none, as the option takes
    """Check the names of heads before anything heavy is imported or read."""
    registry.check_heads([names] if isinstance(names, str) else [n for entry in names or () for n in entry.split(",")])
    return names


def check_plans(plans: Any) -> Any:  # noqa: ANN401 - as above
    """Check the spelling of plans for fine-tuning before anything heavy is imported or read."""
    from featx.finetuning.unfreezing import check_plan

    for plan in [plans] if isinstance(plans, str) else plans or ():
        if not Path(plan).exists() and "/" not in plan.partition(":")[0]:  # `compare` explains what to do with a run
            check_plan(plan)
    return plans


def check_memory(text: str | None) -> str | None:
    """Check an amount of memory before anything heavy is imported or read."""
    if text is not None:
        read_memory(text)
    return text


def check_choice(option: str, known: Sequence[str]) -> Callable[[str | None], str | None]:
    """Return a function that checks the value of an option.

    Args:
        option: The name of the option.
        known: The values that it takes; an option that is not given has none of them.
    """

    def check(value: str | None) -> str | None:
        if value and value not in known:
            hint = registry.suggest(value, known)
            msg = f"--{option} is {value!r}; {f'{hint} It' if hint else 'it'} must be one of {join(known)}"
            raise UsageError(msg)
        return value

    return check


Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        metavar="NAME",
        callback=check_backbone,
        help="A name that `featx backbones` lists, file:PATH for a Keras model of your own, or onnx:PATH, ir:PATH or "
        f"tflite:PATH for any other network. Quote a name with arguments: 'mobilenet?alpha=0.75'. By default, "
        f"{DEFAULT_BACKBONE}.",
    ),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        metavar="POOLING",
        callback=check_choice("pooling", POOLINGS),
        help=f"How a feature map becomes a vector: {join(POOLINGS)}. By default, what suits the layer.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="WEIGHTS",
        help="imagenet, none (random, with a fixed seed) or the path of a weights file. By default, those of the "
        "backbone.",
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Size in pixels: 224, or 240x320 for height x width. By default, that of the backbone.",
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        help=f"How images of another shape are made to fit: {join(RESIZES)}. By default, {RESIZES[0]}.",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        metavar="FILTER", help=f"Filter for resizing: {join(INTERPOLATIONS)}. By default, {INTERPOLATIONS[0]}."
    ),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        metavar="DECODER",
        help=f"{join(DECODERS)}: what resizes, and whether large JPEGs may be decoded at a reduced scale, which is "
        f"faster. By default, that of the existing store, else {DECODERS[0]}.",
    ),
]
Crop = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="With --resize crop, keep this share of the shorter side: 0.875 for a resize to 256 and a crop to 224.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="RECIPE",
        help="How the network of an onnx:, ir: or tflite: file wants its pixels: imagenet, clip, siglip, dinov2, "
        "inception, unit, caffe, none; or a preprocessor_config.json, open_clip_config.json or timm's config.json.",
    ),
]
Mean = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="For such a file: the mean of each channel, after --scale.")
]
Std = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="For such a file: the deviation of each channel, after --scale.")
]
Scale = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="For such a file: what pixels of 0 to 255 are multiplied by, such as 1/255."),
]
Channels = Annotated[
    str | None, typer.Option(metavar="ORDER", help="For such a file: the order of its channels, rgb or bgr.")
]
Bits = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=f"Number of bits used in images with 16 bits per sample, {USED_BITS[0]} to {USED_BITS[-1]}: with 12, "
        "4,095 is white. By default, all 16.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Images per forward pass; affects only the speed. By default, the fastest."),
]
Runtime = Annotated[
    str,
    typer.Option(
        metavar="RUNTIME",
        callback=check_choice("runtime", RUNTIMES),
        help=f"Runtime of the network: {join(RUNTIMES)}. auto chooses OpenVINO if there is no GPU.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads that read and decode images. By default, one per core.")
]
Executor = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What spreads the work: local, this machine alone; or ray, processes on one or many machines.",
    ),
]
RayAddress = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="The cluster of Ray, such as 10.0.0.5:6379 or auto. By default, Ray runs on this machine only.",
    ),
]
GpusPerWorker = Annotated[
    float, typer.Option(min=0, metavar="X", help="GPUs of each process of Ray, such as 1 or 0.5.")
]
CpusPerWorker = Annotated[
    float, typer.Option(min=0, metavar="Y", help="Cores of each process of Ray, which has so many threads.")
]
ViewSeed = Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the augmented views.")]
Augment = Annotated[
    str,
    typer.Option(
        metavar="AUGMENTATION",
        help="How to vary images: light, medium or strong, or a list such as flip,rotate:15,zoom:0.2. Known: flip, "
        "rotate, zoom, shear, shift, contrast, crop.",
    ),
]
PredictedViews = Annotated[
    int,
    typer.Option(
        "--views",
        min=0,
        metavar="N",
        help="Also predict N augmented views of each image, and average the probabilities. Needs --augment.",
    ),
]

# Splits and heads

TestSize = Annotated[
    float,
    typer.Option(metavar="FRACTION", help="Fraction held out for the test, if the source has no test split."),
]
Group = Annotated[
    str,
    typer.Option(
        metavar="GROUP",
        help="Keep items together in one split, by a column of the table, `folder`, or a regular expression with one "
        "group that is searched for in each id.",
    ),
]
GroupOrTable = Annotated[
    str,
    typer.Option(
        "--group",
        metavar="GROUP",
        help="Keep items together in one split, by a column of the table, `folder`, a regular expression with one "
        "group that is searched for in each id, or a table such as audit.csv.",
    ),
]
Without = Annotated[
    Path | None,
    typer.Option("--without", metavar="FILE", help="Leave out what audit.csv says, or all items of a table with ids."),
]
Relabel = Annotated[
    Path | None,
    typer.Option(
        "--relabel", metavar="FILE", help="Take the labels that audit.csv suggests, or those of an id,label table."
    ),
]
FitViews = Annotated[
    str,
    typer.Option(
        metavar="VIEWS",
        help=f"For a store with views: {VIEWS[0]} them, {VIEWS[1]} the training items with them, or use the {VIEWS[2]} "
        "images only.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed.")]
Param = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="NAME=VALUE", help="Fix a hyper-parameter of the head, such as C=1; repeatable."
    ),
]
ClassWeight = Annotated[
    str | None,
    typer.Option(metavar="balanced", help="Give every class the same weight instead of every item."),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        callback=check_choice("calibration", CALIBRATIONS),
        help=f"Calibration of the probabilities: {join(CALIBRATIONS)}. The default, auto, chooses it on "
        "held-out images.",
    ),
]


def add_recipe(backbone: str | None, **given: str | None) -> str | None:
    """Add the recipe of its input to the uri of a backbone.

    Args:
        backbone: The uri; None for the default.
        given: The arguments of `featx.backbones.recipes.ARGUMENTS`; None for those that were not given.

    Raises:
        UsageError: If the backbone scales its own pixels.
    """
    arguments = {name: value for name, value in given.items() if value is not None}
    if not arguments:
        return backbone
    from featx.backbones.protocol import needs_openvino

    if backbone is None or not needs_openvino(backbone):
        msg = f"{backbone or DEFAULT_BACKBONE} scales its own pixels; leave out --{', --'.join(arguments)}"
        raise UsageError(msg)
    return f"{backbone}{'&' if '?' in backbone else '?'}{urlencode(arguments)}"


def parse_image_options(
    size: str | None,
    resize: str | None,
    interpolation: str | None,
    decoder: str | None,
    bits: int | None = None,
    crop: float | None = None,
) -> dict[str, Any]:
    """Collect the fields of an image spec that a user gave.

    Raises:
        UsageError: If the size is not a number or a pair of numbers, or a choice does not exist.
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
            msg = f"--{field} is {value!r}; it must be one of {join(allowed)}"
            raise UsageError(msg)
        if value is not None:
            image[field] = value
    if crop is not None:
        image = {"resize": "crop", **image, "crop": crop}
    if bits is not None:
        if bits not in USED_BITS:
            msg = f"--bits is {bits}; it must be {USED_BITS[0]} to {USED_BITS[-1]}"
            raise UsageError(msg)
        image["bits"] = bits
    return image


def parse_layer(text: str) -> str | int:
    """Read a layer's name or index."""
    from featx.backbones.loading import parse_layer as parse

    return parse(text)


def read_source(
    source: str,
    *,
    root: Path | None,
    path_column: str | None,
    label_column: str | None,
    split_column: str | None,
    group: str | None = None,
    layout: str,
    label_pattern: str,
    map_labels: list[str] | None,
    only: list[str] | None,
    except_: list[str] | None,
    without: Path | None = None,
) -> Any:  # noqa: ANN401 - a Manifest, whose package is loaded only here
    """Read a source with the flags for it, and print on stderr what was found."""
    import featx

    options = featx.SourceOptions(
        layout=layout,
        label_pattern=label_pattern,
        map_labels=map_labels or (),
        only=only or (),
        except_=except_ or (),
    )
    columns = featx.Columns(path_column, label_column, split_column, group)
    manifest = featx.read_source(source, root=root, columns=columns, options=options)
    manifest = featx.correct_manifest(manifest, without=without) if without else manifest
    for line in manifest.describe():
        print_message(line)
    return manifest


def open_store(path: Path | None) -> Any:  # noqa: ANN401 - a FeatureStore, whose module loads numpy
    """Open a store, or the newest one if none is named, and print a note on stores that are not finished."""
    import featx
    from featx.store.journal import describe_unfinished, list_unfinished

    opened = featx.FeatureStore(path) if path else featx.FeatureStore.find_newest()
    unfinished = [opened.path] if path else list_unfinished(opened.path.parent)
    print_notes(filter(None, map(describe_unfinished, unfinished)))
    return opened


def find_bundle(reference: Path, images: Sequence[str]) -> Path:
    """Find a bundle as `featx.references.find_bundle` does.

    Raises:
        BundleError: If there is no such bundle.
        UsageError: If one of the images is the bundle.
    """
    from featx.references import find_bundle as find

    try:
        return find(reference)
    except BundleError:
        for name in images:
            if (Path(name) / "bundle.json").is_file():
                msg = f"{reference} is not a bundle, but {name} is: name the bundle first, then the images"
                raise UsageError(msg) from None
        raise


def find_run(reference: Path | None) -> Path | None:
    """Find the bundle that an argument for stores names by mistake or on purpose; None if it names none."""
    if reference is None or reference.suffix == ".h5":
        return None
    from featx.references import find_bundle as find

    try:
        return find(reference)
    except BundleError:
        if reference.is_dir() or reference.name.partition(":")[0] == "latest":
            raise
        return None
