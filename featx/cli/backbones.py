"""`featx backbones`."""

from typing import Any

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json

EXAMPLE = "featx backbones"


def backbones(as_json: flags.Json = False) -> None:
    """List the backbones.

    These are the built-in ones, with input size, parameters and number of features, and those of installed packages.
    """
    from featx.backbones import list_backbones
    from featx.backbones.catalogue import BUILT_IN, PRETRAINED

    table: dict[str, Any] = {**BUILT_IN, **PRETRAINED}
    rows = [
        {"name": name, "size_px": row.size_px, "parameters": row.parameters, "dim": row.dim}
        for name, row in table.items()
    ]
    # Those of other packages are known by name only until they are built.
    installed = [name for name in list_backbones() if name not in table]
    rows += [{"name": name, "size_px": None, "parameters": None, "dim": None} for name in installed]
    if as_json:
        print_json(rows)
        return
    cells = [
        (name, f"{row.size_px}", f"{row.parameters / 1e6:.1f}" if row.parameters else "none", f"{row.dim}")
        for name, row in table.items()
    ]
    cells += [(name, "-", "-", "-") for name in installed]
    typer.echo(format_table(("backbone", "size px", "million parameters", "dim"), cells))
    typer.echo(
        "\nArguments follow the name, in quotes: 'mobilenet?alpha=0.75'. A Keras model of your own: file:model.keras; "
        "any other network: onnx:model.onnx, ir:model.xml or tflite:model.tflite."
    )
