"""What the command line does without a flag is what the library does without an argument."""

import inspect
from dataclasses import fields
from typing import get_args

import featx
from featx.cli import compare, embed, evaluate, finetune, fit, flags, import_features, predict, scout
from featx.options import CompareOptions, EmbedOptions, FineTuneOptions, FitOptions, ScoutOptions
from featx.specs import DEFAULT_BACKBONE, FineTuneSpec

SPREAD = ("executor", "ray_address", "gpus_per_worker", "cpus_per_worker")


def read_defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def read_fields(cls):
    return {field.name: field.default for field in fields(cls)}


def test_embed():
    command, library = read_defaults(embed.embed), read_defaults(featx.embed_layers)
    for name in ("backbone", "pooling", "weights", "dtype", "views", "view_seed", "name"):
        assert command[name] == library[name]
    assert command["augment"] == library["augmentation"]
    assert str(command["features"]) == library["folder"]
    assert command["layer"] is None
    assert library["layers"] == ()
    options = read_fields(EmbedOptions)
    flags = ("batch_size", "workers", "rehash", "on_bad", "max_bad", *SPREAD)
    assert {name: command[name] for name in flags} == {name: options[name] for name in flags}
    assert library["options"] == EmbedOptions()


def test_fit():
    command, library, options = read_defaults(fit.fit), read_defaults(featx.fit), read_fields(FitOptions)
    assert (command["clf"], command["scaling"]) == (library["clf"], library["scaling"])
    assert str(command["runs"]) == options["folder"]
    for name in ("test_size", "cv", "group", "without", "relabel", "seed", "views", "memory"):
        assert command[name] == options[name]
    assert library["options"] == FitOptions()


def test_compare():
    command, library = read_defaults(compare.compare), read_defaults(featx.compare)
    options = read_fields(CompareOptions)
    assert command["clf"] == [library["heads"]]
    assert command["calibration"] == library["calibration"]
    assert library["finetune"] == library["runs"] == ()
    assert command["finetune"] is command["run"] is command["class_weight"] is library["params"] is None
    assert str(command["runs"]) == options["folder"]
    for name in ("test_size", "folds", "group", "seed", "jobs", "out", "fresh", *SPREAD):
        assert command[name] == options[name]
    assert library["options"] == CompareOptions()


def test_scout():
    command, library, options = read_defaults(scout.scout), read_defaults(featx.scout), read_fields(ScoutOptions)
    assert command["clf"] == library["head"]
    assert command["layer"] is command["pooling"] is None
    assert library["layers"] == library["poolings"] == ()
    assert (str(command["features"]), str(command["runs"])) == (options["features"], options["folder"])
    elsewhere = {"features", "folder", "reporter"}
    assert {name: command[name] for name in options.keys() - elsewhere} == {
        name: options[name] for name in options.keys() - elsewhere
    }
    assert library["options"] == ScoutOptions()


def test_finetune():
    command, library = read_defaults(finetune.finetune), read_defaults(featx.finetune)
    spec, options = FineTuneSpec(), FineTuneOptions()
    assert (command["clf"], command["scaling"], command["augment"]) == (
        spec.head.name,
        spec.head.scaling,
        spec.augmentation,
    )
    assert command["param"] is None
    assert dict(spec.head.params) == {}
    elsewhere = {"head", "augmentation"}
    names = {field.name for field in fields(FineTuneSpec)} - elsewhere
    assert {name: command[name] for name in names} == {name: getattr(spec, name) for name in names}
    assert (str(command["features"]), str(command["runs"])) == (options.features, options.folder)
    elsewhere = {"features", "folder", "reporter"}
    names = {field.name for field in fields(FineTuneOptions)} - elsewhere
    assert {name: command[name] for name in names} == {name: getattr(options, name) for name in names}
    assert {name: command[name] for name in ("backbone", "layer", "pooling", "weights")} == {
        name: library[name] for name in ("backbone", "layer", "pooling", "weights")
    }
    assert library["spec"] is None
    assert library["options"] == options


def test_import():
    command, library = read_defaults(import_features.import_features), read_defaults(featx.import_features)
    for name in ("name", "labels", "format_", "network"):
        assert command[name] == library[name]
    assert str(command["features"]) == library["folder"]


def test_the_transformer_has_the_backbone_of_embed():
    assert featx.ImageEmbedder().backbone == DEFAULT_BACKBONE
    assert f"By default, {DEFAULT_BACKBONE}." in get_args(flags.Backbone)[1].help


def test_the_newest_store_is_looked_for_where_embed_writes():
    assert read_defaults(featx.FeatureStore.find_newest)["folder"] == read_defaults(featx.embed)["folder"]


def test_evaluate_and_predict():
    options = read_fields(EmbedOptions)
    for function in (evaluate.evaluate, predict.predict):
        command = read_defaults(function)
        assert (command["batch_size"], command["workers"]) == (options["batch_size"], options["workers"])
