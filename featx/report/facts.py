"""What was done, in words: the facts of a bundle or a store, and the commands that repeat it."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from featx.bundle import Bundle
from featx.results import MOST_CHARACTERS
from featx.specs import EmbedSpec, ImageSpec
from featx.store import FeatureStore
from featx.wording import format_bytes, format_seconds, join_first, to_text

#: Name and value of a fact.
Fact = tuple[str, str]

#: Classes, parameters and the like that a fact lists.
_LISTED = 12

_ORIGINS = {
    "source": "as the source has it",
    "hold-out": "held out at random by label",
    "cross-validation": "cross-validation",
}


def list_bundle_facts(bundle: Bundle, record: Mapping[str, Any]) -> list[Fact]:
    """List what a bundle is.

    Args:
        bundle: The bundle.
        record: The record of its description, which is not trusted.
    """
    head, metrics, split = bundle.head_spec, bundle.metrics, _take(record, "split")
    params = join_first([f"{name}={_cut(value)}" for name, value in head.params.items()], _LISTED)
    details = [params, f"scaling {head.scaling or 'none'}", f"calibration {head.calibration or 'none'}"]
    test = _take(metrics, "test")
    facts = [
        ("bundle", str(bundle.path)),
        ("head", f"{head.name} ({', '.join(filter(None, details))}, seed {head.seed})"),
        *_list_spec_facts([part.embed_spec for part in bundle.parts]),
        ("data", _cut(_take(record, "store").get("source", ""))),
        ("trained on", f"{_cut(metrics.get('train_items', '?'))} items"),
        ("tested on", f"{_cut(test.get('items', '?'))} items ({_cut(metrics.get('test_name', 'test'))})"),
        ("split", _describe_split(split)),
        ("classes", _list_names(bundle.classes)),
        ("protocol", _cut(record.get("protocol") or "")),
        ("made with", _list_versions(_take(record, "created_with"))),
    ]
    return [(name, value) for name, value in facts if value]


def list_store_facts(store: FeatureStore) -> list[Fact]:
    """List what a store is."""
    about = store.describe()
    splits = ", ".join(f"{name} {count:,}" for name, count in about["splits"].items())
    seconds = about["embed_seconds"]
    facts = [
        ("store", f"{store.path} ({format_bytes(about['file_bytes'])})"),
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
        facts += [
            ("backbone", f"{network.uri}, layer {network.layer}, pooling {network.pooling}"),
            ("weights", f"{network.weights}, sha256 {network.weights_digest[:16]}"),
            ("images", f"{image.height}x{image.width} px, {image.resize}, {image.interpolation}, {image.decoder}"),
        ]
        if spec.views:
            facts.append(("views", f"{spec.views.count} of each image, augmented by {spec.views.augmentation}"))
    return facts


def _describe_split(split: Mapping[str, Any]) -> str:
    origin, group = str(split.get("origin", "")), _cut(split.get("group") or "")
    words = [_ORIGINS.get(origin, _cut(origin))]
    if origin == "hold-out":
        words.append(f"{_cut(split.get('test_size'))} of the items, seed {_cut(split.get('seed'))}")
    if origin == "cross-validation":
        words.append(f"{_cut(split.get('cv'))} folds, seed {_cut(split.get('seed'))}")
    return ", ".join(filter(None, [*words, f"groups by {group}" if group else ""]))


def list_commands(bundle: Bundle, record: Mapping[str, Any]) -> list[str]:
    """List the commands that repeat a run, as far as its bundle records them."""
    source = _cut(_take(record, "store").get("source", "SOURCE"))
    if "finetune" in record:
        tuned, backbone = _take(record, "finetune"), _take(record, "backbone").get("uri", "")
        flags = {"unfreeze": tuned.get("unfreeze"), "epochs": tuned.get("epochs"), "clf": bundle.head_spec.name}
        return [_join(["featx", "finetune", source, "--backbone", _cut(backbone)], flags)]
    stores = record.get("stores") or [_take(record, "store")]
    paths = [_cut(one.get("path", "STORE")) for one in stores if isinstance(one, Mapping)]
    commands = [_join(["featx", "embed", source], _list_embed_flags(part.embed_spec)) for part in bundle.parts]
    split, head = _take(record, "split"), bundle.head_spec
    flags = {
        "clf": head.name,
        "protocol": record.get("protocol") or None,
        "cv": split.get("cv") or None,
        "test-size": split.get("test_size") if split.get("origin") == "hold-out" else None,
        "group": split.get("group") or None,
        "seed": split.get("seed"),
    }
    return [*commands, _join(["featx", "fit", *paths], flags)]


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


def _join(words: Sequence[str], flags: Mapping[str, Any]) -> str:
    given = [word for name, value in flags.items() if value is not None for word in (f"--{name}", _cut(value))]
    return shlex.join([*words, *given])


def _take(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Take a part of a description that is not trusted; empty if it is missing or something else."""
    part = values.get(name)
    return part if isinstance(part, Mapping) else {}


def _list_versions(versions: Mapping[str, Any]) -> str:
    return join_first([f"{_cut(name)} {_cut(value)}" for name, value in versions.items()], 2 * _LISTED)


def _list_names(names: Sequence[str]) -> str:
    return f"{len(names):,}: {join_first(names, _LISTED)}"


def _cut(value: object) -> str:
    """Shorten a text that is not trusted; a path stays whole."""
    text = to_text(str(value))
    return text if len(text) <= 50 * MOST_CHARACTERS else f"{text[: 50 * MOST_CHARACTERS]}..."
