"""`featx evaluate`."""

from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.reporting import ProgressReporter

EXAMPLE = "featx evaluate runs/2026-01-31-logreg-mobilenetv2 new-photos/"


def evaluate(
    bundle: flags.Bundle,
    source: flags.Source,
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT",
            callback=flags.check_choice("split", ("train", "val", "test")),
            help="Evaluate only this split of the source: train, val or test.",
        ),
    ] = "",
    root: flags.Root = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    split_column: flags.SplitColumn = None,
    group: flags.GroupColumn = None,
    views: flags.PredictedViews = 0,
    augment: flags.Augment = "",
    view_seed: flags.ViewSeed = 0,
    batch_size: flags.BatchSize = EMBED_DEFAULTS.batch_size,
    workers: flags.Workers = EMBED_DEFAULTS.workers,
    runtime: flags.Runtime = EMBED_DEFAULTS.runtime,
    as_json: flags.Json = False,
) -> None:
    """Evaluate a bundle on labelled images.

    Images that the bundle was trained on are counted in a note.
    """
    import featx
    from featx.evaluation import format_confusion, format_metrics, format_per_class
    from featx.items.augmentation import plan_views

    planned = plan_views(views, augment, view_seed)
    manifest = flags.read_source(source, root, path_column, label_column, split_column, group)
    predictor = featx.Predictor.load(bundle)
    with ProgressReporter("predicting") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)
        evaluation = predictor.evaluate(manifest, split=split, options=options, views=planned)
    if as_json:
        print_json({"bundle": str(bundle), "test": evaluation.to_dict()})
    else:
        typer.echo(
            "\n\n".join([format_metrics(evaluation), format_per_class(evaluation), format_confusion(evaluation)])
        )
