"""`featx predict`."""

import contextlib
import csv
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json, print_notes
from featx.errors import SourceError
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.prefetching import gather
from featx.reporting import SILENT, ProgressReporter
from featx.wording import to_text

EXAMPLE = "featx predict runs/2026-01-31-logreg-mobilenetv2 new-photos/ > labels.csv"

_FLUSH_ROWS = 40


class Format(StrEnum):
    """Formats of the predictions."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def predict(
    bundle: flags.Bundle,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, and folders of images.")],
    output: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Output format; json has one object per line. By default, table on a terminal and csv elsewhere.",
        ),
    ] = None,
    views: flags.PredictedViews = 0,
    augment: flags.Augment = "",
    view_seed: flags.ViewSeed = 0,
    batch_size: flags.BatchSize = EMBED_DEFAULTS.batch_size,
    workers: flags.Workers = EMBED_DEFAULTS.workers,
    runtime: flags.Runtime = EMBED_DEFAULTS.runtime,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Predict the classes of images.

    An image that cannot be read gets a row that gives the reason.
    """
    import featx
    from featx.items.augmentation import plan_views

    planned = plan_views(views, augment, view_seed)
    predictor = featx.Predictor.load(flags.find_bundle(bundle, images))
    chosen = Format.JSON if as_json else output or (Format.TABLE if sys.stdout.isatty() else Format.CSV)
    printer = {Format.TABLE: _print_table, Format.CSV: _print_csv, Format.JSON: _print_lines}[chosen]
    # Where rows appear on the terminal, they are the progress; a bar would run into them.
    with contextlib.nullcontext(SILENT) if sys.stdout.isatty() else ProgressReporter("predicting") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)
        failed: list[str] = []
        printer(_note_failures(predictor.predict(images, options, views=planned), failed), predictor.classes)
    if failed:
        count = "1 image" if len(failed) == 1 else f"{len(failed):,} images"
        print_notes([f"{count} could not be read; the first is {to_text(failed[0])}"])


def _note_failures(predictions: Iterable[Any], failed: list[str]) -> Iterator[Any]:
    """Pass predictions on, and collect the paths of those that failed.

    Raises:
        SourceError: At the end, if all failed.
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
    # One screen at a time, so that a long table begins at once and still lines up.
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
