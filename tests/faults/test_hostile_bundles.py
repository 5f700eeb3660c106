"""Untrusted bundles: each is refused in one line, runs nothing, reads no other file, takes no memory."""

import copy
import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from bundle_files import check_line, check_refused, check_refused_cheaply, rewrite, sign

from featx.bundle import Bundle
from featx.errors import BundleError


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    return shutil.copytree(digits_bundle, tmp_path / "bundle")


# --- the folder


@pytest.mark.parametrize("name", ["bundle.json", "head.npz", "head.skops", "golden.npz", "metrics.json", "items.csv"])
def test_links_folders_and_fifos_in_the_place_of_files_are_refused(bundle, tmp_path, name):
    for number, replace in enumerate(("link", "folder", "fifo")):
        broken = shutil.copytree(bundle, tmp_path / f"{number}")
        moved = (broken / name).rename(tmp_path / f"elsewhere-{number}")
        if replace == "link":
            (broken / name).symlink_to(moved)
        elif replace == "folder":
            (broken / name).mkdir()
        else:
            os.mkfifo(broken / name)
        no_file = name == "bundle.json" and replace != "link"
        check_refused(broken, "is not a bundle" if no_file else "is a link, a folder or a device instead of a file")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "a\\b", "C:x", "..", ".", ""])
def test_names_that_lead_elsewhere_are_refused(bundle, name):
    files = json.loads((bundle / "bundle.json").read_text())["files"]
    rewrite(bundle, files=files | {name: {"bytes": 1, "sha256": ""}})
    check_refused(bundle, "names files outside the bundle")


def test_a_network_elsewhere_is_not_loaded(bundle, tmp_path):
    (tmp_path / "secret.keras").write_text("secret")
    for uri in (f"file:{tmp_path}/secret.keras", f"FILE:{tmp_path}/secret.keras"):
        rewrite(bundle, embed__backbone__uri=uri)
        check_refused(bundle, "has invalid values for weights")
    rewrite(bundle, backbone_file="backbone/../../secret.keras")
    check_refused(bundle, r"lacks backbone/\.\./\.\./secret\.keras")
    for name in ("../secret.keras", "items.csv", f"{tmp_path}/secret.keras"):
        rewrite(bundle, backbone_file=name)
        check_refused(bundle, "has invalid values for weights")
    rewrite(
        bundle, backbone_file="", embed__backbone__uri="colour", embed__backbone__weights=f"{tmp_path}/secret.keras"
    )
    check_refused(bundle, "has invalid values for weights")


# --- bundle.json


