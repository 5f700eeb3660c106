"""Images in shards: webdataset's tar files, and the Parquet files of Hugging Face."""

import pickle
import zipfile

import pyarrow as pa
import pytest
from pyarrow import parquet
from shard_files import encode, write_parquet, write_tar

import featx
from featx.errors import SourceError, UsageError
from featx.fitting.preconditions import find_keys
from featx.items import Columns, SourceOptions, read_source
from featx.items.shards import expand_braces
from featx.items.sources import find_reader, read_source_again
from featx.reporting import Reporter


def show(manifest):
    return [(item.id, item.label, item.split, item.group) for item in manifest.items]


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("a.tar", ["a.tar"]),
    ],
)
def test_braces_expand_as_in_shells(pattern, names):
    assert expand_braces(pattern) == names


def test_a_pattern_of_too_many_or_missing_shards_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="more than 100,000 files"):
        expand_braces("{0..999}-{0..999999999}.tar")
    write_tar(tmp_path / "a-0.tar", {"x.png": encode(0), "x.cls": b"0"})
    with pytest.raises(SourceError, match=r"1 of its 2 shards, such as .*a-1.tar', do not exist"):
        read_source(tmp_path / "a-{0..1}.tar")
    with pytest.raises(SourceError, match="there is no file of the pattern"):
        read_source(tmp_path / "b-*.tar")


# --- tar shards


@pytest.fixture
def shards(tmp_path):
    """Four shards as webdataset names them, of 100 images, of which 3 are broken."""
    broken = {7: b"", 40: encode(40)[:-40], 99: b"<html></html>"}
    for shard in range(4):
        members = {}
        for number in range(25 * shard, 25 * shard + 25):
            members[f"{number:06d}.cls"] = str(number % 2).encode()
            members[f"{number:06d}.png"] = broken.get(number, encode(number))
        write_tar(tmp_path / "data" / f"{'val' if shard == 3 else 'train'}-{shard:03d}.tar", members)
    return tmp_path / "data"


def embed(source, tmp_path, **arguments):
    return featx.embed(source, "colour", folder=tmp_path / "features", **arguments)


def test_broken_pictures_in_tar_shards_are_counted_and_no_other_is_lost(shards, tmp_path):
    result = embed(shards, tmp_path)
    assert (result.new, result.cached, result.quarantined) == (97, 0, 3)
    assert result.store.columns["split"].tolist().count("val") == 24
    quarantine = {one[0]: one[-1] for one in result.store.quarantine}
    assert [name.partition(".tar/")[2] for name in sorted(quarantine)] == ["000007.png", "000040.png", "000099.png"]
    assert "the file is empty" in quarantine["train-000.tar/000007.png"]
    again = embed(shards, tmp_path)
    assert (again.new, again.cached, again.quarantined) == (0, 97, 3)
    reader = find_reader(result.store.source, result.store.reading, "train-001.tar/000030.png")
    assert reader.read("train-001.tar/000030.png") == encode(30)
    with pytest.raises(FileNotFoundError):
        reader.read("../data/train-001.tar/000030.png")


def test_the_identity_of_an_item_is_that_of_its_bytes(shards, tmp_path):
    before = embed(shards / "train-{000..001}.tar", tmp_path).store
    write_tar(shards / "train-000.tar", {"new.png": encode(3), "new.cls": b"0"})
    result = embed(shards / "train-{000..001}.tar", tmp_path)
    assert (result.new, result.cached, result.removed) == (0, 25, 24)
    assert set(result.store.sha256) < set(before.sha256)


@pytest.mark.parametrize(
    ("sidecar", "columns", "label"),
    [
        ({"cls": b"3\n", "json": b'{"label": "x"}', "txt": b"a caption"}, Columns(), "3"),
        ({"json": b'{"cls": 4, "who": "p1"}', "txt": b"a caption"}, Columns(), "4"),
        ({"json": b'{"species": "cat"}'}, Columns(label="species"), "cat"),
        ({"txt": b"cat", "cls": b"3"}, Columns(label="txt"), "cat"),
        ({"txt": b"cat"}, Columns(), "cat"),
        ({"json": b'{"caption": "a cat"}', "txt": b"a cat"}, Columns(), ""),
        ({"cls": b"3"}, Columns(label=""), ""),
    ],
)
def test_labels_beside_images(tmp_path, sidecar, columns, label):
    files = {f"a/1.{ending}": content for ending, content in sidecar.items()}
    write_tar(
        tmp_path / "s" / "0.tar", {**files, "a/1.left.jpg": encode(1), "a/1.right.jpg": encode(2), "b.flac": b"x"}
    )
    manifest = read_source(tmp_path / "s", columns=columns)
    assert show(manifest) == [(f"0.tar/a/1.{side}.jpg", label, "", "") for side in ("left", "right")]
    assert manifest.junk == {"files that are not images": 1}


