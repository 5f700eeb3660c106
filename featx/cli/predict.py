"""`featx predict`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.explanations import TABLE_COLUMNS, Explanations, list_table_cells
from featx.cli.output import format_table, print_notes
from featx.cli.prediction_file import MOST_COLUMNS, USUAL_TOP, Layout, PredictionFile, is_json_file
from featx.errors import SourceError, UsageError
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.prefetching import gather
from featx.reporting import SILENT, ProgressReporter
from featx.urls import find_url
from featx.wording import format_plural, to_text

EXAMPLE = "featx predict runs/2026-01-31-logreg-mobilenetv2 new-photos/ --out labels.csv"

_FLUSH_ROWS = 40


class Format(StrEnum):
    """Formats of the predictions."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def predict(
    bundle: flags.Bundle,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files and folders of images; @FILE for a list of them, one path per line, and - for a list on "
            "stdin; or a single table or archive.",
        ),
    ],
    output: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Output format; json has one object per line. By default, table on a terminal and csv elsewhere.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Print the K most probable classes with their probabilities. By default, all classes; in a CSV of "
            f"more than {MOST_COLUMNS} classes, {USUAL_TOP}.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append to this .csv, .json or .jsonl instead of printing. The same command continues where it "
            "stopped: images that have a row are not predicted again.",
        ),
    ] = None,
    root: flags.Root = None,
    path_column: flags.PathColumn = None,
    views: flags.PredictedViews = 0,
    augment: flags.Augment = "",
    view_seed: flags.ViewSeed = 0,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Also print the classes that cannot be excluded, how unfamiliar the image is, and the most similar "
            "training image; JSON has a heat map as well.",
        ),
    ] = False,
    coverage: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --explain: the set of this share of new images has the true class. By default, 0.9.",
        ),
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(min=0, metavar="K", help="With --explain: number of similar training images. By default, 5."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --explain: call an image unfamiliar if it is farther from the training images than this share "
            "of them is from the others. By default, 0.95.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --explain: draw each image, its heat map and the training images that are most similar to it "
            "to this .png.",
        ),
    ] = None,
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
    from featx.items.listing import list_images

    asked = {"coverage": coverage, "neighbours": neighbours, "threshold": threshold, "sheet": sheet}
    explanations = Explanations(asked, views, explain=explain)
    planned = plan_views(views, augment, view_seed)
    chosen = _choose_format(Format.JSON if as_json else output, out)
    predictor = featx.Predictor.load(flags.find_bundle(bundle, images), runtime=runtime)
    manifest = list_images(read_lists(images), root=root, column=path_column or "")
    layout = replace(_plan_layout(predictor.classes, top, chosen), explained=explanations.text)
    is_terminal = out is None and sys.stdout is not None and sys.stdout.isatty()
    tally = _Tally(predictor.bundle.read_trained())
    # Where rows appear on the terminal, they are the progress; a bar would run into them.
    with contextlib.nullcontext(SILENT) if is_terminal else ProgressReporter("predicting") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)

        def run(listed: Any) -> Iterator[Any]:  # noqa: ANN401 - a Manifest
            if not listed.items:
                return iter(())
            if explain:
                return tally.count(explanations.explain(predictor, listed, options, heat=layout.is_json))
            return tally.count(predictor.predict(listed, options, views=planned))

        if out is not None:
            wanted = planned.to_json() if planned else ""
            file = PredictionFile(out, layout, predictor.bundle.path, wanted, _find_base(manifest))
            _append(file, manifest, run, tally)
        else:
            (_print_table if chosen is Format.TABLE else _print_lines)(run(manifest), layout)
    explanations.draw(predictor.bundle)
    tally.report()


def _choose_format(named: Format | None, out: Path | None) -> Format:
    """Choose the format of the predictions.

    Raises:
        UsageError: If the name of the file contradicts the named format.
    """
    if out is None:
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        return named or (Format.TABLE if is_terminal else Format.CSV)
    chosen = Format.JSON if is_json_file(out) else Format.CSV
    if named not in {None, chosen}:
        msg = (
            f"--out is {str(out)!r}, which is written as {chosen}, but the format is {named}; leave out one of the two"
        )
        raise UsageError(msg)
    return chosen


def _plan_layout(classes: tuple[str, ...], top: int | None, chosen: Format) -> Layout:
    if top is None and chosen is Format.CSV and len(classes) > MOST_COLUMNS:
        columns = f"the bundle has {len(classes):,} classes, so the CSV has the {USUAL_TOP} most probable"
        print_notes([f"{columns}; --top {len(classes)} writes all"])
        top = USUAL_TOP
    return Layout(classes, min(top or 0, len(classes)), chosen is Format.JSON)


