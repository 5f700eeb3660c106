"""Stores continue with the decoder that they were made with."""

import numpy as np
import pytest
from reporters import Recorder
from runs import draw

import featx
from featx import EmbedOptions
from featx.specs import DECODERS, DEFAULT_DECODER


def embed(pictures, folder, reporter=None, **image):
    options = EmbedOptions(reporter=reporter) if reporter else EmbedOptions()
    return featx.embed(pictures, "colour", folder=folder, image=image, options=options)


def test_a_store_of_pillow_continues_with_pillow(pictures, features):
    first = embed(pictures, features, decoder="pillow-scaled").store
    assert first.path.name == ("colour-pillow-scaled.h5" if DEFAULT_DECODER != "pillow-scaled" else "colour.h5")
    first.path.rename(features / "colour.h5")  # as an older featx named it
    draw(pictures / "cat" / "new.png", 77)
    reporter = Recorder()
    again = embed(pictures, features, reporter)
    assert (again.new, again.cached) == (1, 10)
    assert again.store.spec.image.decoder == "pillow-scaled"
    assert any("was made with the decoder pillow-scaled, and continues with it" in line for line in reporter.lines)


def test_another_decoder_is_another_store(pictures, features):
    one, other = (embed(pictures, features, decoder=decoder).store for decoder in ("simd-scaled", "pillow-scaled"))
    assert one.path != other.path
    assert one.spec.digest != other.spec.digest
    with pytest.raises(featx.FeatxError, match="decoder"):
        featx.merge_stores([one, other], features / "both.h5")


def test_a_new_store_takes_the_default(pictures, features):
    reporter = Recorder()
    store = embed(pictures, features, reporter).store
    assert store.spec.image.decoder == DEFAULT_DECODER == DECODERS[0]
    assert store.path.name == "colour.h5"
    assert not any("decoder" in line for line in reporter.lines)
    assert np.isfinite(store.features).all()
