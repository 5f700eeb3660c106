"""References to bundles: paths, names of runs, `latest`; and the JSON files that describe them."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from featx.errors import BundleError, UsageError
from featx.files import DAMAGES
from featx.items.sources import ARCHIVE_SUFFIXES
from featx.results import MOST_CHARACTERS
from featx.urls import find_path, find_url
from featx.wording import join_first, shorten_name

#: The folder of runs by default, and the file in it that names the newest one.
RUNS = "runs"
LATEST = "latest"

#: What no run is called: some system cannot have a folder of that name, so the run could not be copied to it.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(\..*)?", re.IGNORECASE)
_NOT_IN_NAMES = '/\\:*?"<>|'
_MOST_NAME_BYTES = 255

#: Runs that an error names.
_NAMED_RUNS = 5

MANIFEST = "bundle.json"
METRICS = "metrics.json"

#: Of 10,000 names of 255 bytes, `bundle.json` has each once, and `metrics.json` four times: up to 18 and 80 MB, if no
#: byte is UTF-8. The confusion of 1,000,000 items takes up to 20 MB. Parsed, JSON takes up to 30 times its size.
_MOST_JSON_BYTES = {MANIFEST: 20 * 2**20, METRICS: 128 * 2**20}


def find_bundle(reference: str | os.PathLike[str]) -> Path:
    """Find the folder of a bundle.

    Args:
        reference: A path; the name of a run in `runs/`; `latest` for the run that was written last there;
            `latest:logreg` for the last one with that head, or `latest:finetune` for the last fine-tuned one. In
            another folder of runs, such as `other/latest`. Or the URL of a bundle, which is kept in the cache.

    Raises:
        BundleError: If there is no such bundle; the message names the newest runs.
    """
    if url := find_url(reference):
        from featx.remote import fetch_bundle

        return fetch_bundle(url, MANIFEST)
    path = Path(find_path(reference))
    if (path / MANIFEST).is_file():
        return path
    is_name = len(path.parts) == 1
    folder, (name, colon, head) = Path(RUNS) if is_name else path.parent, path.name.partition(":")
    if is_name and (folder / name / MANIFEST).is_file() and not colon:
        return folder / name
    if name == LATEST and not path.is_dir():
        there = list_bundles(folder)
        kind = head.casefold()
        if found := _find_latest(folder, there) if not colon else [one for one in there if _read_kind(one) == kind]:
            return found[0]
    raise BundleError(_explain_missing(path, folder))


def list_bundles(folder: Path) -> list[Path]:
    """List the bundles in a folder, the newest first."""
    found = [path for path in folder.glob("[!.]*") if (path / MANIFEST).is_file()]
    return sorted(found, key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name), reverse=True)


def _find_latest(folder: Path, there: list[Path]) -> list[Path]:
    """Find the bundle that the file `latest` names; if it names none, as after a deletion, all, the newest first."""
    pointer = folder / LATEST
    named = pointer.read_text("utf-8", "replace").strip() if pointer.is_file() else ""
    return [path for path in there if path.name == named] or there


def _read_kind(path: Path) -> str:
    """Return the head of a bundle, or `finetune`; empty if the bundle cannot be read."""
    try:
        about = read_json(path, MANIFEST)
        return "finetune" if "finetune" in about["record"] else str(about["head"]["name"])
    except (BundleError, *DAMAGES, TypeError):
        return ""


def _explain_missing(path: Path, folder: Path) -> str:
    """Explain why a reference leads to no bundle, and name the newest runs."""
    inside = list_bundles(path) if path.is_dir() else []
    if inside:
        return f"{path} is a folder of runs, not a bundle; name one of them: {_name_runs(inside)}"
    there, (name, _, head) = list_bundles(folder), path.name.partition(":")
    if kinds := dict.fromkeys(filter(None, map(_read_kind, there if head and name == LATEST else ()))):
        return f"there is no run of {head!r} in {folder}; there are runs of {', '.join(kinds)}"
    there = there or list_bundles(Path(RUNS))
    newest = f"the newest runs are {_name_runs(there)}" if there else f"`featx fit` writes one into {RUNS}/"
    if path.is_dir():
        return f"{path} is not a bundle (it has no {MANIFEST}); {newest}"
    if path.is_file() and path.name != LATEST:
        if path.name.lower().endswith(ARCHIVE_SUFFIXES):
            return f"{path} is an archive, not a bundle; unpack it, and name the folder that holds {MANIFEST}"
        what = "a feature store" if path.suffix == ".h5" else "a file"
        return f"{path} is not a bundle but {what}; {newest}"
    return f"there is no bundle {str(path)!r}; {newest}"


def _name_runs(paths: list[Path]) -> str:
    return join_first(list(map(str, paths)), _NAMED_RUNS)


def check_run_name(folder: str | os.PathLike[str] | None, name: str) -> None:
    """Refuse a name that a new run cannot have, before anything is computed.

    Raises:
        UsageError: If some system cannot have a folder of that name, or references use it; or if the folder is a URL.
        BundleError: If there is such a run.
    """
    if folder is not None and find_url(folder):
        msg = "bundles are written on this machine: name a folder for --runs, then write it there with `featx publish`"
        raise UsageError(msg)
    if not name:
        return
    reserved = {
        f"it stands for the run that was written last in {RUNS}/": name.casefold() == LATEST,
        "Windows reserves it for a device": bool(_DEVICE.fullmatch(name)),
        "it begins or ends with a dot or a blank": name != name.strip(" ."),
        "it begins with -, as options do": name.startswith("-"),
        f"it has an unprintable character, or one of {' '.join(_NOT_IN_NAMES)}": (
            not name.isprintable() or any(char in _NOT_IN_NAMES for char in name)
        ),
        f"it has more than {_MOST_NAME_BYTES} bytes": len(os.fsencode(name)) > _MOST_NAME_BYTES,
    }
    reason = next((text for text, holds in reserved.items() if holds), "")
    if reason:
        msg = (
            f"--name is {shorten_name(repr(name), MOST_CHARACTERS)}, but {reason}; choose a plain name such as baseline"
        )
        raise UsageError(msg)
    if folder is not None and os.path.lexists(Path(folder) / name):
        msg = f"{Path(folder) / name} exists already; choose another --name, or delete it"
        raise BundleError(msg)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a bundle, unless it is too large."""
    path = folder / name
    check_own(path)
    size, limit = path.stat().st_size, _MOST_JSON_BYTES[name]
    if size > limit:
        msg = f"{path} has {size:,} bytes; the limit is {limit:,}; do not use this bundle"
        raise BundleError(msg)
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        msg = f"{name} does not hold a JSON object"
        raise TypeError(msg)
    return values


def check_own(path: Path) -> None:
    """Refuse anything but a regular file: a link can lead elsewhere, and reading a FIFO can block forever."""
    if not stat.S_ISREG(path.lstat().st_mode):
        msg = f"{path} is a link, a folder or a device instead of a file; do not use this bundle"
        raise BundleError(msg)