def read_lists(images: list[str]) -> list[str]:
    """Replace `@FILE` and `-` by the paths that they list, and print under which spellings files were found.

    Raises:
        SourceError: If a list cannot be read, or has no paths.
    """
    from featx.items.lists import read_list

    paths: list[str] = []
    for image in images:
        if image == "-":
            listed, notes = read_list(sys.stdin.buffer.read() if sys.stdin else b"", "stdin")
        elif image.startswith("@"):
            try:
                listed, notes = read_list(Path(image[1:]).read_bytes(), image[1:])
            except OSError as error:
                msg = (
                    f"the list {image[1:]!r} cannot be read: {error.strerror}; for a file of that name, write ./{image}"
                )
                raise SourceError(msg) from error
        else:
            listed, notes = [image], []
        paths += listed
        print_notes(notes)
    return paths


class _Tally:
    """Counts of predictions: read or not, and trained on."""

    def __init__(self, trained: frozenset[str]) -> None:
        self._trained = trained
        self.n_read = self.n_seen = 0
        self._failed: list[str] = []

    def count(self, predictions: Iterable[Any]) -> Iterator[Any]:
        """Pass predictions on, and count them."""
        for row in predictions:
            if row.error:
                self._failed.append(row.path)
            else:
                self.n_read += 1
            self.n_seen += row.sha256 in self._trained
            yield row

    def report(self) -> None:
        """Report images that could not be read, and those that the bundle was trained on.

        Raises:
            SourceError: If no image could be read.
        """
        if self._failed and not self.n_read:
            first, n_failed = to_text(self._failed[0]), len(self._failed)
            alone = f"{first} could not be read; its row says why"
            msg = alone if n_failed == 1 else f"none of the {n_failed:,} images could be read; the first is {first}"
            raise SourceError(msg)
        if self._failed:
            count = format_plural(len(self._failed), "image")
            print_notes([f"{count} could not be read; the first is {to_text(self._failed[0])}"])
        if self.n_seen:
            seen = f"{self.n_seen:,} of {self.n_read + len(self._failed):,} images were used in training"
            print_notes([f"{seen}, so their predictions are better than those of new images"])


def _find_base(manifest: Any) -> str:  # noqa: ANN401 - a Manifest
    """Find the folder or archive that ids are relative to; empty if all are absolute."""
    if all(os.path.isabs(name) or find_url(name) for name in (item.id for item in manifest.items)):  # noqa: PTH117 - ids are text
        return ""
    locate = getattr(manifest.reader, "locate", None)
    return str(locate("") if locate else manifest.source)  # the members of an archive are not files


def _append(file: PredictionFile, manifest: Any, run: Callable[[Any], Iterator[Any]], tally: _Tally) -> None:  # noqa: ANN401 - a Manifest
    """Predict the images that have no row yet, and append them.

    Raises:
        SourceError: If no image of any run could be read.
    """
    pending = tuple(item for item in manifest.items if not file.take_done(item.id))
    kept = len(manifest) - len(pending)
    tally.n_read += file.n_rows - file.n_failed
    with file:
        for row in run(replace(manifest, items=pending)):
            file.write(row)
    typer.echo(f"{len(pending):,} new, {kept:,} kept -> {file.path}")
    if kept == len(manifest) and file.n_rows == file.n_failed:
        count = format_plural(file.n_rows, "row")
        msg = f"no image in {file.path} could be read; delete its {count} to try again"
        raise SourceError(msg)


def _print_lines(predictions: Iterable[Any], layout: Layout) -> None:
    typer.echo(layout.header, nl=False)
    for row in predictions:
        typer.echo(layout.format(row), nl=False)


def _print_table(predictions: Iterable[Any], layout: Layout) -> None:
    head = ["image", "label", "probability"]
    for place in range(2, layout.top + 1):
        head += [f"label {place}", "probability"]
    n_best = len(head)
    head += TABLE_COLUMNS if layout.explained else ()
    # One screen at a time, so that a long table begins at once and still lines up.
    for rows in gather(predictions, _FLUSH_ROWS):
        table = []
        for row in rows:
            best = row.rank(layout.classes, layout.top or 1) or [("-", float("nan"))] * (layout.top or 1)
            cells = [cell for label, share in best for cell in (label, "-" if row.error else f"{share:.3f}")]
            cells += list_table_cells(row) if layout.explained else []
            table.append((row.path, *cells, row.error))
        left = (0, *range(1, n_best, 2), n_best, *range(n_best + 1, len(head) + 1))
        typer.echo(format_table((*head, ""), table, left=left))
