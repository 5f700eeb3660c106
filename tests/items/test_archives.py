import calendar
import gzip
import io
import os
import stat
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.errors import SourceError
from featx.items import Item, archives, read_archive, read_folder

JPEG = b"\xff\xd8\xff\xe0 a picture by its first bytes"
FILES = {
    "train/cat/1.jpg": JPEG + b"1",
    "train/dog/2.JPG": JPEG + b"2" * 5000,
    "val/cat/3.png": b"",
    "val/cat/scan": JPEG,
    "val/cat/b\u00e4r.jpg": JPEG,
    "train/cat/.DS_Store": b"x",
    "train/cat/notes.txt": b"x",
    "train/.cache/a.jpg": JPEG,
    "train/.cache/b.jpg": JPEG,
    "__MACOSX/train/cat/._1.jpg": b"x",
}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
KINDS = [".zip", *TARS]


@pytest.fixture
def make(tmp_path):
    def make_archive(files, kind=".zip", name="data"):
        path = tmp_path / (name + kind)
        if kind == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for member, content in files:
                    archive.writestr(member, content)
        else:
            with tarfile.open(path, TARS[kind]) as archive:
                for member, content in files:
                    info = tarfile.TarInfo(member) if isinstance(member, str) else member
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return path

    return make_archive


def list_ids(manifest):
    return [item.id for item in manifest.items]


