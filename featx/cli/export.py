"""`featx export`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_text
from featx.errors import UsageError
from featx.reporting import ProgressReporter
from featx.wording import format_bytes

EXAMPLE = "featx export runs/2026-01-31-logreg-mobilenetv2 --to onnx"


def export(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="With --to, a bundle or the name of a run, else a feature store; the newest if not given.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            help="For a bundle, the folder to write, by default exports/BUNDLE-FORMAT; for a store, a file that ends "
            "in .npz, .parquet or .csv.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="Format of a bundle's model: openvino, onnx, keras, savedmodel, litert, or app for a folder with a "
            "program that needs no featx.",
            show_default=False,
        ),
    ] = "",
    pictures: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Pictures on which the model is compared with featx. By default, those of the bundle's store.",
            show_default=False,
        ),
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier export wrote.")] = False,
    as_json: flags.Json = False,
) -> None:
    """Export a bundle as one model that runs without featx, or a feature store to npz, Parquet or CSV.

    The model takes uint8 pixels and returns probabilities: network, scaling, head and calibration are one graph. It is
    compared with featx on 128 pictures, by the runtime of its format, in a process without featx.
    """
    if to:
        _export_bundle(source or Path("latest"), to, out, pictures, overwrite, as_json)
    else:
        _export_store(source, out, overwrite, as_json)


def _export_bundle(bundle: Path, to: str, out: Path | None, pictures: str, overwrite: bool, as_json: bool) -> None:
    from featx.exporting.exporting import check_format, export_bundle

    check_format(to)
    with ProgressReporter("exporting") as reporter:
        found = flags.find_bundle(bundle, [])
        made = export_bundle(found, to, out, pictures=pictures or None, overwrite=overwrite, reporter=reporter)
    if as_json:
        about = {"bundle": str(found), "export": str(made.path), "to": to, "model": str(made.model)}
        print_json({**about, "file_bytes": made.file_bytes, "parity": made.parity.to_dict()})
    else:
        print_text("\n".join([*made.parity.describe(), f"{format_bytes(made.file_bytes)} -> {made.model}"]))


def _export_store(store: Path | None, out: Path | None, overwrite: bool, as_json: bool) -> None:
    import featx

    if (run := flags.find_run(store)) is not None:
        msg = f"{run} is a bundle; say what to export it to, such as featx export {store} --to onnx"
        raise UsageError(msg)
    if store is None or out is None:
        msg = "name a store and a file that ends in .npz, .parquet or .csv; or export a bundle, with --to"
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
