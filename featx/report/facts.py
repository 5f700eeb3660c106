"""What was done, in words: the facts of a bundle or a store, and the commands that repeat it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from featx.bundle import Bundle
from featx.items.columns import FLAGS
from featx.records import cut_text, describe_split, format_command, format_fit, take_part
from featx.specs import EmbedSpec, ImageSpec
from featx.store import FeatureStore
from featx.wording import format_bytes, format_seconds, join_first

#: Name and value of a fact.
Fact = tuple[str, str]

#: Classes, parameters and the like that a fact lists.
_LISTED = 12


def list_bundle_facts(bundle: Bundle, record: Mapping[str, Any]) -> list[Fact]:
    """List what a bundle is.

    Args:
        bundle: The bundle.
        record: The record of its description, which is not trusted.
    """
    head, metrics, split = bundle.head_spec, bundle.metrics, take_part(record, "split")
    params = join_first([f"{name}={cut_text(value)}" for name, value in head.params.items()], _LISTED)
    details = [params, f"scaling {head.scaling or 'none'}", f"calibration {head.calibration or 'none'}"]
    test = take_part(metrics, "test")
    facts = [
        ("bundle", str(bundle.path)),
        ("head", f"{head.name} ({', '.join(filter(None, details))}, seed {head.seed})"),
        *_list_spec_facts([part.embed_spec for part in bundle.parts]),
        ("data", cut_text(take_part(record, "store").get("source", ""))),
        ("trained on", f"{cut_text(metrics.get('train_items', '?'))} items"),
        ("tested on", f"{cut_text(test.get('items', '?'))} items ({cut_text(metrics.get('test_name', 'test'))})"),
        ("split", describe_split(split)),
        ("classes", _list_names(bundle.classes)),
        ("protocol", cut_text(record.get("protocol") or "")),
        ("made with", _list_versions(take_part(record, "created_with"))),
    ]
    return [(name, value) for name, value in facts if value]


def list_store_facts(store: FeatureStore) -> list[Fact]:
    """List what a store is."""
    about = store.describe()
    splits = ", ".join(f"{name} {count:,}" for name, count in about["splits"].items())
    seconds = about["embed_seconds"]
    facts = [
        ("store", f"{store.place} ({format_bytes(about['file_bytes'])})"),
        *_list_spec_facts([store.spec]),
        ("data", store.source),
        ("items", f"{len(store):,}, {store.dim:,} {store.spec.dtype} each"),
        ("splits", splits or "none in the source"),
        ("groups", f"{about['groups']:,}" if about["groups"] else ""),
        ("classes", _list_names(store.classes)),
        ("embedding", f"took {format_seconds(seconds)}" if seconds is not None else ""),
        ("made with", _list_versions(about["created_with"])),
    ]
    return [(name, value) for name, value in facts if value]


def _list_spec_facts(specs: Sequence[EmbedSpec]) -> list[Fact]:
    facts = []
    for spec in specs:
        network, image = spec.backbone, spec.image
        if network.imported_from:
            facts.append(("features", f"imported from {network.imported_from}; their network is not known"))
            continue
        facts += [
            ("backbone", f"{network.uri}, layer {network.layer}, pooling {network.pooling}"),
            ("weights", f"{network.weights}, sha256 {network.weights_digest[:16]}"),
            ("images", _describe_images(image)),
        ]
        if spec.views:
            facts.append(("views", f"{spec.views.count} of each image, augmented by {spec.views.augmentation}"))
    return facts


def _describe_images(image: ImageSpec) -> str:
    words = f"{image.height}x{image.width} px, {image.resize}, {image.interpolation}, {image.decoder}"
    return f"{words}, {image.bits} of 16 bits" if image.bits else words


def list_commands(bundle: Bundle, record: Mapping[str, Any], reading: Mapping[str, Any]) -> list[str]:
    """List the commands that repeat a run, as far as its bundle and its store record them.

    Args:
        bundle: The bundle.
        record: The record of its description, which is not trusted.
        reading: Arguments that the source was read with; see `FeatureStore.reading`.
    """
    source = cut_text(take_part(record, "store").get("source", "SOURCE"))
    words = [source, *_list_reading(reading)]
    if "finetune" in record:
        tuned, backbone = take_part(record, "finetune"), take_part(record, "backbone").get("uri", "")
        flags = {"unfreeze": tuned.get("unfreeze"), "epochs": tuned.get("epochs"), "clf": bundle.head_spec.name}
        flags |= {"group": take_part(record, "split").get("group") or None}
        flags |= {name: take_part(record, "corrections").get(name) for name in ("without", "relabel")}
        return [format_command(["featx", "finetune", *words, "--backbone", cut_text(backbone)], flags)]
    commands = [_format_embed(words, part.embed_spec, reading) for part in bundle.parts]
    return [*commands, format_fit(record, bundle.head_spec.name, bundle.head_spec.params)]


def format_embed(store: FeatureStore) -> str:
    """Format the command that embeds a store again."""
    return _format_embed([cut_text(store.source), *_list_reading(store.reading)], store.spec, store.reading)


def _format_embed(words: Sequence[str], spec: EmbedSpec, reading: Mapping[str, Any]) -> str:
    """Format the command that makes a store: `featx import` if its features were imported."""
    if spec.backbone.imported_from:
        return format_command(["featx", "import", *words], {"labels": take_part(reading, "imported").get("labels")})
    return format_command(["featx", "embed", *words], _list_embed_flags(spec))


def format_compare(comparison: Mapping[str, Any]) -> str:
    """Format the command that repeats a comparison; empty if it records none.

    Args:
        comparison: The content of `comparison.json`, which is not trusted.
    """
    call = take_part(comparison, "call")
    listed = call.get("stores")
    stores = listed if isinstance(listed, list) else []
    flags = [
        (f"--{name}", one)
        for name, value in take_part(call, "flags").items()
        for one in (value if isinstance(value, list) else [value])
    ]
    words = [*stores, *(word for pair in flags for word in pair)]
    return shlex.join(["featx", "compare", *map(cut_text, words)]) if stores else ""


def _list_reading(reading: Mapping[str, Any]) -> list[str]:
    """List the flags that read a source as it was read; a DataFrame has none."""
    columns, options = take_part(reading, "columns"), take_part(reading, "options")
    flags = [(flag, columns[role]) for role, flag in FLAGS.items() if columns.get(role)]
    flags += [("--root", reading["root"])] if reading.get("root") else []
    shard, table = take_part(reading, "shard"), take_part(reading, "without").get("path")
    flags += [("--shard", f"{shard.get('number')}/{shard.get('count')}")] if shard else []
    flags += [("--without", table)] if table else []
    for name in ("layout", "label_pattern", "map_labels", "only", "except_"):
        value = options.get(name)
        if isinstance(value, Mapping):  # names of classes, where the command line has expressions
            value = [f"{re.escape(str(old))}={new}" for old, new in value.items()]
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        flags += [(flag, one) for one in (value if isinstance(value, list) else [value] if value else [])]
    return [cut_text(word) for pair in flags for word in pair]


def _list_embed_flags(spec: EmbedSpec) -> dict[str, Any]:
    network, image = spec.backbone, spec.image
    usual = ImageSpec(image.height, image.width)
    size = str(image.height) if image.height == image.width else f"{image.height}x{image.width}"
    flags: dict[str, Any] = {"backbone": network.uri, "layer": network.layer, "pooling": network.pooling}
    flags |= {"weights": "none"} if network.weights == "none" else {}
    flags |= {"image-size": size}
    names = ("resize", "interpolation", "decoder", "bits")
    flags |= {name: getattr(image, name) for name in names if getattr(image, name) != getattr(usual, name)}
    flags |= {"dtype": spec.dtype} if spec.dtype != "float32" else {}
    views = spec.views
    return flags | ({"views": views.count, "augment": views.augmentation, "view-seed": views.seed} if views else {})


def _list_versions(versions: Mapping[str, Any]) -> str:
    return join_first([f"{cut_text(name)} {cut_text(value)}" for name, value in versions.items()], 2 * _LISTED)


def _list_names(names: Sequence[str]) -> str:
    return f"{len(names):,}: {join_first(names, _LISTED)}"
