"""Recipes of a network's input, as other libraries write them."""

import json

import pytest

from featx.backbones.recipes import RECIPES, find_recipe, parse_config
from featx.errors import UsageError
from featx.specs import ImageSpec

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SQUARE = {"height": 224, "width": 224}

#: Configurations as they are published, and the recipe's name and image of each.
CONFIGS = {
    "google/vit-base-patch16-224": (
        {"do_normalize": True, "do_resize": True, **HALF, "resample": 2, "size": 224},
        ("inception", {**SQUARE, "interpolation": "bilinear"}),
    ),
    "facebook/dinov2-base": (
        {
            "do_center_crop": True,
            "crop_size": SQUARE,
            "image_mean": IMAGENET["mean"],
            "image_std": IMAGENET["std"],
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 256},
        },
        ("imagenet", {**SQUARE, "resize": "crop", "crop": 0.875, "interpolation": "bicubic"}),
    ),
    "google/siglip-base-patch16-224": (
        {**HALF, "resample": 3, "size": SQUARE, "rescale_factor": 1 / 255},
        ("inception", {**SQUARE, "interpolation": "bicubic"}),
    ),
    "facebook/convnext-tiny-224": (
        {"crop_pct": 0.875, **HALF, "resample": 3, "size": {"shortest_edge": 224}},
        ("inception", {**SQUARE, "resize": "crop", "crop": 0.875, "interpolation": "bicubic"}),
    ),
    "open_clip": (
        {
            "model_cfg": {"vision_cfg": {"image_size": 256}},
            "preprocess_cfg": {
                "mean": [0.48145466, 0.4578275, 0.40821073],
                "std": [0.26862954, 0.26130258, 0.27577711],
            },
        },
        ("clip", {"height": 256, "width": 256, "resize": "crop", "interpolation": "bicubic"}),
    ),
    "timm": (
        {"architecture": "x", "pretrained_cfg": {**IMAGENET, "input_size": [3, 240, 288], "crop_pct": 0.9}},
        ("imagenet", {"height": 240, "width": 288, "resize": "crop", "crop": 0.9, "interpolation": "bilinear"}),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configurations_are_read(name, tmp_path):
    config, (recipe, image) = CONFIGS[name]
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(config))
    found = find_recipe(str(path))
    assert (found.arguments, found.image) == ({"recipe": recipe}, image)
    assert ImageSpec(**found.image)


UNREADABLE = {
    "it has none of": {"architectures": ["ViTModel"]},
    "crop_mode is 'border'": {"pretrained_cfg": {**IMAGENET, "input_size": [3, 9, 9], "crop_mode": "border"}},
    "rescale_offset is set": {**HALF, "rescale_offset": True},
    "is not one number for each of three channels": {"image_mean": [0.5], "image_std": [0.5]},
    "stretches an image and then crops it": {**HALF, "size": {"height": 256, "width": 256}, "crop_size": SQUARE},
    "keeps 1.14286 of the shorter side": {**HALF, "size": {"shortest_edge": 196}, "crop_size": 224},
}


@pytest.mark.parametrize("words", UNREADABLE)
def test_what_cannot_be_done_is_refused(words, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(UNREADABLE[words]))
    with pytest.raises(UsageError, match=f"is not a recipe that featx reads.*{words}"):
        find_recipe(str(path))


def test_named_recipes_are_read_again_from_what_they_are_called_in_a_spec():
    for recipe in RECIPES.values():
        named = RECIPES[recipe.arguments["recipe"]]
        assert named.describe() == recipe.describe()
        assert ImageSpec(224, 224, **recipe.image)
    assert parse_config({**HALF, "do_rescale": False}).arguments == {
        "mean": "0.5",
        "std": "0.5",
        "scale": "1",
        "channels": "rgb",
    }
