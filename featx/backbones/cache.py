"""The cache of converted networks, so that a backbone is built by Keras once on each machine.

An entry is a folder with the network in OpenVINO's format and `entry.json`, which describes it. Its name is a digest of
all that decides the network: the request, and the versions of what built it. The file of its weights is compared when
an entry is read.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from featx.backbones.protocol import BackboneRequest, LayerInfo, Output, find_decoding
from featx.errors import BackboneError, UsageError
from featx.registry import find_versions
from featx.specs import BackboneSpec

#: Raised whenever the meaning of an entry changes.
_VERSION = 1

#: Packages that build or convert a network.
_STACK = ("featx", "keras", "keras-hub", "tensorflow", "openvino")

#: The first processor's part of Linux's list.
_CPU_LINES = 30

_ABOUT = "entry.json"
#: The files of a network, in the cache and in a bundle.
NETWORK, WEIGHTS = "network.xml", "network.bin"
_UNFINISHED = ".unfinished-"

#: What a damaged entry raises.
_DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError)

_DAY_SECONDS = 86_400

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A converted network in the cache, and what a backbone has to say of itself.

    Attributes:
        folder: Where it is.
        request: What it was made from, as text that users know.
        uri, weights, weights_digest, source_file: As `Backbone` has them.
        height, width: Size of its images in px.
        outputs: Its outputs.
        layers: The layers at which its network can be cut.
        drift: Largest difference from Keras, measured when it was made (see `measure_runtime_drift`).
        digest: sha256 of the network and its weights as they are in the cache.
        file: Name of the file of the network.
        decoding: How its images are decoded; see `find_decoding`.
    """

    folder: Path
    request: str
    uri: str
    weights: str
    weights_digest: str
    source_file: str
    height: int
    width: int
    outputs: tuple[Output, ...]
    layers: tuple[LayerInfo, ...]
    drift: float
    digest: str
    file: str = NETWORK
    decoding: Mapping[str, str] = field(default_factory=dict)

    @property
    def network(self) -> Path:
        """The file of the network; its weights are next to it."""
        return self.folder / self.file


@dataclass(frozen=True, slots=True)
class Usage:
    """What an entry takes on the disk.

    Attributes:
        folder: Where it is.
        request: What it was made from; empty if it is damaged.
        n_bytes: Its size in bytes.
        used_s: When it was last used, in seconds since 1970.
    """

    folder: Path
    request: str
    n_bytes: int
    used_s: float


def is_off() -> bool:
    """Return whether the user wants no cache."""
    return os.environ.get("FEATX_CACHE", "").lower() == "off"


def find_folder() -> Path:
    """Return the folder of the cache: in `FEATX_CACHE`, or in the user's cache folder.

    Raises:
        UsageError: If there is none, see `is_off`; `off` must not be taken for a folder.
    """
    if is_off():
        msg = "FEATX_CACHE is off, so no networks are kept; unset it, or name a folder"
        raise UsageError(msg)
    return Path(os.environ.get("FEATX_CACHE") or platformdirs.user_cache_dir("featx")) / "networks"


