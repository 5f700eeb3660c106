"""An untrusted store cannot read other files, run code, exhaust the memory or stall its reader."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from featx import FeatureStore, embed, fit, verify_store
from featx.errors import StoreError, StoreFormatError
from featx.store.layout import ATTRIBUTES_SHA256, digest_attributes, write_text
from featx.store.sealing import write_golden

SECRET = b"not for the eyes of a feature store" * 400


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "pictures"
    for number in range(6):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(path)
    return embed(folder, "colour", folder=tmp_path / "features").store


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET)
    return path


def replace(file, name, **options):
    del file[name]
    return file.create_dataset(name, **options)


def link_outside(file, secret):
    other = secret.with_name("other.h5")
    with h5py.File(other, "w") as elsewhere:
        elsewhere["features"] = np.ones((6, 240), "<f4")
    del file["features"]
    file["features"] = h5py.ExternalLink(other, "/features")


def link_items_outside(file, secret):
    other = secret.with_name("other.h5")
    with h5py.File(other, "w") as elsewhere:
        file.copy("items", elsewhere)
    del file["items"]
    file["items"] = h5py.ExternalLink(other, "/items")


def store_outside(file, secret):
    replace(file, "features", shape=(6, 240), dtype="<f4", external=[(secret, 0, 6 * 240 * 4)])


def store_column_outside(file, secret):
    replace(file, "items/id", shape=(6,), dtype="S100", external=[(secret, 0, 600)])


def map_virtually(file, secret):
    other = secret.with_name("other.h5")
    with h5py.File(other, "w") as elsewhere:
        elsewhere["x"] = np.ones((6, 240), "<f4")
    layout = h5py.VirtualLayout(shape=(6, 240), dtype="<f4")
    layout[:] = h5py.VirtualSource(other, "x", shape=(6, 240))
    del file["features"]
    file.create_virtual_dataset("features", layout)


def declare_terabytes(file, _):
    file.attrs["feature_shape"] = [2**38 // 6]
    replace(file, "features", shape=(6, 2**38 // 6), dtype="<f4", chunks=(1, 1024))


def declare_terabytes_contiguously(file, _):
    del file["features"]
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((6, 2**40))
    h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, layout)
    file.attrs["feature_shape"] = [2**40]


def declare_endless_columns(file, _):
    for name in ("id", "sha256", "label"):
        replace(file, f"items/{name}", shape=(2**40,), dtype="S8", chunks=(1024,))


def compress_zeros(file, _):
    replace(file, "items/id", shape=(2**31,), dtype="S1", chunks=(2**24,), compression="gzip")


def widen_text(file, _):
    replace(file, "items/id", shape=(6,), dtype=f"S{2**31 - 1}", chunks=(1,))


def hold_objects(file, _):
    replace(file, "items/label", data=["a"] * 6, dtype=h5py.string_dtype())


def hold_references(file, _):
    replace(file, "items/label", data=[file.ref] * 6, dtype=h5py.ref_dtype)


def hold_pickles(file, _):
    replace(file, "items/label", data=np.void(b"\x80\x04cos\nsystem\n."))


def go_round(file, _):
    del file["items"]
    file["items"] = h5py.SoftLink("/items")


def go_round_by_hard_links(file, _):
    del file["items/id"]
    file["items/id"] = file["items"]


def nest_the_spec(file, _):
    file.attrs["spec"] = np.bytes_(b"[" * 60_000)


def name_a_spec_of_variable_width(file, _):
    file.attrs["spec"] = "{}"


def lengthen_one_column(file, _):
    replace(file, "items/group", data=np.array([b"x"] * 7))


def multiply_the_golden_pictures(file, _):
    file["golden/big"] = np.zeros(50_000, "u1")
    for number in range(2, 200):
        file[f"golden/{number}"] = file["golden/big"]


def name_no_rows(file, _):
    file.attrs["rows_per_block"] = 0


HOSTILE = [
    (link_outside, "features is a link to elsewhere"),
    (link_items_outside, "items is a link to elsewhere"),
    (store_outside, "/features is not stored contiguously in this file"),
    (store_column_outside, "/items/id is not stored contiguously in this file"),
    (map_virtually, "/features is not stored contiguously in this file"),
    (declare_terabytes, "/features is not stored contiguously in this file"),
    (declare_terabytes_contiguously, "/features declares 26,388,279,066,624 bytes, which the file does not hold"),
    (declare_endless_columns, "/items/id is not stored contiguously in this file"),
    (compress_zeros, "/items/id is not stored contiguously in this file"),
    (widen_text, "/items/id is not stored contiguously in this file"),
    (hold_objects, "/items/label is object"),
    (hold_references, "/items/label is object"),
    (hold_pickles, r"/items/label is \|V"),
    (go_round, "items is a link to elsewhere"),
    (go_round_by_hard_links, "id is not a dataset"),
    (nest_the_spec, "recursion"),
    (name_a_spec_of_variable_width, "the attribute spec has the wrong type"),
    (lengthen_one_column, "the columns of /items differ in length"),
    (multiply_the_golden_pictures, "/golden declares 9,9"),
    (name_no_rows, "the number of checksums, one per 0 rows, does not match"),
]


def sign(file):
    try:
        write_text(file.attrs, ATTRIBUTES_SHA256, digest_attributes(file.attrs))
    except ValueError:
        assert file.attrs.get_id("spec").dtype.kind == "O"  # the one that a store cannot sign


@pytest.mark.parametrize(("attack", "reason"), HOSTILE, ids=[attack.__name__ for attack, _ in HOSTILE])
def test_a_hostile_store_is_refused_and_no_other_file_is_read(store, secret, attack, reason):
    with h5py.File(store.path, "r+") as file:
        attack(file, secret)
        sign(file)
    for opening in (FeatureStore, verify_store, fit):
        with pytest.raises(
            StoreFormatError, match=rf"colour.h5 is damaged or not a feature store .*{reason}"
        ) as caught:
            opening(store.path)
        assert b"not for the eyes".decode() not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_hostile_shard_is_refused(store, secret, tmp_path):
    parts = store.path.with_name("colour.h5.parts")
    parts.mkdir()
    with h5py.File(parts / "000001-0.h5", "w") as file:
        write_text(file.attrs, "spec_digest", store.spec.digest)
        for name in ("features", "columns", "golden"):
            write_text(file.attrs, f"{name}_sha256", "0" * 64)
        file.create_dataset("features", shape=(1, 240), dtype="<f4", external=[(secret, 0, 960)])
        write_golden(file.create_group("golden"), store.golden)
        file["sha256"] = np.array([b"0" * 64])
        file["sizes"] = np.array([[8, 8]], "<i4")
    before = store.path.read_bytes()
    with pytest.raises(StoreFormatError, match=r"000001-0.h5 is damaged: /features is not stored contiguously"):
        embed(tmp_path / "pictures", "colour", folder=tmp_path / "features")
    assert store.path.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the platform has no FIFOs")
def test_a_store_that_is_not_a_file_does_not_stall_its_reader(tmp_path):
    os.mkfifo(tmp_path / "fifo.h5")
    (tmp_path / "round.h5").symlink_to(tmp_path / "round.h5")
    (tmp_path / "folder.h5").mkdir()
    for name in ("fifo.h5", "round.h5", "folder.h5"):
        with pytest.raises(StoreError, match=name):
            FeatureStore(tmp_path / name)


def test_no_attack_takes_memory(store, secret):
    """Each attack, in the memory that a sound store takes plus 256 MiB."""
    code = """
import resource, sys
import numpy, h5py
from featx.store.verification import verify_store
from featx.errors import StoreFormatError
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        verify_store(path)
    except StoreFormatError as error:
        assert "allocate" not in str(error), error
    else:
        raise AssertionError(path)
"""
    if not os.path.exists("/proc/self/statm"):  # noqa: PTH110 - a file of the kernel
        pytest.skip("the size of a process is read in /proc")
    paths = []
    for attack, _ in HOSTILE:
        path = store.path.with_name(f"{attack.__name__}.h5")
        path.write_bytes(store.path.read_bytes())
        with h5py.File(path, "r+") as file:
            attack(file, secret)
            sign(file)
        paths.append(path)
    result = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
