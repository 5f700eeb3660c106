"""`featx cache`."""

import time
from typing import TYPE_CHECKING, Annotated, Any

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
    """List what is kept on this machine, or remove some: converted networks, and copies of what is at URLs.

    The first run with a backbone builds its network with Keras and converts it; later runs read it from this cache,
    which takes a second. Stores, bundles and tables at URLs are fetched once. What was removed is converted or fetched
    again when it is needed.
    """
    from featx.backbones import cache as kept

    folder = kept.find_folder().parent
    removed = [] if prune is None else kept.prune(prune)
    networks, copies = kept.list_entries(), kept.list_copies()
    if as_json:
        listed = {"networks": _to_rows(networks, "backbone"), "copies": _to_rows(copies, "file")}
        print_json({"folder": str(kept.find_folder()), "removed": len(removed), **listed})
        return
    left = [*networks, *copies]
    if prune is not None:
        print_text(f"removed {len(removed):,} of {len(removed) + len(left):,} networks and copies ({_sum(removed)})")
    if not left:
        print_text(f"{folder} holds nothing; featx keeps the networks that it converts there, and what it fetches")
        return
    kinds = ["network"] * len(networks) + ["copy"] * len(copies)
    rows = [
        (
            kind,
            usage.request or "(damaged)",
            f"{usage.n_bytes / 1e6:.1f}",
            _describe_age(usage.used_s),
            usage.folder.name,
        )
        for kind, usage in zip(kinds, left, strict=True)
    ]
    typer.echo(format_table(("kind", "of", "MB", "last used", "entry"), rows))
    print_text(f"\n{_sum(left)} in {folder}; FEATX_CACHE names another folder")


def _to_rows(usages: "list[Usage]", name: str) -> list[dict[str, Any]]:
    return [
        {name: usage.request, "bytes": usage.n_bytes, "used_s": usage.used_s, "folder": str(usage.folder)}
        for usage in usages
    ]


def _sum(usages: "list[Usage]") -> str:
    return f"{sum(usage.n_bytes for usage in usages) / 1e6:.1f} MB"


def _describe_age(used_s: float) -> str:
    days = int((time.time() - used_s) // _DAY_SECONDS)
    return "today" if days < 1 else "1 day ago" if days == 1 else f"{days:,} days ago"
