"""Stores of several machines become one: no row is lost, changed or mixed up."""

import hashlib
import json
import os
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featx import FeatureStore, FitOptions, embed, fit, load_backbone, merge_stores
from featx.errors import SpecMismatchError, StoreError, StoreFormatError, StoreLockedError, UsageError
from featx.golden import Golden
from featx.specs import BackboneSpec, EmbedSpec, ImageSpec
from featx.store.journal import Journal
from featx.store.layout import ITEM_COLUMNS, QUARANTINE_COLUMNS
from featx.store.lock import StoreLock
from featx.store.sealing import Provenance, Row, seal
from featx.store.verification import describe_provenance

DIM = 6
SPEC = EmbedSpec(BackboneSpec("made", "top", "none", "computed", "0" * 64), ImageSpec(8, 8))
GOLDEN = Golden((b"one picture", b"another"), np.ones((2, DIM), np.float32))
PROVENANCE = Provenance("/pictures", {"numpy": "1.0"}, "numpy", 0.0, (2, 3), "", GOLDEN, 7, {"root": "/"})


def make_store(path, numbers, *, quarantine=(), spec=SPEC, times=None, drift=0.0, items=(), **provenance):
    """Write a store in which row `n` belongs to the item `n.png`, shifted by `drift` as by another stack."""
    numbers = list(numbers)
    columns = {
        "id": [f"{number}.png" for number in numbers],
        "sha256": [hashlib.sha256(b"%d" % number).hexdigest() for number in numbers],
        "bytes": [100 + number for number in numbers],
        "mtime_ns": times or [0 for _ in numbers],
        "label": ["odd" if number % 2 else "" for number in numbers],
        "split": ["train" if number % 3 else "" for number in numbers],
        "group": ["" for _ in numbers],
        "width": [10 + number for number in numbers],
        "height": [20 for _ in numbers],
    } | dict(items)
    features = np.arange(DIM, dtype=spec.dtype) + np.array(numbers, spec.dtype)[:, None] / 8 + drift
    features = features.astype(spec.dtype)
    bad = {name: [row[at] for row in quarantine] for at, name in enumerate(QUARANTINE_COLUMNS)}
    path.parent.mkdir(exist_ok=True, parents=True)
    golden = replace(GOLDEN, features=GOLDEN.features + np.float32(drift))
    about = replace(PROVENANCE, **{"golden": golden, **provenance})
    rows = [Row(lambda: features, index) for index in range(len(numbers))]
    seal(path, spec, about, columns, rows, bad, confirm=lambda: None)
    return path


def read_all(path):
    """Return everything that a store holds about each item, by id, with the features as bytes."""
    store = FeatureStore(path)
    assert store.find_damage() == []
    columns = zip(*(store.columns[name].tolist() for name in ITEM_COLUMNS), strict=True)
    rows = {cells[0]: (*cells[1:], row.tobytes()) for cells, row in zip(columns, store.features, strict=True)}
    return rows, store.quarantine


def merge(folder, *paths, **options):
    target = folder / f"merged-{len(list(folder.iterdir()))}.h5"
    ids = merge_stores(paths, target, **options).ids.tolist()
    assert ids == sorted(set(ids))
    return target


def describe(path):
    """Return the origin of a store's numbers."""
    provenance = describe_provenance(FeatureStore(path))
    return replace(provenance, golden=replace(provenance.golden, features=provenance.golden.features.tobytes()))


bounded = settings(max_examples=15, deadline=None)


@bounded
@given(
    owners=st.lists(st.sets(st.integers(0, 3), min_size=1), max_size=12),
    dtype=st.sampled_from(["float32", "float16"]),
    order=st.permutations(range(4)),
)
def test_the_parts_of_a_store_give_its_rows_back(owners, dtype, order):
    with tempfile.TemporaryDirectory() as name:
        folder, spec = Path(name), replace(SPEC, dtype=dtype)
        whole = make_store(folder / "whole.h5", range(len(owners)), spec=spec)
        parts = [
            make_store(folder / f"{part}.h5", [item for item, owned in enumerate(owners) if part in owned], spec=spec)
            for part in range(4)
        ]
        assert read_all(merge(folder, *(parts[at] for at in order))) == read_all(whole)


