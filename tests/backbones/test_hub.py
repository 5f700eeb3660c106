import json
import shutil
import socket
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import featx
from featx.backbones import cache, describe_layers, load_backbone
from featx.backbones.presets import FAMILIES, PRESETS
from featx.errors import BackboneError, MissingExtraError, UnknownNameError, UsageError, WeightsError

pytestmark = [
    pytest.mark.keras,
    pytest.mark.skipif(find_spec("keras_hub") is None, reason="needs the extra hub: pip install 'featx[hub]'"),
]

SIDE = 32
TOKENS = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 24}
VISION = {"patch_size": 16, "image_shape": (SIDE, SIDE, 3), **TOKENS}
TEXT = {"vocabulary_size": 20, "embedding_dim": 16, **TOKENS}
STACK = {"stackwise_num_filters": [64, 8], "stackwise_num_blocks": [1, 1], "stackwise_num_strides": [1, 2]}
STEM = {"input_conv_filters": [64], "input_conv_kernel_sizes": [3]}
SWIN = {"embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4}
MIT = {"num_layers": 1, "layerwise_depths": [1], "layerwise_num_heads": [1], "layerwise_sr_ratios": [2]}
MIT_SIZES = {"hidden_dims": [8], "layerwise_patch_sizes": [7], "layerwise_strides": [4]}
EFFICIENT = {
    "stackwise_kernel_sizes": [3],
    "stackwise_num_repeats": [1],
    "stackwise_input_filters": [8],
    "stackwise_output_filters": [8],
    "stackwise_expansion_ratios": [1],
    "stackwise_strides": [1],
    "stackwise_squeeze_and_excite_ratios": [0.25],
    "stackwise_block_types": ["v1"],
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}
MOBILE = {
    "stackwise_expansion": [[16]],
    "stackwise_num_blocks": [1],
    "stackwise_num_filters": [[8]],
    "stackwise_kernel_size": [[3]],
    "stackwise_num_strides": [[2]],
    "stackwise_se_ratio": [[0.25]],
    "stackwise_activation": [["relu"]],
    "stackwise_padding": [[1]],
    "output_num_filters": 16,
    "depthwise_filters": 8,
    "depthwise_stride": 1,
    "depthwise_residual": False,
    "last_layer_filter": 16,
}
HGNET = {
    "depths": [1, 1],
    "embedding_size": 8,
    "hidden_sizes": [16, 24],
    "stem_channels": [3, 8, 8],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    "use_lightweight_conv_block": [False, False],
    "stackwise_stage_filters": [(8, 8, 16, 1, 1, 3), (16, 8, 24, 1, 1, 3)],
    "apply_downsample": [False, True],
}
CSP = {
    "stem_filters": 8,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stackwise_num_filters": [8, 16],
    "stackwise_strides": [1, 2],
    "stackwise_depth": [1, 1],
    "block_type": "dark_block",
    "stage_type": "dark",
}

#: By class: the settings of a small network.
SETTINGS = {
    "DINOV2Backbone": {**VISION, "num_register_tokens": 2, "position_embedding_shape": (48, 48, 3)},
    "DINOV3Backbone": {**VISION, "num_register_tokens": 2},
    "ViTBackbone": {**{k: v for k, v in VISION.items() if k != "intermediate_dim"}, "mlp_dim": 24},
    "DeiTBackbone": VISION,
    "SwinTransformerBackbone": {"image_shape": (SIDE, SIDE, 3), **SWIN},
    "MiTBackbone": {"image_shape": (SIDE, SIDE, 3), "max_drop_path_rate": 0.1, **MIT, **MIT_SIZES},
    "ResNetBackbone": {**STEM, **STACK, "block_type": "basic_block"},
    "DenseNetBackbone": {"stackwise_num_repeats": [1, 1], "compression_ratio": 0.5, "growth_rate": 8},
    "VGGBackbone": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 8]},
    "XceptionBackbone": {"stackwise_conv_filters": [[8, 8], [8, 8]], "stackwise_pooling": [True, False]},
    "CSPNetBackbone": CSP,
    "EfficientNetBackbone": EFFICIENT,
    "MobileNetBackbone": MOBILE,
    "HGNetV2Backbone": HGNET,
}
TOWERS = {"CLIP": {"projection_dim": 8}, "SigLIP": {}, "MetaCLIP2": {"projection_dim": 8}}
FIRST = {"DINOV2Backbone", "DINOV3Backbone", "ViTBackbone", "DeiTBackbone"}


