"""`featx compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.ctrl_c import end_at_second_interrupt
from featx.cli.output import format_table, print_json, print_notes
from featx.options import COMPARE_DEFAULTS, CompareOptions
from featx.registry import HEAD_SETS, HEADS
from featx.reporting import ProgressReporter
from featx.wording import to_printable

EXAMPLE = "featx compare --clf fast --finetune blocks:1"


def compare(
    stores: Annotated[
        list[Path] | None,
        typer.Argument(metavar="STORE", help="Feature stores (.h5); by default the newest in ./features."),
    ] = None,
    clf: Annotated[
        list[str],
        typer.Option(
            "--clf",
            metavar="HEADS",
            help=f"Heads, separated by commas: {flags.join(HEADS)}; or a set of heads: {flags.join(HEAD_SETS)}. "
            "Repeatable.",
        ),
    ] = ["fast"],  # noqa: B006 - typer copies it
    finetune: Annotated[
        list[str] | None,
        typer.Option(
            "--finetune",
            metavar="PLAN",
            help="Also fine-tune the backbone of the first store: last:N, from:LAYER, blocks:N, gradual, gradual:N or "
            "all. A finished run of the same plan is used again. Repeatable.",
        ),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(
            "--run",
            metavar="BUNDLE",
            help="Also compare a finished run of `featx fit` or `featx finetune` that was tested on the same items. "
            "Repeatable.",
        ),
    ] = None,
    class_weight: flags.ClassWeight = None,
    calibration: flags.Calibration = None,
    folds: Annotated[
        int,
        typer.Option(
            metavar="K", help="Rank the heads by K folds of the training items, if the source has no val split."
        ),
    ] = COMPARE_DEFAULTS.folds,
    test_size: flags.TestSize = COMPARE_DEFAULTS.test_size,
    group: flags.Group = COMPARE_DEFAULTS.group,
    seed: flags.Seed = COMPARE_DEFAULTS.seed,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes. By default, one per core.")
    ] = COMPARE_DEFAULTS.jobs,
    runs: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder for the comparison and fine-tuned bundles, which get dated names in it."
        ),
    ] = Path(str(COMPARE_DEFAULTS.folder)),
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the comparison here. By default, <runs>/<date>-compare."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute and train everything again; reuse no earlier results.")
    ] = COMPARE_DEFAULTS.fresh,
    as_json: flags.Json = False,
) -> None:
    """Compare classifiers on one or more feature stores.

    Every head is tuned on the same training items and tested on the same test items. Heads are ranked by
    validation; the test then shows which differences are more than chance. After Ctrl-C, the same command continues
    where it stopped.
    """
    import featx

    opened = [featx.FeatureStore(store) for store in stores or ()] or [flags.open_store(None)]
    with end_at_second_interrupt(), ProgressReporter("comparing") as reporter:
        comparison = featx.compare(
            opened,
            clf,
            finetune=finetune or (),
            runs=run or (),
            params={"class_weight": class_weight} if class_weight else {},
            calibration=calibration,
            options=CompareOptions(
                test_size=test_size,
                folds=folds,
                group=group,
                seed=seed,
                jobs=jobs,
                folder=runs,
                out=out,
                fresh=fresh,
                reporter=reporter,
            ),
        )
    from featx.comparing.report import list_notes

    finished = [row for row in comparison.standings[1:] if row.run]
    print_notes(list_notes(comparison, [comparison.best, *finished]))
    if as_json:
        print_json([row.to_dict() for row in comparison.standings])
    else:
        typer.echo(_describe(comparison))


def _describe(comparison: Any) -> str:  # noqa: ANN401 - a Comparison, whose module loads numpy
    """Describe a comparison as text: the table, what the test shows, and where everything is."""
    from featx.comparing.report import LEFT, describe_comparison, tabulate_briefly

    header, rows = tabulate_briefly(comparison)
    left = [at for at, name in enumerate(header) if name in LEFT]
    paths = [f"{row.title}: {to_printable(str(row.run))}" for row in comparison.standings if row.run]
    last = f"{comparison.seconds:.1f} s -> {comparison.folder}"
    return "\n".join([format_table(header, rows, left=left), "", *describe_comparison(comparison), *paths, last])
