"""A scout as text: what to embed and why, the command for it, and files."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featx.comparing.report import name_folder, write_csv
from featx.evaluation.figure import make_title
from featx.files import say_failures, write_json
from featx.items import Manifest
from featx.items.columns import FLAGS
from featx.options import SCOUT_DEFAULTS, ScoutOptions
from featx.scouting.results import ScoutResult, ScoutRow
from featx.wording import agree, format_plural, to_text

_PER = 1000

_LABELS = ("seconds of the network for 1,000 images", "accuracy on held-out folds, with 95 % interval", "to embed")

#: Flags of `featx embed` for the fields of an image spec and of `Manifest.reading`.
_IMAGE_FLAGS = ("resize", "interpolation", "decoder", "bits")
_OPTION_FLAGS = {"layout": "--layout", "label_pattern": "--label-pattern", "only": "--only", "except_": "--except"}


def make_command(row: ScoutRow, manifest: Manifest, image: Mapping[str, Any], options: ScoutOptions) -> str:
    """Make the command that embeds the features of a row from the whole source; empty for a DataFrame."""
    if manifest.reading.get("frame"):
        return ""
    flags = [*row.flags, *_list_image_flags(image), *_list_reading_flags(manifest.reading)]
    if str(options.features) != SCOUT_DEFAULTS.features:
        flags += ["--features", str(options.features)]
    if options.runtime != SCOUT_DEFAULTS.runtime:
        flags += ["--runtime", options.runtime]
    return shlex.join(["featx", "embed", to_text(manifest.source), *flags])


def _list_image_flags(image: Mapping[str, Any]) -> Iterator[str]:
    if "height" in image:
        yield from ("--image-size", f"{image['height']}x{image['width']}")
    for name in _IMAGE_FLAGS:
        if name in image:
            yield from (f"--{name}", str(image[name]))


def _list_reading_flags(reading: Mapping[str, Any]) -> Iterator[str]:
    """List the flags with which the same items are read again."""
    if "root" in reading:
        yield from ("--root", str(reading["root"]))
    for role, column in reading.get("columns", {}).items():
        yield from (FLAGS[role], column)
    options = reading.get("options", {})
    for name, flag in _OPTION_FLAGS.items():
        value = options.get(name, [])
        for one in [value] if isinstance(value, str) else value:
            yield from (flag, one)
    for old, new in options.get("map_labels", {}).items():
        yield from ("--map-labels", f"{re.escape(old)}={new}")


def describe_scout(result: ScoutResult) -> list[str]:
    """Describe the outcome, in one sentence each; the first says what to embed."""
    choice, best, ties = result.choice, result.best, result.ties
    images = f"{result.n_items:,} images"
    if not ties:
        is_worse = any(row.verdict == "worse" for row in result.rows)
        others = f": these {images} show that all others are worse" if is_worse else ""
        lines = [f"embed {choice.name}{others}"]
    elif result.n_items < result.n_train:
        cheap = min(ties, key=lambda row: row.cost)
        others = f"{len(ties)} other {agree(len(ties), 'set is', 'sets are')} worse"
        what = f"the most accurate on this sample, which does not show that {others}"
        lines = [f"embed {choice.name}: {what}; the cheapest of them is {cheap.name}"]
    else:
        most = "the most accurate and the" if choice is best else "the"
        than = "the best" if choice is best else f"the most accurate, {best.name}"
        what = f"{most} cheapest of the {len(ties) + 1} that these {images} do not show to be worse than {than}"
        lines = [f"embed {choice.name}: {what}"]
        if choice.paired is not None:
            lines.append(f"by these images, it may be up to {-100 * choice.paired.low:.1f} points worse")
        small = min((best, *ties), key=lambda row: row.bytes_per_item)
        if small.bytes_per_item < choice.bytes_per_item:
            lines.append(f"of these, {small.name} has the fewest bytes an item")
    whole = "all training images" if result.n_items == result.n_train else f"{result.n_train:,} training images"
    sample = f"the {images} are {whole}" if whole.startswith("all") else f"a sample of {images} of {whole}"
    lines.append(f"accuracy is that of {result.head.name} on {result.folds} folds; {sample}, and the test was not used")
    lines += [f"failed: {row.name}: {row.error}" for row in result.rows if row.error]
    return lines


def write_result(result: ScoutResult, options: ScoutOptions, source: str) -> ScoutResult:
    """Write the table as CSV and JSON, and the plot of accuracy against cost, unless no folder is wanted.

    Returns:
        The result, with the folder.

    Raises:
        StoreError: If the folder cannot be written to.
    """
    if options.out is None and options.folder is None:
        return result
    folder = Path(options.out) if options.out is not None else name_folder(Path(options.folder or ""), "scout")
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / "scout.csv", [row.to_dict() for row in result.rows])
        write_json(result.to_dict(), folder / "scout.json")
        _plot(result, folder / "accuracy_against_cost.png", source)
    return replace(result, folder=folder)


def _plot(result: ScoutResult, path: Path, source: str) -> None:
    from featx.evaluation.plots import plot_costs

    able = [row for row in result.rows if row.accuracy is not None and row.images_per_second]
    if not able:
        return
    bars = [(row.accuracy, row.accuracy_low, row.accuracy_high) for row in able]
    accuracies, lows, highs = np.array(bars, np.float64).T
    seconds = [_PER / row.images_per_second for row in able]
    chosen = able.index(result.choice) if result.choice in able else None
    names = [row.name for row in able]
    missing = [f"{row.name} {'failed' if row.error else 'not measured'}" for row in result.rows if row not in able]
    words: dict[str, Any] = {
        "labels": _LABELS,
        "missing": missing,
        "title": make_title(
            f"{result.head.name} on {format_plural(len(able), 'set')} of features",
            source=source,
            split=f"{result.folds} folds of the training items",
            n_items=result.n_items,
        ),
    }
    plot_costs(names, seconds, accuracies, lows, highs, path, chosen=chosen, **words)
