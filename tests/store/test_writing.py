import time

import numpy as np
import pytest

from featx.errors import SpecMismatchError, StoreError, StoreFormatError, StoreLockedError
from featx.store import FeatureStore

NONE = {"id": [], "sha256": [], "reason": []}


def read_identity(path):
    return path.stat().st_ino, path.read_bytes()


def test_sealing_the_same_again_does_not_write_the_file(maker):
    quarantine = [("bad.png", "", "cannot be read")]
    maker.seal([1, 2, 3], quarantine=quarantine)
    before = read_identity(maker.path)
    maker.seal([1, 2, 3], new=[], quarantine=quarantine)
    assert read_identity(maker.path) == before


@pytest.mark.parametrize(
    "changed", [{"label": ["x", "y"]}, {"split": ["train", "test"]}, {"group": ["g", ""]}, {"id": ["a", "b"]}]
)
def test_columns_change_without_new_rows(maker, changed):
    maker.seal([1, 2])
    with maker.open_writer() as writer:
        store = writer.seal(maker.make_columns([1, 2], **changed), NONE)
    (name, values), *_ = changed.items()
    assert store.columns[name].tolist() == values
    assert np.array_equal(store.features, maker.make_rows([1, 2]))


def test_a_new_quarantine_or_source_is_written(maker):
    maker.seal([1])
    assert maker.seal([1], quarantine=[("a", "", "b")]).quarantine == [("a", "", "b")]
    assert maker.seal([1], source="/elsewhere").source == "/elsewhere"
    assert maker.seal([1], source="/elsewhere", backbone_file="/m.keras").backbone_file == "/m.keras"


def test_only_committed_content_is_known(maker):
    maker.seal([1])
    with maker.open_writer() as writer:
        assert writer.known == {maker.make_sha256(1)}
        maker.append(writer, [2])
        assert writer.known == {maker.make_sha256(1)}
    with maker.open_writer() as writer:
        assert writer.known == {maker.make_sha256(1), maker.make_sha256(2)}


