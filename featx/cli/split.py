"""`featx split`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.output import SHOWN_REASONS, format_table, print_json, print_message, print_notes, print_text
from featx.options import SPLIT_DEFAULTS, STRATIFY, SplitOptions
from featx.reporting import ProgressReporter

EXAMPLE = "featx split photos/ --val 0.1 --test 0.2"


def split(
    source: flags.Source,
    val: Annotated[
        float, typer.Option(metavar="FRACTION", help="Fraction for validation; 0 for none.")
    ] = SPLIT_DEFAULTS.val_size,
    test: Annotated[
        float,
        typer.Option(
            metavar="FRACTION",
            help="Fraction for the test; 0 for none. The test has the images that `fit --test-size` would hold out, "
            "unless --stratify is exact.",
        ),
    ] = SPLIT_DEFAULTS.test_size,
    group: flags.Group = SPLIT_DEFAULTS.group,
    seed: flags.Seed = SPLIT_DEFAULTS.seed,
    stratify: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help=f"{STRATIFY[0]}: images that you add later never move earlier ones, but the share of a class varies "
            f"by chance. {STRATIFY[1]}: the same share of each class, as far as whole groups allow.",
        ),
    ] = SPLIT_DEFAULTS.stratify,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table to write (.csv). By default, <source>-splits.csv next to the source."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a table that an earlier `featx split` wrote.")
    ] = SPLIT_DEFAULTS.force,
    replace_splits: Annotated[
        bool, typer.Option("--replace", help="Ignore the splits that the source already has.")
    ] = SPLIT_DEFAULTS.replace,
    root: flags.Root = None,
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    split_column: flags.SplitColumn = None,
    layout: flags.Layout = "",
    label_pattern: flags.LabelPattern = "",
    map_labels: flags.MapLabels = None,
    only: flags.Only = None,
    except_: flags.Except = None,
    workers: flags.Workers = SPLIT_DEFAULTS.workers,
    as_json: flags.Json = False,
) -> None:
    """Split images into train, val and test.

    The result is a table that `featx embed` takes. The images stay where they are.
    """
    import featx

    options = SplitOptions(
        val_size=val,
        test_size=test,
        group=group,
        seed=seed,
        stratify=stratify,
        replace=replace_splits,
        force=force,
        workers=workers,
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
    with ProgressReporter("reading") as reporter:
        table = featx.split_source(manifest, out=out, options=replace(options, reporter=reporter))
    for item, reason in list(table.unread.items())[:SHOWN_REASONS]:
        print_message(f"not in any split: {item}: {reason}")
    unread = (
        f"{len(table.unread):,} of {len(table.items):,} images cannot be read; the table lists them without a split, "
        "and `featx embed` quarantines them"
    )
    print_notes([*([unread] if table.unread else []), *table.notes])
    if as_json:
        print_json(table.to_dict())
    else:
        print_text(f"{_describe(table)}\n\n{table.path}")


def _describe(table: Any) -> str:  # noqa: ANN401 - a SplitTable, whose module loads numpy
    counts = table.count_classes()
    splits = [name for name in ("train", "val", "test", "none") if name != "none" or table.unread]
    rows = [[label, *(f"{row[name]:,}" for name in splits)] for label, row in counts.items()]
    total = [f"{sum(row[name] for row in counts.values()):,}" for name in splits]
    return format_table(["class", *splits], [*rows, ["all classes", *total]])
