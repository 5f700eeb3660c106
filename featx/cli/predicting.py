"""`featx evaluate` and `featx predict`."""

import contextlib
import csv
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.embedding import (
    Augment,
    BatchSize,
    GroupColumn,
    Json,
    LabelColumn,
    PathColumn,
    Root,
    Runtime,
    SplitColumn,
    ViewSeed,
    Workers,
    read_and_describe,
)
from featx.cli.output import format_table, print_json
from featx.errors import SourceError
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.prefetching import gather
from featx.reporting import SILENT, ProgressReporter
from featx.wording import to_text

_FLUSH_ROWS = 40

TestViews = Annotated[
    int,
    typer.Option(
        "--views",
        min=0,
        help="Views of each image that are predicted beside it, by --augment; probabilities are averaged.",
    ),
]


class Format(StrEnum):
    """How predictions are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as `featx fit` wrote it.")],
    source: Annotated[str, typer.Argument(help="Labelled images: a folder, table or archive.")],
    split: Annotated[str, typer.Option(help="Only this split of the source: train, val or test.")] = "",
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    group: GroupColumn = None,
    views: TestViews = 0,
    augment: Augment = "",
    view_seed: ViewSeed = 0,
    batch_size: BatchSize = EMBED_DEFAULTS.batch_size,
    workers: Workers = EMBED_DEFAULTS.workers,
    runtime: Runtime = EMBED_DEFAULTS.runtime,
    as_json: Json = False,
) -> None:
    """Evaluate a bundle on labelled images, from pixels."""
    import featx
    from featx.evaluation import format_confusion, format_metrics, format_per_class
    from featx.items.augmentation import plan_views

    planned = plan_views(views, augment, view_seed)
    manifest = read_and_describe(source, root, path_column, label_column, split_column, group)
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


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle, as `featx fit` wrote it.")],
    images: Annotated[list[str], typer.Argument(help="Images, and folders of images.")],
    output: Annotated[
        Format | None, typer.Option("--format", help="table, csv or json (lines); table on a terminal, else csv.")
    ] = None,
    views: TestViews = 0,
    augment: Augment = "",
    view_seed: ViewSeed = 0,
    batch_size: BatchSize = EMBED_DEFAULTS.batch_size,
    workers: Workers = EMBED_DEFAULTS.workers,
    runtime: Runtime = EMBED_DEFAULTS.runtime,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Predict the class of images; one that cannot be read gets a row that says why."""
    import featx
    from featx.items.augmentation import plan_views

    planned = plan_views(views, augment, view_seed)
    predictor = featx.Predictor.load(bundle)
    chosen = Format.JSON if as_json else output or (Format.TABLE if sys.stdout.isatty() else Format.CSV)
    printer = {Format.TABLE: _print_table, Format.CSV: _print_csv, Format.JSON: _print_lines}[chosen]
    # Where rows appear on the terminal, they are the progress; a bar would run into them.
    with contextlib.nullcontext(SILENT) if sys.stdout.isatty() else ProgressReporter("predicting") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)
        failed: list[str] = []
        printer(_note_failures(predictor.predict(images, options, views=planned), failed), predictor.classes)
    if failed:
        typer.echo(f"note: {len(failed):,} could not be read, the first is {to_text(failed[0])}", err=True)


def _note_failures(predictions: Iterable[Any], failed: list[str]) -> Iterator[Any]:
    """Pass predictions on and note those that failed.

    Raises:
        SourceError: At the end, if all did.
    """
    has_read = False
    for row in predictions:
        if row.error:
            failed.append(row.path)
        has_read = has_read or not row.error
        yield row
    if failed and not has_read:
        msg = f"none of the {len(failed):,} images could be read; the first is {to_text(failed[0])}"
        raise SourceError(msg)


def _print_table(predictions: Iterable[Any], classes: tuple[str, ...]) -> None:  # noqa: ARG001 - one signature for all
    # By the screenful, so that a long table begins at once and still lines up.
    for rows in gather(predictions, _FLUSH_ROWS):
        table = [
            (row.path, row.label or "-", f"{row.probability:.3f}" if not row.error else "-", row.error) for row in rows
        ]
        typer.echo(format_table(("image", "label", "probability", ""), table, left=(0, 1, 3)))


def _print_csv(predictions: Iterable[Any], classes: tuple[str, ...]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "label", "probability", *(f"probability_{name}" for name in classes), "error"])
    for row in predictions:
        shares = ["" for _ in classes] if row.probabilities is None else [f"{share:.6g}" for share in row.probabilities]
        probability = "" if row.error else f"{row.probability:.6g}"
        writer.writerow([to_text(row.path), row.label, probability, *shares, row.error])


def _print_lines(predictions: Iterable[Any], classes: tuple[str, ...]) -> None:
    for row in predictions:
        if row.error:
            print_json({"path": row.path, "error": row.error})
        else:
            shares = dict(zip(classes, row.probabilities.tolist(), strict=True))
            print_json({"path": row.path, "label": row.label, "probability": row.probability, "probabilities": shares})
