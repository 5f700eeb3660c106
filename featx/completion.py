"""A bundle's own network: added to a bundle, or removed from it, after it was written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featx.backbones.cache import link_network
from featx.backbones.converted import ConvertedBackbone
from featx.backbones.loading import rebuild_backbone
from featx.backbones.protocol import needs_openvino
from featx.backbones.running import convert
from featx.bundle import Bundle, Part, describe_file
from featx.errors import BackboneError, BundleError, UsageError
from featx.files import publish_file, sync_file, write_atomically, write_json
from featx.prediction import check_golden, read_network
from featx.references import MANIFEST, read_json


def complete_bundle(path: str | os.PathLike[str]) -> bool:
    """Add the network to a bundle, so that it runs without Keras and without the weights.

    Args:
        path: The bundle; see `Bundle.open`.

    Returns:
        Whether it was added; a bundle that has one is left as it is.

    Raises:
        BundleError: If the bundle is damaged or cannot be written to, or the network cannot be built here.
        DriftError: If this machine computes other features than those in training.
        UsageError: If the backbone has no network.
    """
    bundle = Bundle.open(path)
    lacking = [part for part in bundle.parts if not bundle.holds_network(part)]
    if not lacking:
        return False
    added, refused = dict[str, Any](), list[str]()
    try:
        with _say_failures(bundle), tempfile.TemporaryDirectory(prefix=".unfinished-", dir=bundle.path) as name:
            folder = Path(name)
            for part in lacking:
                if refusal := _write_network(part, folder):
                    refused.append(refusal)
                    continue
                new = {file: describe_file(folder / file) for file in part.network}
                digests = {file: str(about["sha256"]) for file, about in new.items()}
                # The golden pictures, with the network as whoever receives the bundle will read it.
                check_golden(bundle.path, part, read_network(replace(bundle, path=folder, files=digests), part))
                added |= new
            if not added:
                what = ", ".join(refused)
                msg = f"{what} is not a network in float32, so a bundle cannot hold it; it is complete as it is"
                raise UsageError(msg)
            for file in added:
                sync_file(folder / file)
                publish_file(folder / file, bundle.path / file)
            _list_files(bundle.path, added)
    except BackboneError as error:
        msg = f"{bundle.path} cannot be completed here: {error}"
        raise BundleError(msg) from error
    return True


def slim_bundle(path: str | os.PathLike[str]) -> bool:
    """Remove the network from a bundle, which then needs the backbone's weights and Keras to run, or the cache.

    Args:
        path: The bundle; see `Bundle.open`.

    Returns:
        Whether there was one.

    Raises:
        BundleError: If the bundle is damaged, or cannot be written to.
        UsageError: If nothing else in it can run.
    """
    bundle = Bundle.open(path)
    spare = [part for part in bundle.parts if not needs_openvino(part.embed_spec.backbone.uri)]
    if not spare:
        uri = bundle.parts[0].embed_spec.backbone.uri
        msg = f"{bundle.path} holds no other copy of {uri}, so its network must stay"
        raise UsageError(msg)
    there = [file for part in spare for file in part.network if file in bundle.files]
    with _say_failures(bundle):
        _list_files(bundle.path, dict.fromkeys(there))
        for file in there:
            (bundle.path / file).unlink(missing_ok=True)
    return bool(there)


@contextlib.contextmanager
def _say_failures(bundle: Bundle) -> Iterator[None]:
    try:
        yield
    except BundleError:  # an OSError by its class, with a reason of its own
        raise
    except OSError as error:
        msg = f"{bundle.path} cannot be written to: {error.strerror or error}; copy it to a folder that can be"
        raise BundleError(msg) from error


def _write_network(part: Part, folder: Path) -> str:
    """Write the network of a part; return the name of a backbone that is not a network, and needs no Keras."""
    backbone = rebuild_backbone(part.embed_spec.backbone, part.embed_spec.image, part.backbone_file)
    path = folder / part.network[0]
    if isinstance(backbone, ConvertedBackbone):
        link_network(backbone.path, path)
    elif hasattr(backbone, "graph") and getattr(backbone, "precision", "float32") == "float32":
        convert(backbone).save(path)
    else:
        return backbone.uri
    return ""


def _list_files(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change the list of files in the description of a bundle; None removes a file from it."""
    path = folder / MANIFEST
    about = read_json(folder, MANIFEST)
    files = {name: file for name, file in {**about["files"], **changes}.items() if file is not None}
    written = path.stat()
    with write_atomically(path) as temporary:
        write_json({**about, "files": dict(sorted(files.items()))}, temporary)
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))  # by which the newest bundle is found
