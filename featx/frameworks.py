"""TensorFlow and Keras, imported once and without their greetings.

TensorFlow writes to the process's stderr while it is imported, from C++ and before
any of its settings applies. Lines that greet are dropped; all others are passed on.
What it logs later, such as that there is no GPU, is left out by its log level, unless
`TF_CPP_MIN_LOG_LEVEL` is set; whatever fails still raises.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from featx.errors import BackboneError

_GREETINGS = re.compile(rb"before absl::InitializeLog|oneDNN custom operations|Could not find cuda drivers")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "keras" not in sys.modules:  # else it is too late, and checked below
    os.environ["KERAS_BACKEND"] = "tensorflow"


@contextlib.contextmanager
def _filter_stderr() -> Iterator[None]:
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr, so nobody to greet
        yield
        return
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            kept = b"".join(line for line in captured if not _GREETINGS.search(line))
            if kept:
                os.write(2, kept)


with _filter_stderr():
    import keras
    import tensorflow as tf
    from keras import ops

if keras.config.backend() != "tensorflow":
    _msg = f"featx needs Keras on TensorFlow, not on {keras.config.backend()}; set KERAS_BACKEND=tensorflow first"
    raise BackboneError(_msg)
if keras.config.image_data_format() != "channels_last":
    _msg = "featx needs images with the channels last; set image_data_format to channels_last in ~/.keras/keras.json"
    raise BackboneError(_msg)

# On GPUs that have it, TensorFlow would round factors to 10 bits, and features would depend on the card.
tf.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003 - its only parameter

__all__ = ["keras", "ops", "tf"]
