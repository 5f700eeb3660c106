"""The bundle: the folder that turns pixels into labels anywhere.

bundle.json        specs, classes, versions, split, how the head was chosen; size and sha256 of each other file
head.skops         the fitted head, not a pickle
head.npz           optional: the same head as plain arrays, which answers without scikit-learn
golden.npz         synthetic pictures and their expected features
network.xml, .bin  optional: the backbone for OpenVINO, from uint8 pixels to features, which runs without Keras
backbone.keras     only for a user's own network (or its weights, as backbone.h5)
metrics.json       what was measured
index.html         the numbers, plots and commands as a page, for people
predictions.csv    the prediction for each held-out item
items.csv          the sha256 of every item, and whether it was trained on or tested
explanation.npz    optional: what explains predictions, see featx.explaining.basis
confusion_matrix.png, .svg
curves.csv, .png, .svg, head.keras    only for a head that Keras trained; for people and for Keras, not read by featx

The head of a bundle of format 2 takes the features of several networks side by side. bundle.json then lists the spec of
each, in order, and the files of each have its number: golden-1.npz, network-1.xml, golden-2.npz ...

A bundle may be untrusted. Opening one reads only its own files, runs no code from them, and takes
memory in proportion to their size. The checksums detect damaged and exchanged files. They do not
prove who made a bundle, because its maker also writes the checksums.
"""

import contextlib
import csv
import datetime as dt
import functools
import hashlib
import itertools
import logging
import os
import platform
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.backbones.cache import NETWORK, WEIGHTS, link_network
from featx.backbones.presets import pack_preset
from featx.backbones.protocol import is_own, needs_openvino
from featx.bundle_page import PAGE, make_bundle_page
from featx.errors import BundleError, DataError, UsageError
from featx.evaluation import Evaluation
from featx.files import (
    DAMAGES,
    Table,
    is_plain_name,
    list_members,
    read_array,
    read_table,
    sync_file,
    sync_folder,
    write_atomically,
    write_json,
    write_table,
)
from featx.golden import Golden
from featx.heads.plain import PlainHead
from featx.items.augmentation import is_canonical
from featx.items.decoding import MAX_PIXELS
from featx.references import LATEST, MANIFEST, METRICS, check_own, find_bundle, read_json
from featx.registry import find_versions
from featx.results import PREDICTIONS
from featx.specs import DTYPES, SCALINGS, EmbedSpec, HeadSpec, ViewSpec

FORMAT = "featx-bundle"
#: That of a bundle with several networks; one with a single network has format 1, which every featx reads.
FORMAT_VERSION = 2

#: More networks than anybody runs for one prediction.
_MOST_PARTS = 16

_MOST_BUNDLES = 10_000

_HEAD = "head.skops"
_PLAIN_HEAD = "head.npz"
_GOLDEN = "golden.npz"
ITEMS = "items.csv"
_BACKBONE = "backbone"

logger = logging.getLogger(__name__)

_WEIGHTS = ("imagenet", "none", "computed", "file", "preset", "unknown")


