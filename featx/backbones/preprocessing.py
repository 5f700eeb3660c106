"""The three ways in which ImageNet networks expect their pixels scaled."""

import functools
from collections.abc import Callable
from typing import Any

from featx.errors import BackboneError
from featx.frameworks import keras

#: Keras's names: `tf` gives -1 to 1, `torch` 0 to 1 less ImageNet's mean over its
#: deviation, `caffe` BGR less ImageNet's mean; `none` keeps 0 to 255.
PREPROCESSINGS = ("none", "tf", "torch", "caffe")


def find_preprocessing(mode: str) -> Callable[[Any], Any] | None:
    """Find the function that scales float32 pixels of 0 to 255; None for `none`.

    Raises:
        BackboneError: If there is no such mode.
    """
    if mode not in PREPROCESSINGS:
        msg = f"there is no preprocessing called {mode!r}; known: {', '.join(PREPROCESSINGS)}"
        raise BackboneError(msg)
    if mode == "none":
        return None
    return functools.partial(keras.applications.imagenet_utils.preprocess_input, data_format="channels_last", mode=mode)
