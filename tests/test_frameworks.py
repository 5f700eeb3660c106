import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.keras


def run_python(code, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=False
    )


def test_frameworks_start_silently_and_on_tensorflow_whatever_keras_backend_is_set():
    code = (
        "from featx.frameworks import keras, tf\n"
        "import numpy as np\n"
        # Grouped convolutions make TensorFlow start its compiler, which has a start-up message of its own.
        "model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3, groups=4)])\n"
        "tf.function(model)(np.zeros((2, 8, 8, 4), np.float32))\n"
        "print(keras.config.backend())\n"
    )
    done = run_python(code, KERAS_BACKEND="jax")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tensorflow\n", "")


def test_other_settings_of_keras_are_an_error():
    code = (
        "import keras\n"
        "from keras.src.backend import config\n"
        "def load():\n"
        "    try:\n"
        "        from featx.frameworks import tf\n"
        "    except BackboneError as error:\n"
        "        print(error)\n"
        "from featx.errors import BackboneError\n"
        # This has the effect of KERAS_BACKEND=jax and a keras.json in a process that imports Keras before featx.
        "config._BACKEND = 'jax'\n"
        "load()\n"
        "config._BACKEND = 'tensorflow'\n"
        "keras.config.set_image_data_format('channels_first')\n"
        "load()\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "featx needs Keras with the TensorFlow backend, not jax; set KERAS_BACKEND=tensorflow",
        "featx needs the image data format channels_last; set image_data_format in ~/.keras/keras.json",
    ]


def test_only_startup_messages_are_dropped_from_stderr(capfd):
    from featx.frameworks import _filter_stderr

    with _filter_stderr():
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on.\nsomething is wrong\nno line end")
    assert capfd.readouterr() == ("", "something is wrong\nno line end")


def test_lines_written_before_a_failure_are_kept(capfd):
    from featx.frameworks import _filter_stderr

    def fail():
        with _filter_stderr():
            os.write(2, b"libtensorflow is broken\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "libtensorflow is broken\n"
