"""`featx merge`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_text
from featx.options import FINETUNE_DEFAULTS
from featx.reporting import ProgressReporter

EXAMPLE = "featx merge lab1.h5 lab2.h5 --name all"


def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar="STORE", help="Two or more feature stores (.h5) of the same spec.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the new store.")],
    features: flags.Features = Path(str(FINETUNE_DEFAULTS.features)),
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Prefix every id with the name of its store, if ids occur in several.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """Merge feature stores into a new one.

    The stores must have been made by the same backbone with the same settings, for example on several machines.
    """
    import featx

    target = features / f"{name.removesuffix('.h5')}.h5"
    with ProgressReporter("checking") as reporter:
        merged = featx.merge_stores(stores, target, prefix=prefix, progress=reporter.advance)
    n_stores = len({path.resolve() for path in stores})
    if as_json:
        counts = {"items": len(merged), "stores": n_stores, "quarantined": len(merged.quarantine)}
        print_json({"store": str(merged.path), **counts, "dim": merged.dim, "source": merged.source})
    else:
        print_text(f"{len(merged):,} items from {n_stores} stores -> {merged.path}")
