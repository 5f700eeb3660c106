"""`featx map`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_notes, print_text

EXAMPLE = "featx map features/mobilenetv2.h5 --by split"


class Method(StrEnum):
    """Methods of projection."""

    PCA = "pca"
    UMAP = "umap"


class By(StrEnum):
    """What colours the items."""

    LABEL = "label"
    SPLIT = "split"
    GROUP = "group"


def map(  # noqa: A001 - the name of the verb
    store: Annotated[
        Path | None,
        typer.Argument(metavar="STORE", help="Feature store; the newest one if not given.", show_default=False),
    ] = None,
    source: flags.MovedPictures = "",
    method: Annotated[Method, typer.Option("--method", help="pca at once; umap with the extra map.")] = Method.PCA,
    by: Annotated[By, typer.Option("--by", help="What colours the items.")] = By.LABEL,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="BUNDLE", help="Colour by whether this bundle was right when it was tested."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The .png file; maps/STORE-METHOD-BY.png if not given."),
    ] = None,
    seed: flags.Seed = 0,
    as_json: flags.Json = False,
) -> None:
    """Draw the items of a store in two dimensions.

    Items with similar features lie near each other. The map is written as PNG, as SVG, and as CSV with the place of
    each item. Classes have a colour, and a picture of their middle.
    """
    from featx.report.maps import check_path, map_store

    if output:
        check_path(output)
    opened = flags.open_store(store)
    found = map_store(opened, method=method, by=by, bundle=bundle, source=source, seed=seed)
    name = f"{opened.path.stem}-{method}-{'errors' if bundle else by}.png"
    written = found.write(output or Path("maps") / name)
    print_notes(found.notes)
    if as_json:
        values = {"store": str(opened.path), "items": len(found.ids), "method": str(method), "title": found.title}
        values |= {"colouring": found.colouring}
        print_json({**values, "files": [str(path) for path in written]})
    else:
        print_text(f"{found.title}, {found.colouring} -> {', '.join(str(path) for path in written)}")
