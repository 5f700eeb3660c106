"""`featx finetune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.embedding import (
    Backbone,
    Decoder,
    ImageSize,
    Interpolation,
    Json,
    LabelColumn,
    PathColumn,
    Pooling,
    Resize,
    Root,
    Runtime,
    Source,
    SplitColumn,
    Weights,
    Workers,
    parse_image_options,
    parse_layer,
    read_and_describe,
)
from featx.cli.fitting import ClassWeight, Runs, TestSize, Together
from featx.cli.interruption import end_at_second_interrupt
from featx.cli.output import format_table, print_json
from featx.options import CACHES, FINETUNE_DEFAULTS, FineTuneOptions
from featx.reporting import ProgressReporter
from featx.specs import (
    BATCH_NORMS,
    MONITORS,
    OPTIMIZERS,
    SCALINGS,
    SCHEDULES,
    FineTuneSpec,
    HeadSpec,
)

_DEFAULTS = FineTuneSpec()

#: Times that differ by less are told as one.
_NOTABLY = 1.05


def finetune(
    source: Source,
    backbone: Backbone,
    clf: Annotated[
        str, typer.Option("--clf", help="Head: logreg, or keras, keras:512-512, keras:bn and the like.")
    ] = _DEFAULTS.head.name,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="Fix a hyper-parameter of the head: dropout=0.3.")
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help=f"Of the features: {', '.join(SCALINGS)}; if not given, tuned for logreg, standard for keras."
        ),
    ] = None,
    unfreeze: Annotated[
        str, typer.Option(help="What learns: last:N, from:LAYER, blocks:N, gradual, gradual:N or all.")
    ] = _DEFAULTS.unfreeze,
    augment: Annotated[
        str, typer.Option(help="Vary training images: light, medium, strong, or flip,rotate:15,zoom:0.2 ...")
    ] = _DEFAULTS.augmentation,
    views: Annotated[
        int, typer.Option(help="Varied views of each image, which can be cached; 0 for another one in every epoch.")
    ] = _DEFAULTS.views,
    cache: Annotated[
        str, typer.Option(help=f"Keep the feature maps at which learning begins: {', '.join(CACHES)}.")
    ] = FINETUNE_DEFAULTS.cache,
    epochs: Annotated[int, typer.Option(help="Most passes over the images, in each stage.")] = _DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(help="Images of one step.")] = _DEFAULTS.batch_size,
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = _DEFAULTS.optimizer,
    learning_rate: Annotated[float, typer.Option(help="Step size of the backbone.")] = _DEFAULTS.learning_rate,
    head_learning_rate: Annotated[
        float, typer.Option(help="Step size of the head, beside the backbone.")
    ] = _DEFAULTS.head_learning_rate,
    schedule: Annotated[str, typer.Option(help=f"Of both: {', '.join(SCHEDULES)}.")] = _DEFAULTS.schedule,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement after which a stage ends.")
    ] = _DEFAULTS.patience,
    monitor: Annotated[
        str, typer.Option(help=f"What of the validation images must improve: {', '.join(MONITORS)}.")
    ] = _DEFAULTS.monitor,
    batch_norm: Annotated[
        str, typer.Option(help=f"{BATCH_NORMS[0]} keeps the statistics of batch normalisation, {BATCH_NORMS[1]} not.")
    ] = _DEFAULTS.batch_norm,
    class_weight: ClassWeight = _DEFAULTS.class_weight,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of the target that is spread over all classes.")
    ] = _DEFAULTS.label_smoothing,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Compute in bfloat16, where there is a GPU.")
    ] = FINETUNE_DEFAULTS.mixed_precision,
    layer: Annotated[
        str | None, typer.Option(help="Name or index of the layer that the head is put on; the last if not given.")
    ] = None,
    pooling: Pooling = None,
    weights: Weights = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    decoder: Decoder = None,
    test_size: TestSize = FINETUNE_DEFAULTS.test_size,
    group: Together = FINETUNE_DEFAULTS.group,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = _DEFAULTS.seed,
    features: Annotated[Path, typer.Option(help="Folder of the stores.")] = Path(str(FINETUNE_DEFAULTS.features)),
    runs: Runs = Path(str(FINETUNE_DEFAULTS.folder)),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew where an interrupted run could go on.")
    ] = FINETUNE_DEFAULTS.fresh,
    workers: Workers = FINETUNE_DEFAULTS.workers,
    runtime: Runtime = FINETUNE_DEFAULTS.runtime,
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    as_json: Json = False,
) -> None:
    """Train the last layers of a backbone and a head end to end, on the images and the split that fit uses."""
    import featx
    from featx.heads import split_params

    image = parse_image_options(image_size, resize, interpolation, decoder)
    head = HeadSpec(clf, split_params(param or ()), scaling, seed)
    spec = FineTuneSpec(
        head=head,
        unfreeze=unfreeze,
        batch_norm=batch_norm,
        augmentation=augment,
        views=views,
        optimizer=optimizer,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        schedule=schedule,
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        monitor=monitor,
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        seed=seed,
    )
    manifest = read_and_describe(source, root, path_column, label_column, split_column, None)
    with end_at_second_interrupt(), ProgressReporter("fine-tuning") as reporter:
        options = FineTuneOptions(
            test_size=test_size,
            group=group,
            cache=cache,
            features=features,
            folder=runs,
            fresh=fresh,
            workers=workers,
            runtime=runtime,
            mixed_precision=mixed_precision,
            reporter=reporter,
        )
        run = featx.finetune(
            manifest,
            backbone,
            spec=spec,
            layer=None if layer is None else parse_layer(layer),
            pooling=pooling,
            weights=weights,
            image=image,
            options=options,
        )
    for note in run.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json(run.to_dict())
    else:
        typer.echo(_describe(run))


def _describe(run: Any) -> str:  # noqa: ANN401 - a Run, whose module loads numpy
    """Describe a run: what learnt, the metrics, the classes, the confusion, and what it took."""
    from featx.comparing.report import describe_choice
    from featx.evaluation import format_confusion, format_metrics, format_per_class

    tuned = run.finetuned
    chosen = describe_choice(run.head, tuned.spec.head)
    head = f"{run.head.name} ({chosen})" if chosen else run.head.name
    first = (
        f"{tuned.backbone}, {tuned.unfreeze} and {head}: trained on {run.n_train:,} items, evaluated on "
        f"{run.test.n_items:,} ({run.test_name} split)"
    )
    took = format_table(
        ["", "parameters"],
        [
            ("backbone, trained", f"{tuned.trainable_parameters:,}"),
            ("backbone, frozen", f"{tuned.frozen_parameters:,}"),
            ("head", f"{tuned.head_parameters:,}"),
        ],
    )
    kept = f"epoch {tuned.best_epoch} of {tuned.epochs}" if tuned.best_epoch else "the start"
    last = f"kept {kept}, validation accuracy {run.validation.accuracy:.4f}, {_describe_time(tuned)} -> {run.bundle}"
    parts = [first, format_metrics(run.test), format_per_class(run.test), format_confusion(run.test), took, last]
    return "\n\n".join(parts)


def _describe_time(tuned: Any) -> str:  # noqa: ANN401 - a FineTuned, as above
    """Tell the time as if nothing had been there, and that of this run where it is another."""
    seconds, elapsed, embedding = tuned.seconds, tuned.elapsed_seconds, tuned.embed_seconds
    part = "" if embedding is None else f", of which {embedding:.1f} s embedding"
    now = f" ({elapsed:.1f} s now)" if seconds > _NOTABLY * elapsed else ""
    return f"{seconds:.1f} s{part}{now}"
