"""`featx info`."""

from typing import Any

import typer

from featx.cli import flags
from featx.cli.output import print_json
from featx.wording import format_bytes, format_seconds, to_printable

EXAMPLE = "featx info features/mobilenetv2.h5"


def info(store: flags.NewestStore = None, as_json: flags.Json = False) -> None:
    """Show what a feature store holds.

    This includes the spec, the source, the classes and splits, and the quarantined images with the reasons.
    """
    about = flags.open_store(store).describe()
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
    return f"{names}, within {drift:.1e} of Keras" if drift else names


def _describe_seconds(seconds: float | None) -> str:
    return "time not recorded" if seconds is None else f"took {format_seconds(seconds)}"


def _describe_views(views: dict[str, Any] | None) -> str:
    if views is None:
        return "none"
    return f"{views['count']} of each image, augmented by {views['augmentation']} (seed {views['seed']})"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
