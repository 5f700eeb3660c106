"""`featx merge`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_text
from featx.options import EMBED_DEFAULTS, FINETUNE_DEFAULTS, read_bytes
from featx.reporting import ProgressReporter

EXAMPLE = "featx merge lab1.h5 lab2.h5 --name all"


def merge(
    stores: Annotated[
        list[Path], typer.Argument(metavar="STORE", help="Two or more feature stores (.h5) of the same spec.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the new store.")],
    features: flags.Features = Path(str(FINETUNE_DEFAULTS.features)),
    prefix: Annotated[
        bool,
        typer.Option("--prefix", help="Prefix every id with the name of its store, for ids that several stores have."),
    ] = False,
    index_above: flags.IndexAbove = None,
    as_json: flags.Json = False,
) -> None:
    """Merge feature stores into a new one.

    The stores must have been made by the same backbone with the same settings, for example on several machines.
    """
    import featx

    target = features / f"{name.removesuffix('.h5')}.h5"
    with ProgressReporter("checking") as reporter:
        opened = [featx.FeatureStore(path) for path in {path.resolve(): path for path in stores}.values()]
        above = read_bytes(index_above, "--index-above") if index_above else EMBED_DEFAULTS.index_above
        merged = featx.merge_stores(opened, target, prefix=prefix, index_above=above, progress=reporter.advance)
    n_stores, n_shared = len(opened), sum(map(len, opened)) - len(merged)
    n_copies = sum(len(rows) - 1 for rows in merged.find_duplicates())
    if as_json:
        counts = {"items": len(merged), "stores": n_stores, "quarantined": len(merged.quarantine)}
        counts |= {"shared": n_shared, "copies": n_copies}
        print_json({"store": str(merged.path), **counts, "dim": merged.dim, "source": merged.source})
    else:
        shared = f"; {n_shared:,} that were in several stores are kept once" if n_shared else ""
        copies = f"; {n_copies:,} have the same bytes as another one (`featx info --duplicates`)" if n_copies else ""
        print_text(f"{len(merged):,} items from {n_stores} stores{shared}{copies} -> {merged.path}")
