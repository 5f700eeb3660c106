"""Untrusted networks and weights: each is refused, runs nothing, reads no other file and takes no memory."""

import copy
import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from bounded import get_refusals
from keras import layers

from featx.backbones import load_backbone
from featx.errors import BackboneError, WeightsError

pytestmark = pytest.mark.keras

SIDE = 16
ENTRY = "layers/conv2d/vars/0"


@pytest.fixture(scope="module")
def model():
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, name="conv")(layers.Rescaling(1 / 255, name="scale")(pixels))
    return keras.Model(pixels, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D(name="mean")(x)))


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    return path


def read_members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def change_config(path, change, target=None):
    members = read_members(path)
    config = json.loads(members["config.json"])
    members["config.json"] = json.dumps(change(config) or config)
    write_members(target or path, members)
    return target or path


def find_layer(config, name):
    return next(layer for layer in config["config"]["layers"] if layer["name"] == name)


def change_layer(name, **values):
    """Return a change of a model's config: other entries for one layer."""

    def change(config):
        find_layer(config, name).update(values)

    return change


def change_weights(path, change):
    members = read_members(path)
    file = io.BytesIO(members["model.weights.h5"])
    with h5py.File(file, "r+") as opened:
        change(opened)
    write_members(path, members | {"model.weights.h5": file.getvalue()})


def check_refused(path, message):
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(f"file:{path}")
    assert str(caught.value).startswith(f"{path} cannot be loaded in safe mode (")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 500


# --- the zip file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../evil.txt", "is not a file inside it"),
        ("/etc/evil.txt", "is not a file inside it"),
        ("assets/../../evil.txt", "is not a file inside it"),
        ("assets\\evil.txt", "is not a file inside it"),
        ("assets/vocabulary.txt", "extra or missing: assets/vocabulary.txt"),
        ("model.weights.npz", "extra or missing: model.weights.npz"),
    ],
)
def test_members_that_no_network_needs_are_refused_and_never_unpacked(saved, tmp_path, name, message):
    write_members(saved, read_members(saved) | {name: b"evil"})
    check_refused(saved, message)
    assert not [path for path in tmp_path.parent.rglob("*") if path.name.startswith(("evil", "vocabulary"))]


