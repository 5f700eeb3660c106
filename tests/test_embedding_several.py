"""Several networks in one pass, on small pictures and backbones that need no framework."""

import time

import numpy as np
import pytest
from reporters import Recorder
from runs import SIDE, Patches, count, draw, load_counter, read_rows, run

import featx.items.reading
from featx import EmbedOptions, ImageSpec, read_folder
from featx.embedding import Plan, embed_plans


class Slow(Patches):
    """It rests before each batch."""

    uri = "slow"
    weights_digest = "2" * 64

    def embed(self, images):
        time.sleep(0.2)
        return super().embed(images)


@pytest.fixture
def decoded(monkeypatch):
    """How often an image was decoded."""
    calls = []
    decode = featx.items.reading.decode
    monkeypatch.setattr(featx.items.reading, "decode", lambda data, spec: calls.append(1) or decode(data, spec))
    return calls


def plan(folder, network):
    paths = [folder / f"{network.uri}-{output.layer}.h5" for output in network.outputs]
    return Plan(network, paths, ImageSpec(height=SIDE, width=SIDE))


def embed(pictures, folder, *networks, reporter=None):
    options = EmbedOptions(reporter=reporter) if reporter else EmbedOptions()
    return embed_plans(read_folder(pictures), [plan(folder, network) for network in networks], options)


def test_each_image_is_decoded_once_for_all_networks(pictures, features, decoded):
    recorder = Recorder()
    (one,), two = embed(pictures, features, load_counter(), Patches("pixels", "means"), reporter=recorder)
    assert len(decoded) == 10
    assert [count(result) for result in (one, *two)] == [(10, 0, 0)] * 3
    assert recorder.counts == sorted(recorder.counts)
    assert recorder.counts[-1] == (10, 10)
    for network, found in ((load_counter(), [one]), (Patches("means"), two[1:])):
        alone = run(pictures, features / "alone", network)
        assert read_rows(alone.store) == read_rows(found[0].store)


def test_a_network_with_all_rows_rests_while_another_is_added(pictures, features, decoded):
    embed(pictures, features, load_counter())
    draw(pictures / "cat" / "new.png", 99)
    first, other = load_counter(), Patches("means")
    (one,), (two,) = embed(pictures, features, first, other)
    assert count(one) == (1, 10, 0)
    assert count(two) == (11, 0, 0)
    assert first.images == 2 + 1
    first = load_counter()
    embed(pictures, features, first, other)
    assert first.images == 0
    assert len(decoded) == 10 + 11


def test_an_interrupted_pass_keeps_the_rows_of_each_network(pictures, features, monkeypatch):
    monkeypatch.setattr(featx.embedding, "limit_ahead", lambda *_: 4)  # chunks of four images
    interrupted = load_counter(stop_at=3)  # golden pictures, a chunk, and then
    with pytest.raises(KeyboardInterrupt):
        embed(pictures, features, Patches("means"), interrupted)
    assert interrupted.images == 2 + 4 + 4
    patches, again = Patches("means"), load_counter()
    (one,), (two,) = embed(pictures, features, patches, again)
    assert count(one) == (2, 8, 0)
    assert count(two) == (6, 4, 0)
    assert again.images == 2 + 6


def test_a_store_does_not_record_the_time_of_another_network(pictures, features):
    (slow,), (quick,) = embed(pictures, features, Slow("means"), load_counter())
    assert slow.store.embed_seconds > 0.4  # the golden pictures, and a batch
    assert quick.store.embed_seconds < 0.2


def test_rows_are_copied_from_the_features_of_a_scout_and_back(pictures, features):
    scouted = features / "scout" / "pictures"
    embed(pictures, scouted, load_counter())
    found = run(pictures, features, load_counter())
    assert (count(found), found.copied) == ((0, 10, 0), 10)
    (scouted / "colour-colour.h5").unlink()
    ((back,),) = embed(pictures, scouted, load_counter())
    assert (count(back), back.copied) == ((0, 10, 0), 10)
    assert np.array_equal(back.store.features, found.store.features)
