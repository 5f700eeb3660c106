"""`featx layers`."""

from typing import Annotated, Any

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
            help="A name that `featx backbones` lists, file:PATH for a Keras model of your own, or onnx:PATH, ir:PATH "
            "or tflite:PATH for any other network.",
        ),
    ],
    image_size: flags.ImageSize = None,
    as_json: flags.Json = False,
) -> None:
    """List the layers of a backbone.

    These are the layers at which it can be cut, with index, name, shape, parameters and the bytes per item of a
    store; of an ONNX, OpenVINO or TensorFlow Lite file, its tensors, with the number of layers before each.
    """
    from featx.backbones import describe_layers

    image = flags.parse_image_options(image_size, None, None, None)
    size = (image["height"], image["width"]) if image else None
    rows = describe_layers(backbone, image_size=size)
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    typer.echo(format_table(*_tabulate(rows), left=(2, 3)))


def _tabulate(rows: Any) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:  # noqa: ANN401 - a tuple of LayerInfo
    """Return the header and the cells of a table of layers; depths are shown where they were counted."""
    has_depth = any(row.depth is not None for row in rows)
    cells = [
        (
            f"{row.index}",
            f"{row.index - len(rows)}",
            row.name,
            row.kind,
            *([f"{row.depth}"] if has_depth else []),
            "x".join(map(str, row.output_shape)),
            f"{row.parameters:,}",
            format_bytes(row.bytes_per_item),
            format_bytes(row.bytes_per_map),
        )
        for row in rows
    ]
    depth = ["depth"] if has_depth else []
    return ("index", "from end", "name", "kind", *depth, "shape", "parameters", "bytes/item", "unpooled"), cells
