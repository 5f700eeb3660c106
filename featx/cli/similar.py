"""`featx similar`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json, print_notes, print_text
from featx.cli.predict import read_lists
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.reporting import ProgressReporter

EXAMPLE = "featx similar features/mobilenetv2.h5 photo.jpg --out similar.png"


def similar(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Feature store.", show_default=False)],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files and folders of images, ids of the store, @FILE for a list of them, or - for a list on "
            "stdin.",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option("--top", min=1, metavar="K", help="Items for each image.")] = 10,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write a contact sheet to this .png, one row for each image."),
    ] = None,
    source: flags.StorePictures = "",
    batch_size: flags.BatchSize = EMBED_DEFAULTS.batch_size,
    workers: flags.Workers = EMBED_DEFAULTS.workers,
    runtime: flags.Runtime = EMBED_DEFAULTS.runtime,
    as_json: flags.Json = False,
) -> None:
    """Find the items of a store that are most similar to some images.

    The images are embedded by the store's own network, and compared by the cosine of the features. An image that
    cannot be read is named with the reason.
    """
    from featx.errors import SourceError, UsageError
    from featx.report.contact_sheets import find_pictures
    from featx.report.similar import draw_similar, find_similar

    if output and output.suffix.lower() != ".png":
        msg = f"--out is {str(output)!r}; name a file that ends in .png"
        raise UsageError(msg)
    opened = flags.open_store(store)
    if output:
        find_pictures(opened, source)  # before a network is loaded
    with ProgressReporter("embedding") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)
        found = find_similar(opened, read_lists(images), top=top, options=options)
    if output:
        print_notes(draw_similar(found, opened, output, source))
    if as_json:
        files = [str(output)] if output and output.exists() else []
        print_json({"store": str(opened.path), "queries": [one.to_dict() for one in found], "files": files})
    else:
        for one in found:
            print_text(_describe(one) + "\n")
        if output:
            print_text(f"-> {output}")
    if all(one.error for one in found):
        msg = f"none of the images can be read; the first is {found[0].image}: {found[0].error}"
        raise SourceError(msg)


def _describe(one: Any) -> str:  # noqa: ANN401 - a Similar, whose module loads numpy
    if one.error:
        return f"{one.image}: {one.error}"
    columns = (one.similarities.tolist(), one.ids, one.labels, one.splits, one.same_file)
    rows = [
        (f"{similarity:.3f}", name, label, split, "the same file" if same else "")
        for similarity, name, label, split, same in zip(*columns, strict=True)
    ]
    head = ["similarity", "image", "label", "split", ""]
    kept = [place for place, name in enumerate(head) if name in head[:2] or any(row[place] for row in rows)]
    shown = [[row[place] for place in kept] for row in rows]
    table = format_table([head[place] for place in kept], shown, left=range(1, len(kept)))
    return f"{one.image}\n{table}"
