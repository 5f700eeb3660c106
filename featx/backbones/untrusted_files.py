"""Checks of an untrusted model or weights file, made before Keras builds or reads anything from it.

Keras itself refuses code, links and external storage, but refuses a file that declares more than it
holds only above 4 GiB. These checks let nothing be allocated that the file does not hold.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py

from featx.files import list_members

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_MEMBERS = {_CONFIG, _WEIGHTS, "metadata.json"}

#: The largest network of `keras.applications` takes 0.8 MB; parsed, JSON takes up to 30 times its size.
_MOST_CONFIG_BYTES = 16 * 2**20

#: Layers that run code from the file, read other files, or are for sound or text and build tables of any size.
_REFUSED = {
    *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),
    *("StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization", "FeatureSpace"),
    *("MelSpectrogram", "STFTSpectrogram"),
}
_MODULE = re.compile(
    r"builtins|keras(\.(activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|ops"
    r"|optimizers(\.schedules)?|quantizers|regularizers|src\.(applications|dtype_policies|layers|models|ops)\..+))?"
)
#: Names that Keras writes for values that JSON lacks.
_VALUES = {"__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__"}
_NUMBER = re.compile(r"bool|(u?int|b?float|complex)\d{1,3}")


@dataclass(frozen=True, slots=True)
class Inspected:
    """The declarations of a `.keras` file.

    Attributes:
        config: The description of the network, without its training.
        held_bytes: Bytes of all its parameters.
        has_own: Whether it needs classes or functions of the user.
    """

    config: dict[str, Any]
    held_bytes: int
    has_own: bool


def inspect_model(path: Path, own: Collection[str]) -> Inspected:
    """Check a `.keras` file.

    Args:
        path: The file.
        own: Names of classes and functions that this process has registered with Keras.

    Raises:
        ValueError: If it holds anything but Keras's own layers for images and their parameters, or
            declares more bytes than it has.
    """
    members = list_members(path)
    if not {_CONFIG, _WEIGHTS} <= set(members) <= _MEMBERS:
        odd = ", ".join(sorted(set(members) ^ _MEMBERS))
        msg = f"its members must be {_CONFIG}, {_WEIGHTS} and metadata.json; extra or missing: {odd[:200]}"
        raise ValueError(msg)
    if members[_CONFIG] > _MOST_CONFIG_BYTES:
        msg = f"its {_CONFIG} has {members[_CONFIG]:,} bytes; the limit is {_MOST_CONFIG_BYTES:,}"
        raise ValueError(msg)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read(_CONFIG))
        # Into memory, as Keras does: HDF5 seeks back and forth, and a seek back in a zip member starts it again.
        held_bytes = inspect_weights(io.BytesIO(archive.read(_WEIGHTS)), members[_WEIGHTS])
    config.pop("compile_config", None)  # Keras does not read that of the whole model
    has_own = check_classes(config, lambda entry: _is_own(entry, own))
    return Inspected(_drop_training(config), held_bytes, has_own)


def check_classes(config: object, is_own: Callable[[dict[str, Any]], bool]) -> bool:
    """Check the classes that a config names.

    Args:
        config: The parsed JSON.
        is_own: Whether an entry is one that need not be of Keras.

    Returns:
        Whether there is such an entry.

    Raises:
        ValueError: If another entry is not a layer or a value of Keras that is for images.
    """
    entries = list(_list_classes(config))
    foreign = [entry for entry in entries if not is_own(entry)]
    for entry in foreign:
        _check_class(entry)
    return len(foreign) < len(entries)


def inspect_weights(file: Path | IO[bytes], size_bytes: int) -> int:
    """Check an HDF5 file of parameters.

    Args:
        file: The file.
        size_bytes: Its size.

    Returns:
        The bytes of all parameters together.

    Raises:
        ValueError: If it refers to other files, holds anything but numbers, or declares more than it holds.
        OSError: If it cannot be read.
    """
    total = 0
    with h5py.File(file, "r") as opened:
        for name, dataset in list_datasets(opened):
            if dataset.external or dataset.is_virtual:
                msg = f"its dataset {name!r} is stored in another file"
                raise ValueError(msg)
            if dataset.dtype.hasobject:
                msg = f"its dataset {name!r} has the type {dataset.dtype}, which is not numeric"
                raise ValueError(msg)
            declared = math.prod(dataset.shape or ()) * dataset.dtype.itemsize if dataset.shape is not None else 0
            total += declared
            held = dataset.id.get_storage_size()
            if declared > held or total > size_bytes:
                msg = f"its dataset {name!r} declares {declared:,} bytes and holds {min(held, size_bytes):,}"
                raise ValueError(msg)
    return total


def list_datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the path of each dataset of a file, and the dataset.

    Raises:
        ValueError: If an entry is a link to elsewhere.
    """
    groups: list[h5py.Group] = [file]
    seen = {h5py.h5o.get_info(file.id).addr}  # hard links can form a cycle
    while groups:
        group = groups.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            leads_away = not isinstance(group.get(name, getlink=True), h5py.HardLink)
            if leads_away:
                msg = f"its entry {where!r} is a link"
                raise ValueError(msg)
            entry = group[name]
            address = h5py.h5o.get_info(entry.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(entry, h5py.Group):
                groups.append(entry)
            elif isinstance(entry, h5py.Dataset):
                yield where, entry


def _list_classes(config: object) -> Iterator[dict[str, Any]]:
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += value.values()
            if "class_name" in value:
                yield value
        elif isinstance(value, list):
            stack += value


def _is_own(entry: dict[str, Any], own: Collection[str]) -> bool:
    names = (entry.get("registered_name"), entry["class_name"], entry.get("config"))
    return any(isinstance(name, str) and name in own for name in names)


def _check_class(entry: dict[str, Any]) -> None:
    name, module, config = str(entry["class_name"]), str(entry.get("module") or ""), entry.get("config")
    if name in _VALUES:
        if isinstance(config, dict) and not _NUMBER.fullmatch(str(config.get("dtype", "bool"))):
            msg = f"a value of type {str(config['dtype'])[:40]}, which is not numeric"
            raise ValueError(msg)
        return
    title = f"{module}.{name}"[:100].lstrip(".")
    if name in _REFUSED:
        msg = f"{title}, which runs code, reads other files or is not for images"
        raise ValueError(msg)
    if not _MODULE.fullmatch(module):
        msg = f"{title}, which is not a layer of Keras"
        raise ValueError(msg)


def _drop_training(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {name: _drop_training(part) for name, part in value.items() if name != "compile_config"}
    return [_drop_training(part) for part in value] if isinstance(value, list) else value