@dataclass(frozen=True, slots=True)
class Part:
    """How pixels become the features of one network.

    Attributes:
        embed_spec: The spec of the features.
        golden: The golden pictures and their expected features.
        backbone_file: The copy of the user's own network or weights; None if there is none.
        number: Its place among the networks of a bundle, from 1; 0 if it is the only one.
    """

    embed_spec: EmbedSpec
    golden: Golden
    backbone_file: Path | None
    number: int = 0

    @property
    def network(self) -> tuple[str, str]:
        """The names of the two files of its network, if the bundle holds it."""
        return name_file(NETWORK, self.number), name_file(WEIGHTS, self.number)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk, with its head not yet loaded.

    Attributes:
        path: The folder.
        parts: How pixels become features: one part for each network, in the order of the head's columns.
        head_spec: How the head was made; its params are those that were chosen.
        classes: The classes, in the order of the head's probabilities.
        metrics: The content of `metrics.json`.
        files: The sha256 of each other file, which was compared.
    """

    path: Path
    parts: tuple[Part, ...]
    head_spec: HeadSpec
    classes: tuple[str, ...]
    metrics: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def embed_spec(self) -> EmbedSpec:
        """The spec of the only network.

        Raises:
            UsageError: If there are several.
        """
        return self._find_only().embed_spec

    @property
    def golden(self) -> Golden:
        """The golden pictures of the only network, as `embed_spec`."""
        return self._find_only().golden

    @property
    def backbone_file(self) -> Path | None:
        """The user's own network or weights of the only network, as `embed_spec`."""
        return self._find_only().backbone_file

    def _find_only(self) -> Part:
        if len(self.parts) > 1:
            msg = f"{self.path} has {len(self.parts)} networks; use `parts`, which has the spec of each"
            raise UsageError(msg)
        return self.parts[0]

    @property
    def views(self) -> ViewSpec | None:
        """The views whose mean the head was trained on, the same for all networks; None if there are none."""
        return self.parts[0].embed_spec.views

    def holds_network(self, part: Part) -> bool:
        """Return whether the bundle holds the converted network of a part."""
        return set(part.network) <= set(self.files)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a bundle without running anything in it.

        Args:
            path: The folder, or another reference that `find_bundle` takes, such as `latest`.

        Raises:
            BundleError: If the folder is not a bundle, or files are missing or damaged.
        """
        folder = find_bundle(path)
        try:
            return cls._read(folder)
        except BundleError:
            raise
        except (*DAMAGES, MemoryError, RecursionError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"{folder} is damaged ({type(error).__name__}: {reason}); copy it again, or fit it again"
            raise BundleError(msg) from error

    @classmethod
    def _read(cls, folder: Path) -> Self:
        about = read_json(folder, MANIFEST)
        _check_format(folder, about)
        described = about["parts"] if about["format_version"] > 1 else [about]
        specs, head_spec = [EmbedSpec.from_dict(one["embed"]) for one in described], HeadSpec.from_dict(about["head"])
        classes, named = about["classes"], [one["backbone_file"] for one in described]
        _check_values(specs, head_spec, classes, named)
        _check_files(folder, dict(about["files"]), named)
        parts = []
        for number, spec, name in zip(_number(len(specs)), specs, named, strict=True):
            golden = _read_golden(folder / name_file(_GOLDEN, number))
            if bool(golden.files) == bool(spec.backbone.imported_from):
                msg = f"{_GOLDEN} has {len(golden.files)} pictures, which does not fit {spec.backbone.uri}"
                raise ValueError(msg)
            parts.append(Part(spec, golden, folder / name if name else None, number))
        metrics, files = read_json(folder, METRICS), {name: str(one["sha256"]) for name, one in about["files"].items()}
        return cls(folder, tuple(parts), head_spec, tuple(classes), metrics, files)

    def load_head(self, *, plain: bool = False) -> Any:  # noqa: ANN401 - a fitted scikit-learn classifier, which has no type
        """Load the fitted head.

        Args:
            plain: Take the plain arrays if the bundle has them: they have only `classes_` and `predict_proba`, and
                need no scikit-learn.

        Raises:
            BundleError: If it holds foreign types, or does not match the bundle's classes.
        """
        if plain and _PLAIN_HEAD in self.files:
            head: Any = PlainHead.load(self.path / _PLAIN_HEAD)
        else:
            from featx.heads.persistence import load_head

            head = load_head(self.path / _HEAD)
        known, count = np.asarray(head.classes_), min(len(part.golden.features) for part in self.parts)
        features = np.concatenate([part.golden.features[:count] for part in self.parts], axis=1)
        features = features if count else np.zeros((1, features.shape[1]))  # imported: there are no golden pictures
        try:
            if not set(known.tolist()) <= set(range(len(self.classes))):
                msg = "its head has other classes than bundle.json"
                raise ValueError(msg)  # noqa: TRY301 - all mismatches are reported alike
            probabilities = head.predict_proba(np.asarray(features, np.float32))
            if probabilities.shape != (len(features), len(known)) or not np.isfinite(probabilities).all():
                msg = "its head does not return a finite probability for each class"
                raise ValueError(msg)  # noqa: TRY301 - as above
        except Exception as error:  # scikit-learn raises anything on a state that it did not write
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            msg = f"{self.path} is damaged: its parts do not match ({reason}); copy it again, or fit it again"
            raise BundleError(msg) from error
        return head

    def read_trained(self) -> frozenset[str]:
        """Read the sha256 of each image file that the head was trained on.

        Raises:
            BundleError: If the list is damaged.
        """
        return frozenset(self._iterate_trained())

    def _iterate_trained(self) -> Iterator[str]:
        try:
            with (self.path / ITEMS).open(encoding="utf-8", newline="") as file:
                yield from (row["sha256"] for row in csv.DictReader(file) if row["role"] == "trained")
        except (KeyError, OSError, ValueError, csv.Error) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else error
            msg = f"{self.path / ITEMS} is damaged ({reason}); copy the bundle again, or fit it again"
            raise BundleError(msg) from error


@dataclass(frozen=True, slots=True)
class DraftPart:
    """A network of a bundle to be written.

    Attributes:
        embed_spec, golden: As in `Part`.
        backbone_file: Path of the user's own network or weights; empty if there is none.
        network: The backbone as a file for OpenVINO, with its weights next to it, or a function that writes both;
            None to leave it out.
    """

    embed_spec: EmbedSpec
    golden: Golden
    backbone_file: str = ""
    network: Path | Callable[[Path], None] | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """The contents of a bundle to be written.

    Attributes:
        parts: Its networks.
        head_spec, classes: As in `Bundle`.
        head: The fitted classifier.
        record: How the head was chosen, the split and the versions.
        test: The final evaluation.
        metrics: The content of `metrics.json`.
        items: Columns `id, sha256, label, role`, one row for each item.
        predictions: The columns of `predictions.csv`.
        extras: Other files by name, each with the function that writes it; featx does not read them.
        title: What was tested, for the plots.
    """

    parts: tuple[DraftPart, ...]
    head_spec: HeadSpec
    classes: tuple[str, ...]
    head: Any
    record: Mapping[str, Any]
    test: Evaluation
    metrics: Mapping[str, Any]
    items: Table
    predictions: Table
    extras: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    title: str = ""


def name_file(name: str, number: int) -> str:
    """Name a file of one of several networks: `network-2.xml`; with the number 0, of the only one: `network.xml`."""
    path = Path(name)
    return f"{path.stem}-{number}{path.suffix}" if number else name


def _number(count: int) -> range:
    """Number the networks of a bundle: from 1, or 0 for the only one."""
    return range(1, count + 1) if count > 1 else range(1)


@functools.cache
def read_versions() -> dict[str, str]:
    """Read the versions of the packages that compute a head; only Keras heads need the last two."""
    packages = ("featx", "numpy", "scikit-learn", "scipy", "skops", "keras", "tensorflow")
    return {"python": platform.python_version(), **find_versions(packages)}


def tabulate_predictions(
    ids: NDArray[np.str_],
    labels: NDArray[np.str_],
    tested: NDArray[np.intp],
    probabilities: NDArray[np.float64],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Make the columns of a bundle's predictions.

    Args:
        ids: Text `(n_items,)`.
        labels: Text `(n_items,)`.
        tested: int `(n_tested,)`, positions of the tested items.
        probabilities: float64 `(n_tested, n_classes)`.
        classes: Names of the classes.
    """
    best = probabilities.argmax(axis=1)
    shares = {f"probability_{name}": probabilities[:, at] for at, name in enumerate(classes)}
    chosen = {"predicted": np.asarray(classes)[best], "probability": probabilities.max(axis=1)}
    return {"id": ids[tested], "label": labels[tested], **chosen, **shares}


