"""`featx backbones`."""

from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json

EXAMPLE = "featx backbones --offline"

_MILLION = 1e6


def backbones(
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only one family, such as ResNet or EfficientNet.")
    ] = None,
    max_parameters: Annotated[
        float | None,
        typer.Option(metavar="MILLIONS", min=0, help="Only those with at most so many."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only those that need no download.")] = False,
    as_json: flags.Json = False,
) -> None:
    """List the backbones, to choose one.

    Each with the year of its paper, image size, number of features, parameters, cost and the licence of its weights:
    first those that need no download, then by cost.
    """
    from featx.backbones import describe_backbones
    from featx.backbones.catalogue import SCHEMES
    from featx.registry import BACKBONES, make_unknown_name_error

    rows = describe_backbones()
    if family is not None:
        titles = sorted({row.family for row in rows if row.family})
        if family.lower() not in map(str.lower, titles):
            kind = "family"
            raise make_unknown_name_error(kind, family, titles)
        rows = tuple(row for row in rows if (row.family or "").lower() == family.lower())
    if max_parameters is not None:
        rows = tuple(row for row in rows if row.parameters is not None and row.parameters <= max_parameters * _MILLION)
    if offline:
        rows = tuple(row for row in rows if row.is_offline)
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    cells = [
        (
            row.name,
            f"{row.year or '-'}",
            f"{row.size_px or '-'}",
            f"{row.dim or '-'}",
            f"{row.parameters / _MILLION:.1f}" if row.parameters else "-",
            f"{row.gflops:.3g}" if row.gflops else "-",
            row.weights or "-",
            row.licence or "-",
        )
        for row in rows
    ]
    header = ("backbone", "year", "px", "dim", "M params", "GFLOPs", "weights", "licence")
    typer.echo(format_table(header, cells, left=(0, 6, 7), drop=("year", "licence")))
    known = [(uri, words) for uri, words in SCHEMES.items() if f"{uri.partition(':')[0]}:" in BACKBONES]
    typer.echo("\nGFLOPs are billions of multiply-adds for one image. Arguments follow the name,")
    typer.echo("in quotes: 'mobilenet?alpha=0.75'. Besides these names, --backbone takes:\n")
    typer.echo("\n".join(f"  {uri:<16}{words}" for uri, words in known))
