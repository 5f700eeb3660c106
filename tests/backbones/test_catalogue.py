import inspect

import pytest
from multiply_adds import build, count_multiply_adds

from featx.backbones import describe_backbones, load_backbone
from featx.backbones.catalogue import APPLICATIONS, BUILT_IN, FAMILIES

# From the papers and Keras's documentation of each model.
SIZES_PX = {
    "efficientnetb1": 240,
    "efficientnetb2": 260,
    "efficientnetb3": 300,
    "efficientnetb4": 380,
    "efficientnetb5": 456,
    "efficientnetb6": 528,
    "efficientnetb7": 600,
    "efficientnetv2b1": 240,
    "efficientnetv2b2": 260,
    "efficientnetv2b3": 300,
    "efficientnetv2s": 384,
    "efficientnetv2m": 480,
    "efficientnetv2l": 480,
    "inceptionresnetv2": 299,
    "inceptionv3": 299,
    "nasnetlarge": 331,
    "xception": 299,
}


def test_every_model_has_its_training_size():
    assert {name: row.size_px for name, row in APPLICATIONS.items() if row.size_px != 224} == SIZES_PX


def test_names_are_lower_case_and_sorted():
    assert all(name == row.attribute.lower() for name, row in APPLICATIONS.items())
    assert list(APPLICATIONS) == sorted(APPLICATIONS)


def test_colour_matches_the_catalogue():
    backbone = load_backbone("colour")
    row = BUILT_IN["colour"]
    assert (row.size_px, row.dim, row.parameters) == (backbone.height, backbone.outputs[0].dim, 0)


@pytest.mark.keras
def test_scattering_matches_the_catalogue():
    backbone = load_backbone("scattering")
    row = BUILT_IN["scattering"]
    assert (row.size_px, row.dim, row.parameters) == (backbone.height, backbone.outputs[0].dim, 0)


@pytest.mark.keras
def test_the_catalogue_lists_every_model_of_keras_in_its_module():
    from featx.backbones.applications import RESERVED
    from featx.frameworks import keras

    models = {name for name in dir(keras.applications) if inspect.isfunction(getattr(keras.applications, name))}
    assert models == {row.attribute for row in APPLICATIONS.values()}
    for row in APPLICATIONS.values():
        constructor = getattr(keras.applications, row.attribute)
        assert constructor.__module__.rpartition(".")[2] == row.module
        assert callable(getattr(keras.applications, row.module).preprocess_input)
        # Arguments are read as numbers and booleans, so there must be no other types.
        parameters = inspect.signature(constructor).parameters
        assert {type(p.default) for name, p in parameters.items() if name not in RESERVED} <= {bool, int, float}


def test_every_family_has_its_facts_and_its_members():
    rows = describe_backbones()
    offline = [row for row in rows if row.is_offline]
    assert {"colour", "scattering", "efficientnet-lite0"} <= {row.name for row in offline}
    assert list(rows[: len(offline)]) == offline  # what needs no download is first
    costs = [row.gflops for row in rows[len(offline) : len(offline) + len(APPLICATIONS)]]
    assert costs == sorted(costs)
    assert min(costs) > 0
    assert {row.family for row in rows} >= {family.title for family in FAMILIES.values()}
    assert all(row.year and row.licence and row.weights and row.dim for row in rows)
    dinov3 = next(row for row in rows if row.family == "DINOv3")
    assert (dinov3.name, dinov3.licence) == ("hub:dinov3_vit_small_lvd1689m", "DINOv3 License")


@pytest.mark.keras
@pytest.mark.parametrize("name", ["mobilenet", "mobilenetv3small"])
def test_operations_are_counted_again(name):
    row = APPLICATIONS[name]
    assert float(f"{count_multiply_adds(build(row)) / 1e9:.3g}") == row.gflops


@pytest.mark.keras
def test_operations_of_a_dense_layer_and_a_convolution_are_counted():
    from featx.frameworks import keras

    pixels = keras.Input((8, 6, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(pixels)  # 4 x 3 positions, 9 x 3 inputs, 4 outputs
    x = keras.layers.SeparableConv2D(5, 3, padding="same")(x)  # 12 positions, 9 x 4, then 4 x 5
    x = keras.layers.Dense(2)(x)  # 12 positions, 5 x 2
    assert count_multiply_adds(keras.Model(pixels, x)) == 12 * (27 * 4 + 9 * 4 + 4 * 5 + 5 * 2)
