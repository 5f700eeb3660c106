"""Sources at URLs: the same items and bytes as on disk, few requests, and failures that pass or last."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from object_store import ERROR, PASS, RESET, STALL, break_each_first, break_some

import featx
from featx import remote
from featx.errors import MissingExtraError, SourceError
from featx.items import read_source
from featx.items.reading import count_least
from featx.items.sources import find_reader, read_source_again
from featx.options import EmbedOptions
from featx.urls import find_path, find_url, hide_secrets


@pytest.fixture
def folder(pictures):
    """Ten pictures in two classes, one without a suffix, and files that are left out."""
    (pictures / "cat" / "1.png").rename(pictures / "cat" / "one")
    (pictures / "dog" / ".hidden.png").write_bytes(b"x")
    (pictures / "notes.txt").write_text("no picture")
    (pictures / ".git").mkdir()
    (pictures / ".git" / "a.png").write_bytes(b"x")
    (pictures / "dog" / "a b%20#1.png").write_bytes((pictures / "dog" / "0.png").read_bytes())
    return pictures


def put_into_memory(folder, name):
    import fsspec

    system = fsspec.filesystem("memory")
    for path in filter(lambda path: path.is_file(), folder.rglob("*")):
        system.pipe_file(f"/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://{name}"


@pytest.fixture(params=["file", "memory", "s3"])
def url(request, folder):
    if request.param == "file":
        return folder.as_uri()
    if request.param == "memory":
        return put_into_memory(folder, request.node.name)
    return request.getfixturevalue("object_store").put(folder, "contract")


def test_a_folder_at_a_url_has_the_items_of_the_folder_on_disk(request, url, folder):
    local, found = read_source(folder), read_source(url)
    assert found.items == local.items
    assert found.junk == local.junk
    if request.node.callspec.params["url"] != "file":
        assert EmbedOptions().count_workers(count_least(found)) >= 16 > count_least(local)
    names = [item.id for item in local.items]
    assert [found.reader.read(name) for name in names] == [local.reader.read(name) for name in names]
    assert found.reader.read("cat/one", 8) == local.reader.read("cat/one", 8)
    assert [found.reader.stat(name).size_bytes for name in names] == [local.reader.stat(n).size_bytes for n in names]
    with pytest.raises(FileNotFoundError):
        found.reader.read("cat/none.png")
    again = find_reader(found.source, found.reading, "cat/one")
    assert again.stat("cat/one") == found.reader.stat("cat/one")
    assert read_source_again(found.source, found.reading).items == found.items


def compare(ours, theirs):
    """Compare stores but for the times of the files."""
    assert ours.features[:].tobytes() == theirs.features[:].tobytes()
    assert [name for name, values in ours.columns.items() if (values != theirs.columns[name]).any()] == ["mtime_ns"]


def test_a_store_is_the_same_although_requests_fail_and_the_next_run_asks_once(object_store, pictures, tmp_path):
    local = featx.embed(pictures, "colour", folder=tmp_path / "local").store
    source, proxy = object_store.put(pictures, "faulty"), object_store.proxy
    proxy.choose = break_some(6)  # of the first eleven requests, the 6th is reset, the 7th stalls, and the 9th fails
    first = featx.embed(source, "colour", folder=tmp_path / "remote")
    assert (first.new, first.quarantined) == (10, 0)
    assert len(set(proxy.requests)) == 11  # the listing, and each picture
    assert min(proxy.counts[fault] for fault in (ERROR, RESET, STALL)) > 0
    compare(first.store, local)
    assert first.store.source == source
    object_store.reset()
    assert featx.embed(source, "colour", folder=tmp_path / "remote").cached == 10
    assert len(set(proxy.requests)) == 1
    object_store.put(pictures / "cat" / "3.png", "faulty/cat/1.png")
    object_store.reset()
    changed = featx.embed(source, "colour", folder=tmp_path / "remote")
    assert (changed.new, changed.cached) == (0, 10)  # of the same bytes as another
    assert len(set(proxy.requests)) == 2


def test_what_fails_for_good_is_quarantined_and_tried_again_later(object_store, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "MOST_ATTEMPTS", 3)
    source, proxy = object_store.put(pictures, "failing"), object_store.proxy
    proxy.choose = lambda _, path: ERROR if path.endswith("/5.png") else PASS
    result = featx.embed(source, "colour", folder=tmp_path / "features")
    ((name, _, reason),) = result.store.quarantine
    assert (name, result.new) == ("cat/5.png", 9)
    assert "cannot be read: the server answers with status 503" in reason
    assert "(3 attempts in" in reason
    assert proxy.counts[ERROR] == 3
    proxy.choose = lambda *_: PASS
    assert featx.embed(source, "colour", folder=tmp_path / "features").new == 1
    proxy.choose = lambda _, path: ERROR if path.endswith("/5.png") else PASS
    object_store.put(pictures / "cat" / "3.png", "failing/cat/5.png")
    assert featx.embed(source, "colour", folder=tmp_path / "features").quarantined == 0  # it keeps the old row


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_are_read_by_range(object_store, pictures, tmp_path, kind):
    path, filler = tmp_path / f"some.{kind}", np.random.default_rng(0).bytes(4 << 20)
    files = sorted(pictures.rglob("*.png"))
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("large.bin", filler)
            for file in files:
                archive.write(file, file.relative_to(pictures))
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            for file in files:
                archive.add(file, file.relative_to(pictures))
            info = tarfile.TarInfo("large.bin")
            info.size = len(filler)
            archive.addfile(info, io.BytesIO(filler))
    local, source = read_source(path), object_store.put(path, path.name)
    object_store.proxy.choose = break_each_first()
    found = read_source(source)
    assert (found.items, found.junk) == (local.items, local.junk)
    object_store.reset()
    for item in found.items:
        assert found.reader.read(item.id) == local.reader.read(item.id)
        assert found.reader.stat(item.id).mtime_ns < 2**60
    assert len(object_store.proxy.requests) == (0 if kind == "tar.gz" else len(local))
    assert read_source(f"{object_store.web}/{path.name}").items == local.items


def test_a_table_names_urls_and_paths_relative_to_it(object_store, pictures, tmp_path):
    object_store.put(pictures, "web")
    web = f"{object_store.web}/web"
    signed = f"{web}/cat/3.png?X-Amz-Signature=hidden-key&x=1"
    (pictures / "t.csv").write_text(
        f"path,label\ncat/1.png,cat\n{signed},cat\ndog/../dog/0.png,dog\ncat/none.png,cat\n"
    )
    object_store.put(pictures / "t.csv", "web/t.csv")
    result = featx.embed(f"{web}/t.csv?token=hidden-key", "colour", folder=tmp_path / "features")
    assert result.store.ids.tolist() == ["cat/1.png", "cat/3.png?x=1", "dog/0.png"]
    assert result.store.quarantine == [("cat/none.png", "", "cannot be read: it does not exist")]
    assert result.store.source == f"{web}/t.csv"
    methods = [method for method, path in set(object_store.proxy.requests) if "t.csv" not in path]
    assert (methods.count("HEAD"), methods.count("GET")) == (4, 4)
    assert b"hidden-key" not in result.store.path.read_bytes()
    assert featx.embed(f"{web}/t.csv", "colour", folder=tmp_path / "features").cached == 3
    # A table on disk may name both.
    local = pictures / "local.csv"
    local.write_text(f"path,label\ncat/1.png,cat\n{web}/dog/2.png,dog\n")
    mixed = read_source(local)
    assert [item.id for item in mixed.items] == ["cat/1.png", f"{web}/dog/2.png"]
    for name, path in zip(("cat/1.png", f"{web}/dog/2.png"), ("cat/1.png", "dog/2.png"), strict=True):
        assert mixed.reader.read(name) == (pictures / path).read_bytes()
    local.write_text("path\n/x.png\n")
    with pytest.raises(SourceError, match=r"line 2 of the table .* has the path '/x.png' of a disk"):
        read_source(local, root=web)


def test_mistakes_at_urls_get_one_clear_line(object_store, monkeypatch):
    monkeypatch.setattr(remote, "MOST_ATTEMPTS", 2)
    for source, message in {
        f"{object_store.web}/photos/": "folders of web servers cannot be listed; name a table of URLs",
        f"{object_store.web}/none.csv?sig=hidden-key": "none.csv cannot be read: it does not exist; check the URL",
        "s3://bucket/none": "does not exist or holds no images",
        "s3://no-such-bucket/photos": "cannot be listed: it does not exist; check the URL",
        "s3://bucket/a.png": "is a single image; name its folder",
        "nonsense://a/b": "nonsense://a/b cannot be opened",
    }.items():
        with pytest.raises(SourceError, match=message) as caught:
            read_source(source)
        assert "hidden-key" not in str(caught.value)
    with pytest.raises(MissingExtraError, match=r"gs://bucket/x needs another package: .*gcsfs"):
        read_source("gs://bucket/x")


def test_what_is_shown_of_a_url_has_no_secret():
    text = "403 for url='https://me:pw@h/a.png?X-Amz-Signature=abc&w=3&se=1#x' and s3://k:s@b/x@1"
    assert hide_secrets(text) == "403 for url='https://h/a.png?w=3#x' and s3://b/x@1"


def test_paths_that_look_like_urls(tmp_path):
    from pathlib import Path

    assert find_url(Path("s3://b/x.h5")) == find_url("S3://b/x.h5") == "s3://b/x.h5"
    assert [find_url(name) for name in ("a:b", "latest:ridge", "C:/x", "/a//b", "file:///a")] == [""] * 5
    assert find_path("file:///a%20b") == "/a b"


def test_the_number_of_a_version_is_below_any_time_or_is_the_time():
    count = remote.count_identity
    assert count({"ETag": '"a"'}) == count({"ETag": '"a"', "LastModified": 1}) != count({"ETag": '"b"'})
    assert count({"ETag": '"a"'}) < 2**60 < 1_500_000_000 * 10**9
    assert count({"ETag": 'W/"a"', "Last-Modified": "Thu, 01 Jan 1970 00:00:02 GMT"}) == 2_000_000_000
    assert count({"size": 3}) == remote.UNKNOWN


@pytest.mark.parametrize("shown", ["https://h/x", "https://h/x?w=3"])
def test_no_part_of_a_password_is_shown(shown):
    for secret in ("pwd=1", "sign=1", "hmac=1", "token=1"):
        url = shown.replace("h/", "u:p@ss@h/") + ("&" if "?" in shown else "?") + secret
        assert hide_secrets(url) == shown


def test_urls_that_differ_only_in_secrets_are_told_apart_or_refused(tmp_path):
    (tmp_path / "t.csv").write_text("path\nhttps://h/a.png?key=1\nhttps://h/a.png?key=2\n")
    with pytest.raises(SourceError, match=r"several URLs are .https://h/a\.png. without what looks like a password"):
        read_source(tmp_path / "t.csv")