def write_bundle(draft: Draft, folder: str | os.PathLike[str], slug: str, name: str = "") -> Path:
    """Write a bundle as `<folder>/<date>-<slug>`, with a number appended if that exists.

    It is written under a temporary name and renamed, so that it is never there in part. The file `latest` next to it
    then has its name.

    Args:
        draft: The contents.
        folder: The folder of runs.
        slug: What the run is, for its name.
        name: The whole name of its folder; empty for one made from the date and the slug.

    Raises:
        BundleError: If the user's own network or weights are missing, or the folder cannot be written to.
    """
    parent = Path(folder)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    except OSError as error:
        msg = f"cannot write a bundle into {parent}: {error.strerror or error}; choose another folder with --runs"
        raise BundleError(msg) from error
    try:
        _write_head(draft.head, temporary)
        numbered = zip(draft.parts, _number(len(draft.parts)), strict=True)
        parts = [_write_part(part, number, temporary) for part, number in numbered]
        write_table(draft.items, temporary / ITEMS)
        write_table(draft.predictions, temporary / PREDICTIONS)
        write_json(draft.metrics, temporary / METRICS)
        _write_extras(draft, temporary)
        about = {
            "format": FORMAT,
            "format_version": 1 if len(parts) == 1 else FORMAT_VERSION,
            **(parts[0] if len(parts) == 1 else {"parts": parts}),
            "head": draft.head_spec.to_dict(),
            "classes": list(draft.classes),
            "record": draft.record,
        }
        _write_page(draft, about, temporary)
        about["files"] = {path.name: describe_file(path) for path in sorted(temporary.iterdir())}
        write_json(about, temporary / MANIFEST)
        _read_back(temporary, parent)
        for path in temporary.iterdir():
            sync_file(path)
        temporary.chmod(0o755)
        sync_folder(temporary)
        path = _rename(temporary, parent, slug) if not name else _rename_to(temporary, parent / name)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _point_to(path)
    return path


