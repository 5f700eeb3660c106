"""`featx layers`."""

from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json
from featx.wording import format_bytes

EXAMPLE = "featx layers mobilenetv2"


def layers(
    backbone: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE",
            callback=flags.check_backbone,
            help="A name that `featx backbones` lists, or file:PATH for a Keras model of your own.",
        ),
    ],
    image_size: flags.ImageSize = None,
    as_json: flags.Json = False,
) -> None:
    """List the layers of a backbone.

    These are the layers at which it can be cut, with index, name, shape, parameters and the bytes per item of a
    store.
    """
    from featx.backbones import describe_layers

    image = flags.parse_image_options(image_size, None, None, None)
    size = (image["height"], image["width"]) if image else None
    rows = describe_layers(backbone, image_size=size)
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    cells = [
        (
            f"{row.index}",
            f"{row.index - len(rows)}",
            row.name,
            row.kind,
            "x".join(map(str, row.output_shape)),
            f"{row.parameters:,}",
            format_bytes(row.bytes_per_item),
            format_bytes(row.bytes_per_map),
        )
        for row in rows
    ]
    header = ("index", "from end", "name", "kind", "shape", "parameters", "bytes/item", "unpooled")
    typer.echo(format_table(header, cells, left=(2, 3)))
