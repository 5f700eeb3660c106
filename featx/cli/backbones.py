"""`featx backbones`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json

if TYPE_CHECKING:
    from featx.backbones import BackboneInfo

EXAMPLE = "featx backbones --offline"

_MILLION = 1e6

#: Where weights come from, as the table says it; `--json` names the package that holds others.
_PLACES = {"computed", "download", "keras-hub", None}


def backbones(
    family: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only one family, such as ResNet or EfficientNet.")
    ] = None,
    max_parameters: Annotated[
        float | None, typer.Option(metavar="MILLIONS", min=0, help="Only those with at most so many.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only those that need no download.")] = False,
    as_json: flags.Json = False,
) -> None:
    """List the backbones, to choose one.

    Each with the year of its paper, image size, number of features, parameters, cost and the licence of its weights:
    first those that need no download, then by cost.
    """
    from featx.backbones import describe_backbones

    rows = _select_family(describe_backbones(), family)
    if max_parameters is not None:
        rows = [row for row in rows if row.parameters is not None and row.parameters <= max_parameters * _MILLION]
    if offline:
        rows = [row for row in rows if row.is_offline]
    if as_json:
        print_json([row.to_dict() for row in rows])
    else:
        _print_table(rows)


def _select_family(rows: Iterable["BackboneInfo"], family: str | None) -> list["BackboneInfo"]:
    """Select one family, in any case; all if None.

    Raises:
        UnknownNameError: If there is no such family.
    """
    from featx.registry import make_unknown_name_error

    rows = list(rows)
    if family is None:
        return rows
    found = [row for row in rows if (row.family or "").lower() == family.lower()]
    if not found:
        kind = "family"
        raise make_unknown_name_error(kind, family, sorted({row.family for row in rows if row.family}))
    return found


def _print_table(rows: Iterable["BackboneInfo"]) -> None:
    """Print backbones, and below them what else can be named."""
    from featx.backbones.catalogue import SCHEMES
    from featx.registry import BACKBONES

    cells = [
        (
            row.name,
            f"{row.year or '-'}",
            f"{row.size_px or '-'}",
            f"{row.dim or '-'}",
            f"{row.parameters / _MILLION:.1f}M" if row.parameters else "-",
            f"{row.gflops:.3g}" if row.gflops else "-",
            (row.weights or "-") if row.weights in _PLACES else "package",
            row.licence or "-",
        )
        for row in rows
    ]
    header = ("backbone", "year", "px", "dim", "params", "GFLOPs", "weights", "licence")
    typer.echo(format_table(header, cells, left=(0, 6, 7), drop=("year", "licence")))
    typer.echo("\nGFLOPs are billions of multiply-adds for one image. Arguments follow the name,")
    typer.echo("in quotes: 'mobilenet?alpha=0.75'. Besides these names, --backbone takes:\n")
    known = [(uri, words) for uri, words in SCHEMES.items() if f"{uri.partition(':')[0]}:" in BACKBONES]
    typer.echo("\n".join(f"  {uri:<16}{words}" for uri, words in known))
