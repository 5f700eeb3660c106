"""`featx info`, `featx backbones` and `featx layers`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.embedding import ImageSize, Json, parse_image_options
from featx.cli.output import format_table, print_json
from featx.wording import format_bytes, format_seconds, to_printable


def info(
    store: Annotated[
        Path | None, typer.Argument(help="A feature store; the newest in ./features if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a feature store holds: spec, classes, splits, quarantine."""
    import featx

    about = (featx.FeatureStore(store) if store else featx.FeatureStore.find_newest()).describe()
    if as_json:
        print_json(about)
        return
    backbone, image = about["spec"]["backbone"], about["spec"]["image"]
    rows = [
        ("store", f"{about['store']} (format {about['format_version']}, {format_bytes(about['file_bytes'])})"),
        ("source", about["source"]),
        ("items", f"{about['items']:,}, {about['dim']:,} {about['dtype']} each, shape {about['feature_shape']}"),
        ("backbone", f"{backbone['uri']}, layer {backbone['layer']}, pooling {backbone['pooling']}"),
        ("weights", f"{backbone['weights']}, sha256 {backbone['weights_digest'][:16]}"),
        (
            "images",
            f"{image['height']}x{image['width']} px, {image['resize']}, {image['interpolation']}, {image['decoder']}",
        ),
        ("views", _describe_views(about["spec"].get("views"))),
        ("spec", about["spec_digest"][:16]),
        ("classes", _list(about["classes"]) or "none"),
        ("splits", _list(about["splits"]) or "none in the source"),
        ("groups", str(about["groups"] or "none")),
        ("runtime", _describe_runtime(about["runtime"], about["drift"])),
        ("embedding", _describe_seconds(about["embed_seconds"])),
        ("made with", ", ".join(f"{name} {version}" for name, version in about["created_with"].items())),
        ("quarantined", str(len(about["quarantined"]))),
    ]
    typer.echo("\n".join(f"{name:<12} {to_printable(value)}" for name, value in rows))
    for row in about["quarantined"]:
        typer.echo(f"  {to_printable(row['id'])}: {to_printable(row['reason'])}")


def _describe_runtime(names: str, drift: float) -> str:
    if names == "keras" and drift:
        return f"keras (another runtime differed by {drift:.1e} and was not used)"
    return f"{names}, at most {drift:.1e} off Keras" if drift else names


def _describe_seconds(seconds: float | None) -> str:
    return "took a time that is not recorded" if seconds is None else f"took {format_seconds(seconds)}"


def _describe_views(views: dict[str, Any] | None) -> str:
    if views is None:
        return "none"
    return f"{views['count']} beside each image, by {views['augmentation']} (seed {views['seed']})"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def backbones(as_json: Json = False) -> None:
    """List the backbones: input size, parameters, width of the features."""
    from featx.backbones import list_backbones
    from featx.backbones.catalogue import APPLICATIONS, BUILT_IN

    table: dict[str, Any] = {**BUILT_IN, **APPLICATIONS}
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
    typer.echo("\nArguments go behind the name: mobilenet?alpha=0.75. Your own network: file:model.keras.")


def layers(
    backbone: Annotated[str, typer.Argument(help="A backbone, as for --backbone.")],
    image_size: ImageSize = None,
    as_json: Json = False,
) -> None:
    """List the layers at which a backbone can be cut: index, name, shape, parameters, bytes per item."""
    from featx.backbones import describe_layers

    image = parse_image_options(image_size, None, None, None)
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
