"""Choosing, comparing and running a runtime; the real one is tested in test_openvino.py."""

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from runs import Patches

from featx.backbones import load_backbone, running
from featx.backbones.running import MAX_RUNTIME_DRIFT, Native, Runner, choose_runtime, measure_runtime_drift
from featx.errors import BackboneError, MissingExtraError, UsageError
from featx.options import EmbedOptions

SIDE = 8


def draw(count, missing=()):
    """Numbered images, some of them missing."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return [(number, None if number in missing else image) for number, image in enumerate(images)]


def check(found, images):
    """Check that each image has the features of the network, in order."""
    assert [key for keys, _ in found for key in keys] == [key for key, _ in images]
    expected = Network().embed(np.stack([image for _, image in images if image is not None]))
    for ours, theirs in zip(zip(*(features for _, features in found), strict=True), expected, strict=True):
        assert np.array_equal(np.concatenate(ours), theirs)


class Network(Patches):
    """A backbone that `Runner` takes for a Keras network."""

    model = None
    precision = "float32"

    def __init__(self):
        super().__init__("pixels", "means")


class Other:
    """A runtime other than Keras whose results are off by a factor, and that holds a limited number of images."""

    name = "openvino"
    is_on_gpu = False
    batch_sizes = (4, 1, 16)
    parallel = 2
    off_by = 1.0
    most = 1000

    def __init__(self, network, _converted=None):
        self._network = network
        self.sizes = []
        self._lock = threading.Lock()
        self.calls = []

    def fix_batch_size(self, size):
        self.sizes.append(size)

    def embed(self, images):
        with self._lock:
            self.calls.append(len(images))
        step = self.sizes[-1]
        if min(step, len(images)) > self.most:
            msg = "it is too much"
            raise MemoryError(msg)
        pieces = [self._network.embed(images[start : start + step]) for start in range(0, len(images), step)]
        return tuple(np.concatenate(parts) * np.float32(self.off_by) for parts in zip(*pieces, strict=True))


def install(monkeypatch, make):
    """Replace OpenVINO by another runtime."""
    module = SimpleNamespace(OpenVino=make, convert_network=lambda network: network)
    monkeypatch.setitem(sys.modules, "featx.backbones.openvino", module)


@pytest.fixture
def other(monkeypatch):
    install(monkeypatch, Other)
    return Other


def make_runner(network=None, *, expected=0, few=0, **options):
    return Runner(network or Network(), EmbedOptions(**options), expected=expected, few=few)


# Choosing


def test_openvino_runs_keras_networks_by_default(other):
    assert make_runner().prepare().name == "openvino"
    assert make_runner(runtime="openvino").prepare().name == "openvino"
    assert make_runner(runtime="keras").prepare().name == "keras"


def test_keras_runs_on_a_gpu_and_in_reduced_precision(other):
    network = Network()
    network.is_on_gpu = True
    assert choose_runtime(network, "auto").name == "keras"
    assert choose_runtime(network, "openvino").name == "openvino"
    network = Network()
    network.precision = "bfloat16"
    assert choose_runtime(network, "auto").name == "keras"
    with pytest.raises(UsageError, match="patches is computed in bfloat16, which only Keras supports; leave out"):
        choose_runtime(network, "openvino")


def test_a_numpy_backbone_needs_no_runtime():
    colour = load_backbone("colour")
    assert choose_runtime(colour, "auto").name == "numpy"
    for name in ("keras", "openvino"):
        with pytest.raises(UsageError, match=f"colour is computed in NumPy; leave out --runtime {name}"):
            choose_runtime(colour, name)


def test_few_images_are_not_worth_a_conversion(other):
    assert make_runner(expected=9, few=10).prepare().name == "keras"
    assert make_runner(expected=10, few=10).prepare().name == "openvino"
    assert make_runner(expected=9, few=10, runtime="openvino").prepare().name == "openvino"


@pytest.fixture(params=["the package is missing", "a library of it is missing"])
def broken(request, monkeypatch):
    """OpenVINO that cannot be imported, or whose libraries cannot be loaded."""
    if request.param == "the package is missing":
        monkeypatch.delitem(sys.modules, "featx.backbones.openvino", raising=False)
        monkeypatch.setitem(sys.modules, "openvino", None)
        return

    def fail(*_):
        msg = "libtbb.so"
        raise ImportError(msg)

    install(monkeypatch, fail)


@pytest.mark.usefixtures("broken")
def test_a_runtime_that_is_not_installed_is_reported_and_not_used(notes):
    assert choose_runtime(Network(), "auto").name == "keras"
    assert any("Keras runs the network, which takes longer: OpenVINO is missing or broken" in note for note in notes())
    with pytest.raises(MissingExtraError, match="pip install openvino") as caught:
        choose_runtime(Network(), "openvino")
    assert caught.value.exit_code == 3


def test_a_network_that_cannot_be_converted_is_reported_and_run_by_keras(monkeypatch, notes):
    def refuse(*_):
        msg = "OpenVINO cannot run patches (no such operation)"
        raise BackboneError(msg)

    install(monkeypatch, refuse)
    assert choose_runtime(Network(), "auto").name == "keras"
    assert any("no such operation" in note for note in notes())
    assert len(notes()) == 1
    with pytest.raises(BackboneError, match="no such operation"):
        choose_runtime(Network(), "openvino")


def test_a_network_is_converted_once_in_a_process(other):
    network = Network()
    assert choose_runtime(network, "auto") is choose_runtime(network, "openvino")
    assert choose_runtime(Network(), "auto") is not choose_runtime(network, "auto")


def test_nothing_is_converted_if_there_is_nothing_to_embed(other):
    runner = make_runner()
    assert list(runner.stream([])) == []
    ((keys, (pixels, _)),) = runner.stream([("none", None), ("nor here", None)])
    assert (keys, pixels.shape) == (["none", "nor here"], (0, 3 * SIDE**2))
    assert runner.name == ""


# Running


@pytest.mark.parametrize(
    ("count", "missing"), [(14, ()), (1, ()), (9, {0, 4, 8}), (40, set(range(20))), (700, set(range(3, 690)))]
)
@pytest.mark.parametrize("name", ["auto", "keras"])
def test_batches_come_in_order_with_their_features(other, count, missing, name):
    images = draw(count, missing)
    runner = make_runner(runtime=name, batch_size=4)
    found = list(runner.stream(images))
    check(found, images)
    assert max(len(keys) for keys, _ in found) <= 256
    assert max(len(features) for _, (features, _) in found) == min(4, count - len(missing))
    assert (runner.name, runner.drift) == ({"auto": "openvino"}.get(name, name), 0.0)


def test_images_are_read_only_a_few_batches_ahead(other):
    taken = []

    def take():
        for number, image in draw(400):
            taken.append(number)
            yield number, image

    stream = make_runner(batch_size=4).stream(take())
    next(stream)
    assert len(taken) == 4
    next(stream)
    assert len(taken) <= 4 * (2 + 2 * Other.parallel)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("featx-prefetch")]


def test_an_error_of_the_images_ends_the_stream_and_its_threads(other):
    def take():
        yield from draw(20)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(make_runner(batch_size=4).stream(take()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("featx-prefetch")]


# Comparing


def test_a_runtime_that_differs_is_reported_once_recorded_and_not_used(other, monkeypatch, notes):
    monkeypatch.setattr(Other, "off_by", 1.001)
    network = Network()
    for _ in range(2):
        runner = make_runner(network)
        check(list(runner.stream(draw(80))), draw(80))
        assert runner.name == "keras"
        assert runner.drift == pytest.approx(1e-3, rel=0.01)
        assert runner.batch_size == Native(network).batch_sizes[0]
    (note,) = notes()
    assert (
        "openvino is not used for patches: it differs from Keras by 1.0e-03 of the features' norm (limit 1e-04)" in note
    )


def test_a_named_runtime_that_differs_is_an_error(other, monkeypatch):
    monkeypatch.setattr(Other, "off_by", 1.001)
    with pytest.raises(BackboneError, match=r"openvino cannot run patches: it differs .* run it with --runtime keras"):
        list(make_runner(runtime="openvino").stream(draw(4)))


def test_a_runtime_that_fails_on_the_first_batch_is_not_used(other, monkeypatch, notes):
    def fail(*_):
        msg = "no such kernel"
        raise BackboneError(msg)

    monkeypatch.setattr(Other, "embed", fail)
    runner = make_runner()
    check(list(runner.stream(draw(40))), draw(40))
    assert (runner.name, runner.drift) == ("keras", 0)
    assert any("openvino is not used for patches: no such kernel" in note for note in notes())
    with pytest.raises(BackboneError, match="no such kernel"):
        list(make_runner(runtime="openvino").stream(draw(4)))


def test_a_runtime_that_returns_nan_is_refused_with_an_infinite_drift(other, monkeypatch):
    monkeypatch.setattr(Other, "off_by", np.nan)
    runner = make_runner()
    check(list(runner.stream(draw(8))), draw(8))
    assert (runner.name, runner.drift) == ("keras", np.inf)


def test_a_difference_within_the_limit_is_recorded(other, monkeypatch):
    monkeypatch.setattr(Other, "off_by", 1 + 1e-5)
    runner = make_runner()
    list(runner.stream(draw(8)))
    assert runner.name == "openvino"
    assert 0 < runner.drift <= MAX_RUNTIME_DRIFT


def test_keras_compares_as_many_images_as_fit_into_the_memory(other, monkeypatch):
    class Narrow(Network):
        compared = ()

        def embed(self, images):
            self.compared = (*self.compared, len(images))
            if len(images) > 8:
                raise MemoryError
            return super().embed(images)

    monkeypatch.setattr(Other, "embed", lambda _own, images: Network().embed(images))
    network = Narrow()
    runner = make_runner(network, batch_size=64)
    check(list(runner.stream(draw(70))), draw(70))
    assert network.compared == (32, 16, 8, 8, 8, 8)
    assert runner.name == "openvino"


def test_drift_is_that_of_the_worst_image_and_output():
    ours = (np.array([[1, 2], [10, 20]], np.float32), np.array([[1.0], [1.0]], np.float32))
    theirs = (np.array([[1, 2], [10, 22]], np.float32), np.array([[1.0], [1.25]], np.float32))
    assert measure_runtime_drift(ours, theirs) == pytest.approx(0.25)
    assert measure_runtime_drift(ours[:1], theirs[:1]) == pytest.approx(2 / np.hypot(10, 20))
    assert measure_runtime_drift(ours, ours) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_must_be_the_same(value):
    odd, plain = np.array([[1, value]], np.float32), np.array([[1, 2]], np.float32)
    assert measure_runtime_drift((odd,), (odd,)) == 0
    assert not measure_runtime_drift((plain,), (odd,)) <= MAX_RUNTIME_DRIFT
    assert not measure_runtime_drift((odd,), (plain,)) <= MAX_RUNTIME_DRIFT
    assert not measure_runtime_drift((odd, plain), (plain, plain)) <= MAX_RUNTIME_DRIFT


def test_features_that_are_all_zero_do_not_differ():
    zeros = np.zeros((2, 3), np.float32)
    assert measure_runtime_drift((zeros,), (zeros,)) == 0
    assert measure_runtime_drift((zeros,), (zeros + 1,)) > MAX_RUNTIME_DRIFT


# Batch sizes and memory


def test_the_batch_size_of_the_options_is_used(other):
    runner = make_runner(batch_size=7, expected=10**6)
    assert runner.batch_size == 7
    assert runner.prepare().sizes == [7]


def test_sizes_are_tried_if_there_are_many_images(other, monkeypatch):
    rates = {4: 100.0, 1: 109.0, 16: 50.0}
    monkeypatch.setattr(running, "measure_rate", lambda _runtime, size, _shape: rates[size])
    assert make_runner(expected=4999).batch_size == 4
    assert make_runner(expected=5000).batch_size == 4  # 9 % are not worth other last digits
    rates[1] = 111.0
    assert make_runner(expected=5000).batch_size == 1


def test_a_trial_measures_a_rate(other):
    runtime = Other(Network())
    assert running.measure_rate(runtime, 5, (SIDE, SIDE, 3)) > 0
    assert runtime.sizes == [5]
    assert set(runtime.calls) == {5}


def test_a_size_that_does_not_fit_is_not_chosen(other, monkeypatch):
    monkeypatch.setattr(Other, "most", 4)
    assert running.measure_rate(Other(Network()), 16, (SIDE, SIDE, 3)) == 0
    assert make_runner(expected=10**6).batch_size <= 4


def test_out_of_memory_halves_the_batch_and_continues(other, monkeypatch, notes):
    monkeypatch.setattr(Other, "most", 5)
    runner = make_runner(batch_size=32)
    check(list(runner.stream(draw(103))), draw(103))
    assert runner.batch_size == 4
    assert notes() == [
        f"batches of {size} do not fit into the memory; continuing with {size // 2}" for size in (32, 16, 8)
    ]


def test_a_size_that_cannot_be_prepared_is_halved(other, monkeypatch):
    def fix(own, size):
        own.sizes.append(size)
        if size > 10:
            raise MemoryError

    monkeypatch.setattr(Other, "fix_batch_size", fix)
    runner = make_runner(batch_size=64)
    assert runner.batch_size == 8
    assert runner.prepare().sizes == [64, 32, 16, 8]
    check(list(runner.stream(draw(20))), draw(20))


def test_running_out_of_memory_later_halves_the_batch_too(other, monkeypatch):
    embed = Other.embed
    runner = make_runner(batch_size=16)

    def run_out(own, images):
        if len(own.calls) == 3:
            monkeypatch.setattr(Other, "most", 5)
        return embed(own, images)

    monkeypatch.setattr(Other, "embed", run_out)
    check(list(runner.stream(draw(203))), draw(203))
    assert runner.batch_size == 4


def test_one_image_that_does_not_fit_into_the_memory_is_an_error(other, monkeypatch):
    monkeypatch.setattr(Other, "most", 0)
    with pytest.raises(BackboneError, match="not enough memory to run patches on one image: it is too much"):
        list(make_runner(runtime="openvino").stream(draw(4)))


def test_a_backbone_without_a_runtime_gets_batches_of_the_size_that_fits():
    class Small(Network):
        sizes = ()

        def embed(self, images):
            self.sizes = (*self.sizes, len(images))
            if len(images) > 8:
                raise MemoryError
            return super().embed(images)

    network = Small()
    check(list(make_runner(network, runtime="keras").stream(draw(41))), draw(41))
    assert network.sizes == (32, 16, 8, 8, 8, 8, 8, 1)


def test_on_a_gpu_each_batch_has_the_same_size():
    network = Network()
    network.is_on_gpu = True
    seen = []
    network.embed = lambda images: (seen.append(len(images)), Patches.embed(network, images))[1]
    check(list(make_runner(network, batch_size=8).stream(draw(11))), draw(11))
    assert seen == [8, 8]