def name_entry(request: BackboneRequest, found_in: str) -> str:
    """Name the entry of a request: a digest of all that decides the network but the content of its weights file.

    Args:
        request: The request.
        found_in: Where the weights are looked for.
    """
    deciding = {
        "version": _VERSION,
        "request": [request.uri, list(request.layers), request.pooling, request.weights, request.height, request.width],
        "found_in": found_in,
        "versions": read_versions(),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def read_versions() -> dict[str, str]:
    """Read the versions of the packages that build and convert a network."""
    return find_versions(_STACK)


def read_entry(name: str) -> Entry | None:
    """Read an entry; None if there is none, or its weights file has changed, or it is damaged."""
    folder = find_folder() / name
    try:
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
        if not _is_current(about["weights_file"]):
            remove(folder)
            return None
        for file in (NETWORK, WEIGHTS):
            _check_digest(folder / file, about["files"][file])
        described = about["backbone"]
        outputs = tuple(
            Output(**{**each, "feature_shape": tuple(each["feature_shape"])}) for each in described["outputs"]
        )
        layers = tuple(
            LayerInfo(**{**each, "output_shape": tuple(each["output_shape"])}) for each in described["layers"]
        )
        digest = join_digests(about["files"][file] for file in (NETWORK, WEIGHTS))
        entry = Entry(folder=folder, digest=digest, **{**described, "outputs": outputs, "layers": layers})
    except FileNotFoundError as error:
        if not folder.exists():
            return None
        _drop_damaged(folder, error)
        return None
    except _DAMAGES as error:
        _drop_damaged(folder, error)
        return None
    with contextlib.suppress(OSError):  # a cache that only others may write to can still be read
        os.utime(folder / _ABOUT)
    return entry


def join_digests(digests: Iterable[str]) -> str:
    """Return one digest for a network, from the sha256 of its file and that of its weights."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def link_network(network: Path, target: Path) -> None:
    """Put a network and its weights in another place, without a copy where the file system has hard links.

    Args:
        network: The file of the network; its weights are next to it.
        target: The file that it becomes, which is not there yet; its weights come next to it.

    Raises:
        OSError: If they cannot be written.
    """
    for suffix in (network.suffix, ".bin"):
        source, copy = network.with_suffix(suffix), target.with_suffix(suffix)
        try:
            copy.hardlink_to(source)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, copy)


def find_entry(spec: BackboneSpec, height: int, width: int) -> Entry | None:
    """Find an entry by its content, whatever request it was made from; None if there is none.

    Args:
        spec: The backbone, which has one output.
        height: Rows of its images in px.
        width: Columns of its images in px.
    """
    plain = {name: getattr(spec, name) for name in ("uri", "weights", "weights_digest")}
    wanted = {**plain, "height": height, "width": width}
    for folder in find_folder().glob("[!.]*"):
        with contextlib.suppress(*_DAMAGES):  # `read_entry` says so, when it is asked for by its name
            about = json.loads((folder / _ABOUT).read_text("utf-8"))
            found = about["backbone"]
            cuts = [(output["layer"], output["pooling"]) for output in found["outputs"]]
            same = wanted == {name: found[name] for name in wanted} and cuts == [(spec.layer, spec.pooling)]
            if same and about["versions"] == read_versions() and (entry := read_entry(folder.name)):
                return entry
    return None


def write_entry(name: str, described: Mapping[str, Any], weights_file: str, save: Callable[[Path], None]) -> None:
    """Write an entry under a temporary name, and rename it: readers see all of it, or nothing.

    Args:
        name: Its name; an existing one stays.
        described: The fields of `Entry` but its folder and its digest.
        weights_file: The file that the weights came from; empty if there is none.
        save: Called with the path of the network's file, and writes it and its weights.
    """
    parent = find_folder()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
        try:
            save(temporary / NETWORK)
            about = {
                "backbone": dict(described),
                "weights_file": _describe_file(weights_file),
                "versions": read_versions(),
                "files": {file: _digest(temporary / file) for file in (NETWORK, WEIGHTS)},
            }
            (temporary / _ABOUT).write_text(json.dumps(about, indent=1), "utf-8")
            with contextlib.suppress(OSError):  # another process was faster
                temporary.rename(parent / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        logger.warning(
            "the converted network cannot be kept in %s (%s), so the next run builds it again; choose another "
            "folder with FEATX_CACHE",
            parent,
            error.strerror or error,
        )


def is_noted(fact: Mapping[str, Any]) -> bool:
    """Return whether a fact was noted on this machine; nothing is if there is no cache."""
    return not is_off() and _name_note(fact).exists()


def note(fact: Mapping[str, Any]) -> None:
    """Note a fact that need not be checked again on this machine."""
    if not is_off():
        path = _name_note(fact)
        with contextlib.suppress(OSError):  # then it is checked again
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def _name_note(fact: Mapping[str, Any]) -> Path:
    deciding = {"version": _VERSION, "fact": dict(fact), "machine": _describe_machine(), "versions": read_versions()}
    name = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:32]
    return find_folder().parent / "checks" / name


def _describe_machine() -> list[str]:
    """Describe the machine as far as it decides which instructions compute a network."""
    described = [platform.node(), platform.machine(), platform.system()]
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        described += [line for line in itertools.islice(file, _CPU_LINES) if line.startswith(("model name", "flags"))]
    return described


def list_entries() -> list[Usage]:
    """List the entries, those used last first."""
    found = []
    for folder in find_folder().glob("[!.]*"):
        with contextlib.suppress(OSError):
            used = (folder / _ABOUT).stat().st_mtime if (folder / _ABOUT).exists() else folder.stat().st_mtime
            size = sum(path.stat().st_size for path in folder.iterdir())
            found.append(Usage(folder, _read_request(folder), size, used))
    return sorted(found, key=lambda usage: -usage.used_s)


def list_copies() -> list[Usage]:
    """List the copies of stores, bundles and tables at URLs, which `featx.remote` keeps; those used last first."""
    found = []
    for folder in (find_folder().parent / "remote").glob("[!.]*"):
        with contextlib.suppress(OSError):  # another process removes it
            names = [path.name for path in folder.iterdir() if not path.name.startswith(_UNFINISHED)]
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            # A copy that is still written has a longer name.
            found.append(Usage(folder, min(names, key=len, default=""), size, folder.stat().st_mtime))
    return sorted(found, key=lambda usage: -usage.used_s)


def prune(days: float) -> list[Usage]:
    """Remove the entries and copies that were not used for so many days, and what killed processes left.

    Returns:
        What was removed.
    """
    oldest = time.time() - days * _DAY_SECONDS
    removed = [usage for usage in [*list_entries(), *list_copies()] if usage.used_s <= oldest]
    for usage in removed:
        remove(usage.folder)
    for checked in (find_folder().parent / "checks").glob("*"):
        if checked.stat().st_mtime <= oldest:
            checked.unlink(missing_ok=True)
    for leftover in find_folder().glob(f"{_UNFINISHED}*"):
        if leftover.stat().st_mtime <= time.time() - min(days, 1) * _DAY_SECONDS:
            remove(leftover)
    return removed


def remove(folder: Path) -> None:
    """Remove an entry.

    Raises:
        BackboneError: If it cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        msg = f"{folder} is not valid any more and cannot be removed ({error.strerror or error}); remove it by hand"
        raise BackboneError(msg) from error


def describe_backbone(backbone: Any, request: BackboneRequest, drift: float) -> dict[str, Any]:  # noqa: ANN401 - a KerasBackbone, which this module cannot import
    """Return the fields of `Entry` but its folder and its digest."""
    cut = ", ".join(map(str, request.layers))
    plain = {name: getattr(backbone, name) for name in ("uri", "weights", "weights_digest", "source_file")}
    return {
        "request": f"{request.uri}{f' at {cut}' if cut else ''}",
        **plain,
        "height": backbone.height,
        "width": backbone.width,
        "outputs": [asdict(output) for output in backbone.outputs],
        "layers": [asdict(layer) for layer in backbone.layers],
        "drift": drift,
        "decoding": dict(find_decoding(backbone)),
    }


def _read_request(folder: Path) -> str:
    try:
        return str(json.loads((folder / _ABOUT).read_text("utf-8"))["backbone"]["request"])
    except _DAMAGES:
        return ""


def _drop_damaged(folder: Path, error: Exception) -> None:
    logger.warning("the converted network in %s is damaged (%s), and is made again", folder, error)
    remove(folder)


def _describe_file(path: str) -> dict[str, Any] | None:
    if not path:
        return None
    found = Path(path).stat()
    return {"path": path, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": _digest(Path(path))}


def _is_current(file: Mapping[str, Any] | None) -> bool:
    """Return whether a weights file is the one that an entry was made from; a deleted one cannot have changed."""
    if file is None:
        return True
    path = Path(file["path"])
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    if found.st_size != file["bytes"]:
        return False
    return bool(found.st_mtime_ns == file["mtime_ns"] or _digest(path) == file["sha256"])


def _check_digest(path: Path, wanted: str) -> None:
    if _digest(path) != wanted:
        msg = f"{path.name} differs from its sha256"
        raise ValueError(msg)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
