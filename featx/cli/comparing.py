"""`featx compare`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli.fitting import TestSize, Together, Views
from featx.cli.interruption import end_at_second_interrupt
from featx.cli.output import format_table, print_json
from featx.options import COMPARE_DEFAULTS, CompareOptions
from featx.registry import HEAD_SETS, HEADS
from featx.reporting import ProgressReporter
from featx.specs import CALIBRATIONS
from featx.wording import to_printable


def compare(
    stores: Annotated[
        list[Path] | None, typer.Argument(help="Feature stores; the newest in ./features if none is given.")
    ] = None,
    clf: Annotated[
        list[str],
        typer.Option(
            "--clf",
            help=f"Heads, with commas between: {', '.join(HEADS)}; or sets of heads: {', '.join(HEAD_SETS)}.",
        ),
    ] = ["fast"],  # noqa: B006 - typer copies it
    finetune: Annotated[
        list[str] | None,
        typer.Option(
            "--finetune",
            help="Fine-tune the backbone of the first store too: last:N, from:LAYER, blocks:N, gradual, gradual:N or "
            "all; or the folder of a finished run, tested on the same items. Once for each.",
        ),
    ] = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: classes count the same; for the heads that can weigh them.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(CALIBRATIONS)}; what each head needs if not given.")
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Folds of the training items that rank the heads, where the source has no val split.")
    ] = COMPARE_DEFAULTS.folds,
    test_size: TestSize = COMPARE_DEFAULTS.test_size,
    group: Together = COMPARE_DEFAULTS.group,
    views: Views = COMPARE_DEFAULTS.views,
    seed: Annotated[int, typer.Option(help="Seed of split, folds and heads.")] = COMPARE_DEFAULTS.seed,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Processes; one per core if not given.")
    ] = COMPARE_DEFAULTS.jobs,
    runs: Annotated[Path, typer.Option(help="Folder of comparisons; what is finished is kept in its .compare.")] = Path(
        str(COMPARE_DEFAULTS.folder)
    ),
    out: Annotated[
        Path | None, typer.Option(help="Folder to write this one into; <runs>/<date>-compare if not given.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute everything again, and train again.")
    ] = COMPARE_DEFAULTS.fresh,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Compare classifiers on cached features, and with fine-tuned runs: one table, and what the test can show."""
    import featx

    opened = [featx.FeatureStore(store) for store in stores or ()] or [featx.FeatureStore.find_newest()]
    with end_at_second_interrupt(), ProgressReporter("comparing") as reporter:
        options = CompareOptions(
            test_size=test_size,
            folds=folds,
            group=group,
            seed=seed,
            jobs=jobs,
            folder=runs,
            out=out,
            fresh=fresh,
            views=views,
            reporter=reporter,
        )
        params = {"class_weight": class_weight} if class_weight else {}
        comparison = featx.compare(
            opened, clf, runs=finetune or (), params=params, calibration=calibration, options=options
        )
    from featx.comparing.report import LEFT, describe_comparison, list_notes, tabulate_briefly

    finished = [standing for standing in comparison.rows[1:] if standing.run]
    for note in list_notes(comparison, [comparison.best, *finished]):
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json([standing.to_dict() for standing in comparison.rows])
        return
    header, rows = tabulate_briefly(comparison)
    left = [at for at, name in enumerate(header) if name in LEFT]
    typer.echo(format_table(header, rows, left=left) + "\n")
    for line in describe_comparison(comparison):
        typer.echo(line)
    for standing in comparison.rows:
        if standing.run:
            typer.echo(f"{standing.title}: {to_printable(str(standing.run))}")
    typer.echo(f"{comparison.seconds:.1f} s -> {comparison.folder}")
