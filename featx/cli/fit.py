"""`featx fit`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.output import format_table, point_to_errors, print_notes, print_run, print_text, read_width
from featx.options import FIT_DEFAULTS, FitOptions, read_memory
from featx.registry import BEST, HEAD_SETS, HEADS
from featx.reporting import ProgressReporter
from featx.specs import SCALINGS

EXAMPLE = "featx fit features/mobilenetv2.h5 --clf logreg --cv 5"


def fit(
    stores: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="STORE",
            help="Feature store (.h5); by default the newest in ./features. Several stores of the same images put "
            "their features side by side.",
        ),
    ] = None,
    clf: Annotated[
        str | None,
        typer.Option(
            "--clf",
            metavar="HEAD",
            callback=flags.check_heads,
            help=f"Head: {flags.join(HEADS)}; keras:512-512 has two hidden layers; or {BEST}, which chooses one of "
            f"{flags.join(HEAD_SETS['fast'])} by validation. By default, logreg.",
        ),
    ] = None,
    param: flags.Param = None,
    scaling: Annotated[
        str | None,
        typer.Option(metavar="SCALING", help=f"Scaling of the features: {flags.join(SCALINGS)}. By default, tuned."),
    ] = None,
    class_weight: flags.ClassWeight = None,
    calibration: flags.Calibration = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="PROTOCOL", help="Follow a published protocol: kornblith, clip, dinov2-knn or fewshot."),
    ] = None,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Also measure how accuracy grows with the number of items (about 25 more fits)."),
    ] = FIT_DEFAULTS.curve,
    test_size: flags.TestSize = FIT_DEFAULTS.test_size,
    cv: Annotated[
        int,
        typer.Option(
            metavar="K", help="Test by K-fold cross-validation over all items; 0 tests on one held-out split."
        ),
    ] = FIT_DEFAULTS.cv,
    group: flags.GroupOrTable = FIT_DEFAULTS.group,
    without: flags.Without = None,
    relabel: flags.Relabel = None,
    views: flags.FitViews = FIT_DEFAULTS.views,
    seed: flags.Seed = FIT_DEFAULTS.seed,
    runs: flags.Runs = Path(str(FIT_DEFAULTS.folder)),
    name: flags.RunName = FIT_DEFAULTS.name,
    network: Annotated[
        bool,
        typer.Option(
            "--network/--no-network",
            help="Put the converted network into the bundle if it is in the cache, so that the bundle runs without "
            "Keras and the weights.",
        ),
    ] = FIT_DEFAULTS.network,
    neighbours: flags.KeptNeighbours = FIT_DEFAULTS.neighbours,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            callback=flags.check_memory,
            help="Memory that the fit may take, such as 1.5GiB. Larger features are read in blocks; numbers stay the "
            "same. By default, what the machine has.",
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Fit a classifier on a feature store, or on several of the same images, and test it.

    The hyper-parameters are tuned on folds of the training items: the lowest log-loss is chosen among those of about
    the best accuracy. The test items are used once, for the metrics, which come with 95 % intervals. The result is a
    bundle that `featx predict` and `featx evaluate` take.
    """
    import featx
    from featx.heads import split_params

    opened = [flags.open_store(store) for store in stores or (None,)]
    params = split_params([*(param or ()), *([f"class_weight={class_weight}"] if class_weight else ())])
    with ProgressReporter("fitting") as reporter:
        options = FitOptions(
            test_size=test_size,
            cv=cv,
            group=group,
            without=without,
            relabel=relabel,
            seed=seed,
            folder=runs,
            name=name,
            curve=curve,
            views=views,
            network=network,
            neighbours=neighbours,
            memory=read_memory(memory) if memory else FIT_DEFAULTS.memory,
            reporter=reporter,
        )
        run = featx.fit(
            opened,
            clf,
            params=params,
            scaling=scaling,
            calibration=calibration,
            protocol=protocol,
            options=options,
        )
    print_notes(run.notes)
    if as_json:
        print_run(run)
    else:
        print_text(_describe(run, " + ".join(store.place for store in opened)))


def _describe(run: Any, stores: str) -> str:  # noqa: ANN401 - a Run, whose module loads numpy
    """Describe a run as text: what was chosen, the metrics, the classes, the confusion."""
    from featx.evaluation import format_confusion, format_metrics, format_per_class

    width = read_width()
    params = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in run.head.params.items()
        if name != "tol"  # it follows from the features' size
    )
    chosen = f"{run.head.name} ({params + ', ' if params else ''}scaling {run.head.scaling})"
    how = run.test_name if "cross-validation" in run.test_name else f"{run.test_name} split"
    head = f"{chosen} on {stores}: trained on {run.n_train:,} items, evaluated on {run.test.n_items:,} ({how})"
    parts = [head, format_metrics(run.test), format_per_class(run.test, width), format_confusion(run.test, width)]
    if run.heads:
        parts.append(_format_heads(run.heads))
    if run.shots:
        parts.append(_format_curve(run.shots, "items of each class"))
    if run.curve:
        parts.append(f"{_format_curve(run.curve, 'training items')}\n{run.curve.forecast}")
    chosen_on = [one for one in run.candidates if (one.params, one.scaling) == (run.head.params, run.head.scaling)]
    tried = f"chosen from {len(run.candidates)} candidates on folds of the training items"
    tried = f"{tried} (accuracy {chosen_on[0].accuracy:.4f}), " if len(run.candidates) > 1 else ""
    last = f"{tried}validation accuracy {run.validation.accuracy:.4f}, {run.seconds:.1f} s -> {run.bundle}"
    return "\n\n".join([*parts, "\n".join([*point_to_errors(run.test, run.bundle), last])])


def _format_heads(heads: Any) -> str:  # noqa: ANN401 - of `Run.heads`, whose module loads numpy
    rows = [
        (one.name, f"{one.accuracy:.4f}", f"{one.log_loss:.4f}", "chosen" if one.chosen else "")
        for one in sorted(heads, key=lambda one: -one.accuracy)
        if not one.error
    ]
    return format_table(["head", "validation accuracy", "log-loss", ""], rows, left=(0, 3))


def _format_curve(curve: Any, sizes: str) -> str:  # noqa: ANN401 - a Curve, whose module loads SciPy
    rows = [
        (f"{size:,}", f"{mean:.4f}", f"{low:.4f} to {high:.4f}")
        for size, mean, low, high in zip(curve.sizes, curve.means, curve.lows, curve.highs, strict=True)
    ]
    return format_table([sizes, "accuracy", "95 % interval"], rows, left=())
