"""`featx import`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_notes, print_text
from featx.options import FINETUNE_DEFAULTS
from featx.reporting import ProgressReporter
from featx.wording import format_plural

EXAMPLE = "featx import embeddings.npz --labels labels.csv"


def import_features(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="Features of one tool: .h5 of TRIDENT, CLAM or hloc, a folder of thingsvision or clip-retrieval, "
            ".h5ad, .npy, .npz or .parquet; or folders of such files.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the store. By default, that of the file or folder.")
    ] = "",
    features: flags.Features = Path(str(FINETUNE_DEFAULTS.features)),
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table with the columns id and label, and perhaps split and group; an id may be that of a slide.",
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="trident, clam, hloc, thingsvision, clip-retrieval, anndata, npy, npz, parquet or featx; "
            "anndata:X_pca takes that element of obsm. By default, the files decide.",
        ),
    ] = "",
    network: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The network that computed the features, if you know it; stores that name the same can be merged.",
        ),
    ] = "",
    path_column: flags.PathColumn = None,
    label_column: flags.LabelColumn = None,
    split_column: flags.SplitColumn = None,
    group: flags.GroupColumn = None,
    as_json: flags.Json = False,
) -> None:
    """Write a feature store from features that another tool computed.

    featx does not know their network: heads can be fitted and compared on them, but no image can be predicted.
    """
    import featx

    with ProgressReporter("checking features") as reporter:
        columns = featx.Columns(path_column, label_column, split_column, group)
        store = featx.import_features(
            sources,
            name=name,
            folder=features,
            labels=labels,
            columns=columns,
            format_=format_,
            network=network,
            reporter=reporter,
        )
    n_bad, n_bare = len(store.quarantine), int((store.labels == "").sum())
    print_notes(filter(None, [store.describe_uniform()]))
    if as_json:
        counts = {"items": len(store), "quarantined": n_bad, "unlabelled": n_bare, "dim": store.dim}
        print_json({"store": str(store.path), "format": store.spec.backbone.imported_from, **counts})
        return
    bare = f", {n_bare:,} without a label" if n_bare else ""
    bad = f", {n_bad:,} quarantined (`featx info` says why)" if n_bad else ""
    tool = store.spec.backbone.imported_from
    print_text(f"{format_plural(len(store), 'item')} of {store.dim:,} features from {tool}{bare}{bad} -> {store.path}")
