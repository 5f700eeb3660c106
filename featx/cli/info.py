"""`featx info`."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.output import omit_tables, print_json, print_notes
from featx.errors import BundleError, DataError, UsageError
from featx.wording import format_bytes, format_plural, format_seconds, format_value, join_first, to_printable

EXAMPLE = "featx info features/mobilenetv2.h5"


#: Quarantined images, classes and groups of copies that are listed without --all.
_SHOWN = 20
_EXAMPLES = 3

#: The options whose tables correct the items.
_CORRECTIONS = {"without": "left_out", "relabel": "relabelled", "group": "grouped"}

#: Counts of an untrusted bundle stay below.
_LARGEST = 2**63

#: The longest text of an untrusted bundle that is shown, which is the longest path.
_MOST_CHARACTERS = 4096

_UNKNOWN = "not recorded"

#: Digits of a sha256 that is shown; --json has all.
_SHOWN_DIGITS = 16


def info(
    store: Annotated[
        Path | None,
        typer.Argument(
            metavar="STORE", help="Feature store (.h5), or a bundle; by default the newest store in ./features."
        ),
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="List the images that have the same bytes, with their splits.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="List every class, every quarantined image and every copy.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """Show what a feature store holds, or what a bundle is.

    This includes the spec, the source, the classes and splits, and the quarantined images, grouped by reason.
    """
    if (run := flags.find_run(store)) is not None:
        if duplicates:
            msg = f"{run} is a bundle; --duplicates is for a feature store, such as features/NAME.h5"
            raise UsageError(msg)
        try:
            _show_bundle(run, None if every else _SHOWN, as_json=as_json)
        except RecursionError as error:
            msg = f"{run} has values that are nested too deeply; do not use this bundle"
            raise BundleError(msg) from error
        return
    opened = flags.open_store(store)
    about, groups = opened.describe(), _list_copies(opened) if duplicates else []
    shown = None if every else _SHOWN
    if as_json:
        _print_store({**about, "duplicates": groups} if duplicates else about, shown)
        return
    if not duplicates:
        _show_store(about, shown)
        return
    typer.echo(
        f"{format_plural(len(groups), 'group')} of images with the same bytes in {to_printable(str(opened.path))}"
    )
    for group in groups[:shown]:
        typer.echo("\n".join(["", *(_describe_copy(item) for item in group["items"])]))
    if len(groups) > len(groups[:shown]):
        typer.echo(f"\nand {format_plural(len(groups) - _SHOWN, 'more group')}; --all lists them")


def _print_store(about: dict[str, Any], shown: int | None) -> None:
    quarantined = about["quarantined"]
    reasons = [
        {"reason": reason, "count": len(ids), "examples": ids[:_EXAMPLES]}
        for reason, ids in _group_reasons(quarantined)
    ]
    counts = {"quarantined_count": len(quarantined), "quarantine_reasons": reasons[:shown]}
    if len(quarantined[:shown]) < len(quarantined):
        print_notes([f"quarantined has the first {shown} of {len(quarantined):,} images; --all prints all"])
    print_json({**about, **counts, "quarantined": quarantined[:shown]})


def _list_copies(store: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a FeatureStore, whose module loads numpy
    """List the groups of items with the same bytes; those in several splits come first."""
    columns = list(zip(store.ids.tolist(), store.splits.tolist(), store.labels.tolist(), strict=True))
    groups = [
        {
            "sha256": str(store.sha256[rows[0]]),
            "items": [dict(zip(("id", "split", "label"), columns[row], strict=True)) for row in rows],
        }
        for rows in store.find_duplicates()
    ]
    return sorted(groups, key=lambda group: -len({item["split"] for item in group["items"]}))


def _describe_copy(item: dict[str, str]) -> str:
    inside = ", ".join(filter(None, (item["split"], item["label"])))
    return f"  {to_printable(item['id'])}" + (f" ({to_printable(inside)})" if inside else "")


def _group_reasons(quarantined: list[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """Group ids by their reason, the largest group first; reasons that differ in their numbers only are one."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for row in quarantined:
        key = re.sub(r"\d[\d,.]*", "0", row["reason"])
        groups.setdefault(key, (row["reason"], []))[1].append(row["id"])
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def _show_bundle(path: Path, shown: int | None, *, as_json: bool) -> None:
    from featx.bundle import Bundle
    from featx.evaluation import Evaluation
    from featx.references import read_json

    bundle, record = Bundle.open(path), read_json(path, "bundle.json").get("record")
    head, test, test_name = bundle.head_spec, bundle.metrics.get("test"), _cut(bundle.metrics.get("test_name", ""))
    store, created_with = _read_texts(record, "store"), _read_texts(record, "created_with")
    tested = _UNKNOWN
    try:
        evaluation = Evaluation.from_dict(test or {})
        tested = f"accuracy {format_value(evaluation.accuracy, 4)} on {evaluation.n_items:,} items ({test_name})"
    except DataError:
        test = None
    specs = [part.embed_spec for part in bundle.parts]
    embed = specs[0].to_dict() if len(specs) == 1 else [spec.to_dict() for spec in specs]
    about: dict[str, Any] = {"bundle": str(path), "head": head.to_dict(), "embed": embed}
    about |= {"classes": list(bundle.classes), "test_name": test_name}
    about |= {"test": omit_tables(test) if test else None, "store": store, "created_with": created_with}
    corrections, explanation = _read_texts(record, "corrections"), _read_texts(record, "explanation")
    later = {"corrections": corrections, "explanation": explanation}
    about |= {name: values for name, values in later.items() if values}
    if as_json:
        print_json(about)
        return
    params = join_first([_cut(f"{name}={value}") for name, value in head.params.items()], _SHOWN)
    rows = [
        ("bundle", str(path)),
        ("head", f"{head.name} ({params})" if params else head.name),
        *(("backbone", f"{spec.backbone.uri}, layer {spec.backbone.layer}") for spec in specs),
        ("classes", _list(dict.fromkeys(bundle.classes, 0), shown, counted=False)),
        ("test", tested),
        ("store", str(store.get("path", _UNKNOWN))),
        *(("items", words) for words in _describe_corrections(corrections)),
        ("explanations", _describe_explanation(explanation)),
        ("made with", join_first([f"{name} {version}" for name, version in created_with.items()], _SHOWN) or _UNKNOWN),
    ]
    _print_rows(rows)


