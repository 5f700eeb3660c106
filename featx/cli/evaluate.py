"""`featx evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import omit_tables, point_to_errors, print_json, print_text, read_width
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.reporting import ProgressReporter

EXAMPLE = "featx evaluate runs/2026-01-31-logreg-mobilenetv2 new-photos/"


def _read_split(name: str) -> str:
    """Read the name of a split before anything heavy is imported or read."""
    from featx.splitting import read_split

    return read_split(name)


def evaluate(
    bundle: flags.Bundle,
    source: flags.Source,
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT",
            callback=_read_split,
            help="Evaluate only this split of the source: train, val or test.",
        ),
    ] = "",
    root: flags.Root = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    split_column: flags.SplitColumn = None,
    group: flags.GroupColumn = None,
    layout: flags.Layout = "",
    label_pattern: flags.LabelPattern = "",
    map_labels: flags.MapLabels = None,
    only: flags.Only = None,
    except_: flags.Except = None,
    views: flags.PredictedViews = 0,
    augment: flags.Augment = "",
    view_seed: flags.ViewSeed = 0,
    batch_size: flags.BatchSize = EMBED_DEFAULTS.batch_size,
    workers: flags.Workers = EMBED_DEFAULTS.workers,
    runtime: flags.Runtime = EMBED_DEFAULTS.runtime,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder for the metrics, predictions and errors; evaluations/BUNDLE-SOURCE if not given.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="With --json, also print the tables of more than 100 classes.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """Evaluate a bundle on labelled images.

    Writes the metrics, the prediction of each image, the confusion matrix and the wrong pictures to a folder, which
    `featx errors` also takes; what an earlier evaluation wrote there is replaced.

    Images that the bundle was trained on are counted in a note.
    """
    import featx
    from featx.evaluation import format_confusion, format_metrics, format_per_class
    from featx.items.augmentation import plan_views
    from featx.prediction import choose_items
    from featx.report.evaluations import check_folder, name_folder, write_evaluation

    planned = plan_views(views, augment, view_seed)
    found = flags.find_bundle(bundle, [source])
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
    )
    choose_items(manifest, split)  # before a network is loaded
    folder = output or name_folder(found, manifest.source, split)
    check_folder(folder, "" if output else manifest.source)
    predictor = featx.Predictor.load(found, runtime=runtime)
    with ProgressReporter("predicting") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)
        evaluation, predictions = predictor.evaluate_items(manifest, split=split, options=options, views=planned)
    about = {"bundle": str(found), "split": split}
    written = write_evaluation(evaluation, predictions, manifest, about, folder)
    if as_json:
        test = evaluation.to_dict()
        files = [str(path) for path in written]
        print_json({"bundle": str(found), "test": test if every else omit_tables(test), "files": files})
    else:
        width = read_width()
        parts = [format_metrics(evaluation), format_per_class(evaluation, width), format_confusion(evaluation, width)]
        print_text("\n\n".join([*parts, "\n".join([*point_to_errors(evaluation, folder), f"-> {folder}"])]))
