"""Untrusted archives: none writes a file, names one elsewhere, or takes memory without bounds."""

import copy
import io
import lzma
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest

from featx.errors import SourceError
from featx.items import archives, read_archive, read_source

JPEG = b"\xff\xd8\xff\xe0 a picture, as far as its first bytes tell"
MAX_PEAK_BYTES = 200 * 2**20


@pytest.fixture
def watched():
    """Count what a test allocates, and refuse more than a small part of what its archive declares."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MAX_PEAK_BYTES
    finally:
        tracemalloc.stop()


def check_refused(path, message):
    with pytest.raises(SourceError, match=message) as caught:
        read_archive(path)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def write_zip(path, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_header(name, size_bytes=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size_bytes, kind
    return info.tobuf(tarfile.GNU_FORMAT)


# --- what lies within


@pytest.mark.parametrize("name", ["inner.zip", "inner.tar.gz", "cat/inner"])
def test_archives_within_archives_are_not_images(tmp_path, name):
    inner = write_zip(tmp_path / "inner.zip", {"dog/1.jpg": JPEG, "../../evil.jpg": JPEG}).read_bytes()
    manifest = read_archive(write_zip(tmp_path / "outer.zip", {"cat/1.jpg": JPEG, name: inner}))
    assert [item.id for item in manifest.items] == ["cat/1.jpg"]
    assert manifest.junk == {"files that are not images": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner.zip", "outer.zip"]


def test_an_archive_that_is_not_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.zip")
    check_refused(tmp_path / "data.zip", "is not a regular file; name a zip, tar or Parquet file")
    with pytest.raises(SourceError, match="is neither a folder nor one of"):
        read_source(tmp_path / "data.zip")


# --- the headers of a tar


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.usefixtures("watched")
def test_a_name_of_a_gigabyte_is_refused(tmp_path, kind):
    path = tmp_path / "data.tar"
    with path.open("wb") as file:
        file.write(make_header("name", 2**30, kind))
        file.seek(2**30, io.SEEK_CUR)  # a hole, which takes no place on the disk
        file.write(make_header("cat/1.jpg") + bytes(1024))
    check_refused(path, "the name and times of a member take more than 1,048,576 bytes")


@pytest.mark.usefixtures("watched")
def test_a_sparse_member_with_endless_parts_is_refused(tmp_path):
    header = bytearray(make_header("cat/1.jpg", 0, tarfile.GNUTYPE_SPARSE))
    header[482] = 1  # more parts follow
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    parts = b"00000000001\0" * 42 + b"\1" + bytes(7)
    (tmp_path / "data.tar").write_bytes(bytes(header) + parts * 100_000 + bytes(1024))
    check_refused(tmp_path / "data.tar", "the name and times of a member take more than 1,048,576 bytes")


def test_endless_values_for_all_members_are_refused(tmp_path):
    with tarfile.open(tmp_path / "data.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(100):
            archive.fileobj.write(tarfile.TarInfo.create_pax_global_header({f"key{number}": "x" * 1000}))
            archive.addfile(tarfile.TarInfo(f"cat/{number}.jpg"))
    check_refused(tmp_path / "data.tar", "more than 64 values in its global headers")


def test_long_names_and_values_for_all_members_as_programs_write_them_are_read(tmp_path):
    name = f"cat/{'x' * 200}/{'y' * 200}.jpg"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "data.tar", "w", format=kind) as archive:
            if kind == tarfile.PAX_FORMAT:
                archive.fileobj.write(tarfile.TarInfo.create_pax_global_header({"comment": "0123abcd"}))
                archive.offset = archive.fileobj.tell()
            for folder in ("train", "test"):
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size = len(JPEG)
                archive.addfile(info, io.BytesIO(JPEG))
        manifest = read_archive(tmp_path / "data.tar")
        assert [item.id for item in manifest.items] == [f"test/{name}", f"train/{name}"]
        assert all(manifest.reader.read(item.id) == JPEG for item in manifest.items)


# --- how many members


@pytest.mark.parametrize("name", ["data.zip", "data.tar"])
def test_members_without_number_are_refused_and_each_takes_little(tmp_path, monkeypatch, name):
    path, count = tmp_path / name, 20_000
    if name == "data.zip":
        write_zip(path, {f"cat/{number}.jpg": b"" for number in range(count)})
    else:
        path.write_bytes(b"".join(make_header(f"cat/{number}.jpg") for number in range(count)) + bytes(1024))
    tracemalloc.start()
    manifest = read_archive(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(manifest) == count
    assert peak_bytes / count * archives.MAX_MEMBERS < 4 * 2**30
    monkeypatch.setattr(archives, "MAX_MEMBERS", count - 1)
    check_refused(path, "has more than 19,999 members; unpack it and name the folder")


# --- how much they unpack to


@pytest.mark.parametrize(("kind", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
@pytest.mark.usefixtures("watched")
def test_a_zip_that_cannot_be_unpacked_in_bounded_memory_is_refused(tmp_path, kind, name):
    path = write_zip(tmp_path / "data.zip", {"cat/1.jpg": JPEG + bytes(10**7)}, kind)
    check_refused(path, rf"is compressed with {name} \('cat/1\.jpg'\); unpack it and name the folder")


def test_a_zip_member_that_unpacks_to_more_than_it_declares_takes_no_memory(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"cat/1.jpg": JPEG + bytes(3 * 10**8)}, zipfile.ZIP_DEFLATED)
    true_size = struct.pack("<L", len(JPEG) + 3 * 10**8)
    path.write_bytes(path.read_bytes().replace(true_size, struct.pack("<L", 1000)))
    tracemalloc.start()
    manifest = read_archive(path)
    with pytest.raises(OSError, match="damaged in the archive"):
        manifest.reader.read("cat/1.jpg")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < MAX_PEAK_BYTES / 10


def write_tar_xz(path, change=bytes):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("cat/1.jpg")
        info.size = len(JPEG)
        archive.addfile(info, io.BytesIO(JPEG))
    path.write_bytes(change(lzma.compress(stream.getvalue())))
    return path


def ask_for_memory(content):
    """Let an xz stream ask for a dictionary of 4 GiB."""
    length = (content[12] + 1) * 4
    header = bytearray(content[12 : 12 + length - 4])
    assert header[2:4] == b"\x21\x01"
    header[4] = 40
    return content[:12] + bytes(header) + struct.pack("<L", zlib.crc32(header)) + content[12 + length :]


def test_an_xz_that_asks_for_four_gigabytes_is_refused(tmp_path):
    check_refused(write_tar_xz(tmp_path / "data.tar.xz", ask_for_memory), "cannot be read: Memory usage limit")


def test_xz_streams_one_after_the_other_are_one_archive(tmp_path):
    path = write_tar_xz(tmp_path / "data.tar.xz")
    whole = lzma.decompress(path.read_bytes())
    path.write_bytes(lzma.compress(whole[:700]) + bytes(8) + lzma.compress(whole[700:]) + bytes(4))
    assert read_archive(path).reader.read("cat/1.jpg") == JPEG


def test_a_zip_that_declares_exabytes_is_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"cat/1.jpg": JPEG})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2")
    extra = struct.pack("<HHQ", 1, 8, 2**62)
    content[at + 24 : at + 28] = b"\xff" * 4
    content[at + 30 : at + 32] = struct.pack("<H", len(extra))
    name_end = at + 46 + len("cat/1.jpg")
    content[name_end:name_end] = extra
    end = content.index(b"PK\5\6")
    content[end + 12 : end + 16] = struct.pack("<L", end - at)
    path.write_bytes(content)
    check_refused(path, "has 4,611,686,018,427,387,904 bytes, too many for an image; remove it")


def test_a_zip_that_reads_one_member_again_and_again_is_a_bomb(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.jpg", bytes(500 * 10**6))
        first = archive.filelist[0]
        for number in range(1, 100):
            entry = copy.copy(first)
            entry.filename = f"cat/{number}.jpg"
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
    check_refused(path, "unpacks to more than 10 GiB and 200 times its size")