def _point_to(path: Path) -> None:
    """Write the name of a new run to the file `latest` next to it: not a link, which Windows refuses to most users."""
    try:
        with write_atomically(path.with_name(LATEST)) as pointer:
            pointer.write_text(f"{path.name}\n", "utf-8")
    except OSError as error:
        logger.warning("%s cannot name the new run %s: %s", path.with_name(LATEST), path, error.strerror or error)


def _read_back(folder: Path, parent: Path) -> None:
    """Read a new bundle as whoever receives it will, except for running its network.

    Raises:
        BundleError: If a part of it cannot be read.
    """
    try:
        bundle = Bundle.open(folder)
        bundle.load_head()
        bundle.load_head(plain=True)
        sum(1 for _ in bundle._iterate_trained())  # noqa: SLF001 - reads each line, and keeps none
        for name in ("validation", "test"):
            Evaluation.from_dict(bundle.metrics[name])
        list(itertools.islice(read_table(folder / PREDICTIONS), 2))
    except (BundleError, DataError, ValueError, csv.Error) as error:
        reason = str(error).replace(f"{folder}/", "").replace(str(folder), "the bundle")
        msg = f"no bundle was written into {parent}, because it could not be read back: {reason}; please report this"
        raise BundleError(msg) from error


def _write_head(head: Any, folder: Path) -> None:  # noqa: ANN401 - as `Draft` has it
    from featx.heads.persistence import dump_head, make_plain_head

    dump_head(head, folder / _HEAD)
    if plain := make_plain_head(head):
        plain.write(folder / _PLAIN_HEAD)


def _write_part(part: DraftPart, number: int, folder: Path) -> dict[str, Any]:
    """Write the files of a network, and return its description."""
    _write_golden(folder / name_file(_GOLDEN, number), part.golden)
    backbone_file = _copy_backbone(part.backbone_file, folder, name_file(_BACKBONE, number))
    network = folder / name_file(NETWORK, number)
    if callable(part.network):
        part.network(network)
    elif part.network:
        link_network(part.network, network)
    return {"embed": part.embed_spec.to_dict(), "backbone_file": backbone_file}


def _write_extras(draft: Draft, folder: Path) -> None:
    """Write the files that are for people only."""
    from featx.evaluation.plots import plot_confusion

    plot_confusion(draft.test, folder / "confusion_matrix.png", title=draft.title)
    for name, write in draft.extras.items():
        write(folder / name)


def _write_page(draft: Draft, about: Mapping[str, Any], folder: Path) -> None:
    page = make_bundle_page(about, draft.metrics, draft.test, sorted(path.name for path in folder.iterdir()))
    (folder / PAGE).write_text(page, encoding="utf-8")


def _check_format(folder: Path, about: Mapping[str, Any]) -> None:
    if about["format"] != FORMAT:
        found = str(about["format"])[:40]
        msg = f"{folder} is a bundle of {found!r}, not of featx; name one that `featx fit` wrote"
        raise BundleError(msg)
    version = about["format_version"]
    if type(version) is not int or version < 1:
        msg = "format_version is not a positive whole number"
        raise ValueError(msg)
    if version > FORMAT_VERSION:
        msg = f"{folder} has bundle format {str(version)[:20]}, newer than {FORMAT_VERSION}; upgrade featx"
        raise BundleError(msg)


def _check_values(specs: Sequence[EmbedSpec], head_spec: HeadSpec, classes: object, named: Sequence[object]) -> None:
    """Check the values that the specs themselves do not check; no name or path needs more than 4,096 characters."""
    texts = [head_spec.name, *named]
    texts += [text for spec in specs for text in (spec.backbone.uri, spec.backbone.layer, spec.backbone.weights_digest)]
    views = {spec.views for spec in specs}
    pixels = sum(spec.image.height * spec.image.width * spec.n_views for spec in specs)
    reasonable = {
        "names": all(isinstance(text, str) and len(text) <= 4096 for text in texts),  # noqa: PLR2004 - PATH_MAX
        "networks": 0 < len(specs) <= _MOST_PARTS,
        "weights": all(map(_is_known, specs, named)),
        "image": pixels <= MAX_PIXELS,
        "views": len(views) == 1 and all(one is None or is_canonical(one.augmentation) for one in views),
        "head": isinstance(head_spec.params, dict) and type(head_spec.seed) is int,
        "scaling": head_spec.scaling in {None, *SCALINGS},
        "classes": isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes),
        "distinct classes": len(set(classes)) == len(classes) if isinstance(classes, list) else False,
    }
    odd = [name for name, holds in reasonable.items() if not holds]
    if odd:
        msg = f"{MANIFEST} has invalid values for {', '.join(odd)}"
        raise ValueError(msg)