def list_entries(value, path=()):
    """List where each value of a JSON document is."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from list_entries(child, (*path, name))


VALUES = {"null": None, "-1": -1, "1e400": float("inf"), "text": "", "list": [], "dict": {}, "megabyte": "x" * 2**20}
#: What may be so: nobody computes with it.
HARMLESS = {
    *(("head", "scaling", "null"), ("head", "params", "dict"), ("head", "seed", "-1"), ("head", "name", "text")),
    ("head", "calibration", "null"),
    ("embed", "backbone", "layer", "text"),
    ("backbone_file", "text"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_of_another_kind_is_refused_wherever_it_stands(digits_bundle, tmp_path, kind):
    about = json.loads((digits_bundle / "bundle.json").read_text())
    bundle = shutil.copytree(digits_bundle, tmp_path / "bundle")
    accepted = set()
    entries = [path for path in list_entries(about) if path[:1] != ("record",)]
    assert len(entries) > 40
    for path in entries:
        changed = copy.deepcopy(about)
        entry = changed
        for name in path[:-1]:
            entry = entry[name]
        if path:
            entry[path[-1]] = VALUES[kind]
        else:
            changed = VALUES[kind]
        (bundle / "bundle.json").write_text(json.dumps(changed).replace("Infinity", "1e400"))
        try:
            Bundle.open(bundle)
        except BundleError as error:
            check_line(str(error))
        else:
            accepted.add((*path, kind))
    named = {path for path in accepted if path[0] != "classes"}
    assert {path for path in named if path not in HARMLESS and path[:2] != ("head", "params")} <= {
        ("embed", "backbone", "uri", "text"),
        ("embed", "backbone", "weights_digest", "text"),
    }


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, "9" * 10**6, '{"format": "\\ud800"}', "\ufeff{}", "\0"])
def test_json_that_is_not_a_description_is_refused(bundle, text):
    (bundle / "bundle.json").write_text(text)
    check_refused(bundle, "is damaged|is a bundle of")


def test_json_that_would_fill_the_memory_is_refused(bundle):
    (bundle / "bundle.json").write_bytes(b"[" + b"{}," * 10**8 + b"{}]")
    check_refused_cheaply(bundle, "bundle.json has 300,000,004 bytes; the limit is 20,971,520; do not use this bundle")


def test_metrics_that_would_fill_the_memory_are_refused(bundle):
    (bundle / "metrics.json").write_bytes(b"[" + b"{}," * 5 * 10**7 + b"{}]")
    sign(bundle)
    check_refused_cheaply(bundle, "metrics.json has 150,000,004 bytes; the limit is 134,217,728; do not use this")


def test_images_of_a_size_that_no_memory_holds_are_refused(bundle):
    rewrite(bundle, embed__image__height=10**6, embed__image__width=10**6)
    check_refused(bundle, "has invalid values for image")


def test_parts_that_do_not_fit_each_other_are_refused(digits_bundle, bundle):
    classes = json.loads((bundle / "bundle.json").read_text())["classes"]
    rewrite(bundle, classes=classes[:-1])
    check_refused(bundle, "its head has other classes")
    rewrite(bundle, classes=[*classes[:-1], classes[0]])
    check_refused(bundle, "invalid values for distinct classes")
    rewrite(bundle, classes=classes)
    write_golden(bundle, lambda arrays: arrays | {"features": arrays["features"][:, :-1]})
    check_refused(bundle, "its parts do not match .*features")


# --- golden.npz


def write_golden(bundle, change):
    with np.load(bundle / "golden.npz") as arrays:
        changed = change(dict(arrays))
    np.savez(bundle / "golden.npz", **changed)
    sign(bundle)


def test_invalid_golden_pictures_are_refused(bundle):
    write_golden(bundle, lambda arrays: {name: np.array([1, "x"], object) for name in arrays})
    check_refused(bundle, "dtype object, where numbers belong")
    np.savez(bundle / "golden.npz", features=np.zeros((1, 240), np.float32), file_0=np.zeros(9, np.uint8))
    sign(bundle)
    check_refused(bundle, "cannot be used here: no picture|cannot be used here")
    for arrays in (
        {"features": np.zeros((2, 240), np.float32), "file_0": np.zeros(9, np.uint8)},
        {"features": np.zeros(240, np.float32), "file_0": np.zeros(9, np.uint8)},
        {"features": np.zeros((1, 240), np.int64), "file_0": np.zeros(9, np.uint8)},
        {"features": np.zeros((0, 240), np.float32)},
        {"other": np.zeros((1, 240), np.float32), "file_0": np.zeros(9, np.uint8)},
    ):
        np.savez(bundle / "golden.npz", **arrays)
        sign(bundle)
        check_refused(bundle, "golden.npz (has features of|does not hold pictures|has 0 pictures)")


def make_header(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("members", "kind", "message"),
    [
        ({"features.npy": make_header((10**12,))}, zipfile.ZIP_STORED, r"declares the shape \(1000000000000,\)"),
        ({"features.npy": make_header((10**6, 10**6), "<U9")}, zipfile.ZIP_STORED, "declares the shape"),
        ({"features.npy": make_header((10**12,), "|V0")}, zipfile.ZIP_STORED, "where numbers belong"),
        ({"features.npy": bytes(3 * 10**8)}, zipfile.ZIP_DEFLATED, "is compressed or encrypted"),
        ({"../features.npy": b""}, zipfile.ZIP_STORED, "is not a file inside it"),
        ({"/features.npy": b""}, zipfile.ZIP_STORED, "is not a file inside it"),
    ],
    ids=["shape", "text", "no size", "bomb", "parent", "root"],
)
@pytest.mark.parametrize("name", ["golden.npz", "head.npz", "head.skops"])
def test_arrays_that_declare_more_than_they_hold_take_no_memory(bundle, name, members, kind, message):
    with zipfile.ZipFile(bundle / name, "w", kind) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        others = {"golden.npz": "file_0.npy", "head.npz": "record.npy", "head.skops": "schema.json"}
        archive.writestr(others[name], make_header((0,)))
    if name == "head.skops":
        (bundle / "head.npz").unlink()  # with it, `head.skops` is not read
    sign(bundle)
    check_refused_cheaply(bundle, f"is damaged.*{message}")


def test_one_member_in_many_places_takes_no_memory(bundle):
    with zipfile.ZipFile(bundle / "golden.npz", "w") as archive:
        archive.writestr("features.npy", bytes(10**6))
        first = archive.infolist()[0]
        for number in range(1000):
            entry = copy.copy(first)
            entry.filename = f"file_{number}.npy"
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
    sign(bundle)
    check_refused(bundle, r"its members declare 1,001,000,000 bytes, but the file has 1,0")


# --- items.csv


@pytest.mark.parametrize(
    "content", [b"\xff\xfe,", b'role,sha256\n"' + b"x" * 200_000, b"role\ntrained\n", b"role,sha256\n\0"]
)
def test_an_invalid_list_of_items_is_refused(bundle, content):
    (bundle / "items.csv").write_bytes(content)
    sign(bundle)
    if b"\0" in content:
        assert Bundle.open(bundle).read_trained() == frozenset()
    else:
        with pytest.raises(BundleError, match=r"items\.csv is damaged"):
            Bundle.open(bundle).read_trained()
