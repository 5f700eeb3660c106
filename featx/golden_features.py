"""What this machine computes for golden pictures."""

import numpy as np

from featx.backbones import Backbone
from featx.golden import Golden
from featx.items.decoding import decode
from featx.specs import ImageSpec


def embed_golden(backbone: Backbone, spec: ImageSpec, files: tuple[bytes, ...]) -> tuple[Golden, ...]:
    """Embed golden pictures; return one result for each output of the backbone."""
    pixels = np.stack([decode(data, spec).pixels for data in files])
    return tuple(Golden(files, features) for features in backbone.embed(pixels))