def _is_known(spec: EmbedSpec, backbone_file: object) -> bool:
    """Return whether the origin of the weights is known, and whether a file of the user's goes with it."""
    weights = spec.backbone.weights
    uri = str(spec.backbone.uri)
    own = (is_own(uri, weights) or weights == "file") and not needs_openvino(uri)
    return weights in _WEIGHTS and own == str(backbone_file).startswith(_BACKBONE) and (own or backbone_file == "")


def describe_file(path: Path) -> dict[str, Any]:
    """Return the size and the sha256 of a file, as the description of a bundle has them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], named: Sequence[str]) -> None:
    outside = [name for name in files if not is_plain_name(name)]
    if outside:
        msg = f"{folder} names files outside the bundle ({', '.join(outside)[:200]}); do not use it"
        raise BundleError(msg)
    goldens = [name_file(_GOLDEN, number) for number in _number(len(named))]
    unlisted = {_HEAD, *goldens, ITEMS, METRICS, *filter(None, named)} - set(files)
    missing = [name for name in files if not os.path.lexists(folder / name)]
    if unlisted or missing:
        lacking = ", ".join(sorted({*unlisted, *missing}))[:200]
        msg = f"{folder} lacks {lacking}; copy the whole folder of the bundle"
        raise BundleError(msg)
    for name, expected in files.items():
        check_own(folder / name)
        if describe_file(folder / name) != expected:
            msg = f"{folder / name} differs from the file that the bundle was made with; copy the bundle or fit again"
            raise BundleError(msg)


def _rename(temporary: Path, parent: Path, slug: str) -> Path:
    stem = f"{dt.datetime.now(tz=dt.UTC).date()}-{re.sub(r'[^A-Za-z0-9_.+]+', '-', slug).strip('-')}"
    for number in itertools.count(1):
        path = parent / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists():
            with contextlib.suppress(OSError):  # another process has just taken the name
                return temporary.rename(path)
        if number > _MOST_BUNDLES:
            msg = f"{parent} cannot take another bundle named {stem}; choose another folder with --runs"
            raise BundleError(msg)
    raise AssertionError  # the count is infinite


def _rename_to(temporary: Path, path: Path) -> Path:
    try:
        return temporary.rename(path)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}; choose another --name"
        raise BundleError(msg) from error


def _copy_backbone(source: str, folder: Path, stem: str) -> str:
    if not source:
        return ""
    if Path(source).is_dir():  # a preset of keras-hub
        pack_preset(Path(source), folder / f"{stem}.zip")
        return f"{stem}.zip"
    if not Path(source).is_file():
        msg = f"the backbone's file {source} is gone, and a bundle needs a copy of it; restore it, or embed again"
        raise BundleError(msg)
    name = f"{stem}{''.join(Path(source).suffixes[-2:])}"
    shutil.copyfile(source, folder / name)
    return name


def _write_golden(path: Path, golden: Golden) -> None:
    files = {f"file_{number}": np.frombuffer(data, np.uint8) for number, data in enumerate(golden.files)}
    arrays: dict[str, Any] = {"features": golden.features, **files}
    np.savez(path, **arrays)


def _read_golden(path: Path) -> Golden:
    members = list_members(path)
    names = [f"file_{number}.npy" for number in range(len(members) - 1)]
    if set(members) != {"features.npy", *names}:
        msg = f"{_GOLDEN} does not hold pictures and their features"
        raise ValueError(msg)
    with zipfile.ZipFile(path) as archive:
        files = tuple(read_array(archive.read(name)).tobytes() for name in names)
        features = read_array(archive.read("features.npy"))
    if features.dtype.name not in DTYPES or features.ndim != 2 or len(features) != len(files):  # noqa: PLR2004 - a matrix
        msg = f"{_GOLDEN} has features of {features.dtype} {features.shape} for {len(files)} pictures"
        raise ValueError(msg)
    return Golden(files, np.asarray(features, np.float32))