def test_groups_come_from_json_and_unreadable_labels_are_told(tmp_path):
    write_tar(
        tmp_path / "s.tar",
        {
            "1.png": encode(1),
            "1.json": b'{"label": "a", "who": "p1"}',
            "2.png": encode(2),
            "2.json": b"{",
            "3.json": b"{}",
        },
    )
    manifest = read_source(tmp_path / "s.tar", columns=Columns(group="who"))
    assert show(manifest) == [("s.tar/1.png", "a", "", "p1"), ("s.tar/2.png", "", "", "")]
    assert any(note.startswith("the label of 1 image cannot be read and is left out") for note in manifest.notes)
    assert manifest.junk == {"labels without an image": 1}
    assert show(read_source_again(manifest.source, manifest.reading)) == show(manifest)
    with pytest.raises(SourceError, match=r"label 'kind' beside it; the keys of the .json files are 'label', 'who'"):
        read_source(tmp_path / "s.tar", columns=Columns(label="kind"))


def test_a_tar_of_class_folders_is_still_an_archive(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"cat/1.png": encode(1), "cat/1.json": b"{}", "dog/2.png": encode(2)})
    assert show(read_source(path)) == [("cat/1.png", "cat", "", ""), ("dog/2.png", "dog", "", "")]


def test_a_damaged_or_compressed_shard_is_one_clear_error(shards):
    path = shards / "train-001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SourceError, match=r"train-001.tar' cannot be read"):
        read_source(shards)
    path.write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(SourceError, match=r"train-001.tar' is compressed"):
        read_source(shards)


# --- Parquet


@pytest.fixture
def dataset(tmp_path):
    """Two files as Hugging Face writes them, of 100 images, of which 3 are broken, and one has a file of its own."""
    rows = [{"bytes": encode(number), "path": f"{number}.png"} for number in range(100)]
    rows[7], rows[40], rows[99] = None, {"bytes": b"", "path": None}, {"bytes": encode(99)[:-40], "path": "99.png"}
    rows[50] = {"bytes": None, "path": "apart.png"}
    folder = tmp_path / "data"
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    for name, part in (("train-00000-of-00002-1a2b", rows[:60]), ("validation-00000-of-00001", rows[60:])):
        labels = [number % 2 for number in range(len(part))]
        write_parquet(folder / "data" / f"{name}.parquet", part, labels, features=features, row_group_size=10)
    (folder / "data" / "apart.png").write_bytes(encode(50))
    return folder / "data/*.parquet"


def test_broken_pictures_in_parquet_are_counted_and_no_other_is_lost(dataset, tmp_path):
    result = embed(dataset, tmp_path)
    assert (result.new, result.cached, result.quarantined) == (97, 0, 3)
    columns = result.store.columns
    assert {*columns["label"].tolist()} == {"cat", "dog"}
    assert columns["split"].tolist() == ["train"] * 58 + ["val"] * 39
    quarantine = {one[0]: one[-1] for one in result.store.quarantine}
    first = "train-00000-of-00002-1a2b.parquet"
    assert quarantine[f"{first}/7"] == "cannot be read: the row has no image"
    assert "the file is empty" in quarantine[f"{first}/40"]
    assert "truncated" in quarantine["validation-00000-of-00001.parquet/39/99.png"]
    assert f"{first}/50/apart.png" in result.store.ids
    again = embed(dataset, tmp_path)
    assert (again.new, again.cached, again.quarantined) == (0, 97, 3)


def test_rows_are_read_in_any_order_and_unchanged_ones_not_again(dataset):
    manifest = read_source(dataset)
    for row in (59, 3, 4, 58, 0, 31):
        assert manifest.reader.read(manifest.items[row].id, 30) == encode(row)[:30]
    first, last = (manifest.reader.stat(manifest.items[row].id) for row in (59, 30))
    assert last == manifest.reader.stat(manifest.items[30].id)
    assert first != manifest.reader.stat(manifest.items[59].id)  # its row group has an image without bytes
    with pytest.raises(FileNotFoundError):
        manifest.reader.read("train-00000-of-00002-1a2b.parquet/60")


