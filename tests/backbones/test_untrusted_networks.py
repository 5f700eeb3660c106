"""Networks from strangers, in OpenVINO's format: only what is known reaches OpenVINO."""

import re

import numpy as np
import pytest

from featx.backbones.openvino import openvino, read_untrusted_network
from featx.backbones.untrusted_networks import read_checked
from featx.errors import BackboneError

ops = openvino.opset1


def save(path, make):
    """Save what `make` computes from the mean colour of each image, float32 (n, 3)."""
    pixels = ops.parameter([-1, 8, 6, 3], np.uint8, "images")
    means = ops.reduce_mean(ops.convert(pixels, "f32"), ops.constant(np.array([1, 2])), keep_dims=False)
    model = openvino.Model([make(means)], [pixels])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture
def network(tmp_path):
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    return save(
        tmp_path / "network.xml",
        lambda means: ops.matmul(means, ops.constant(kernel), transpose_a=False, transpose_b=False),
    )


def read(path, dim=4):
    return read_untrusted_network(path, "mine", (8, 6), dim)


def test_a_checked_network_computes_the_same(network):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
    core = openvino.Core()
    expected, found = (
        core.compile_model(model, "CPU")(images)[0] for model in (core.read_model(network), read(network))
    )
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (3, 4)


def test_only_what_was_checked_is_passed_on(network):
    text = network.read_text()
    text = text.replace("<net ", '<net weights="/etc/passwd" ').replace("<rt_info>", '<rt_info><secret path="/etc"/>')
    text = text.replace('<layer id="0"', '<layer file="/etc/passwd" id="0"').replace("</net>", "<more/></net>")
    network.write_text(text)
    description, weights = read_checked(network, 8, 6)
    assert not re.search(rb"etc|secret|more|rt_info", description)
    assert weights == network.with_suffix(".bin").read_bytes()


def test_an_operation_that_makes_large_arrays_may_not_decide_a_shape(tmp_path):
    def repeat(means):
        """Put a token before the means, once for each image, as transformers do."""
        batch = ops.gather(ops.shape_of(means), ops.constant(np.array([0])), ops.constant(0))
        token = ops.constant(np.full((1, 2), 7, np.float32))
        tokens = ops.tile(token, ops.concat([batch, ops.constant(np.array([1]))], 0))
        return ops.concat([tokens, means], 1)

    images = np.full((3, 8, 6, 3), 9, np.uint8)
    network = read(save(tmp_path / "tokens.xml", repeat), dim=5)
    found = openvino.Core().compile_model(network, "CPU")(images)[0]
    np.testing.assert_array_equal(found, [[7, 7, 9, 9, 9]] * 3)

    def count(means):
        """Count ones, which OpenVINO makes in memory while it reads the network."""
        ones = ops.tile(ops.constant(np.array([1])), ops.constant(np.array([3])))
        count = ops.reduce_sum(ones, ops.constant(np.array([0])), keep_dims=True)
        return ops.reshape(means, ops.concat([ops.constant(np.array([-1])), count], 0), special_zero=False)

    path = save(tmp_path / "count.xml", count)
    with pytest.raises(BackboneError, match="'Reshape' whose parameters are not constants"):
        read(path, dim=3)


#: What is replaced in the description, and what by.
CHANGES = {
    "a declaration": ("<net ", "<!DOCTYPE net [<!ENTITY a 'b'>]><net "),
    "no XML": ("<net ", "<net <"),
    "another document": ("net", "nut"),
    "another encoding": ('<?xml version="1.0"?>', '<?xml version="1.0" encoding="nonsense"?>'),
    "no layers": ("layers", "lawyers"),
    "an unknown operation": ('type="MatMul"', 'type="Custom"'),
    "a network in a network": ('type="MatMul"', 'type="TensorIterator"'),
    "a state": ('type="MatMul"', 'type="ReadValue"'),
    "an extension": ('type="MatMul" version="opset1"', 'type="MatMul" version="extension"'),
    "an opset of the future": ('type="MatMul" version="opset1"', 'type="MatMul" version="opset99"'),
    "a number twice": ('id="1"', 'id="0"'),
    "a body": ("<input>", "<body><layers/></body><input>"),
    "a path as attribute": ('transpose_a="false"', 'transpose_a="false" file="../../etc/passwd"'),
    "a constant beyond the file": (r'offset="\d+" size="48"', 'offset="999999" size="48"'),
    "a constant before the file": (r'offset="\d+" size="48"', 'offset="-8" size="48"'),
    "a constant of another size": ('size="48"', 'size="44"'),
    "a constant of a huge shape": ('shape="3, 4"', 'shape="3000000000, 4"'),
    "a constant of a negative shape": ('shape="3, 4"', 'shape="-3, -4"'),
    "a constant of text": ('element_type="f32" shape="3, 4"', 'element_type="string" shape="3, 4"'),
    "a constant in another file": ('shape="3, 4"', 'shape="3, 4" path="x"'),
    "no offset": (r'offset="\d+" size="48"', 'size="48"'),
    "an offset that is not a number": (r'offset="\d+" size="48"', 'offset="x" size="48"'),
    "an edge from nowhere": ('from-layer="0"', 'from-layer="77"'),
    "an edge to another port": ('to-port="0"', 'to-port="9"'),
    "an edge of another kind": ("<edge ", "<hedge "),
    "a side that is not a number": ("<dim>8</dim>", "<dim>eight</dim>"),
    "other images": ('shape="?,8,6,3"', 'shape="?,8,8,3"'),
    "images of another type": ('element_type="u8"', 'element_type="f32"'),
    "no result": ('type="Result"', 'type="ReLU"'),
    "a version that is not a number": ('version="11"', 'version="x"'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_description_that_is_not_known_is_refused(name, network):
    old, new = CHANGES[name]
    text = network.read_text()
    changed = re.sub(old if "\\" in old else re.escape(old), lambda _: new, text)
    assert changed != text
    network.write_text(changed)
    with pytest.raises(BackboneError, match=r"network\.xml cannot be used: ") as caught:
        read(network)
    assert "\n" not in str(caught.value)


def test_numbers_that_python_alone_understands_are_not_passed_on(network):
    text = network.read_text()
    network.write_text(text.replace('size="48"', 'size="4_8"'))
    assert b'size="48"' in read_checked(network, 8, 6)[0]


def test_a_missing_or_large_file_is_refused(network):
    network.with_suffix(".bin").unlink()
    with pytest.raises(BackboneError, match=r"network\.xml cannot be used: .*network\.bin"):
        read(network)
    with network.open("ab") as file:
        file.truncate(2**30)
    with pytest.raises(BackboneError, match="the limit is"):
        read(network)


def test_a_layer_that_would_fill_the_memory_is_refused(tmp_path):
    def make(means):
        row = np.ones((1, 40_000), np.float32)
        product = ops.multiply(ops.constant(row), ops.constant(row.reshape(-1, 1)))
        total = ops.reduce_max(product, ops.constant(np.array([0, 1])), keep_dims=False)
        return ops.multiply(means, total)

    with pytest.raises(BackboneError, match="its largest layer takes 12,800,000,000 bytes"):
        read(save(tmp_path / "network.xml", make), 3)


def test_a_network_with_another_number_of_features_is_refused(network):
    with pytest.raises(BackboneError, match=r"its result has the shape \(1, 4\)"):
        read(network, 5)


def test_a_description_that_openvino_does_not_take_is_one_line(network):
    text = network.read_text()
    network.write_text(text.replace('transpose_b="false"', 'transpose_b="true"'))
    with pytest.raises(BackboneError) as caught:
        read(network)
    assert "\n" not in str(caught.value)
