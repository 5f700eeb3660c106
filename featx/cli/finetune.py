"""`featx finetune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.ctrl_c import end_at_second_interrupt
from featx.cli.output import format_table, point_to_errors, print_notes, print_run, print_text, read_width
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

EXAMPLE = "featx finetune photos/ --backbone mobilenetv2 --unfreeze blocks:1 --augment light"

_DEFAULTS = FineTuneSpec()

#: Times whose ratio is smaller are shown as one.
_NOTABLY = 1.05


def finetune(
    source: flags.Source,
    backbone: flags.Backbone = None,
    clf: Annotated[
        str,
        typer.Option(
            "--clf",
            metavar="HEAD",
            callback=flags.check_heads,
            help="Head: logreg or keras; keras:512-512 has two hidden layers.",
        ),
    ] = _DEFAULTS.head.name,
    param: flags.Param = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            metavar="SCALING",
            help=f"Scaling of the features: {flags.join(SCALINGS)}. By default, tuned for logreg, standard for keras.",
        ),
    ] = None,
    unfreeze: Annotated[
        str,
        typer.Option(
            metavar="PLAN",
            callback=flags.check_plans,
            help="Layers to train: last:N, from:LAYER, blocks:N, all, or block by block: gradual, gradual:N.",
        ),
    ] = _DEFAULTS.unfreeze,
    augment: flags.Augment = _DEFAULTS.augmentation,
    views: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Augmented views of each training image, which can be cached; 0 draws a new one in every epoch.",
        ),
    ] = _DEFAULTS.views,
    cache: Annotated[
        str,
        typer.Option(
            metavar="WHEN", help=f"Run the frozen part once and keep its feature maps on disk: {flags.join(CACHES)}."
        ),
    ] = FINETUNE_DEFAULTS.cache,
    epochs: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of epochs in each stage.")
    ] = _DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images per training step.")] = _DEFAULTS.batch_size,
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help=f"Optimizer: {flags.join(OPTIMIZERS)}.")
    ] = _DEFAULTS.optimizer,
    learning_rate: Annotated[
        float, typer.Option(metavar="RATE", help="Learning rate of the backbone.")
    ] = _DEFAULTS.learning_rate,
    head_learning_rate: Annotated[
        float, typer.Option(metavar="RATE", help="Learning rate of the head, while the backbone is trained.")
    ] = _DEFAULTS.head_learning_rate,
    schedule: Annotated[
        str, typer.Option(metavar="NAME", help=f"Schedule of both learning rates: {flags.join(SCHEDULES)}.")
    ] = _DEFAULTS.schedule,
    patience: Annotated[
        int, typer.Option(metavar="N", help="End a stage after N epochs without improvement.")
    ] = _DEFAULTS.patience,
    monitor: Annotated[
        str,
        typer.Option(
            metavar="METRIC", help=f"Metric of the validation images that must improve: {flags.join(MONITORS)}."
        ),
    ] = _DEFAULTS.monitor,
    batch_norm: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help=f"Batch normalisation: {BATCH_NORMS[0]} keeps its statistics, {BATCH_NORMS[1]} updates them.",
        ),
    ] = _DEFAULTS.batch_norm,
    class_weight: flags.ClassWeight = _DEFAULTS.class_weight,
    label_smoothing: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of each target that is spread over all classes.")
    ] = _DEFAULTS.label_smoothing,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Compute in bfloat16 if there is a GPU.")
    ] = FINETUNE_DEFAULTS.mixed_precision,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Cut the backbone at this layer, by name or index (-1 is the last). By default, the last.",
        ),
    ] = None,
    pooling: flags.Pooling = None,
    weights: flags.Weights = None,
    image_size: flags.ImageSize = None,
    resize: flags.Resize = None,
    interpolation: flags.Interpolation = None,
    decoder: flags.Decoder = None,
    bits: flags.Bits = None,
    test_size: flags.TestSize = FINETUNE_DEFAULTS.test_size,
    group: flags.GroupOrTable = FINETUNE_DEFAULTS.group,
    without: flags.Without = None,
    relabel: flags.Relabel = None,
    seed: flags.Seed = _DEFAULTS.seed,
    features: flags.Features = Path(str(FINETUNE_DEFAULTS.features)),
    runs: flags.Runs = Path(str(FINETUNE_DEFAULTS.folder)),
    name: flags.RunName = FINETUNE_DEFAULTS.name,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start from scratch instead of continuing an interrupted run.")
    ] = FINETUNE_DEFAULTS.fresh,
    workers: flags.Workers = FINETUNE_DEFAULTS.workers,
    runtime: flags.Runtime = FINETUNE_DEFAULTS.runtime,
    neighbours: flags.KeptNeighbours = FINETUNE_DEFAULTS.neighbours,
    root: flags.Root = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    split_column: flags.SplitColumn = None,
    layout: flags.Layout = "",
    label_pattern: flags.LabelPattern = "",
    map_labels: flags.MapLabels = None,
    only: flags.Only = None,
    except_: flags.Except = None,
    as_json: flags.Json = False,
) -> None:
    """Fine-tune the last layers of a backbone with a head.

    Images are split as `featx fit` splits them, so the results can be compared. The result is a bundle that `featx
    predict` and `featx evaluate` take. After Ctrl-C, the same command continues where it stopped.
    """
    import featx
    from featx.heads import split_params

    image = flags.parse_image_options(image_size, resize, interpolation, decoder, bits)
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
    with end_at_second_interrupt(), ProgressReporter("fine-tuning") as reporter:
        options = FineTuneOptions(
            test_size=test_size,
            group=group,
            without=without,
            relabel=relabel,
            cache=cache,
            features=features,
            folder=runs,
            name=name,
            fresh=fresh,
            workers=workers,
            runtime=runtime,
            mixed_precision=mixed_precision,
            neighbours=neighbours,
            reporter=reporter,
        )
        run = featx.finetune(
            manifest,
            backbone,
            spec=spec,
            layer=None if layer is None else flags.parse_layer(layer),
            pooling=pooling,
            weights=weights,
            image=image,
            options=options,
        )
    print_notes(run.notes)
    if as_json:
        print_run(run)
    else:
        print_text(_describe(run))


def _describe(run: Any) -> str:  # noqa: ANN401 - a Run, whose module loads numpy
    """Describe a run as text: what was trained, the metrics, the classes, the confusion, and the time."""
    from featx.comparing.report import describe_choice
    from featx.evaluation import format_confusion, format_metrics, format_per_class
    from featx.results import KEPT_START

    tuned, width = run.finetuned, read_width()
    chosen = describe_choice(run.head, tuned.spec.head)
    head = f"{run.head.name} ({chosen})" if chosen else run.head.name
    plan = "frozen" if tuned.kept_start else tuned.unfreeze
    trained = tuned.trained_parameters - tuned.head_parameters
    frozen = tuned.frozen_parameters + tuned.trainable_parameters - trained
    first = (
        f"{tuned.backbone}, {plan} and {head}: trained on {run.n_train:,} items, evaluated on "
        f"{run.test.n_items:,} ({run.test_name} split)"
    )
    took = format_table(
        ["", "parameters"],
        [
            ("backbone, trained", f"{trained:,}"),
            ("backbone, frozen", f"{frozen:,}"),
            ("head", f"{tuned.head_parameters:,}"),
        ],
    )
    kept = KEPT_START if tuned.kept_start else f"kept epoch {tuned.best_epoch} of {tuned.epochs}"
    last = f"{kept}, validation accuracy {run.validation.accuracy:.4f}, {_describe_time(tuned)} -> {run.bundle}"
    last = "\n".join([*point_to_errors(run.test, run.bundle), last])
    tables = [format_metrics(run.test), format_per_class(run.test, width), format_confusion(run.test, width)]
    return "\n\n".join([first, *tables, took, last])


def _describe_time(tuned: Any) -> str:  # noqa: ANN401 - a FineTuned, as above
    """Describe the time from scratch, and the time of this run if that is notably shorter."""
    seconds, elapsed, embedding = tuned.seconds, tuned.elapsed_seconds, tuned.embed_seconds
    part = "" if embedding is None else f", of which {embedding:.1f} s embedding"
    now = f" ({elapsed:.1f} s now)" if seconds > _NOTABLY * elapsed else ""
    return f"{seconds:.1f} s{part}{now}"
