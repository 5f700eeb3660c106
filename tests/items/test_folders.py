import os
import sys
from pathlib import Path

import pytest

from featx.errors import SourceError
from featx.items import FolderReader, Item, folders, read_folder

JPEG = b"\xff\xd8\xff\xe0 a picture by its first bytes"


@pytest.fixture
def make(tmp_path):
    def make_files(*names, content=JPEG):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path

    return make_files


def list_ids(manifest):
    return [item.id for item in manifest.items]


def test_class_folders_label_what_is_inside_at_any_depth(make):
    manifest = read_folder(make("cat/1.jpg", "cat/sunny/far/2.jpg", "dog/1.jpg"))
    assert manifest.items == (
        Item("cat/1.jpg", "cat"),
        Item("cat/sunny/far/2.jpg", "cat"),
        Item("dog/1.jpg", "dog"),
    )
    assert not manifest.junk


@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("Valid", "TEST"), ("validation", "Testing")])
def test_split_folders_in_their_usual_spellings(make, val, test):
    manifest = read_folder(make("Train/cat/1.jpg", f"{val}/cat/2.jpg", f"{test}/dog/far/3.jpg"))
    assert {(item.split, item.label) for item in manifest.items} == {("train", "cat"), ("val", "cat"), ("test", "dog")}
    assert manifest.find_untrained_classes("val") == []
    assert manifest.find_untrained_classes("test") == ["dog"]


def test_a_test_folder_without_class_folders_gives_a_split_without_classes(make):
    manifest = read_folder(make("train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg"))
    assert Item("test/3.jpg", label="", split="test") in manifest.items
    assert manifest.count_splits() == {"train": 2, "test": 1}


def test_a_lone_train_folder_is_a_split(make):
    assert read_folder(make("train/cat/1.jpg")).items == (Item("train/cat/1.jpg", "cat", "train"),)


def test_a_class_may_be_called_train(make):
    assert read_folder(make("bus/1.jpg", "train/2.jpg")).count_classes() == {"bus": 1, "train": 1}


def test_split_folders_next_to_other_folders_are_refused(make):
    source = make("train/cat/1.jpg", "test/cat/2.jpg", "copy/train/cat/1.jpg")
    with pytest.raises(SourceError, match=r"has split folders .*and other folders with images.*'copy'"):
        read_folder(source)


def test_a_flat_folder_has_no_classes(make):
    manifest = read_folder(make("2.jpg", "1.jpg"))
    assert manifest.items == (Item("1.jpg"), Item("2.jpg"))
    assert manifest.count_classes() == {}


def test_images_outside_class_folders_have_no_class(make):
    assert Item("loose.jpg") in read_folder(make("cat/1.jpg", "loose.jpg")).items


def test_junk_is_left_out_and_counted_by_reason(make):
    make("cat/.DS_Store", "cat/Thumbs.db", "cat/._1.jpg", ".git/a.jpg", "__MACOSX/cat/1.jpg", "cat/@eaDir/1.jpg/x.jpg")
    make("cat/labels.txt", "cat/empty", content=b"")
    manifest = read_folder(make("cat/1.jpg"))
    assert list_ids(manifest) == ["cat/1.jpg"]
    assert manifest.junk == {
        "system files": 2,
        "system folders": 2,
        "hidden files": 1,
        "hidden folders": 1,
        "files that are not images": 2,
    }


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"\0\0\0 ftypavif",
        b"\0\0\0\x18ftypheic",
        b"BM\x36\0\x0c\0\0\0\0\0",
        b"P6\n32 32\n255\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
    ],
)
def test_images_without_a_suffix_are_recognised_by_their_first_bytes(make, head):
    assert list_ids(read_folder(make("cat/scan", "cat/scan.dcm.part", content=head))) == [
        "cat/scan",
        "cat/scan.dcm.part",
    ]


@pytest.mark.parametrize(
    "head", [b"BMW and Audi are makers of cars", b"P1 is a patient", b"RIFF\0\0\0\0WAVEfmt ", b"P"]
)
def test_a_file_that_only_begins_like_an_image_is_left_out(make, head):
    make("cat/1.jpg")
    assert list_ids(read_folder(make("cat/other", content=head))) == ["cat/1.jpg"]


def test_a_broken_file_with_an_image_name_stays_an_item(make):
    assert len(read_folder(make("cat/page.jpg", content=b"<html>"))) == 1


def test_upper_case_suffixes_and_folders_called_like_files(make):
    source = make("cat/1.JPG", "cat/2.Jpeg", "cat/album.jpg/3.png")
    assert list_ids(read_folder(source)) == ["cat/1.JPG", "cat/2.Jpeg", "cat/album.jpg/3.png"]


def test_order_is_that_of_the_bytes_of_the_paths(make):
    names = ["a/x.jpg", "a-b/x.jpg", "B/x.jpg", "b/10.jpg", "b/9.jpg", "\u00e4/x.jpg", "z/x.jpg"]
    assert list_ids(read_folder(make(*names))) == sorted(names, key=str.encode)


def test_looping_and_broken_links_end(make):
    root = make("data/cat/1.jpg", "outside/2.jpg", "data/dog/3.jpg") / "data"
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "above").symlink_to(root.parent, target_is_directory=True)
    (root / "bird").symlink_to(root.parent / "outside", target_is_directory=True)
    (root / "bird2").symlink_to(root.parent / "outside", target_is_directory=True)
    (root / "cat" / "self.jpg").symlink_to("self.jpg")
    (root / "cat" / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "cat" / "link.jpg").symlink_to("1.jpg")
    manifest = read_folder(root)
    assert list_ids(manifest) == ["bird/2.jpg", "cat/1.jpg", "cat/link.jpg", "dog/3.jpg"]
    assert manifest.junk == {"folders linked twice or in a loop": 3, "broken links": 2}
    assert manifest.reader.read("bird/2.jpg") == JPEG


