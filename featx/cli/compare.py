"""`featx compare`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.ctrl_c import end_at_second_interrupt
from featx.cli.output import format_table, print_json, print_message, print_notes, print_text
from featx.errors import UsageError
from featx.options import COMPARE_DEFAULTS, CompareOptions
from featx.registry import HEAD_SETS, HEADS
from featx.reporting import ProgressReporter
from featx.wording import to_printable

EXAMPLE = "featx compare --clf fast --finetune blocks:1"


class Format(StrEnum):
    """Formats of a comparison."""

    TABLE = "table"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"


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
            callback=flags.check_heads,
            help=f"Heads, separated by commas: {flags.join(HEADS)}; or a set of heads: {flags.join(HEAD_SETS)}. "
            "Repeatable.",
        ),
    ] = ["fast"],  # noqa: B006 - typer copies it
    finetune: Annotated[
        list[str] | None,
        typer.Option(
            "--finetune",
            metavar="PLAN",
            callback=flags.check_plans,
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
    combine: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Also compare up to N stores with their features side by side, as rows such as a+b; 1 for none.",
        ),
    ] = COMPARE_DEFAULTS.combine,
    class_weight: flags.ClassWeight = None,
    calibration: flags.Calibration = None,
    folds: Annotated[
        int,
        typer.Option(
            metavar="K", help="Rank the heads by K folds of the training items, if the source has no val split."
        ),
    ] = COMPARE_DEFAULTS.folds,
    test_size: flags.TestSize = COMPARE_DEFAULTS.test_size,
    group: flags.GroupOrTable = COMPARE_DEFAULTS.group,
    views: flags.FitViews = COMPARE_DEFAULTS.views,
    seed: flags.Seed = COMPARE_DEFAULTS.seed,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="Processes. By default, one per core; with --executor ray, as many as the cluster has room for.",
        ),
    ] = COMPARE_DEFAULTS.jobs,
    executor: flags.Executor = COMPARE_DEFAULTS.executor,
    ray_address: flags.RayAddress = COMPARE_DEFAULTS.ray_address,
    gpus_per_worker: flags.GpusPerWorker = COMPARE_DEFAULTS.gpus_per_worker,
    cpus_per_worker: flags.CpusPerWorker = COMPARE_DEFAULTS.cpus_per_worker,
    runs: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Folder in which the comparison and fine-tuned bundles get dated names."),
    ] = Path(str(COMPARE_DEFAULTS.folder)),
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the comparison here. By default, <runs>/<date>-compare."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute and train everything again; reuse no earlier results.")
    ] = COMPARE_DEFAULTS.fresh,
    output: Annotated[
        Format | None,
        typer.Option(
            "--format",
            show_default=Format.TABLE.value,
            help="Output format; markdown and latex are tables with intervals for a report, csv has every number.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Compare classifiers on one or more feature stores.

    Every head is tuned on the same training items and tested on the same test items. Heads are ranked by
    validation; the test then shows which differences are more than chance. After Ctrl-C, the same command continues
    where it stopped.
    """
    import featx

    if as_json and output not in {None, Format.JSON}:
        msg = f"--json prints JSON, but --format is {output}; leave one of them out"
        raise UsageError(msg)
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
                executor=executor,
                ray_address=ray_address,
                gpus_per_worker=gpus_per_worker,
                cpus_per_worker=cpus_per_worker,
                folder=runs,
                out=out,
                fresh=fresh,
                views=views,
                combine=combine,
                reporter=reporter,
            ),
        )
    from featx.comparing.report import list_notes

    finished = [row for row in comparison.rows[1:] if row.run]
    print_notes(list_notes(comparison, [comparison.best, *finished]))
    _print(comparison, Format.JSON if as_json else output or Format.TABLE)


def _print(comparison: Any, output: Format) -> None:  # noqa: ANN401 - a Comparison, whose module loads numpy
    if output is Format.JSON:
        print_json([row.to_dict() for row in comparison.rows])
        return
    if output is Format.TABLE:
        print_text(_describe(comparison))
        return
    if output is Format.MARKDOWN:
        text = comparison.to_markdown()
    elif output is Format.LATEX:
        text = comparison.to_latex()
    else:
        text = (comparison.folder / "comparison.csv").read_text("utf-8")
    typer.echo(text.rstrip("\n"))
    print_message(_describe_end(comparison))


def _describe_end(comparison: Any) -> str:  # noqa: ANN401 - as above
    return f"{comparison.seconds:.1f} s -> {comparison.folder}"


def _describe(comparison: Any) -> str:  # noqa: ANN401 - a Comparison, whose module loads numpy
    """Describe a comparison as text: the table, what the test shows, and where everything is."""
    from featx.comparing.report import DISPENSABLE, LEFT, describe_comparison, tabulate_briefly

    header, rows = tabulate_briefly(comparison)
    left = [at for at, name in enumerate(header) if name in LEFT]
    paths = [f"{row.title}: {to_printable(str(row.run))}" for row in comparison.rows if row.run]
    table = format_table(header, rows, left=left, drop=DISPENSABLE)
    return "\n".join([table, "", *describe_comparison(comparison), *paths, _describe_end(comparison)])
