"""TensorFlow and Keras, imported once and without their start-up messages.

While it is imported, TensorFlow writes to the process's stderr from C++, before any of its settings
apply. Start-up messages are dropped; all other lines are passed on. Later messages, such as that
there is no GPU, are suppressed by the log level, unless `TF_CPP_MIN_LOG_LEVEL` is set. Errors are
still raised.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from featx.errors import BackboneError

_STARTUP_MESSAGES = re.compile(rb"before absl::InitializeLog|oneDNN custom operations|Could not find cuda drivers")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "keras" not in sys.modules:  # otherwise it is too late; checked below
    os.environ["KERAS_BACKEND"] = "tensorflow"


@contextlib.contextmanager
def _filter_stderr() -> Iterator[None]:
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr to filter
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
            kept = b"".join(line for line in captured if not _STARTUP_MESSAGES.search(line))
            if kept:
                os.write(2, kept)


with _filter_stderr():
    import keras
    import tensorflow as tf
    from keras import ops

if keras.config.backend() != "tensorflow":
    _msg = f"featx needs Keras with the TensorFlow backend, not {keras.config.backend()}; set KERAS_BACKEND=tensorflow"
    raise BackboneError(_msg)
if keras.config.image_data_format() != "channels_last":
    _msg = "featx needs the image data format channels_last; set image_data_format in ~/.keras/keras.json"
    raise BackboneError(_msg)

# Otherwise, TensorFlow rounds factors to 10 bits on GPUs with TF32, and features depend on the card.
tf.config.experimental.enable_tensor_float_32_execution(False)  # noqa: FBT003 - its only parameter

__all__ = ["keras", "ops", "tf"]
