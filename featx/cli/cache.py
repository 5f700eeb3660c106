"""`featx cache`."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json, print_text

if TYPE_CHECKING:
    from featx.backbones.cache import Usage

EXAMPLE = "featx cache --prune 30"

_DAY_SECONDS = 86_400


def cache(
    prune: Annotated[
        float | None,
        typer.Option(metavar="DAYS", min=0, help="Remove what was not used for so many days; 0 removes everything."),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """List the networks that were converted on this machine, or remove some.

    The first run with a backbone builds its network with Keras and converts it; later runs read it from this cache,
    which takes a second. A network that was removed is converted again when it is needed.
    """
    from featx.backbones import cache as networks

    folder = networks.find_folder()
    removed = [] if prune is None else networks.prune(prune)
    left = networks.list_entries()
    if as_json:
        rows = [
            {"backbone": usage.request, "bytes": usage.n_bytes, "used_s": usage.used_s, "folder": str(usage.folder)}
            for usage in left
        ]
        print_json({"folder": str(folder), "removed": len(removed), "networks": rows})
        return
    if prune is not None:
        print_text(f"removed {len(removed):,} of {len(removed) + len(left):,} networks ({_sum(removed)})")
    if not left:
        print_text(f"{folder} holds no networks; `featx embed` keeps those that it converts there")
        return
    rows_shown = [
        (usage.request or "(damaged)", f"{usage.n_bytes / 1e6:.1f}", _describe_age(usage.used_s), usage.folder.name)
        for usage in left
    ]
    typer.echo(format_table(("network", "MB", "last used", "entry"), rows_shown))
    print_text(f"\n{_sum(left)} in {folder}; FEATX_CACHE names another folder")


def _sum(usages: "list[Usage]") -> str:
    return f"{sum(usage.n_bytes for usage in usages) / 1e6:.1f} MB"


def _describe_age(used_s: float) -> str:
    days = int((time.time() - used_s) // _DAY_SECONDS)
    return "today" if days < 1 else "1 day ago" if days == 1 else f"{days:,} days ago"