def build(name):
    import keras_hub

    from featx.frameworks import keras

    keras.utils.set_random_seed(3)
    if name in SETTINGS:
        return getattr(keras_hub.models, name)(**SETTINGS[name])
    stem = name.removesuffix("Backbone")
    towers = {
        "vision_encoder": getattr(keras_hub.models, f"{stem}VisionEncoder")(**VISION),
        "text_encoder": getattr(keras_hub.models, f"{stem}TextEncoder")(**TEXT),
    }
    return getattr(keras_hub.models, name)(**towers, **TOWERS[stem])


def make_converter(name, **settings):
    import keras_hub

    converter = getattr(keras_hub.layers, name.replace("Backbone", "ImageConverter"))
    usual = {"image_size": (SIDE, SIDE), "scale": [0.017, 0.018, 0.019], "offset": [-2.1, -2.0, -1.8]}
    return converter(**{**usual, **settings})


def save(folder, name, **settings):
    backbone = build(name)
    backbone.save_to_preset(str(folder))
    make_converter(name, **settings).save_to_preset(str(folder))
    return backbone


def embed_with_keras_hub(name, backbone, images):
    """Compute the features as keras-hub's own classifiers and encoders do, from its converter on."""
    pixels = make_converter(name)(images)
    if hasattr(backbone, "vision_encoder"):
        features = backbone.vision_encoder({"images": pixels}, training=False)
        for pooler in ("vision_pooler", "vision_post_layer_norm"):
            features = getattr(backbone, pooler)(features) if hasattr(backbone, pooler) else features
        return np.asarray(features)
    inputs = dict.fromkeys(backbone.input, pixels) if isinstance(backbone.input, dict) else pixels
    outputs = backbone(inputs, training=False)
    outputs = np.asarray(outputs["stage2"] if isinstance(outputs, dict) else outputs)
    return outputs[:, 0] if name in FIRST else outputs.mean(axis=tuple(range(1, outputs.ndim - 1)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tiny_dinov2"
    save(folder, "DINOV2Backbone", interpolation="bicubic")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        msg = "a test opened a connection"
        raise OSError(msg)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", [*SETTINGS, *(f"{stem}Backbone" for stem in TOWERS)])
def test_a_family_gives_what_keras_hub_computes(name, images, tmp_path):
    backbone = save(tmp_path / "preset", name)
    found = load_backbone(f"hub:{tmp_path / 'preset'}")
    expected = embed_with_keras_hub(name, backbone, images.astype(np.float32))
    (features,) = found.embed(images)
    np.testing.assert_allclose(features, expected, atol=1e-5, rtol=1e-5)
    assert np.ptp(features, axis=0).max() > 1e-3  # or any constant would do
    assert found.outputs[0].layer == found.layers[-1].name


def test_a_preset_is_embedded_fitted_and_predicts_from_its_bundle(preset, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATX_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(preset, tmp_path / "mine")
    store = featx.embed(pictures, f"hub:{folder}", folder=tmp_path / "f").store
    assert (store.path.name, store.runtime, store.backbone_file) == ("mine.h5", "openvino", str(folder))
    assert (store.spec.image.resize, store.spec.image.interpolation) == ("crop", "bicubic")
    again = featx.embed(pictures, f"hub:{folder}", folder=tmp_path / "g").store
    assert again.spec == store.spec
    assert isinstance(cache.read_entry(next((tmp_path / "cache/networks").iterdir()).name), cache.Entry)
    np.testing.assert_array_equal(again.features, store.features)
    bundle = featx.fit(store, "centroid", options=featx.FitOptions(folder=tmp_path / "r")).bundle
    assert {path.name for path in bundle.iterdir()} >= {"backbone.zip", "network.xml", "network.bin"}
    expected = [one.probabilities for one in featx.Predictor.load(bundle).predict(pictures)]
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "cache")
    (bundle / "network.xml").unlink()
    (bundle / "network.bin").unlink()
    about = json.loads((bundle / "bundle.json").read_text())
    about["files"] = {name: file for name, file in about["files"].items() if not name.startswith("network.")}
    (bundle / "bundle.json").write_text(json.dumps(about))
    found = [one.probabilities for one in featx.Predictor.load(bundle).predict(pictures)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_preset_is_not_fine_tuned(preset, pictures):
    with pytest.raises(UsageError, match=r"preset of keras-hub, which featx does not fine-tune; train a head with"):
        featx.finetune(pictures, f"hub:{preset}")


def test_the_presets_of_the_catalogue_exist():
    import keras_hub

    for name, (family, _, _, parameters) in PRESETS.items():
        known = getattr(keras_hub.models, family).presets[name]["metadata"]["params"]
        assert parameters in {known, None}
        assert (parameters is None) == hasattr(keras_hub.models, family.replace("Backbone", "TextEncoder"))


def test_each_family_is_tested():
    assert {*SETTINGS, *(f"{stem}Backbone" for stem in TOWERS)} == set(FAMILIES)


def test_a_preset_is_cut_at_its_blocks_and_tokens_and_takes_other_sizes(preset, images):
    rows = describe_layers(f"hub:{preset}")
    norm = next(row.name for row in rows if row.name.endswith("layernorm"))
    backbone = load_backbone(f"hub:{preset}", layers=["stage1", "patch_tokens", "class_token", norm])
    assert [(output.pooling, output.dim) for output in backbone.outputs[:3]] == [("avg", 16), ("avg", 16), ("none", 16)]
    stage, patches, token, mean = backbone.embed(images)
    (tokens,) = backbone.cut([norm], "none").embed(images)
    tokens = tokens.reshape(len(images), -1, 16)  # the class token, two registers, four patches
    np.testing.assert_allclose(token, tokens[:, 0], atol=1e-6)
    np.testing.assert_allclose(patches, tokens[:, 3:].mean(1), atol=1e-6)
    np.testing.assert_allclose(mean, tokens.mean(1), atol=1e-6)
    assert not np.allclose(stage, patches)
    larger = load_backbone(f"hub:{preset}", image_size=(64, 64))
    assert (larger.height, larger.layers[-2].output_shape) == (64, (16, 16))
    assert backbone.layers == rows


def test_a_preset_is_known_by_its_content(preset, images, tmp_path):
    first = load_backbone(f"hub:{preset}")
    copy = shutil.copytree(preset, tmp_path / "other name")
    (copy / "README.md").write_text("not part of the network")
    moved = load_backbone(f"hub:{copy}")
    assert (moved.uri, moved.weights_digest) == (first.uri, first.weights_digest)
    settings = json.loads((copy / "image_converter.json").read_text())
    settings["config"]["scale"] = 1 / 255
    (copy / "image_converter.json").write_text(json.dumps(settings))
    assert load_backbone(f"hub:{copy}").uri != first.uri
    (copy / "image_converter.json").unlink()
    with pytest.raises(BackboneError, match="how its pixels are scaled; append"):
        load_backbone(f"hub:{copy}")
    assert not np.allclose(load_backbone(f"hub:{copy}?preprocess=tf").embed(images), first.embed(images))


def change_config(change):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def set_value(**values):
    return change_config(lambda config: config["config"].update(values))


FOREIGN = {"config": {}, "class_name": "system", "module": "os"}
CODE = {"config": {}, "class_name": "Lambda", "module": "keras.layers"}
DISGUISED = {"config": {}, "class_name": "ViTBackbone", "module": "evil", "registered_name": "keras_hub>ViTBackbone"}
OTHER = {"registered_name": "Functional", "class_name": "Functional"}
TEXT_NETWORK = {"registered_name": "keras_hub>BertBackbone", "class_name": "BertBackbone"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_value(extra=FOREIGN), "os.system, which is not a layer of Keras"),
        (set_value(extra=CODE), "keras.layers.Lambda, which runs code"),
        (set_value(extra=DISGUISED), "evil.ViTBackbone, which is not a layer of Keras"),
        (change_config(lambda config: config.update(OTHER)), "holds Functional, which featx does not know"),
        (
            change_config(lambda config: config.update(TEXT_NETWORK)),
            "holds BertBackbone, which featx does not know as a network for single",
        ),
        (set_value(num_layers=10**6), r"num_layers = 1e\+06; the limit is 512"),
        (set_value(hidden_dim=4096), r"its layers have [\d,]+ parameters, but model.weights.h5 holds only"),
        (lambda folder: (folder / "config.json").write_text("[]"), "does not hold names"),
        (lambda folder: (folder / "model.weights.h5").write_bytes(b"\x80\x04pickle"), "cannot be loaded: .*signature"),
        (lambda folder: (folder / "model.weights.h5").unlink(), "has no weights"),
    ],
)
def test_a_preset_that_is_not_a_sound_vision_network_is_refused(preset, tmp_path, damage, message):
    folder = shutil.copytree(preset, tmp_path / "bad")
    damage(folder)
    with pytest.raises(BackboneError, match=message):
        load_backbone(f"hub:{folder}")


def test_a_preset_of_a_hub_is_named_and_needs_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownNameError, match="no preset for images called 'dinov2_smal'; did you mean dinov2_small"):
        load_backbone("hub:dinov2_smal")
    with pytest.raises(WeightsError, match=r"the preset dinov2_small cannot be downloaded .*hub:path/to/dinov2_small"):
        load_backbone("hub:dinov2_small")
    with pytest.raises(WeightsError, match="has its own weights"):  # as in a bundle whose maker names a folder of yours
        load_backbone(f"hub:{tmp_path}", weights="preset")
    with pytest.raises(BackboneError, match="there is no preset gone"):
        load_backbone("hub:./gone")


