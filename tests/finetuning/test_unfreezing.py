import pytest

from featx.backbones.protocol import LayerInfo
from featx.errors import UnknownNameError, UsageError
from featx.finetuning.unfreezing import list_blocks, plan_stages


def make_layer(index, name, shape, parameters):
    return LayerInfo(index, name, "Layer", shape, parameters, 0, 0)


LAYERS = [
    make_layer(0, "pixels", (32, 32, 3), 0),
    make_layer(1, "stem", (16, 16, 8), 10),
    make_layer(2, "relu", (16, 16, 8), 0),
    make_layer(3, "conv_1", (8, 8, 8), 10),
    make_layer(4, "squeeze", (1, 1, 8), 10),  # as in EfficientNet: to one pixel, and back
    make_layer(5, "scale", (8, 8, 8), 0),
    make_layer(6, "pad", (9, 9, 8), 0),
    make_layer(7, "conv_2", (4, 4, 8), 10),
    make_layer(8, "conv_3", (4, 4, 8), 10),
    make_layer(9, "last_relu", (4, 4, 8), 0),
]


def name_layers(plan):
    return [set(stage.layers) for stage in plan_stages(plan, LAYERS, "net")]


def test_blocks_are_layers_with_maps_of_one_size():
    assert list_blocks(LAYERS) == [["stem"], ["conv_1", "squeeze"], ["conv_2", "conv_3"]]


def test_vectors_belong_to_the_last_block():
    vectors = [*LAYERS, make_layer(10, "pool", (8,), 0), make_layer(11, "dense", (5,), 10)]
    assert list_blocks(vectors)[-1] == ["conv_2", "conv_3", "dense"]
    assert list_blocks([make_layer(0, "dense", (5,), 10)]) == [["dense"]]


def test_plans_of_one_stage():
    assert name_layers("last:2") == [{"conv_3", "last_relu"}]
    assert name_layers("last:1000") == name_layers("all") == [{layer.name for layer in LAYERS}]
    assert name_layers("from:conv_2") == name_layers("from:7") == name_layers("from:-3")
    assert name_layers("from:conv_2") == [{"conv_2", "conv_3", "last_relu"}]
    assert name_layers("blocks:1") == [{"conv_2", "conv_3"}]
    assert name_layers("BLOCKS:2") == [{"conv_1", "squeeze", "conv_2", "conv_3"}]


def test_gradual_goes_down_block_by_block_at_half_the_rate():
    stages = plan_stages("gradual", LAYERS, "net")
    assert [stage.rate for stage in stages] == [1, 0.5, 0.25]
    assert [stage.name for stage in stages] == ["blocks:1", "blocks:2", "blocks:3"]
    assert [set(stage.layers) for stage in stages] == [
        *name_layers("blocks:1"),
        *name_layers("blocks:2"),
        *name_layers("blocks:3"),
    ]
    assert plan_stages("gradual:2", LAYERS, "net") == stages[:2]


@pytest.mark.parametrize(
    "plan", ["", "last", "last:", "last:0", "last:-1", "last:x", "blocks:0", "half", "all:1", "gradual:0", "from"]
)
def test_an_invalid_plan_is_refused_with_valid_ones(plan):
    with pytest.raises((UsageError, UnknownNameError), match=r"last:N|write a number|no layer called"):
        plan_stages(plan, LAYERS, "net")


def test_an_unknown_layer_names_the_closest():
    with pytest.raises(UnknownNameError, match="did you mean conv_"):
        plan_stages("from:conv2", LAYERS, "net")


def test_layers_without_parameters_alone_are_refused():
    with pytest.raises(UsageError, match="unfreezes no layer of net that has parameters"):
        plan_stages("last:1", LAYERS, "net")


def test_statistics_are_not_a_block_and_are_not_trainable():
    statistics = LayerInfo(0, "normalization", "Normalization", (32, 32, 3), 7, 0, 0)
    assert list_blocks([statistics, *LAYERS[1:]]) == list_blocks(LAYERS)
    with pytest.raises(UsageError, match="unfreezes no layer of net that has parameters"):
        plan_stages("last:1", [*LAYERS, statistics], "net")


def test_gradual_unfreezing_needs_two_blocks():
    tokens = [make_layer(number, f"encoder_{number}", (50, 8), 10) for number in range(4)]
    for plan in ("gradual", "gradual:2"):
        with pytest.raises(UsageError, match=r"net has only one block.*choose last:N or from:LAYER"):
            plan_stages(plan, tokens, "net")
    assert [stage.layers for stage in plan_stages("blocks:7", tokens, "net")] == [{layer.name for layer in tokens}]
    assert name_layers("blocks:7") == name_layers("blocks:3")
