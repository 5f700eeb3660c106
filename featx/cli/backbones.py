"""`featx backbones`."""

from typing import Any

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json

EXAMPLE = "featx backbones"


def backbones(as_json: flags.Json = False) -> None:
    """List the backbones that are built in.

    Each has its input size, its number of parameters and its number of features.
    """
    from featx.backbones.catalogue import APPLICATIONS, BUILT_IN

    table: dict[str, Any] = {**BUILT_IN, **APPLICATIONS}
    rows = [
        {"name": name, "size_px": row.size_px, "parameters": row.parameters, "dim": row.dim}
        for name, row in table.items()
    ]
    if as_json:
        print_json(rows)
        return
    cells = [
        (
            row["name"],
            f"{row['size_px']}",
            f"{row['parameters'] / 1e6:.1f}" if row["parameters"] else "none",
            f"{row['dim']}",
        )
        for row in rows
    ]
    typer.echo(format_table(("backbone", "size px", "million parameters", "dim"), cells))
    typer.echo("\nArguments follow the name: mobilenet?alpha=0.75. A Keras model of your own: file:model.keras.")