def test_a_row_group_that_cannot_be_read_loses_its_own_images_only(tmp_path):
    images = [{"bytes": encode(number), "path": f"{number}.png"} for number in range(60)]
    path = write_parquet(
        tmp_path / "x.parquet", images, ["a", "b"] * 30, row_group_size=20, compression="snappy", use_dictionary=False
    )
    chunk = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    assert chunk.path_in_schema == "image.bytes"
    data = bytearray(path.read_bytes())
    begin = chunk.data_page_offset
    data[begin : begin + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    result = embed(path, tmp_path)  # planning reads no image, or it would fail
    assert (result.new, result.quarantined) == (40, 20)
    reason = result.store.quarantine[0][-1]
    assert reason.startswith("cannot be read: its row group is damaged from row 20 (")


def test_images_in_plain_binary_columns_and_tables_of_paths(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [encode(1)], ["cat"], kind=pa.large_binary())
    assert show(read_source(path)) == [("x.parquet/0", "cat", "", "")]
    parquet.write_table(pa.table({"photo": pa.array([encode(1)]), "kind": ["cat"], "who": ["p"]}), path)
    columns = Columns("photo", label="kind", group="who")
    manifest = read_source(path, columns=columns)
    assert show(manifest) == [("x.parquet/0", "cat", "", "p")]
    assert show(read_source_again(manifest.source, manifest.reading)) == show(manifest)
    (tmp_path / "1.png").write_bytes(encode(1))
    parquet.write_table(pa.table({"path": ["1.png"], "label": ["cat"]}), path)
    assert show(read_source(path)) == [("1.png", "cat", "", "")]
    (tmp_path / "1.png").unlink()
    with pytest.raises(SourceError, match=r"x.parquet' has no column of images; its columns are 'path', 'label'"):
        read_source(tmp_path)


def test_classes_that_the_metadata_do_not_name_are_an_error_and_minus_one_is_none(tmp_path):
    features = {"label": {"names": ["cat"], "_type": "ClassLabel"}}
    image = [{"bytes": encode(1), "path": None}] * 2
    path = write_parquet(tmp_path / "test.parquet", image, [-1, 0], features=features)
    assert show(read_source(path)) == [("test.parquet/0", "", "test", ""), ("test.parquet/1", "cat", "test", "")]
    write_parquet(path, image, [1, 0], features=features)
    with pytest.raises(SourceError, match="has the class 1 in the column 'label', whose metadata name 1 classes"):
        read_source(path)


def test_options_choose_among_the_items_of_shards(shards):
    manifest = read_source(shards, options=SourceOptions(only=("split=train",), except_=("folder=train-000.tar",)))
    assert len(manifest) == 50
    with pytest.raises(UsageError, match="leave out the layout"):
        read_source(shards, options=SourceOptions(layout="class"))
    with pytest.raises(UsageError, match="leave out the root"):
        read_source(shards, root=shards)


def test_a_folder_with_images_is_no_folder_of_shards(shards):
    (shards / "cat").mkdir()
    (shards / "cat" / "1.png").write_bytes(encode(1))
    write_parquet(shards / "data" / "0.parquet", [encode(1)], ["a"], kind=pa.binary())
    manifest = read_source(shards)
    assert show(manifest) == [("cat/1.png", "cat", "", "")]
    assert "data/0.parquet was not read; if it has the labels, name it instead" in manifest.notes[0]


def test_copies_in_another_split_are_found_without_sizes(tmp_path):
    for name, numbers in (("train", (1, 2)), ("test", (3, 1))):
        images = [{"bytes": encode(number), "path": None} for number in numbers]
        write_parquet(tmp_path / "data" / f"{name}.parquet", images, ["a", "b"])
    manifest = read_source(tmp_path / "data")
    by_id = dict(
        zip((item.id for item in manifest.items), find_keys(manifest, manifest.items, Reporter()), strict=True)
    )
    assert by_id["train.parquet/0"] == by_id["test.parquet/1"]
    assert len({*by_id.values()}) == 3


@pytest.mark.parametrize("name", ["pictures.zip", "pictures.tar", "train-{0..0}.tar", "train-0.parquet"])
def test_another_process_can_read_the_images(tmp_path, name):
    """The driver of a cluster sends its reader to the workers."""
    data = [encode(number) for number in range(4)]
    members = {f"{'ab'[number % 2]}/{number}.png": one for number, one in enumerate(data)}
    write_tar(tmp_path / "pictures.tar", members)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for member, one in members.items():
            archive.writestr(member, one)
    labels = {f"{number}.cls": b"ab"[number % 2 : number % 2 + 1] for number in range(4)}
    write_tar(tmp_path / "train-0.tar", {**{f"{number}.png": one for number, one in enumerate(data)}, **labels})
    write_parquet(tmp_path / "train-0.parquet", [{"bytes": one, "path": None} for one in data], list("abab"))
    manifest = read_source(tmp_path / name)
    reader = pickle.loads(pickle.dumps(manifest.reader))  # noqa: S301 - as Ray does it
    assert sorted(reader.read(item.id) for item in manifest.items) == sorted(data)
    assert {reader.stat(item.id) for item in manifest.items} == {
        manifest.reader.stat(item.id) for item in manifest.items
    }
