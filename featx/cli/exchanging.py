"""`featx merge` and `featx export`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli.embedding import Json
from featx.cli.output import print_json
from featx.errors import UsageError
from featx.reporting import ProgressReporter
from featx.wording import format_bytes


def merge(
    stores: Annotated[list[Path], typer.Argument(help="Feature stores of one spec, two at least.")],
    name: Annotated[str, typer.Option(help="Name of the new store.")],
    features: Annotated[Path, typer.Option(help="Folder of the new store.")] = Path("features"),
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Put the name of its store before every id, where ids clash.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Join feature stores that several machines made into a new one."""
    import featx

    target = features / f"{name.removesuffix('.h5')}.h5"
    with ProgressReporter("checking") as reporter:
        merged = featx.merge_stores(stores, target, prefix=prefix, progress=reporter.advance)
    n_stores = len({path.resolve() for path in stores})
    if as_json:
        counts = {"items": len(merged), "stores": n_stores, "quarantined": len(merged.quarantine)}
        print_json({"store": str(merged.path), **counts, "dim": merged.dim, "source": merged.source})
    else:
        typer.echo(f"{len(merged):,} items from {n_stores} stores -> {merged.path}")


def export(
    store: Annotated[Path, typer.Argument(help="A feature store.")],
    out: Annotated[Path, typer.Argument(help="The file to write; it ends in .npz, .parquet or .csv.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a store's features and items to a file that needs no featx: npz, Parquet or CSV."""
    import featx

    if (store / "bundle.json").is_file():
        msg = f"{store} is a bundle, and only feature stores can be exported so far; name one, such as features/NAME.h5"
        raise UsageError(msg)
    opened = featx.FeatureStore(store)
    with ProgressReporter("exporting") as reporter:
        featx.export_store(opened, out, overwrite=overwrite, progress=reporter.advance)
    size = out.stat().st_size
    if as_json:
        about = {"store": str(store), "export": str(out), "items": len(opened), "dim": opened.dim}
        print_json({**about, "dtype": opened.spec.dtype, "file_bytes": size})
    else:
        typer.echo(f"{len(opened):,} items, {opened.dim:,} {opened.spec.dtype} each, {format_bytes(size)} -> {out}")
