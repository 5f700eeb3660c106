"""`featx split`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.embedding import Json, LabelColumn, PathColumn, Root, Source, SplitColumn, read_and_describe
from featx.cli.fitting import Together
from featx.cli.output import format_table, print_json
from featx.options import SPLIT_DEFAULTS, SplitOptions
from featx.reporting import ProgressReporter
from featx.wording import to_printable

_SHOWN_REASONS = 5


def split(
    source: Source,
    val: Annotated[float, typer.Option(help="Fraction for validation; 0 for none.")] = SPLIT_DEFAULTS.val_size,
    test: Annotated[
        float, typer.Option(help="Fraction for the test, which is that of `fit --test-size`; 0 for none.")
    ] = SPLIT_DEFAULTS.test_size,
    group: Together = SPLIT_DEFAULTS.group,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = SPLIT_DEFAULTS.seed,
    out: Annotated[
        Path | None, typer.Option(help="The table, a .csv; <source>-splits.csv beside the source if not given.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an older table of that name.")
    ] = SPLIT_DEFAULTS.force,
    replace_splits: Annotated[
        bool, typer.Option("--replace", help="Split anew a source that has splits.")
    ] = SPLIT_DEFAULTS.replace,
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Reading threads; one per core if not given.")
    ] = SPLIT_DEFAULTS.workers,
    as_json: Json = False,
) -> None:
    """Split images into train, val and test: writes a table for `embed`, and leaves the files where they are."""
    import featx

    options = SplitOptions(
        val_size=val, test_size=test, group=group, seed=seed, replace=replace_splits, force=force, workers=workers
    )
    manifest = read_and_describe(source, root, path_column, label_column, split_column, None)
    with ProgressReporter("reading") as reporter:
        table = featx.split_source(manifest, out=out, options=replace(options, reporter=reporter))
    for item, reason in list(table.unread.items())[:_SHOWN_REASONS]:
        typer.echo(f"in no split {to_printable(item)}: {to_printable(reason)}", err=True)
    if table.unread:
        typer.echo(
            f"note: {len(table.unread):,} of {len(table.items):,} images cannot be read; they are listed in no split, "
            "and `featx embed` quarantines them",
            err=True,
        )
    for note in table.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json(table.to_dict())
    else:
        typer.echo(f"{_describe(table)}\n\n{table.path}")


def _describe(table: Any) -> str:  # noqa: ANN401 - a SplitTable, whose module loads numpy
    counts = table.count_classes()
    splits = [name for name in ("train", "val", "test", "none") if name != "none" or table.unread]
    rows = [[label, *(f"{row[name]:,}" for name in splits)] for label, row in counts.items()]
    total = [f"{sum(row[name] for row in counts.values()):,}" for name in splits]
    return format_table(["class", *splits], [*rows, ["all classes", *total]])
