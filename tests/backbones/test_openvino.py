"""OpenVINO compared with Keras: the same features for every network, layer and batch size."""

import functools
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from photos import make_photos

from featx.backbones import load_backbone
from featx.backbones.openvino import OpenVino, convert_network
from featx.backbones.running import choose_runtime
from featx.errors import BackboneError
from featx.testing import BackboneContract

pytestmark = pytest.mark.keras

SMALL = "mobilenet?alpha=0.25"


class Run:
    """A backbone run by OpenVINO."""

    def __init__(self, network):
        self._network = network
        self.runtime = OpenVino(network, convert_network(network))
        self.embed = self.runtime.embed

    def __getattr__(self, name):
        return getattr(self._network, name)


@functools.cache
def run(uri, side, *layers, pooling=None):
    """Convert once for all tests of a class."""
    weights = None if uri == "scattering" else "none"
    return Run(load_backbone(uri, weights=weights, layers=layers, pooling=pooling, image_size=(side, side)))


class TestOneLayer(BackboneContract):
    @pytest.fixture
    def backbone(self):
        return run(SMALL, 64)


class TestSeveralLayersAndSwish(BackboneContract):
    @pytest.fixture
    def backbone(self):
        return run("efficientnetb0", 64, "block2a_expand_activation", -1, "block3b_add", pooling="avgmax")


class TestWholeMaps(BackboneContract):
    @pytest.fixture
    def backbone(self):
        return run(SMALL, 32, "conv1_relu", pooling="none")


class TestScattering(BackboneContract):
    @pytest.fixture
    def backbone(self):
        return run("scattering", 32)


def test_a_converted_network_has_no_extra_outputs():
    network = load_backbone("efficientnetb0", weights="none", image_size=(64, 64))
    runtime = OpenVino(network, convert_network(network))
    assert len(runtime._network.outputs) == 1
    changes = [node for node in runtime._network.get_ordered_ops() if node.get_type_name() == "Transpose"]
    assert len(changes) <= 2  # one at each end; 46 if what only training uses is kept


def test_threads_do_not_disturb_each_other():
    network = load_backbone(SMALL, weights="none", image_size=(32, 32))
    runtime = OpenVino(network, convert_network(network))
    images = make_photos(32)
    (expected,) = runtime.embed(images)
    wrong = []

    def work(shift):
        for _ in range(30):
            (found,) = runtime.embed(np.roll(images, shift, axis=0))
            if not np.array_equal(found, np.roll(expected, shift, axis=0)):
                wrong.append(shift)

    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def unconvertible(tmp_path):
    """A network with an operation that OpenVINO does not have."""
    pixels = keras.Input((32, 32, 3))
    smaller = keras.layers.Resizing(16, 16, interpolation="lanczos3")(pixels)
    keras.Model(pixels, keras.layers.Conv2D(4, 3)(smaller)).save(tmp_path / "odd.keras")
    return load_backbone(f"file:{tmp_path / 'odd.keras'}")


def test_a_network_that_cannot_be_converted_is_reported_and_run_by_keras(unconvertible, notes):
    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(BackboneError, match=r"OpenVINO cannot run file:\w+ \(.*\); run it with --runtime keras"):
        convert_network(unconvertible)
    assert (root.level, root.filters, root.handlers) == before
    assert choose_runtime(unconvertible, "auto").name == "keras"
    assert any("Keras runs the network, which takes longer: OpenVINO cannot run file:" in note for note in notes())


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="only POSIX can send a signal to one thread")
def test_ctrl_c_during_a_conversion_is_not_taken_for_its_failure(interruptible):
    network = load_backbone("efficientnetb0", weights="none", image_size=(64, 64))
    assert network.graph
    signals = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    signals.start()
    with pytest.raises(KeyboardInterrupt):
        OpenVino(network, convert_network(network))
    signals.join()


_STARVED = """
import logging, resource, sys
import numpy as np
import featx
from featx.backbones.running import Runner
logging.basicConfig(format="%(message)s")
network = featx.load_backbone("mobilenet", weights="none")
runner = Runner(network, featx.EmbedOptions(batch_size=4096, runtime="openvino"))
images = np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)
(expected,) = network.embed(images)
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 4 * 2**30,) * 2)
(found,) = runner.embed(images)
assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
print(runner.batch_size)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's memory limits and statistics")
def test_a_batch_that_does_not_fit_into_the_memory_is_halved():
    done = subprocess.run([sys.executable, "-c", _STARVED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 4096
    assert "batches of 4096 do not fit into the memory; continuing with 2048" in done.stderr


def test_nothing_is_reported_to_the_makers_of_openvino():
    code = """
import sys
import featx.backbones.openvino
assert "openvino_telemetry" not in sys.modules
assert "openvino.tools.ovc" not in sys.modules  # it takes half of the time of the import
try:
    featx.backbones.openvino.openvino.convert_model(None)
except Exception as error:
    print(error)
ovc = sys.modules["openvino.tools.ovc"]
assert type(ovc.telemetry).__module__ == "openvino.tools.ovc.telemetry_stub", type(ovc.telemetry)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
