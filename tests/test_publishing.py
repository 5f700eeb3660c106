"""Stores and bundles at URLs: written whole and in order, read through the cache, and never by half."""

import json
import shutil

import pytest
from object_store import ERROR, PASS, break_each_first

import featx
from featx import remote
from featx.errors import BundleError, StoreError, StoreFormatError, UsageError
from featx.options import FitOptions


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory):
    return featx.fit(store, "centroid", options=FitOptions(folder=tmp_path_factory.mktemp("runs"))).bundle


@pytest.fixture
def run(fitted, tmp_path):
    return shutil.copytree(fitted, tmp_path / "runs" / "first")


@pytest.fixture(params=["file", "memory", "s3"])
def folder_url(request, tmp_path, monkeypatch):
    """A folder in each kind of file system; files are read in several parts."""
    monkeypatch.setattr(remote, "_CHUNK_BYTES", 100_000)
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    if request.param == "s3":
        return request.getfixturevalue("object_store") and f"s3://bucket/{request.node.name}/"
    return f"memory://{request.node.name}/" if request.param == "memory" else f"{(tmp_path / 'share').as_uri()}/"


def test_what_was_published_is_read_from_there(folder_url, store, run, digits):
    at = featx.publish(store.path, folder_url)
    assert at.url == f"{folder_url}{store.path.name}"
    found = featx.FeatureStore(at.url)
    assert found.path.read_bytes() == store.path.read_bytes()
    published = featx.publish(run, f"{folder_url}runs/first")
    assert published.files[-1] == "bundle.json"
    assert featx.publish(run, published.url).files == ()
    image = next(digits.rglob("*.png"))
    (ours,), (theirs,) = (list(featx.Predictor.load(one).predict([image])) for one in (run, published.url))
    assert (ours.label, ours.probability) == (theirs.label, theirs.probability)
    index = json.loads((run / "bundle.json").read_text())
    (run / "bundle.json").write_text(json.dumps(index, indent=1))
    with pytest.raises(BundleError, match="is another bundle, which is never changed; name another URL"):
        featx.publish(run, published.url)


def test_a_store_is_fetched_once_and_again_when_it_changed(object_store, store, pictures, tmp_path):
    other = featx.embed(pictures, "colour", folder=tmp_path / "features").store
    proxy = object_store.proxy
    proxy.choose = break_each_first()
    url = featx.publish(store.path, "s3://bucket/kept/x.h5").url
    first = featx.FeatureStore(url)
    object_store.reset()
    assert featx.FeatureStore(url).path == first.path
    assert [method for method, _ in proxy.requests] == ["HEAD"]
    featx.publish(other.path, url)
    assert len(featx.FeatureStore(url)) == len(other)
    assert len(first) == len(store)
    assert first.place == url
    # A part of a fetch that failed is not left, and what was damaged on the way is not kept.
    damaged = bytearray(store.path.read_bytes())
    damaged[store.features.offset + 5] ^= 1
    (tmp_path / "bad.h5").write_bytes(damaged)
    object_store.put(tmp_path / "bad.h5", "kept/bad.h5")
    with pytest.raises(StoreFormatError, match=r"s3://bucket/kept/bad.h5 is damaged: rows 0 to \d+ of /features"):
        featx.FeatureStore("s3://bucket/kept/bad.h5")
    with pytest.raises(StoreFormatError, match="repair"):
        featx.publish(tmp_path / "bad.h5", url)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith(".tmp") or "bad" in path.name]
    assert len(featx.FeatureStore(url)) == len(other)


def test_readers_never_see_half_a_bundle(object_store, run, monkeypatch):
    monkeypatch.setattr(remote, "MOST_ATTEMPTS", 1)
    url, proxy = "s3://bucket/half/first", object_store.proxy
    puts = []

    def choose(method, path):
        puts.extend([path] if method == "PUT" else [])
        return ERROR if method == "PUT" and len(puts) > 3 else PASS

    proxy.choose = choose
    with pytest.raises(BundleError, match=r"cannot be written: .*status 503.*; run the command again"):
        featx.publish(run, url)
    with pytest.raises(BundleError, match=r"bundle.json cannot be read: it does not exist"):
        featx.Predictor.load(url)
    object_store.reset()
    featx.publish(run, url)
    object_store.put(run / "metrics.json", "half/first/head.skops")
    with pytest.raises(BundleError, match=r"head.skops differs from what bundle.json says"):
        featx.Bundle.open(url)


@pytest.mark.slow
def test_the_verbs_take_urls(object_store, store, digits, tmp_path, capsys, monkeypatch):
    from featx.cli.app import main

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["featx", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        return exit_info.value.code or 0, captured.out, captured.err

    monkeypatch.chdir(tmp_path)
    source = object_store.put(digits / "0", "verbs/digits/0") and object_store.put(digits / "1", "verbs/digits/1")
    source = source.rpartition("/")[0]
    shutil.rmtree(tmp_path / "features", ignore_errors=True)
    code, _, err = call("embed", source, "-b", "colour", "--features", "s3://bucket/features")
    assert code == 2
    assert "embed into a folder, then write the store there with `featx publish`" in err
    assert call("embed", source, "-b", "colour")[0] == 0
    assert call("publish", "features/colour.h5", "s3://bucket/verbs/")[1].endswith("-> s3://bucket/verbs/colour.h5\n")
    at = "s3://bucket/verbs/colour.h5"
    code, out, err = call("fit", at, "--clf", "centroid", "--name", "one")
    assert code == 0, err
    assert json.loads(call("info", at, "--json")[1])["store"] == at
    assert call("publish", "one", "s3://bucket/verbs/runs/")[0] == 0
    code, out, err = call("predict", "s3://bucket/verbs/runs/one", f"{source}/0", "--format", "csv")
    assert (code, out.count("s3://bucket/verbs/digits/0/")) == (0, len(list((digits / "0").iterdir()))), err
    code, out, err = call("similar", at, f"{source}/1/{next((digits / '1').iterdir()).name}", "--out", "s.png")
    assert code == 0, err
    assert (tmp_path / "s.png").exists()
    assert call("repair", at)[0] == 2
    assert "write it there with `featx publish`" in call("fit", at, "--runs", "s3://bucket/runs")[2]
    for arguments in (["errors", "one"], ["verify", at], ["audit", at], ["evaluate", "one", source]):
        code, out, err = call(*arguments)
        assert code == 0, (arguments, err)
        assert "no pictures are shown" not in err
        assert "hidden-key" not in out + err


def test_mistakes_get_one_clear_line(object_store, store, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is not a URL that can be written to; name one such as s3://"):
        featx.publish(store.path, tmp_path)
    with pytest.raises(UsageError, match="is not a URL that can be written to"):
        featx.publish(store.path, "https://host/x.h5")
    with pytest.raises(StoreError, match=r"s3://bucket/none.h5 cannot be read: it does not exist; check the URL"):
        featx.FeatureStore("s3://bucket/none.h5")
    monkeypatch.setenv("FEATX_CACHE", "off")
    with pytest.raises(UsageError, match="FEATX_CACHE is off, and what is read from URLs is kept in the cache"):
        featx.FeatureStore("s3://bucket/none.h5")