machines = st.fixed_dictionaries(
    {
        "numbers": st.lists(st.integers(0, 9), unique=True, max_size=6),
        "bad": st.dictionaries(st.integers(0, 9), st.sampled_from(["cut", "no image"]), max_size=3),
        "time": st.integers(0, 2),
        "drift": st.sampled_from([0.0, 1e-4, 2e-4]),
        "started_ns": st.integers(0, 2),
        "source": st.sampled_from(["/a", "/b"]),
        "runtime": st.sampled_from(["numpy", "keras"]),
    }
)


def make_machine(path, *, numbers, bad, time, **options):
    quarantine = [(f"{number}.png", "", reason) for number, reason in bad.items() if number not in numbers]
    return make_store(path, numbers, quarantine=quarantine, times=[time] * len(numbers), **options)


@bounded
@given(made=st.lists(machines, min_size=3, max_size=3), order=st.permutations(range(3)))
def test_neither_order_nor_steps_change_a_row(made, order):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [make_machine(folder / f"{at}.h5", **machine) for at, machine in enumerate(made)]
        merged = merge(folder, *paths)
        one, two, three = (paths[at] for at in order)
        shuffled = merge(folder, one, two, three)
        assert describe(shuffled) == describe(merged)
        first_two, last_two = merge(folder, one, two), merge(folder, two, three)
        for path in (shuffled, merge(folder, first_two, three), merge(folder, one, last_two, first_two)):
            assert read_all(path) == read_all(merged)


def test_provenance_is_joined(tmp_path):
    versions = {"numpy": "2.0"}
    one = make_store(tmp_path / "1.h5", [1], started_ns=9, source="/b", runtime="numpy", drift=1e-4)
    two = make_store(
        tmp_path / "2.h5", [2], started_ns=8, source="/a", runtime="keras", created_with=versions, reading={}
    )
    three = make_store(tmp_path / "3.h5", [3], started_ns=9, source="/b", backbone_file="/m.keras")
    store = FeatureStore(merge(tmp_path, one, two, three))
    assert (store.source, store.reading, store.runtime) == ("/a; /b", {}, "keras, numpy")
    assert (store.started_ns, store.created_with, store.backbone_file) == (8, versions, "/m.keras")
    assert store.golden.features.tobytes() == FeatureStore(two).golden.features.tobytes()
    assert store.spec == SPEC


def test_times_are_added_and_unknown_where_one_is(tmp_path):
    first = make_store(tmp_path / "a.h5", [1], embed_seconds=1.25)
    second = make_store(tmp_path / "b.h5", [2], embed_seconds=2.5)
    assert FeatureStore(merge(tmp_path, first, second)).embed_seconds == 3.75
    old = make_store(tmp_path / "c.h5", [3])
    assert FeatureStore(merge(tmp_path, first, old)).embed_seconds is None


