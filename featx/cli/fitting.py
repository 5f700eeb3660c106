"""`featx fit`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.output import format_table, print_json
from featx.options import FIT_DEFAULTS, VIEWS, FitOptions
from featx.registry import HEADS
from featx.reporting import ProgressReporter
from featx.specs import CALIBRATIONS, SCALINGS

TestSize = Annotated[float, typer.Option(help="Fraction held out where the source has no test split.")]
Together = Annotated[str, typer.Option(help="What stays together: a table's column, folder, or a regular expression.")]
ClassWeight = Annotated[
    str | None, typer.Option(help="balanced: classes count the same, however many items they have.")
]
Views = Annotated[
    str, typer.Option(help=f"What to fit on in a store with views: {', '.join(VIEWS)} (the image itself).")
]
Runs = Annotated[Path, typer.Option(help="Folder of the bundles.")]


def fit(
    store: Annotated[
        Path | None, typer.Argument(help="A feature store; the newest in ./features if not given.")
    ] = None,
    clf: Annotated[
        str | None,
        typer.Option("--clf", help=f"One of {', '.join(HEADS)}; keras:512-512 has hidden layers. logreg if not given."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="Fix a hyper-parameter: C=1. Others are tuned.")
    ] = None,
    scaling: Annotated[str | None, typer.Option(help=f"One of {', '.join(SCALINGS)}; tuned if not given.")] = None,
    class_weight: ClassWeight = None,
    calibration: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(CALIBRATIONS)}; what the head needs if not given.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Measure as the field does: kornblith, clip, dinov2-knn or fewshot.")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Measure how accuracy grows with the items, and whether more would help.")
    ] = FIT_DEFAULTS.curve,
    test_size: TestSize = FIT_DEFAULTS.test_size,
    cv: Annotated[
        int, typer.Option(help="Folds of a cross-validation over all items; 0 for one held-out test.")
    ] = FIT_DEFAULTS.cv,
    group: Together = FIT_DEFAULTS.group,
    views: Views = FIT_DEFAULTS.views,
    seed: Annotated[int, typer.Option(help="Seed of split, folds and head.")] = FIT_DEFAULTS.seed,
    runs: Runs = Path(str(FIT_DEFAULTS.folder)),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Train a classifier on cached features, report on held-out items, write a bundle."""
    import featx
    from featx.heads import split_params

    opened = featx.FeatureStore(store) if store else featx.FeatureStore.find_newest()
    params = split_params([*(param or ()), *([f"class_weight={class_weight}"] if class_weight else ())])
    with ProgressReporter("fitting") as reporter:
        options = FitOptions(
            test_size=test_size, cv=cv, group=group, seed=seed, folder=runs, curve=curve, views=views, reporter=reporter
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
    for note in run.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        print_json(run.to_dict())
    else:
        typer.echo(describe_run(run, opened))


def describe_run(run: Any, store: Any) -> str:  # noqa: ANN401 - a Run and a FeatureStore, whose modules load numpy
    """Describe a run as text: what was chosen, the metrics, the classes, the confusion."""
    from featx.evaluation import format_confusion, format_metrics, format_per_class

    params = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in run.head.params.items()
        if name != "tol"  # it follows from the features' size
    )
    chosen = f"{run.head.name} ({params + ', ' if params else ''}scaling {run.head.scaling})"
    how = run.test_name if "cross-validation" in run.test_name else f"{run.test_name} split"
    head = f"{chosen} on {store.path}: trained on {run.n_train:,} items, evaluated on {run.test.n_items:,} ({how})"
    parts = [head, format_metrics(run.test), format_per_class(run.test), format_confusion(run.test)]
    if run.shots:
        parts.append(_format_curve(run.shots, "items of each class"))
    if run.curve:
        parts.append(f"{_format_curve(run.curve, 'training items')}\n{run.curve.forecast}")
    chosen_on = [one for one in run.candidates if (one.params, one.scaling) == (run.head.params, run.head.scaling)]
    tried = (
        f"the best of {len(run.candidates)} candidates on folds of the training items ({chosen_on[0].accuracy:.4f}), "
    )
    tried = tried if len(run.candidates) > 1 else ""
    last = f"{tried}validation accuracy {run.validation.accuracy:.4f}, {run.seconds:.1f} s -> {run.bundle}"
    return "\n\n".join([*parts, last])


def _format_curve(curve: Any, sizes: str) -> str:  # noqa: ANN401 - a Curve, whose module loads SciPy
    rows = [
        (f"{size:,}", f"{mean:.4f}", f"{low:.4f} to {high:.4f}")
        for size, mean, low, high in zip(curve.sizes, curve.means, curve.lows, curve.highs, strict=True)
    ]
    return format_table([sizes, "accuracy", "95 % interval"], rows, left=())