def test_a_folder_may_be_named_through_a_link(make, tmp_path):
    make("data/cat/1.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    assert list_ids(read_folder(tmp_path / "link")) == ["cat/1.jpg"]


@pytest.mark.skipif(sys.platform in {"darwin", "win32"}, reason="the file system allows no such names")
def test_names_that_are_not_utf8_are_kept_and_read(make, tmp_path):
    folder = os.fsencode(make("cat/1.jpg")) + b"/b\xe4r"
    os.mkdir(folder)  # noqa: PTH102 - Path takes no bytes
    with open(folder + b"/\xff.jpg", "wb") as file:  # noqa: PTH123 - as above
        file.write(JPEG)
    manifest = read_folder(tmp_path)
    item = manifest.items[0]
    assert os.fsencode(item.id) == b"b\xe4r/\xff.jpg"
    assert item.label == "b\\udce4r"
    assert manifest.reader.read(item.id) == JPEG
    assert manifest.reader.stat(item.id).size_bytes == len(JPEG)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_left_out_and_never_opened(make):
    root = make("cat/1.jpg")
    os.mkfifo(root / "cat" / "pipe.jpg")
    manifest = read_folder(root)
    assert manifest.junk == {"pipes, sockets and devices": 1}
    with pytest.raises(OSError, match="not a regular file"):
        manifest.reader.read("cat/pipe.jpg")


def test_the_reader_gives_bytes_size_and_time(make):
    root = make("cat/1.jpg")
    os.utime(root / "cat/1.jpg", ns=(5, 1_700_000_000_000_000_000))
    found = FolderReader(root).stat("cat/1.jpg")
    assert (found.size_bytes, found.mtime_ns) == (len(JPEG), 1_700_000_000_000_000_000)


@pytest.mark.parametrize("item_id", ["cat/none.jpg", "cat", "nul\0.jpg", "x" * 5000])
def test_unreadable_items_raise_os_errors(make, item_id):
    reader = FolderReader(make("cat/1.jpg"))
    with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
        reader.stat(item_id)
    with pytest.raises(OSError):  # noqa: PT011 - the text is the system's
        reader.read(item_id)


def test_files_too_large_to_be_pictures_are_not_read(make, monkeypatch):
    monkeypatch.setattr(folders, "MAX_FILE_BYTES", len(JPEG) - 1)
    with pytest.raises(OSError, match="larger than"):
        read_folder(make("cat/1.jpg")).reader.read("cat/1.jpg")


class InterruptedReader(FolderReader):
    """A reader in which something happens to the file between `stat` and `open`."""

    def __init__(self, root, happen):
        super().__init__(root)
        self.happen = happen

    def stat(self, item_id):
        found = super().stat(item_id)
        self.happen()
        return found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_file_that_becomes_a_pipe_does_not_block(make):
    path = make("cat/1.jpg") / "cat/1.jpg"
    reader = InterruptedReader(path.parent, lambda: (path.unlink(), os.mkfifo(path)))
    with pytest.raises(OSError, match="not a regular file"):
        reader.read("1.jpg")


def test_a_file_that_grows_is_read_to_its_end_or_refused(make, monkeypatch):
    path = make("cat/1.jpg") / "cat/1.jpg"
    reader = InterruptedReader(path.parent, lambda: path.write_bytes(path.read_bytes() + JPEG))
    assert reader.read("1.jpg") == 2 * JPEG
    monkeypatch.setattr(folders, "MAX_FILE_BYTES", 2 * len(JPEG))
    with pytest.raises(OSError, match="larger than"):
        reader.read("1.jpg")


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="only Linux has files that report a size of 0")
def test_a_file_longer_than_its_size_is_read_to_its_end():
    assert FolderReader("/proc").stat("version").size_bytes == 0
    assert FolderReader("/proc").read("version") == Path("/proc/version").read_bytes() != b""


def test_a_folder_without_images_lists_what_it_has(make):
    make(".hidden.jpg")
    with pytest.raises(
        SourceError, match=r"no images \(left out: files that are not images \(1\), hidden files \(1\)\)"
    ):
        read_folder(make("a.txt", content=b"text"))


def test_a_missing_folder_is_a_source_error(tmp_path):
    with pytest.raises(SourceError, match="cannot be listed: No such file"):
        read_folder(tmp_path / "none")


@pytest.mark.shared
def test_real_folders(shared):
    manifest = read_folder(shared / "data" / "ants_bees")
    assert manifest.count_splits().keys() == {"train", "val"}
    assert manifest.count_classes().keys() == {"ants", "bees"}
    assert manifest.find_untrained_classes("val") == []
    digits = read_folder(shared / "data" / "sign_language_digits")
    assert list(digits.count_classes()) == list("0123456789")
    assert len(digits.reader.read(digits.items[0].id)) == digits.reader.stat(digits.items[0].id).size_bytes


def test_a_table_beside_pictures_without_classes_is_pointed_out(make):
    folder = make("images/1.jpg", "images/2.jpg")
    (folder / "labels.csv").write_text("path,label\n")
    note = f"{folder / 'labels.csv'} was not read; if it has the labels, name it instead of {folder}"
    assert note in read_folder(folder).notes
    make("others/1.jpg")  # now the folders are classes
    assert note not in read_folder(folder).notes
