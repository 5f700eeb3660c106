"""Shards that go through a URL."""

import pytest

from featx.cluster.handover import Handover
from featx.cluster.planning import Shard
from featx.cluster.running import _Run
from featx.errors import StoreError, UsageError
from featx.items import Item
from featx.options import EmbedOptions


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    if request.param == "file":
        return f"{(tmp_path / 'shared').as_uri()}/run"
    request.getfixturevalue("object_store")
    return f"s3://bucket/{request.node.name}"


def test_a_shard_is_fetched_as_it_was_passed_on_and_nothing_is_left(url, tmp_path):
    made, fetched = tmp_path / "worker/1.h5", tmp_path / "driver/1.h5"
    made.parent.mkdir()
    made.write_bytes(b"rows")
    handover = Handover(url)
    assert not handover.fetch(fetched)
    handover.pass_on(made)
    assert handover.fetch(fetched)
    assert fetched.read_bytes() == b"rows"
    fetched.write_bytes(b"kept")
    assert handover.fetch(fetched)
    assert fetched.read_bytes() == b"kept"  # one that is here is not asked for
    handover.clear()
    assert not handover.fetch(tmp_path / "other/1.h5")
    handover.clear()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "1.h5").write_bytes(b"rows")
    with pytest.raises(StoreError, match=r"file/run/1\.h5 cannot be written: "):
        Handover((tmp_path / "file/run").as_uri()).pass_on(tmp_path / "1.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"handover": "s3://bucket/tmp"}, "handover needs the executor ray"),
        ({"handover": "https://a.b/tmp?key=1", "executor": "ray"}, "'https://a.b/tmp', which is not a URL that can be"),
        ({"handover": "/mnt/tmp", "executor": "ray"}, "'/mnt/tmp', which is not a URL"),
    ],
)
def test_a_handover_is_a_url_for_workers_of_ray(options, message):
    with pytest.raises(UsageError, match=message):
        EmbedOptions(**options)


def test_a_shard_that_is_gone_is_said_without_secrets(tmp_path):
    class Gone:
        def fetch(self, _path):
            return False

    run = _Run(None, EmbedOptions(executor="ray", handover="s3://key:secret@bucket/tmp"), None)
    run._handovers = [Gone()]
    with pytest.raises(StoreError, match=r"is gone from s3://bucket/tmp; run the same command again"):
        run._finish(Shard([0], [Item("a.png")]), "", [tmp_path / "s.h5"], "000001-ab")
