"""Stores of every format version that was ever written open forever.

The files in tests/data were written once, when their version was new, and are never written again.
"""

import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from featx import FeatureStore, pack_store, verify_store
from featx.specs import BackboneSpec, EmbedSpec, ImageSpec
from featx.store.journal import name_journal
from featx.store.shards import name_shards
from featx.store.verification import describe_provenance
from featx.store.writing import StoreWriter

DATA = Path(__file__).parents[1] / "data"
BACKBONE = BackboneSpec("mobilenet?alpha=0.25", "conv_pw_13_relu", "avg", "imagenet", "ab" * 32)
IMAGE = ImageSpec(160, 128, "crop", "bicubic", "pillow-full")


def make_rows(numbers):
    return np.array([[number / 8 + at for at in range(6)] for number in numbers], np.float32)


def make_sha256(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.mark.parametrize(
    ("version", "kind", "dtype"), [(1, "float32", "float32"), (1, "float16", "float16"), (2, "index", "float32")]
)
def test_every_version(version, kind, dtype):
    found = verify_store(DATA / f"store-v{version}-{kind}.h5")
    store = found.store
    assert found.damage == ()
    assert store.format_version == version
    assert store.is_index == (kind == "index")
    assert store.spec == EmbedSpec(BACKBONE, IMAGE, dtype)
    assert store.features.dtype == dtype
    assert np.array_equal(store.features, make_rows(range(7)).astype(dtype))
    assert store.feature_shape == (2, 3)
    assert store.ids.tolist() == [*(f"cat/{number}.jpg" for number in range(5)), "dog/café 中.png", "dog/\udcff\n.png"]
    assert store.sha256.tolist() == [make_sha256(number) for number in range(7)]
    assert store.labels.tolist() == ["cat"] * 5 + ["dög", ""]
    assert store.splits.tolist() == ["train", "val", "test", "", "", "", ""]
    assert store.groups.tolist() == ["p1", "p1", "", "", "", "", ""]
    assert store.sizes_px.tolist() == [[640 + number, 480] for number in range(7)]
    assert store.columns["bytes"].tolist() == list(range(1000, 1007))
    assert store.columns["mtime_ns"].tolist() == [1_779_000_000_000_000_000 + number for number in range(7)]
    assert store.quarantine == [
        ("bad.jpg", "0" * 64, "truncated or damaged JPEG"),
        ("gone.png", "", "cannot be read"),
    ]
    assert (store.source, store.backbone_file) == ("/data/café", "/models/own.h5")
    assert store.reading == {"root": "/data", "columns": {"group": "patient"}}
    assert store.created_with == {"featx": "0.1.0", "numpy": "2.4.6", "keras": "3.15.1"}
    assert (store.runtime, store.drift, store.started_ns) == ("keras", 2.5e-7, 1_780_000_000_000_000_000)
    assert store.embed_seconds is None
    assert store.golden.files == (b"\x89PNG not really", b"\xff\xd8 nor this")
    assert np.array_equal(store.golden.features, np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6))


def test_an_index_of_version_2_is_read_by_hdf5_and_packed(tmp_path):
    path = tmp_path / "store-v2-index.h5"
    shutil.copyfile(DATA / path.name, path)
    shutil.copytree(name_shards(DATA / path.name), name_shards(path))
    with h5py.File(path) as file:
        assert np.array_equal(file["features"][:], make_rows(range(7)))
    assert pack_store(path).features.tobytes() == FeatureStore(DATA / "store-v1-float32.h5").features.tobytes()


def test_unfinished_work_of_version_1_is_gone_on_with(tmp_path):
    old = FeatureStore(DATA / "store-v1-float32.h5")
    path = tmp_path / "store.h5"
    shutil.copyfile(old.path, path)
    shutil.copytree(name_journal(DATA / "store-v1-unfinished.h5"), name_journal(path))
    with StoreWriter(path, old.spec, describe_provenance(old)) as writer:
        assert writer.known == {make_sha256(number) for number in range(9)}
        numbers = range(9)
        items = {name: [name] * 9 for name in ("label", "split", "group")} | {"id": [f"{number}" for number in numbers]}
        items |= {"sha256": [make_sha256(number) for number in numbers], "bytes": [1] * 9, "mtime_ns": [2] * 9}
        new = writer.seal(items, {"id": [], "sha256": [], "reason": []})
    assert np.array_equal(new.features, make_rows(numbers))
    assert new.embed_seconds is None
    assert new.sizes_px.tolist() == [[640 + number, 480] for number in numbers]
