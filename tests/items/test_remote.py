"""Sources at URLs: the same items and bytes as on disk, few requests, and failures that pass or last."""

import io
import re
import tarfile
import zipfile

import numpy as np
import pytest
from hub_server import HubServer
from object_store import ERROR, PASS, RESET, STALL, break_each_first, break_some
from shard_files import encode, write_parquet, write_tar
from web_server import WebServer

import featx
from featx import remote
from featx.errors import MissingExtraError, SourceError
from featx.items import read_source
from featx.items.reading import count_least
from featx.items.sources import find_reader, read_source_again
from featx.items.splits import find_groups
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


def test_files_of_unknown_kind_that_cannot_be_read_are_counted(object_store, folder, monkeypatch):
    monkeypatch.setattr(remote, "MOST_ATTEMPTS", 2)
    source = object_store.put(folder, "peeked")
    object_store.proxy.choose = lambda _, path: ERROR if path.endswith("/one") else PASS
    assert read_source(source).junk["files of unknown kind that cannot be read"] == 1


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


@pytest.fixture(params=["tar", "parquet"])
def shards(request, tmp_path):
    """Two shards of 20 pictures, of which three are broken."""
    broken = {7: b"", 14: encode(14)[:-40], 39: b"<html></html>"}
    for shard, split in enumerate(("train", "val")):
        numbers, path = range(20 * shard, 20 * shard + 20), tmp_path / "shards" / f"{split}-00{shard}.{request.param}"
        part = {f"{number:02d}.png": broken.get(number, encode(number)) for number in numbers}
        if request.param == "parquet":
            rows = [{"bytes": one, "path": name} for name, one in part.items()]
            write_parquet(path, rows, ["cat", "dog"] * 10, row_group_size=5)
        else:
            labels = {f"{number:02d}.cls": b"dog" if number % 2 else b"cat" for number in numbers}
            write_tar(path, dict(sorted({**part, **labels}.items())))
    return tmp_path / "shards"


def test_shards_at_urls_give_the_store_of_those_on_disk_in_few_requests(object_store, shards, tmp_path):
    kind = next(shards.iterdir()).suffix
    local = featx.embed(shards, "colour", folder=tmp_path / "local").store
    source, proxy = object_store.put(shards, f"shards-{kind[1:]}"), object_store.proxy
    proxy.choose = break_some(3, errors=0.1, stalls=0)
    named = f"{{train-000,val-001}}{kind}"
    first = featx.embed(f"{source}/{named}", "colour", folder=tmp_path / "remote")
    assert (first.new, first.quarantined) == (37, 3)
    assert proxy.counts[ERROR] + proxy.counts[RESET] > 0
    compare(first.store, local)
    assert first.store.quarantine == local.quarantine
    object_store.reset()
    again = featx.embed(f"{source}/{named}", "colour", folder=tmp_path / "remote")
    assert (again.cached, again.quarantined) == (37, 3)
    # Of each shard, the size, the headers or the footer with the labels, and parts with the broken pictures.
    assert len(proxy.requests) == (8 if kind == ".tar" else 6)
    name = f"train-000{kind}/{'03.png' if kind == '.tar' else '3/03.png'}"
    for other in (source, f"{source}/*{kind}", f"{object_store.web}/shards-{kind[1:]}/{named}"):
        found = read_source(other)
        assert found.items == read_source(shards).items
        assert found.reader.read(name) == encode(3)
        assert find_reader(found.source, found.reading, name).read(name) == encode(3)
    assert read_source(f"{source}/train-000{kind}").items == found.items[:20]


def test_data_sets_of_hugging_face_give_the_store_of_those_on_disk(shards, pictures, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    fsspec, hub = pytest.importorskip("fsspec"), HubServer(tmp_path)
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.url, "token": False})
    kind, source = next(shards.iterdir()).suffix, "hf://datasets/owner/name"
    n_parts = 39 + 2 * 2 if kind == ".tar" else 2 * 2  # pictures but the empty one, headers; or footers and row groups
    for name, folder, n_files in (("pictures", pictures, 10), (f"shards/*{kind}", shards, n_parts)):
        local = featx.embed(folder, "colour", folder=tmp_path / "local" / folder.name).store
        hub.requests.clear()
        found = featx.embed(f"{source}/{name}", "colour", folder=tmp_path / "remote" / folder.name).store
        compare(found, local)
        assert sum("/resolve/" in path for path in hub.requests) == n_files
        hub.requests.clear()
        assert featx.embed(f"{source}/{name}", "colour", folder=tmp_path / "remote" / folder.name).new == 0
    assert read_source(f"{source}/shards").items == read_source(shards).items
    with pytest.raises(SourceError, match=r"none.csv cannot be read: it does not exist; check the URL"):
        read_source(f"{source}/none.csv")
    with pytest.raises(SourceError, match=r"other/none.csv cannot be read: it does not exist; check the URL"):
        read_source("hf://datasets/owner/other/none.csv")
    hub.close()


def test_a_folder_of_images_without_suffixes_beside_a_table_is_no_folder_of_shards(object_store, folder):
    for path in folder.rglob("*.png"):
        path.unlink()
    write_parquet(folder / "t.parquet", [{"bytes": b"x", "path": "x"}], ["a"])
    source = object_store.put(folder, "mixed")
    object_store.proxy.requests.clear()
    assert [item.id for item in read_source(source).items] == ["cat/one"] == [i.id for i in read_source(folder).items]
    assert not any(path.endswith("/t.parquet") for _, path in object_store.proxy.requests)