@pytest.mark.parametrize("wrapper", ["", "data/", "./", "a/b/"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_has_the_items_of_its_folder(make, tmp_path, kind, wrapper):
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    expected = read_folder(tmp_path / "folder")
    manifest = read_archive(make([(wrapper + name, content) for name, content in FILES.items()], kind))
    assert manifest.items == expected.items
    assert manifest.junk == expected.junk
    for item in manifest.items:
        assert manifest.reader.read(item.id) == FILES[item.id]
        assert manifest.reader.stat(item.id).size_bytes == len(FILES[item.id])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_on_the_disk(make, tmp_path, kind, monkeypatch):
    source = make(FILES.items(), kind)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    manifest = read_archive(source)
    manifest.reader.read(manifest.items[0].id)
    del manifest
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([source.name, "tmp"])


@pytest.mark.parametrize("with_pread", [True, False])
@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_threads_read_concurrently(make, kind, with_pread, monkeypatch):
    if not with_pread:
        monkeypatch.delattr(os, "pread", raising=False)
    files = {f"c{n % 3}/{n}.jpg": JPEG + bytes([n]) * (50 * n) for n in range(200)}
    manifest = read_archive(make(files.items(), kind))
    ids = list_ids(manifest) * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(manifest.reader.read, ids)) == [files[item_id] for item_id in ids]


def test_a_single_folder_named_like_the_archive_is_the_folder_that_was_packed(make):
    assert read_archive(make([("photos/1.jpg", JPEG)], name="Photos")).items == (Item("1.jpg"),)
    assert read_archive(make([("photos/1.jpg", JPEG)], ".tar.gz", "photos.v2")).items == (Item("1.jpg"),)
    assert read_archive(make([("photos/1.jpg", JPEG)], ".tar", "data")).items == (Item("photos/1.jpg", "photos"),)
    assert read_archive(make([("data/cat/1.jpg", JPEG), ("readme.txt", b"x")])).items[0].label == "cat"
    assert read_archive(make([("train/cat/1.jpg", JPEG)], name="train")).items[0].split == "train"


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("name", ["../evil.jpg", "cat/../../evil.jpg", "/etc/evil.jpg", "C:/evil.jpg", "cat/.."])
def test_members_that_leave_the_archive_refuse_it(make, kind, name):
    with pytest.raises(SourceError, match=r"is refused: its member .* lies outside") as caught:
        read_archive(make([("cat/1.jpg", JPEG), (name, JPEG)], kind))
    assert repr(name) in str(caught.value)


def test_backslashes_in_a_zip_separate_folders(make):
    with pytest.raises(SourceError, match="lies outside"):
        read_archive(make([("..\\evil.jpg", JPEG)]))
    assert list_ids(read_archive(make([("cat\\1.jpg", JPEG), ("dog\\1.jpg", JPEG)]))) == ["cat/1.jpg", "dog/1.jpg"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_left_out(make, kind):
    info = tarfile.TarInfo("cat/link.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    manifest = read_archive(make([("cat/1.jpg", JPEG), (info, b"")], ".tar"))
    assert len(manifest) == 1
    assert manifest.junk == {"links and special files": 1}


def test_links_in_a_zip_are_left_out(make):
    info = zipfile.ZipInfo("cat/link.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    manifest = read_archive(make([("cat/1.jpg", JPEG), (info, b"/etc/passwd")]))
    assert len(manifest) == 1
    assert manifest.junk == {"links and special files": 1}


@pytest.mark.parametrize("kind", [".zip", ".tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_the_last_of_several_members_with_one_name_counts(make, kind):
    manifest = read_archive(make([("cat/1.jpg", JPEG + b"old"), ("./cat/1.jpg", JPEG + b"new")], kind))
    assert manifest.reader.read("cat/1.jpg") == JPEG + b"new"
    assert manifest.junk == {"files replaced by a later one of that name": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_too_large_for_a_picture_refuses_the_archive(make, kind, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 10_000)
    assert len(read_archive(make([("cat/1.jpg", b"x" * 10_000), ("cat/video.mp4", b"x" * 20_000)], kind))) == 1
    with pytest.raises(SourceError, match=r"big.jpg' has 10,001 bytes, too many for an image"):
        read_archive(make([("cat/big.jpg", b"x" * 10_001)], kind))


@pytest.mark.parametrize("kind", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_bomb_is_refused_before_it_unpacks(make, kind, monkeypatch):
    source = make([(f"cat/{n}.jpg", bytes(500_000)) for n in range(20)], kind)
    assert len(read_archive(source)) == 20
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 2_000_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 20)
    with pytest.raises(SourceError, match="unpacks to more than"):
        read_archive(source)


def test_a_zip_member_with_a_false_size_is_damaged(make):
    source = make([("cat/1.jpg", JPEG + bytes(100_000)), ("dog/1.jpg", JPEG)])
    content = source.read_bytes()
    true_size = (len(JPEG) + 100_000).to_bytes(4, "little")
    assert content.count(true_size) == 2
    source.write_bytes(content.replace(true_size, (100).to_bytes(4, "little")))
    manifest = read_archive(source)
    with pytest.raises(OSError, match="damaged in the archive"):
        manifest.reader.read("cat/1.jpg")
    assert manifest.reader.read("dog/1.jpg") == JPEG


def test_a_damaged_zip_member_is_an_error_of_that_item_alone(make):
    source = make([("cat/1.jpg", JPEG), ("dog/1.jpg", JPEG + b"intact")])
    content = bytearray(source.read_bytes())
    content[45] ^= 0xFF
    source.write_bytes(content)
    manifest = read_archive(source)
    with pytest.raises(OSError, match="damaged in the archive"):
        manifest.reader.read("cat/1.jpg")
    assert manifest.reader.read("dog/1.jpg") == JPEG + b"intact"


def test_an_encrypted_zip_is_refused(make):
    source = make([("cat/1.jpg", JPEG)])
    content = bytearray(source.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    source.write_bytes(content)
    with pytest.raises(SourceError, match=r"is encrypted \('cat/1.jpg'\)"):
        read_archive(source)


def test_names_in_a_zip_that_are_utf8_without_its_flag(make):
    source = make([("b\u00e4r/1.jpg", JPEG), ("dog/1.jpg", JPEG)])
    content = source.read_bytes()
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(header) + flags
        content = content[: at + 1] + bytes([content[at + 1] & ~0x08]) + content[at + 2 :]
    source.write_bytes(content)
    assert [item.label for item in read_archive(source).items] == ["b\u00e4r", "dog"]


def test_names_in_a_tar_that_are_not_utf8_are_kept(make):
    manifest = read_archive(make([("b\udce4r/1.jpg", JPEG), ("dog/1.jpg", JPEG)], ".tar"))
    assert [(item.id, item.label) for item in manifest.items] == [
        ("b\udce4r/1.jpg", "b\\udce4r"),
        ("dog/1.jpg", "dog"),
    ]
    assert manifest.reader.read("b\udce4r/1.jpg") == JPEG


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_refused(make, kind):
    source = make([(f"cat/{n}.jpg", os.urandom(2000)) for n in range(20)], kind)
    source.write_bytes(source.read_bytes()[:30_000])
    with pytest.raises(SourceError, match=f"the archive .*data{kind}' cannot be read"):
        read_archive(source)


def test_a_damaged_header_inside_a_tar_is_not_taken_for_its_end(make):
    source = make([(f"cat/{n}.jpg", JPEG) for n in range(5)], ".tar")
    content = bytearray(source.read_bytes())
    content[2 * 1024 + 5] ^= 0xFF
    source.write_bytes(content)
    with pytest.raises(SourceError, match="damaged at byte 2,048"):
        read_archive(source)


def test_a_tar_that_shrinks_after_it_was_listed_is_an_os_error(make):
    source = make([("cat/1.jpg", JPEG), ("dog/1.jpg", bytes(20_000))], ".tar")
    manifest = read_archive(source)
    os.truncate(source, 5000)
    with pytest.raises(OSError, match="of 20,000 bytes are there"):
        manifest.reader.read("dog/1.jpg")


def test_sparse_members_are_special(make):
    source = make([("cat/1.jpg", JPEG)], ".tar")
    header = bytearray(tarfile.TarInfo("cat/sparse.jpg").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    source.write_bytes(bytes(header) + source.read_bytes())
    assert read_archive(source).junk == {"links and special files": 1}


def test_times_are_those_stored(make):
    info = zipfile.ZipInfo("cat/1.jpg", (2020, 2, 3, 4, 5, 6))
    source = make([(info, JPEG)])
    os.utime(source, (0, 0))
    found = read_archive(source).reader.stat("cat/1.jpg")
    assert found.mtime_ns == calendar.timegm((2020, 2, 3, 4, 5, 6)) * 10**9


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("1600000000", 1_600_000_000 * 10**9),
        ("1600000000.5", 1_600_000_000_500_000_000),
        ("nan", 0),
        ("inf", 0),
        ("-9", 0),
    ],
)
def test_invalid_times_in_a_tar_are_zero(make, stored, expected):
    entry = tarfile.TarInfo("cat/1.jpg")
    entry.pax_headers["mtime"] = stored
    source = make([(entry, JPEG)], ".tar")
    os.utime(source, (0, 0))
    assert read_archive(source).reader.stat("cat/1.jpg").mtime_ns == expected


def test_a_rebuilt_archive_with_fixed_times_is_noticed(make):
    entry = tarfile.TarInfo("cat/1.jpg")
    source = make([(entry, JPEG)], ".tar")
    before = read_archive(source).reader.stat("cat/1.jpg")
    os.utime(source, ns=(before.mtime_ns + 10**9, before.mtime_ns + 10**9))
    after = read_archive(source).reader.stat("cat/1.jpg")
    assert after.size_bytes == before.size_bytes
    assert after.mtime_ns > before.mtime_ns


def test_a_zip_without_a_clock_has_a_time(make):
    source = make([("cat/1.jpg", JPEG)])
    content = bytearray(source.read_bytes())
    at = content.index(b"PK\1\2") + 12
    content[at : at + 4] = bytes(4)
    source.write_bytes(content)
    assert read_archive(source).reader.stat("cat/1.jpg").size_bytes == len(JPEG)


def test_an_unknown_item_is_a_file_not_found(make):
    reader = read_archive(make([("cat/1.jpg", JPEG)])).reader
    with pytest.raises(FileNotFoundError, match=r"no item 'x.jpg'"):
        reader.read("x.jpg")


@pytest.mark.parametrize("content", [b"", b"PK no zip", b"\x1f\x8b no gzip", b"BZh no bzip", b"no tar at all" * 100])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path, content):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        read_archive(path)


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_an_archive_without_images_lists_what_it_has(make, kind):
    with pytest.raises(SourceError, match=r"holds no images \(left out: files that are not images \(1\)\)"):
        read_archive(make([("a.txt", b"text")], kind))
    with pytest.raises(SourceError, match="holds no images"):
        read_archive(make([], kind))


def test_content_decides_the_compression(make, tmp_path):
    path = tmp_path / "renamed.tar"
    path.write_bytes(gzip.compress(make([("cat/1.jpg", JPEG)], ".tar").read_bytes()))
    assert list_ids(read_archive(path)) == ["cat/1.jpg"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_names_the_folder_that_is_full(make, monkeypatch):
    source = make([("cat/1.jpg", JPEG)], ".tar.gz")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    with pytest.raises(SourceError, match=r"cannot be unpacked into .*TMPDIR"):
        read_archive(source)


def build(kind):
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("cat/1.jpg", "b\u00e4r/2.jpg", "plain"):
                archive.writestr(name, JPEG)
    else:
        with tarfile.open(fileobj=file, mode=kind, format=tarfile.PAX_FORMAT) as archive:
            for name in ("cat/1.jpg", f"cat/{'x' * 200}.jpg", "b\u00e4r/2.jpg", "plain"):
                info = tarfile.TarInfo(name)
                info.size, info.pax_headers = len(JPEG), {"mtime": "1.5", "GNU.sparse.realsize": "9"}
                archive.addfile(info, io.BytesIO(JPEG))
    return file.getvalue()


SEEDS = {kind: build(kind) for kind in ("zip", "w", "w:gz", "w:bz2", "w:xz")}


def correct_checksums(content):
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.integers(0, 20_000),
)
def test_damaged_archives_never_raise_anything_else(kind, changes, cut):
    content = bytearray(SEEDS[kind][: cut or 1])
    for place, value in changes:
        content[place % len(content)] = value
    if kind == "w":
        correct_checksums(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.zip")
        path.write_bytes(content)
        try:
            manifest = read_archive(path)
        except SourceError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most damage is refused, some goes unnoticed
            return
        for item in manifest.items:
            try:
                content = manifest.reader.read(item.id)
            except OSError:
                continue
            assert len(content) == manifest.reader.stat(item.id).size_bytes