def test_an_interrupted_writer_keeps_its_rows_and_leaves_no_lock(maker, list_files):
    def interrupt():
        with maker.open_writer() as writer:
            maker.append(writer, [1, 2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [name[:21] for name in list_files()] == ["made.h5.parts", "made.h5.parts/000001-"]
    assert np.array_equal(maker.seal([1, 2, 3], new=[3]).features, maker.make_rows([1, 2, 3]))
    assert list_files() == ["made.h5"]


def test_a_crash_between_sealing_and_removing_the_shards_is_repaired_by_the_next_run(maker, list_files):
    with maker.open_writer() as writer:
        maker.append(writer, [1, 2])
    (shard,) = maker.path.with_name("made.h5.parts").iterdir()
    content = shard.read_bytes()
    maker.seal([1, 2], new=[])
    before = read_identity(maker.path)
    shard.parent.mkdir()
    shard.write_bytes(content)
    maker.seal([1, 2], new=[])
    assert read_identity(maker.path) == before
    assert list_files() == ["made.h5"]


def test_leftovers_of_a_writer_that_was_killed_while_sealing_are_removed(maker, list_files):
    maker.seal([1])
    maker.path.with_name(".made.h5.99999-0.tmp").write_bytes(b"half a store")
    shards = maker.path.with_name("made.h5.parts")
    shards.mkdir()
    (shards / ".000001-0.h5.99999-0.tmp").write_bytes(b"half a shard")
    with maker.open_writer():
        assert not any(shards.iterdir())
        shards.rmdir()
        assert list_files() == ["made.h5", "made.h5.lock"]


def test_an_item_without_a_row_is_refused_and_the_store_kept(maker):
    maker.seal([1])
    before = read_identity(maker.path)
    with maker.open_writer() as writer, pytest.raises(StoreError, match=r"1 items have no features.*4e07408562be"):
        writer.seal(maker.make_columns([1, 3]), NONE)
    assert read_identity(maker.path) == before


def test_another_spec_is_refused_with_its_fields_and_values(maker):
    maker.seal([1])
    pattern = (
        r"made.h5 holds features of another spec \(backbone.layer: asked 'middle', found 'top'; "
        r"dtype: asked 'float16', found 'float32'; image.height: asked 9, found 8\); .*--name NAME"
    )
    spec = maker.make_spec(layer="middle", dtype="float16", height=9)
    with pytest.raises(SpecMismatchError, match=pattern), maker.open_writer(spec):
        pytest.fail("opened")
    with maker.open_writer():
        pass  # the lock is free again


def test_shards_of_another_spec_are_refused_and_the_lock_is_freed(maker, list_files):
    with maker.open_writer() as writer:
        maker.append(writer, [1])
    with (
        pytest.raises(StoreError, match="unfinished work of another spec"),
        maker.open_writer(maker.make_spec(height=9)),
    ):
        pytest.fail("opened")
    assert [name[:21] for name in list_files()] == ["made.h5.parts", "made.h5.parts/000001-"]


def test_damaged_rows_are_not_copied_under_a_new_checksum(maker):
    maker.seal([1, 2])
    data = bytearray(maker.path.read_bytes())
    data[data.index(maker.make_row(2).tobytes()) + 3] ^= 1
    maker.path.write_bytes(data)
    with pytest.raises(StoreFormatError, match=r"rows 0 to 1 of /features of .*made.h5 are damaged; run `featx repair"):
        maker.seal([1, 2, 3], new=[3])
    assert maker.path.read_bytes() == data


def test_the_provenance_of_the_first_rows_is_kept(maker):
    maker.seal([1], stack="1.0")
    assert maker.seal([1, 2], new=[2], stack="2.0").created_with == {"numpy": "1.0"}


def test_a_second_writer_is_refused_while_readers_read_on(maker):
    before = maker.seal([1])
    with maker.open_writer() as writer:
        maker.append(writer, [2])
        with pytest.raises(StoreLockedError, match=r"made.h5 is being written by process"), maker.open_writer():
            pytest.fail("two writers")
        assert FeatureStore(maker.path).ids.tolist() == ["1.png"]
        writer.seal(maker.make_columns([2]), NONE)
        assert np.array_equal(before.features, maker.make_rows([1]))  # the old file, still mapped
        assert FeatureStore(maker.path).ids.tolist() == ["2.png"]


def test_two_stores_in_one_folder_do_not_disturb_each_other(maker):
    with maker.open_writer() as first:
        maker.path = maker.path.with_name("another.h5")
        with maker.open_writer(maker.make_spec(height=9)) as second:
            maker.append(first, [1])
            maker.append(second, [2])
            first.seal(maker.make_columns([1]), NONE)
            second.seal(maker.make_columns([2]), NONE)
    assert FeatureStore(maker.path).ids.tolist() == ["2.png"]
    assert FeatureStore(maker.path.with_name("made.h5")).ids.tolist() == ["1.png"]


def test_a_store_names_every_runtime_that_computed_rows_and_the_largest_drift(maker):
    maker.seal([1])  # of the provenance: numpy
    with maker.open_writer() as writer:
        writer.note_runtime("openvino", 2e-7)
        maker.append(writer, [2])
    with maker.open_writer() as writer:  # the runtime of the shard that was left
        writer.note_runtime("keras", 1e-7)
        maker.append(writer, [3])
        store = writer.seal(maker.make_columns([1, 2, 3]), NONE)
    assert (store.runtime, store.drift) == ("keras, numpy, openvino", 2e-7)
    with maker.open_writer() as writer:
        store = writer.seal(maker.make_columns([1, 2]), NONE)
    assert (store.runtime, store.drift) == ("keras, numpy, openvino", 2e-7)


def ago(seconds):
    """Return the start of a run that began this long ago."""
    return time.perf_counter() - seconds


def test_a_store_records_the_time_of_its_rows(maker):
    """The time is the sum over the runs that computed rows; a run that computes no row adds nothing."""
    assert maker.seal([1], begun=ago(10)).embed_seconds == pytest.approx(10, abs=1)
    assert maker.seal([1], new=[], begun=ago(500)).embed_seconds == pytest.approx(10, abs=1)
    relabelled = maker.seal([1], new=[], source="/elsewhere", begun=ago(500))
    assert relabelled.embed_seconds == pytest.approx(10, abs=1)
    assert maker.seal([1, 2], new=[2], begun=ago(20)).embed_seconds == pytest.approx(30, abs=1)


def test_the_time_of_an_interrupted_run_is_counted_once(maker):
    with maker.open_writer(begun=ago(10)) as writer:
        maker.append(writer, [1])
        writer._journal.commit()
        maker.append(writer, [2])
    with maker.open_writer(begun=ago(20)) as writer:
        maker.append(writer, [3])
        writer._journal.discard = lambda: None  # killed between sealing and removing the shards
        sealed = writer.seal(maker.make_columns([1, 2, 3]), NONE)
    assert sealed.embed_seconds == pytest.approx(30, abs=1)
    assert maker.seal([1, 2, 3], new=[], source="/b").embed_seconds == sealed.embed_seconds


def test_a_time_that_is_known_only_in_part_is_not_recorded(maker):
    maker.seal([1])
    assert maker.seal([1, 2], new=[2], begun=ago(20)).embed_seconds is None