def test_a_bomb_is_refused_by_its_declared_size(saved):
    write_members(saved, read_members(saved) | {"model.weights.h5": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    check_refused(saved, "is compressed or encrypted, which its writers never do")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_member_that_is_there_twice_is_refused(saved):
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("config.json", "{}")
    check_refused(saved, "it holds 'config.json' twice")


# --- config.json


@pytest.mark.parametrize(
    ("module", "name", "config", "message"),
    [
        ("keras.layers", "Lambda", {"function": "os.system"}, "keras.layers.Lambda, which runs code, reads"),
        ("keras.src.layers.core.lambda_layer", "Lambda", {"function": "f"}, "Lambda, which runs code, reads"),
        ("keras.layers", "TFSMLayer", {"filepath": "/tmp/model"}, "keras.layers.TFSMLayer, which runs code, reads"),  # noqa: S108
        ("keras.layers", "TorchModuleWrapper", {"module": "x"}, "TorchModuleWrapper, which runs code, reads"),
        ("keras.layers", "JaxLayer", {"call_fn": "x"}, "JaxLayer, which runs code, reads"),
        ("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}, "StringLookup, which runs code, reads"),
        ("keras.layers", "TextVectorization", {"vocabulary": "/etc/passwd"}, "TextVectorization, which runs code"),
        ("keras.layers", "MelSpectrogram", {"fft_length": 2**31}, "MelSpectrogram, which runs code, reads"),
        ("os", "system", {}, "os.system, which is not a layer of Keras"),
        ("builtins.x", "eval", {}, "builtins.x.eval, which is not a layer of Keras"),
        (
            "keras.utils",
            "get_file",
            {"origin": "http://localhost"},
            "keras.utils.get_file, which is not a layer of Keras",
        ),
        ("keras.saving", "load_model", {"filepath": "x"}, "keras.saving.load_model, which is not a layer of Keras"),
        ("keras.src.saving.saving_lib", "load_model", {}, "load_model, which is not a layer of Keras"),
        ("keras.layers.", "Dense", {}, "Dense, which is not a layer of Keras"),
        (None, "Dense", {"units": 3}, "Dense, which is not a layer of Keras"),
        (None, "__lambda__", {"value": "x"}, "__lambda__, which is not a layer of Keras"),
        (None, "__typespec__", ["x"], "__typespec__, which is not a layer of Keras"),
        (None, "__numpy__", {"value": "x", "dtype": "S4000000000"}, "type S4000000000, which is not numeric"),
        (None, "__numpy__", {"value": "x", "dtype": "object"}, "type object, which is not numeric"),
        ("keras.layers", "Dense", {"units": "x"}, "cannot be loaded"),
        ("keras.layers", "NoLayer", {}, "cannot be loaded"),
    ],
)
def test_layers_that_run_code_or_read_files_are_refused(saved, module, name, config, message):
    entry = {"module": module, "class_name": name, "config": config, "registered_name": None}
    change_config(saved, change_layer("conv", **entry))
    check_refused(saved, message)
    change_config(saved, change_layer("conv", module="keras.layers", class_name="Conv2D", config={"filters": entry}))
    check_refused(saved, "cannot be loaded" if "cannot" in message or name == "Dense" else message)


def test_a_function_in_a_layer_is_one_of_keras(saved):
    for module, name in (("os", "system"), ("subprocess", "run"), ("keras.utils", "get_file")):
        function = {"module": module, "class_name": "function", "config": name, "registered_name": name}

        def change(config, function=function):
            find_layer(config, "conv")["config"]["activation"] = function

        change_config(saved, change)
        check_refused(saved, f"{module}.function, which is not a layer of Keras")


@pytest.mark.parametrize("text", ["[" * 10**6, "{}", "[]", "null", '{"class_name": []}', "9" * 10**6, "\0", ""])
def test_a_config_that_describes_nothing_is_refused(saved, text):
    write_members(saved, read_members(saved) | {"config.json": text})
    check_refused(saved, "cannot be loaded in safe mode")


def test_a_value_of_another_kind_in_the_config_is_refused_or_harmless(saved, tmp_path):
    config = json.loads(read_members(saved)["config.json"])
    for name in ("config", "module", "class_name"):
        for value in (None, -1, "", [], {}, "x" * 10**6):
            path = change_config(saved, lambda _, n=name, v=value: config | {n: v}, tmp_path / "changed.keras")
            check_refused(path, "cannot be loaded in safe mode")


def enlarge(**values):
    return lambda config: find_layer(config, "conv")["config"].update(values)


def nest(config):
    """Hide a huge layer in a network inside the network."""
    outer = copy.deepcopy(config)
    find_layer(outer, "head")["config"]["units"] = 2**30
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": [outer]}}


BOMBS = {
    "filters": enlarge(filters=2**31),
    "kernel": enlarge(kernel_size=[10**5, 10**5]),
    "overflow": enlarge(filters=2**70),
    "nested": nest,
    "units": lambda config: find_layer(config, "head")["config"].update(units=2**31),
    "orthogonal": lambda config: find_layer(config, "head")["config"].update(
        units=10**6, kernel_initializer={"module": "keras.initializers", "class_name": "Orthogonal", "config": {}}
    ),
    "padding": lambda config: find_layer(config, "scale").update(
        module="keras.layers", class_name="ZeroPadding2D", config={"padding": 10**6, "name": "scale"}
    ),
    "upsampling": lambda config: find_layer(config, "scale").update(
        module="keras.layers", class_name="UpSampling2D", config={"size": 10**5, "name": "scale"}
    ),
}


def declare_shape(file):
    group = file["layers/conv2d/vars"]
    del group["0"]
    group.create_dataset("0", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")


def deflate(file):
    group = file["layers/conv2d/vars"]
    del group["0"]
    group.create_dataset("0", data=np.zeros((10**7,), "f4"), compression="gzip")


def test_declaring_more_than_the_file_holds_takes_no_memory(saved, tmp_path):
    paths = [change_config(saved, change, tmp_path / f"{name}.keras") for name, change in BOMBS.items()]
    for change in (declare_shape, deflate):
        paths.append(tmp_path / f"{change.__name__}.keras")
        paths[-1].write_bytes(saved.read_bytes())
        change_weights(paths[-1], change)
    paths.append(tmp_path / "deep.keras")
    write_members(paths[-1], read_members(saved) | {"config.json": b"[" + b"{}," * 10**7 + b"{}]"})
    messages = get_refusals("import featx; featx.load_backbone('file:' + path)", paths)
    refused = {path.stem: message for path, message in zip(paths, messages, strict=True)}
    for name in ("nested", "units", "orthogonal"):
        assert "parameters, but the file holds only" in refused[name], name
    for name in ("padding", "upsampling"):
        assert "GiB for one image; the limit is 2 GiB; choose smaller images or another network" in refused[name]
    for name in ("declare_shape", "deflate"):
        assert "its dataset '/layers/conv2d/vars/0' declares 4" in refused[name]
    assert "the limit is 16,777,216" in refused["deep"]


# --- the weights, in a network and by themselves


def link_softly(file):
    file["layers/conv2d/vars/0"] = h5py.SoftLink("/layers/dense/vars/0")


def link_outside(file):
    file["layers/conv2d/vars/0"] = h5py.ExternalLink("secret.h5", "/secret")


def link_a_group_outside(file):
    file["layers/extra"] = h5py.ExternalLink("secret.h5", "/")


def store_outside(file):
    file.create_dataset("layers/conv2d/vars/0", (3, 3, 3, 4), "f4", external=[("secret.bin", 0, 432)])


def read_virtually(file):
    layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "secret", (3, 3, 3, 4))
    file.create_virtual_dataset("layers/conv2d/vars/0", layout)


def hold_objects(file):
    file.create_dataset("layers/conv2d/vars/0", data=np.array(["x"] * 108, object), dtype=h5py.string_dtype())


def never_write(file):
    file.create_dataset("layers/conv2d/vars/0", (10**6, 10**6), "f4")


CHANGES = {
    link_softly: "is a link",
    link_outside: "is a link",
    link_a_group_outside: "its entry '/layers/extra' is a link",
    store_outside: "is stored in another file",
    read_virtually: "is stored in another file",
    hold_objects: "which is not numeric",
    never_write: "declares 4,000,000,000,000 bytes and holds 0",
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_lie_elsewhere_or_are_not_numbers_are_refused(saved, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    with h5py.File("secret.h5", "w") as file:
        file["secret"] = np.zeros((3, 3, 3, 4), np.float32)
    (tmp_path / "secret.bin").write_bytes(bytes(432))

    def replace(file):
        del file["layers/conv2d/vars/0"]
        change(file)

    change_weights(saved, replace)
    check_refused(saved, CHANGES[change])
    for name in ("mobile.weights.h5", "legacy.h5"):
        with h5py.File(name, "w") as file:
            change(file)
        with pytest.raises(WeightsError, match=CHANGES[change]):
            load_backbone("mobilenet?alpha=0.25", weights=name, image_size=(32, 32))


def test_groups_that_lead_back_to_themselves_end(saved):
    change_weights(saved, lambda file: file["layers"].__setitem__("again", file["/"]))
    assert load_backbone(f"file:{saved}").outputs[0].dim == 2


def test_one_dataset_under_many_names_is_counted_once(saved):
    def link(file):
        for number in range(10_000):
            file[f"layers/{number}"] = file[ENTRY]

    change_weights(saved, link)
    assert load_backbone(f"file:{saved}").outputs[0].dim == 2


def test_a_layer_of_unknown_size_is_not_cut_at(tmp_path):
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.EinsumDense("abcd,de->abce", (None, None, 5), name="einsum")(pixels)
    keras.Model(pixels, x).save(tmp_path / "einsum.keras")
    assert load_backbone(f"file:{tmp_path / 'einsum.keras'}?preprocess=tf").outputs[0].dim == 5
    with pytest.raises(BackboneError, match="the size of the output of layer 'einsum' is unknown"):
        load_backbone(f"file:{tmp_path / 'einsum.keras'}?preprocess=tf", pooling="none")
