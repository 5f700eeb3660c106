"""`featx report`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_notes, print_text
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.reporting import ProgressReporter
from featx.wording import format_bytes

EXAMPLE = "featx report runs/2026-01-31-logreg-mobilenetv2"


def report(
    what: Annotated[
        Path | None,
        typer.Argument(
            metavar="WHAT",
            help="Bundle, comparison or feature store; the newest bundle if not given.",
            show_default=False,
        ),
    ] = None,
    source: flags.MovedPictures = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The HTML file; report.html in the bundle, or reports/STORE.html if not given.",
        ),
    ] = None,
    projection: Annotated[
        str, typer.Option("--map", metavar="METHOD", help="How the map is made: pca or umap.")
    ] = "pca",
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Items that get a thumbnail.")] = 5000,
    seed: flags.Seed = 0,
    workers: flags.Workers = EMBED_DEFAULTS.workers,
    as_json: flags.Json = False,
) -> None:
    """Write one HTML file with numbers, pictures and a map, which opens without a network.

    Metrics, confusion matrix, map, mistakes, curves, quarantine, copies and the findings of an audit.
    """
    from featx.report.page import write_report

    with ProgressReporter("reporting") as reporter:
        options = EmbedOptions(workers=workers, reporter=reporter)
        written = write_report(
            what,
            output,
            source=source or None,
            projection=projection,
            most_pictures=pictures,
            seed=seed,
            options=options,
        )
    print_notes(written.notes)
    size = written.path.stat().st_size
    if as_json:
        counts = {"items": written.n_items, "pictures": written.n_pictures, "bytes": size}
        print_json({"report": str(written.path), **counts, "notes": list(written.notes)})
        return
    print_text(f"{written.n_items:,} items, {written.n_pictures:,} pictures, {format_bytes(size)} -> {written.path}")
    print_text(f"open {written.path} in a browser")