def test_a_preset_that_was_downloaded_before_needs_no_network(preset, images, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    parent = tmp_path / "models/keras/dinov2/keras/dinov2_small"
    shutil.copytree(preset, parent / "1")
    (parent / ".complete/1").mkdir(parents=True)  # kagglehub marks what it has downloaded
    for file in ("config.json", "image_converter.json", "model.weights.h5"):
        (parent / f".complete/1/{file}.complete").touch()
    found, own = load_backbone("hub:dinov2_small"), load_backbone(f"hub:{preset}")
    assert (found.uri, found.weights, found.source_file) == ("hub:dinov2_small", "preset", "")
    assert found.weights_file == str(parent / "1/model.weights.h5")
    np.testing.assert_array_equal(found.embed(images), own.embed(images))
    assert describe_layers("hub:dinov2_small") == found.layers


def test_a_folder_of_transformers_is_a_preset(images, tmp_path):
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    block = "encoder.layer.0"
    parts = {
        **{f"{block}.attention.attention.{name}": (8, 8) for name in ("query", "key", "value")},
        f"{block}.attention.output.dense": (8, 8),
        f"{block}.intermediate.dense": (12, 8),
        f"{block}.output.dense": (8, 12),
        "embeddings.patch_embeddings.projection": (8, 3, 16, 16),
        **{f"{block}.layernorm_{name}": (8,) for name in ("before", "after")},
        "layernorm": (8,),
    }
    shapes = {f"{name}.weight": shape for name, shape in parts.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in parts.items()}
    shapes |= {"embeddings.cls_token": (1, 1, 8), "embeddings.position_embeddings": (1, 5, 8)}
    arrays = {f"vit.{name}": generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(arrays, tmp_path / "model.safetensors")
    config = {"model_type": "vit", "image_size": SIDE, "patch_size": 16, "num_hidden_layers": 1, "hidden_size": 8}
    config |= {"num_attention_heads": 2, "intermediate_size": 12, "qkv_bias": True, "label2id": {"window": 905}}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(f"hub:{tmp_path}?preprocess=tf")
    import keras_hub

    own = keras_hub.models.Backbone.from_preset(str(tmp_path))
    expected = np.asarray(own(images.astype(np.float32) / 127.5 - 1, training=False))[:, 0]
    np.testing.assert_allclose(backbone.embed(images)[0], expected, atol=1e-5)


def test_a_missing_package_is_named(preset, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    monkeypatch.delitem(sys.modules, "featx.backbones.hub", raising=False)
    with pytest.raises(MissingExtraError, match=r"need another package: pip install 'featx\[hub\]'"):
        load_backbone(f"hub:{preset}")
