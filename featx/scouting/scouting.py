"""Scouting: which backbone, layer and pooling to embed, by a quick probe on a sample of the training items."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from featx.backbones import Backbone
from featx.backbones.running import Runner
from featx.embedding import EmbedResult, Plan, check_image, embed_plans
from featx.errors import UsageError
from featx.fitting.choice import choose_heads
from featx.fitting.preconditions import check_manifest
from featx.heads import find_head
from featx.items import Manifest, read_source
from featx.options import SCOUT_DEFAULTS, ScoutOptions, check_options
from featx.scouting.networks import Network, build_networks, group_by_image, name_source_folder, plan_networks
from featx.scouting.probes import probe_stores
from featx.scouting.report import make_command, write_result
from featx.scouting.results import ScoutResult, ScoutRow, choose_row
from featx.scouting.selection import select_items
from featx.specs import HeadSpec
from featx.wording import to_text

#: Folder of finished probes, among the features of a source.
_PROBES = ".probes"

#: How features are scaled for a head that is only named.
_SCALING = "standard"

#: How often the rate of each network is measured.
_ROUNDS = 3


def scout(
    source: str | os.PathLike[str] | Manifest,
    backbones: Sequence[str | Backbone] | str | Backbone,
    *,
    layers: Sequence[str | int] = (),
    poolings: Sequence[str] = (),
    head: str | HeadSpec = "lda",
    image: Mapping[str, Any] | None = None,
    options: ScoutOptions = SCOUT_DEFAULTS,
) -> ScoutResult:
    """Compare backbones, layers and poolings on the training items or a sample of them, before embedding everything.

    Images of one size are read and decoded once for all backbones. One head is then tuned on the same folds of the
    items for each set of features, and how it predicted held-out items is compared by a paired test. Only the
    training items of `fit` are embedded, so the test stays as good as new. The features stay in `options.features`,
    where `embed` finds them; the same call continues where an interrupted one stopped.

    Args:
        source: A folder, table or archive (see `featx.read_source`), or a manifest.
        backbones: Uris (see `featx.load_backbone`), also with layers of their own, as in
            `mobilenet@conv_pw_11_relu,-1`; or backbone objects, which bring their layers and pooling.
        layers: Names or indices of the layers where every other backbone is cut; the last layer if empty.
        poolings: How feature maps become vectors; the default of each layer if empty. Each runs the networks again.
        head: The head: a name, which stands for standardised features, or a spec, whose open parameters are tuned.
        image: Fields of `ImageSpec` that differ from its defaults and each backbone's size.
        options: The sample, the folds, and where to write.

    Returns:
        A row for each set of features, the one to embed (see `choose_row`), and the command that embeds it.

    Raises:
        FeatxError: One of its subclasses, for a source, backbone, head or store that cannot be used.
    """
    check_options(options, ScoutOptions)
    started = time.perf_counter()
    spec = _choose_head(head, options.seed)
    manifest = source if isinstance(source, Manifest) else read_source(source)
    check_manifest(manifest, group=options.group, reporter=options.reporter)
    named = [backbones] if isinstance(backbones, str) or not isinstance(backbones, Sequence) else backbones
    networks = build_networks(named, layers, poolings, check_image(image or {}), options.runtime)
    selection, folder = select_items(manifest, options), name_source_folder(options.features, manifest)
    is_sample = len(selection.manifest) < selection.n_train
    mark = f"-{len(selection.manifest)}-images" if is_sample else ""  # so that no sample replaces another
    plans = plan_networks(networks, folder, mark, image or {}, options.reporter)
    embedded = _embed(selection.manifest, plans, options)
    found = _make_rows(networks, embedded, options)
    rows, n_items, folds, notes = probe_stores(found, spec, folder / _PROBES, options)
    choice = choose_row(rows, is_sample=is_sample)
    result = ScoutResult(
        rows=tuple(rows),
        choice=choice,
        command=make_command(choice, manifest, image or {}, options),
        head=spec,
        folds=folds,
        n_items=n_items,
        n_train=selection.n_train,
        folder=None,
        notes=(*selection.notes, *notes),
        seconds=time.perf_counter() - started,
        embedded=tuple(result for results in embedded for result in results),
    )
    return write_result(result, options, to_text(manifest.source))


def _choose_head(head: str | HeadSpec, seed: int) -> HeadSpec:
    """Choose the head; one that is only named gets standardised features: trying each scaling takes thrice as long."""
    specs, _ = choose_heads([head], seed, {}, None)
    if len(specs) > 1:
        msg = f"{head} names {len(specs)} heads; a scout needs one, such as lda or logreg"
        raise UsageError(msg)
    (spec,) = specs
    is_scaled = isinstance(head, str) and _SCALING in find_head(spec.name).scalings
    return replace(spec, scaling=_SCALING) if is_scaled else spec


def _embed(manifest: Manifest, plans: Sequence[Plan], options: ScoutOptions) -> list[list[EmbedResult]]:
    """Embed in one pass for each image spec, and return the results in the order of the plans."""
    run = options.make_embed_options()
    results: dict[int, list[EmbedResult]] = {}
    for alike in group_by_image(plans):
        found = embed_plans(manifest, alike, run)
        results |= {id(plan): own for plan, own in zip(alike, found, strict=True)}
    return [results[id(plan)] for plan in plans]


def _make_rows(
    networks: Sequence[Network], embedded: Sequence[Sequence[EmbedResult]], options: ScoutOptions
) -> list[ScoutRow]:
    """Make a row for each store, without its accuracy."""
    rows = []
    rates = _measure_rates(networks, options)
    for network, results, rate in zip(networks, embedded, rates, strict=True):
        for output, result in zip(network.backbone.outputs, results, strict=True):
            store = result.store
            row = ScoutRow(
                backbone=network.uri,
                layer=output.layer,
                pooling=output.pooling,
                name=network.name(output.layer),
                flags=network.list_flags(output.layer),
                store=store.path,
                dim=store.dim,
                bytes_per_item=store.dim * store.features.dtype.itemsize,
                images_per_second=rate,
                seconds=store.embed_seconds,
            )
            rows.append(row)
    return rows


def _measure_rates(networks: Sequence[Network], options: ScoutOptions) -> list[float]:
    """Measure the images per second of each network, in rounds, so that other load slows down all of them.

    Other load only adds to the time, so the best round counts.
    """
    options.reporter.begin("measuring rates")
    runners = [Runner(network.backbone, options.make_embed_options()) for network in networks]
    rates = [0.0] * len(runners)
    for number in range(_ROUNDS * len(runners)):
        at = number % len(runners)
        rates[at] = max(rates[at], runners[at].measure_rate())
        options.reporter.advance(number + 1, _ROUNDS * len(runners))
    return rates
