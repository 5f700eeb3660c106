"""`featx export`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_text
from featx.errors import UsageError
from featx.reporting import ProgressReporter
from featx.wording import format_bytes

EXAMPLE = "featx export features/mobilenetv2.h5 features.parquet"


def export(
    store: flags.Store,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, which ends in .npz, .parquet or .csv.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Export a feature store to npz, Parquet or CSV.

    The file holds the features and the items, and can be read without featx.
    """
    import featx

    if (run := flags.find_run(store)) is not None:
        msg = f"{run} is a bundle, but only feature stores can be exported; name one, such as features/NAME.h5"
        raise UsageError(msg)
    opened = featx.FeatureStore(store)
    with ProgressReporter("exporting") as reporter:
        featx.export_store(opened, out, overwrite=overwrite, progress=reporter.advance)
    size = out.stat().st_size
    if as_json:
        about = {"store": str(store), "export": str(out), "items": len(opened), "dim": opened.dim}
        print_json({**about, "dtype": opened.spec.dtype, "file_bytes": size})
    else:
        print_text(f"{len(opened):,} items, {opened.dim:,} {opened.spec.dtype} each, {format_bytes(size)} -> {out}")