def _describe_explanation(about: dict[str, Any]) -> str:
    """Describe what a bundle has for `featx predict --explain`."""
    counts = {name: value for name, value in about.items() if type(value) is int and 0 <= value < _LARGEST}
    if "calibrating" not in counts:
        return "nothing; fit it again for featx predict --explain"
    known = ""
    if {"neighbours", "bytes"} <= set(counts):
        known = f", features of {counts['neighbours']:,} training items ({format_bytes(counts['bytes'])})"
    return f"{counts['calibrating']:,} items that calibrate{known}"


def _describe_corrections(corrections: dict[str, Any]) -> list[str]:
    """Describe each table and what it changed, such as `--without a.csv: 3 left out, sha256 1f0a9b3c5d7e9f10`."""
    described = []
    for name, did in _CORRECTIONS.items():
        if name in corrections:
            count, sha256 = corrections.get(did), str(corrections.get(f"{name}_sha256", _UNKNOWN))
            counted = f"{count:,}" if isinstance(count, int) else "?"
            what = f"{counted} {did.replace('_', ' ')}, sha256 {sha256[:_SHOWN_DIGITS]}"
            described.append(f"--{name} {corrections[name]}: {what}")
    return described


def _read_texts(record: object, name: str) -> dict[str, Any]:
    """Read the texts and numbers of a part of a bundle's record, which is not trusted: empty if there are none."""
    part = record.get(name) if isinstance(record, dict) else None
    values = part.items() if isinstance(part, dict) else ()
    return {_cut(key): _cut(value) if isinstance(value, str) else value for key, value in values if _is_plain(value)}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _print_rows(rows: list[tuple[str, str]]) -> None:
    typer.echo("\n".join(f"{name:<12} {to_printable(value)}" for name, value in rows))


def _show_store(about: dict[str, Any], shown: int | None) -> None:
    backbone, image = about["spec"]["backbone"], about["spec"]["image"]
    resize = f"{image['resize']} {image['crop']:g}" if "crop" in image else image["resize"]
    rows = [
        ("store", f"{about['store']} (format {about['format_version']}, {_describe_size(about)})"),
        ("source", about["source"]),
        ("items", f"{about['items']:,}, {about['dim']:,} {about['dtype']} each, shape {about['feature_shape']}"),
        ("backbone", f"{backbone['uri']}, layer {backbone['layer']}, pooling {backbone['pooling']}"),
        ("weights", f"{backbone['weights']}, sha256 {backbone['weights_digest'][:16]}"),
        (
            "images",
            f"{image['height']}x{image['width']} px, {resize}, {image['interpolation']}, {image['decoder']}",
        ),
        ("views", _describe_views(about["spec"].get("views"))),
        ("spec", about["spec_digest"][:16]),
        ("classes", _list(about["classes"], shown) or "none"),
        ("splits", _list(about["splits"], shown) or "none in the source"),
        ("groups", str(about["groups"] or "none")),
        ("runtime", _describe_runtime(about["runtime"], about["drift"])),
        ("embedding", _describe_seconds(about["embed_seconds"])),
        ("made with", ", ".join(f"{name} {version}" for name, version in about["created_with"].items())),
        ("copies", f"{format_plural(about['duplicate_groups'], 'group')} of identical files (--duplicates lists them)"),
        ("quarantined", f"{len(about['quarantined']):,}"),
    ]
    if imported := about["reading"].get("imported"):
        facts = ", ".join(f"{name} {_cut(value)}" for name, value in imported.items())
        rows = [("imported", facts) if name == "weights" else (name, text) for name, text in rows]
        rows = [row for row in rows if row[0] not in {"images", "views", "runtime", "embedding", "made with"}]
    _print_rows(rows)
    if shown is None:
        lines = (f"  {to_printable(row['id'])}: {to_printable(row['reason'])}" for row in about["quarantined"])
        typer.echo("\n".join(lines))
        return
    reasons = _group_reasons(about["quarantined"])
    for reason, ids in reasons[:shown]:
        names = ", ".join(map(to_printable, ids[:_EXAMPLES])) + (", ..." if len(ids) > _EXAMPLES else "")
        typer.echo(f"  {len(ids):,} x {to_printable(reason)}: {names}")
    if len(reasons) > shown or any(len(ids) > _EXAMPLES for _, ids in reasons):
        typer.echo("  --all lists every image")


def _describe_size(about: dict[str, Any]) -> str:
    return format_bytes(about["file_bytes"]) + (f" in {about['shards']:,} shards" if about["shards"] else "")


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


def _list(counts: dict[str, int], shown: int | None, *, counted: bool = True) -> str:
    named = [f"{name} {count:,}" if counted else name for name, count in list(counts.items())[:shown]]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more:,} more (--all lists them)" if more else "")