def test_missing_shards_at_urls_are_told(object_store, shards):
    kind = next(shards.iterdir()).suffix
    source = object_store.put(shards, f"some-{kind[1:]}")
    for pattern, message in {
        f"{source}/train-{{000..002}}{kind}": f"2 of its 3 shards, such as '{source}/train-001{kind}', do not exist",
        f"{source}/none-*{kind}": "there is no file of the pattern",
        f"{source}/none{kind}": f"none{kind} cannot be read: it does not exist; check the URL",
        f"{object_store.web}/*{kind}": "web servers list no folders; name a range such as {000..099}",
    }.items():
        with pytest.raises(SourceError, match=re.escape(message)):
            read_source(pattern)


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
    (pictures / "g.csv").write_text("path,who\ncat/1.png,p1\ndog/0.png,p2\n")
    object_store.put(pictures / "g.csv", "web/g.csv")
    assert find_groups(["dog/0.png", "cat/1.png"], "who", f"{web}/g.csv", {}) == ["p2", "p1"]
    result = featx.embed(f"{web}/t.csv?token=hidden-key", "colour", folder=tmp_path / "features")
    assert result.store.ids.tolist() == ["cat/1.png", "cat/3.png?x=1", "dog/0.png"]
    assert result.store.quarantine == [("cat/none.png", "", "cannot be read: it does not exist")]
    assert result.store.source == f"{web}/t.csv"
    methods = [method for method, path in set(object_store.proxy.requests) if ".csv" not in path]
    assert (methods.count("HEAD"), methods.count("GET")) == (4, 4)
    assert b"hidden-key" not in result.store.path.read_bytes()
    assert featx.embed(f"{web}/t.csv", "colour", folder=tmp_path / "features").cached == 3
    object_store.reset()
    read_source("s3://bucket/web/g.csv")
    assert {path for _, path in object_store.proxy.requests} == {"/bucket/web/g.csv"}  # nothing is listed
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


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A web server that ignores ranges, with files of 10 GB, without an end, and good ones; and a limit of 2 MiB."""
    monkeypatch.setattr(remote, "MOST_BYTES", 2 << 20)
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    server = WebServer({"/good.png": encode(1), "/large.png": 10**10, "/endless.png": None, "/false.png": None})
    server.told["/false.png"] = 1000
    yield server
    server.close()


#: What a server may have sent before it knows that nobody reads on: the buffers of both sockets.
BUFFERS = 8 << 20


def test_no_more_than_the_limit_is_read_of_a_server_that_sends_without_an_end(web, tmp_path):
    names = ("good", "large", "endless", "false")
    web.files["/t.csv"] = "\n".join(["path,label", *(f"{name}.png,a" for name in names)]).encode()
    result = featx.embed(f"{web.url}/t.csv", "colour", folder=tmp_path / "features")
    assert result.store.ids.tolist() == ["good.png"]
    reasons = {name: reason for name, _, reason in result.store.quarantine}
    assert reasons == {
        "large.png": "cannot be read: larger than 536,870,912 bytes",  # as the server tells
        "endless.png": "cannot be read: larger than 2,097,152 bytes",
        "false.png": "cannot be read: larger than 2,097,152 bytes",
    }
    assert web.n_bytes < 2 * (2 << 20) + 3 * BUFFERS
    again = featx.embed(f"{web.url}/t.csv", "colour", folder=tmp_path / "features")
    assert again.cached == 1
    web.files["/good.png"] = encode(2)  # of the same size, and the server tells no time
    assert featx.embed(f"{web.url}/t.csv", "colour", folder=tmp_path / "features").new == 1


def test_archives_of_a_server_that_ignores_ranges_are_read_up_to_the_limit(web, tmp_path):
    members = {f"{label}/{number}.png": encode(number) for number, label in enumerate("abab")}
    web.files["/small.tar"] = write_tar(tmp_path / "small.tar", members).read_bytes()
    found = read_source(f"{web.url}/small.tar")
    assert [found.reader.read(item.id) for item in found.items] == [members[item.id] for item in found.items]
    large = write_tar(tmp_path / "large.tar", {"a/0.png": bytes(3 << 20), "a/1.png": encode(1)})
    web.files |= {"/large.tar": large.read_bytes(), "/endless.zip": None, "/endless.csv": None}
    before = web.n_bytes
    for name, message in {
        "large.tar": "its server ignores ranges, so that nothing behind 2,097,152 bytes is read; download it",
        "endless.zip": "is empty, or its server does not tell its size; download it, and name the copy",
        "endless.csv": "cannot be read: larger than 2,097,152 bytes",
    }.items():
        with pytest.raises(SourceError, match=message):
            read_source(f"{web.url}/{name}")
    assert web.n_bytes - before < 5 * (2 << 20) + 6 * BUFFERS


def test_a_file_of_a_server_that_ignores_ranges_is_fetched_at_once(web, monkeypatch):
    monkeypatch.setattr(remote, "_CHUNK_BYTES", 10_000)
    content = np.random.default_rng(0).bytes(40_000)
    web.files["/x.bin"] = content
    assert remote.fetch_file(f"{web.url}/x.bin", SourceError).read_bytes() == content
    assert web.n_bytes < 3 * 40_000