def test_the_largest_drift_is_kept(tmp_path):
    paths = [tmp_path / f"{number}.h5" for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        provenance = replace(PROVENANCE, drift=number / 1e4)
        columns = {name: [] for name in ITEM_COLUMNS}
        seal(path, SPEC, provenance, columns, [], {"id": [], "sha256": [], "reason": []}, confirm=lambda: None)
    assert FeatureStore(merge(tmp_path, *paths)).drift == 2e-4


def test_quarantine_is_joined_without_items_that_another_store_embedded(tmp_path):
    one = make_store(tmp_path / "1.h5", [1], quarantine=[("2.png", "", "cannot be read"), ("8.png", "", "gone")])
    two = make_store(tmp_path / "2.h5", [2], quarantine=[("8.png", "5" * 64, "cut"), ("9.png", "6" * 64, "cut")])
    rows, quarantine = read_all(merge(tmp_path, one, two))
    assert sorted(rows) == ["1.png", "2.png"]
    assert quarantine == [("8.png", "5" * 64, "cut"), ("9.png", "6" * 64, "cut")]


@pytest.mark.parametrize(
    ("column", "values"),
    [("label", ["x", "odd"]), ("split", ["val", ""]), ("group", ["g", ""]), ("sha256", ["0" * 64, "1" * 64])],
)
def test_ids_that_are_other_items_are_refused_with_an_example(tmp_path, column, values):
    one = make_store(tmp_path / "1.h5", [2, 3, 4])
    two = make_store(tmp_path / "2.h5", [2, 3], items={column: values})
    count = sum(FeatureStore(one).columns[column][:2] != values)
    pattern = (
        rf"{count} ids are different items in different stores, such as '2.png', whose {column} differs between "
        rf".*[12]\.h5 and .*[12]\.h5; --prefix puts"
    )
    with pytest.raises(StoreError, match=pattern):
        merge_stores([one, two], tmp_path / "all.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.h5", "2.h5"]


def test_prefixes_keep_ids_apart(tmp_path):
    one = make_store(tmp_path / "1.h5", [2], quarantine=[("9.png", "", "cut")])
    two = make_store(tmp_path / "two.h5", [2, 9], items={"label": ["other", "other"]})
    merged = FeatureStore(merge(tmp_path, one, two, prefix=True))
    assert merged.ids.tolist() == ["1/2.png", "two/2.png", "two/9.png"]
    assert merged.labels.tolist() == ["", "other", "other"]
    assert merged.quarantine == [("1/9.png", "", "cut")]
    assert merged.source == "/pictures; /pictures"
    same = make_store(tmp_path / "elsewhere" / "1.h5", [5])
    with pytest.raises(UsageError, match=r"several stores are called '1'.*rename"):
        merge_stores([one, same], tmp_path / "all.h5", prefix=True)


def test_a_damaged_store_is_refused(tmp_path):
    one, two = make_store(tmp_path / "1.h5", [1]), make_store(tmp_path / "2.h5", [2])
    data = two.read_bytes()
    for part, start in (("features", FeatureStore(two).features[0].tobytes()), ("items", b"2.png")):
        at = data.index(start)
        two.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(StoreFormatError, match=rf"/{part} .*`featx repair"):
            merge_stores([one, two], tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()


def test_another_spec_is_refused_with_both_values(tmp_path):
    one = make_store(tmp_path / "1.h5", [1])
    for spec in (replace(SPEC, dtype="float16"), replace(SPEC, image=ImageSpec(9, 8))):
        two = make_store(tmp_path / "2.h5", [2], spec=spec)
        with pytest.raises(SpecMismatchError, match=r"dtype: asked 'float\d\d', found|image.height: asked \d, found"):
            merge_stores([one, two], tmp_path / "all.h5")
    two = make_store(tmp_path / "2.h5", [2], feature_shape=(6,))
    with pytest.raises(SpecMismatchError, match=r"feature_shape: asked \(\d.*\), found \(\d"):
        merge_stores([one, two], tmp_path / "all.h5")


def test_stacks_that_give_other_numbers_are_refused(tmp_path):
    one = make_store(tmp_path / "1.h5", [1])
    two = make_store(tmp_path / "2.h5", [2], drift=2e-3, created_with={"numpy": "2.0"})
    stacks = r"1.h5 and .*2.h5 were computed by different stacks \(numpy 1.0; numpy 2.0\): "
    with pytest.raises(SpecMismatchError, match=stacks + r"features differ by 2.0e-03 of their range \(limit 1e-03\)"):
        merge_stores([two, one], tmp_path / "all.h5")
    golden = replace(GOLDEN, files=(b"one picture", b"encoded otherwise"))
    two = make_store(tmp_path / "2.h5", [2], golden=golden, created_with={"numpy": "2.0"})
    with pytest.raises(SpecMismatchError, match=stacks + "their golden pictures are not the same files"):
        merge_stores([one, two], tmp_path / "all.h5")


def test_the_target_is_new_and_the_stores_are_two(tmp_path):
    one, two = make_store(tmp_path / "1.h5", [1]), make_store(tmp_path / "2.h5", [2])
    (tmp_path / "link.h5").hardlink_to(one)
    before = {path: path.read_bytes() for path in (one, two)}
    for target in (one, two, tmp_path / "link.h5"):
        with pytest.raises(StoreError, match=r"h5 exists; merge into another store with --name"):
            merge_stores([one, two], target)
    for paths in ([], [one], [one, one], [one, tmp_path / "link.h5"]):
        with pytest.raises(UsageError, match=rf"merge needs at least two different stores; got {bool(paths):d}"):
            merge_stores(paths, tmp_path / "all.h5")
    with pytest.raises(StoreError, match=r"no store .*gone.h5"):
        merge_stores([one, tmp_path / "gone.h5"], tmp_path / "all.h5")
    assert {path: path.read_bytes() for path in (one, two)} == before


def test_unfinished_work_under_the_name_of_the_target_is_not_covered(tmp_path):
    one, two = make_store(tmp_path / "1.h5", [1]), make_store(tmp_path / "2.h5", [2])
    journal = Journal(tmp_path / "all.h5", SPEC, DIM, lambda: None, GOLDEN)
    journal.append("0" * 64, 8, 8, np.ones(DIM, np.float32))
    journal.commit()
    with pytest.raises(StoreError, match=r"all.h5.parts holds unfinished work of an embed; finish that"):
        merge_stores([one, two], tmp_path / "all.h5")


def test_another_writer_of_the_target_is_waited_for(tmp_path):
    one, two = make_store(tmp_path / "1.h5", [1]), make_store(tmp_path / "2.h5", [2])
    with StoreLock(tmp_path / "all.h5"), pytest.raises(StoreLockedError, match="being written by process"):
        merge_stores([one, two], tmp_path / "all.h5")
    merge_stores([one, two], tmp_path / "all.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.h5", "2.h5", "all.h5"]


def draw(folder, numbers):
    """Write pictures of noise in two classes, an hour old."""
    for number in numbers:
        path = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
        os.utime(path, (time.time() - 3600,) * 2)
    return folder


@pytest.fixture
def run(tmp_path):
    """Embed a folder into a store by name."""
    backbone = load_backbone("colour", image_size=(8, 8))
    return lambda source, name: embed(source, backbone, name=name, folder=tmp_path / "features")


def test_embedding_one_source_into_the_merged_store_drops_nothing_of_the_other(run, tmp_path):
    stores = [
        run(draw(tmp_path / name, numbers), name).store for name, numbers in (("a", range(4)), ("b", range(3, 9)))
    ]
    merged = merge_stores([store.path for store in stores], tmp_path / "features" / "all.h5")
    assert merged.source == f"{tmp_path / 'a'}; {tmp_path / 'b'}"
    before = merged.path.read_bytes()
    with pytest.raises(StoreError, match=r"all.h5 holds 9 items of .*would drop 5 of them .*--name"):
        run(tmp_path / "a", "all")
    assert merged.path.read_bytes() == before
    both = run(draw(tmp_path / "both", range(10)), "all")
    assert (both.new, both.cached) == (1, 9)


def test_machines_that_call_different_folders_the_same_drop_nothing_of_each_other(run, tmp_path):
    source = draw(tmp_path / "data", range(4))
    one = run(source, "one").store
    source.rename(tmp_path / "data of machine one")
    two = run(draw(source, range(3, 9)), "two").store
    assert one.source == two.source
    merged = merge_stores([one.path, two.path], tmp_path / "features" / "all.h5")
    with pytest.raises(StoreError, match=r"all.h5 holds 9 items of .*would drop 3 of them"):
        run(source, "all")
    draw(source, range(9))
    everything = run(source, "all")
    assert (everything.new, everything.cached) == (0, 9)
    assert everything.store.source == one.source
    assert np.array_equal(everything.store.features[0], merged.features[0])


def test_a_store_that_has_all_items_keeps_its_source(run, tmp_path):
    source = draw(tmp_path / "data", range(4))
    first = run(source, "first").store
    second = run(draw(source, range(6)), "second").store
    assert merge_stores([first.path, second.path], tmp_path / "features" / "all.h5").source == second.source


def test_a_head_is_fitted_on_features_of_two_machines(run, tmp_path):
    stores = [run(draw(tmp_path / name, numbers), name).store for name, numbers in (("a", range(20)), ("b", range(40)))]
    merged = merge_stores([store.path for store in stores], tmp_path / "features" / "all.h5")
    assert fit(merged, "ridge", options=FitOptions(folder=None)).test.n_items == 9
    assert json.dumps(merged.describe())


def test_a_full_disk_leaves_no_target(tmp_path):
    resource = pytest.importorskip("resource")
    one, two = make_store(tmp_path / "1.h5", range(100)), make_store(tmp_path / "2.h5", range(100, 200))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'all.h5'} cannot be written")):
            merge_stores([one, two], tmp_path / "all.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.h5", "2.h5"]


def test_the_sources_of_many_stores_are_kept(tmp_path):
    """HDF5 keeps an attribute of more than 64 kB elsewhere in the file, or not at all."""
    paths = [make_store(tmp_path / f"{n}.h5", [n], source=f"/{n:04000}") for n in range(20)]
    merged = FeatureStore(merge(tmp_path, *paths))
    assert len(merged.source) > 64 << 10
    assert merged.source.split("; ") == sorted(FeatureStore(path).source for path in paths)
