"""Plans of a comparison: which run is taken for one, what is checked first, and what is trained."""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from finetuned import mark_finetuned
from pictures import write_digits
from PIL import Image
from reporters import Recorder

import featx
from featx.backbones import LayerInfo, load_backbone, locate_backbone
from featx.comparing import plans
from featx.errors import BackboneError, BundleError, DataError, SourceError, UnknownNameError, UsageError
from featx.finetuning.feature_maps import _name_frozen
from featx.finetuning.first_head import plan_first_head
from featx.heads.tuning import RULES
from featx.options import CompareOptions, FitOptions
from featx.specs import BackboneSpec, FineTuneSpec, HeadSpec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of digits with its store, and a run of them."""
    folder = tmp_path_factory.mktemp("made")
    write_digits(folder / "digits", per_class=20, classes=4)
    store = featx.embed(folder / "digits", "colour", folder=folder / "features").store
    return store, featx.fit(store, "lda", options=FitOptions(folder=folder / "runs"))


@pytest.fixture
def store(made):
    return made[0]


@pytest.fixture
def reporter():
    return Recorder()


@pytest.fixture
def options(tmp_path, reporter):
    return CompareOptions(folder=tmp_path / "runs", jobs=1, reporter=reporter)


def record_plan(bundle, store, plan="last:3", changes=()):
    """Make a bundle record that it was fine-tuned by a plan."""
    about = json.loads((bundle / "bundle.json").read_text())
    about["record"] |= {
        "finetune": plan_first_head(FineTuneSpec(unfreeze=plan)).to_dict(),
        "backbone": store.spec.backbone.to_dict(),
        "split": {"origin": "hold-out", "test_size": 0.2, "cv": 0, "group": "", "seed": 0},
        "rules": RULES,
    } | dict(changes)
    (bundle / "bundle.json").write_text(json.dumps(about))
    return mark_finetuned(bundle, unfreeze=plan)


@pytest.fixture
def finished(made, options):
    return record_plan(shutil.copytree(made[1].bundle, options.folder / "a-run"), made[0])


class Network:
    """Three layers that could be trained, and the weights of the store."""

    def __init__(self, digest):
        self.weights_digest = digest
        self.outputs = [SimpleNamespace(layer="last")]
        names = ["a", "b", "last"]
        self.layers = [LayerInfo(at, name, "Dense", (4,), 20, 16, 16) for at, name in enumerate(names)]
        own = {name: object() for name in names}
        self.parts = SimpleNamespace(layers=own, trunk=SimpleNamespace(layers=list(own.values())))
        self.uri, self.weights = "file:network", "file"


@pytest.fixture
def trained(monkeypatch, made):
    """What is asked of `finetune`, which gives a bundle without training one."""
    calls = []

    def finetune(manifest, backbone, **asked):
        calls.append((manifest, backbone, asked))
        at = asked["options"].folder / f"new-{len(calls)}"
        bundle = record_plan(shutil.copytree(made[1].bundle, at), made[0], asked["spec"].unfreeze)
        return replace(made[1], bundle=bundle, notes=("some images are small",))

    monkeypatch.setattr(plans, "finetune", finetune)
    monkeypatch.setattr(plans, "load_backbone", lambda *_, **__: Network(made[0].spec.backbone.weights_digest))
    return calls


def compare(store, plans, options, heads="centroid"):
    return featx.compare(store, heads, finetune=plans, options=options)


def test_a_plan_is_fine_tuned_once_and_found_again(store, options, trained, reporter):
    first = compare(store, ["last:3", "last:3"], options)
    ((manifest, uri, asked),) = trained
    assert (len(manifest), uri) == (80, "colour")
    assert asked["spec"] == FineTuneSpec(unfreeze="last:3")
    assert (asked["layer"], asked["pooling"], asked["weights"]) == ("colour", "none", None)
    assert asked["image"] == store.spec.image.to_dict()
    own = asked["options"]
    assert (own.test_size, own.group, own.folder, own.fresh) == (0.2, "", options.folder, False)
    assert own.features == store.path.parent
    assert reporter.lines[0] == f"last:3: fine-tuning colour on {store.source}"
    assert reporter.lines[1] == "note: last:3: some images are small"
    assert reporter.lines[2].endswith(f"s -> {options.folder / 'new-1'}")
    assert [one.title for one in first.rows if one.run] == ["finetune last:3"]
    del reporter.lines[:]
    again = compare(store, "last:3", options, "dummy")
    assert len(trained) == 1
    (found,) = reporter.lines
    assert found.startswith(f"last:3: using {options.folder / 'new-1'}, a finished run of this plan on these images")
    assert next(one.run for one in again.rows if one.run) == options.folder / "new-1"
    compare(store, "last:3", replace(options, fresh=True))
    assert len(trained) == 2
    assert trained[1][2]["options"].fresh


@pytest.mark.parametrize(
    "changes",
    [
        {"finetune": plan_first_head(FineTuneSpec(unfreeze="last:3", epochs=2)).to_dict()},
        {"backbone": {"uri": "colour"}},
        {"split": {"origin": "hold-out", "test_size": 0.3, "cv": 0, "group": "", "seed": 0}},
        {"store": {"source": "/elsewhere"}},
        {"store": None},
    ],
)
def test_another_run_is_not_taken_for_a_plan(store, options, finished, trained, changes):
    record_plan(finished, store, changes=changes)
    compare(store, "last:3", options)
    assert len(trained) == 1


def change_spec(**changes):
    return {"finetune": plan_first_head(FineTuneSpec(unfreeze="last:3", **changes)).to_dict()}


@pytest.mark.parametrize(
    ("changes", "its", "own"),
    [
        (change_spec(epochs=3), "--epochs 3", "--epochs 30"),
        (
            change_spec(monitor="auc", augmentation="flip"),
            "--augment flip --monitor auc",
            "no --augment --monitor loss",
        ),
        (
            change_spec(head=HeadSpec("keras", {"dropout": 0.3})),
            "--clf keras --param dropout=0.3 --param label_smoothing=0.0 --param optimizer=adam",
            "--clf logreg no --param",
        ),
        (change_spec(seed=3), "--seed 3", "--seed 0"),
        ({"corrections": {"without": "bad.csv", "left_out": 3}}, "--without bad.csv", "no --without"),
    ],
)
def test_a_run_of_the_same_plan_with_other_settings_is_named(
    store, options, finished, trained, reporter, changes, its, own
):
    record_plan(finished, store, changes=changes)
    compare(store, "last:3", options)
    assert len(trained) == 1
    near = f"{finished} is the same plan with {its}; this one trains with {own}; add --run {finished} to use it"
    assert reporter.lines[0] == f"note: last:3: {near}"


def test_a_run_of_the_same_plan_on_another_split_is_named(made, options, trained, reporter, tmp_path):
    run = featx.fit(made[0], "lda", options=FitOptions(folder=tmp_path / "fitted", test_size=0.4))
    split = {"origin": "hold-out", "test_size": 0.4, "cv": 0, "group": "", "seed": 0}
    folder = shutil.copytree(run.bundle, options.folder / "a-run")
    record_plan(folder, made[0], changes={"split": split})
    compare(made[0], "last:3", options)
    assert reporter.lines[0] == (
        f"note: last:3: {folder} is the same plan with --test-size 0.4; this one trains with --test-size 0.2; it was "
        "tested on other images, so it is not used"
    )


@pytest.mark.parametrize("rules", [None, RULES - 1])
def test_a_run_whose_first_head_was_chosen_by_another_rule_is_not_reused(
    store, options, finished, trained, reporter, rules
):
    """An older featx recorded no rule."""
    record_plan(finished, store, changes={"rules": rules})
    compare(store, "last:3", options)
    assert len(trained) == 1
    assert reporter.lines[0] == (
        f"note: last:3: {finished} is the same plan, but another version of featx chose its first head by another "
        f"rule; add --run {finished} to use it"
    )


@pytest.mark.parametrize(
    ("plan", "changes"),
    [("last:2", {}), ("last:3", {"store": {"source": "/elsewhere"}}), ("last:3", {"backbone": {"uri": "colour"}})],
)
def test_a_run_of_another_plan_source_or_backbone_is_not_named(
    store, options, finished, trained, reporter, plan, changes
):
    record_plan(finished, store, plan, changes)
    compare(store, "last:3", options)
    assert len(trained) == 1
    assert not any("is the same plan" in line for line in reporter.lines)


def test_a_damaged_run_is_not_taken(store, options, finished, trained):
    compare(store, "last:3", options)
    assert not trained
    rows = (finished / "items.csv").read_text().replace(",tested", ",unused", 1)
    (finished / "items.csv").write_text(rows)  # damaged, and so passed over
    compare(store, "last:3", options)
    assert len(trained) == 1


def test_other_folders_are_passed_over(store, options, finished, trained):
    for name, text in (("b", "{"), ("c", "[]"), ("d", '{"record": 3}')):
        (options.folder / name).mkdir()
        (options.folder / name / "bundle.json").write_text(text)
    compare(store, "last:3", options)
    assert not trained


@pytest.mark.parametrize(
    ("plan", "error", "pattern"),
    [
        ("lsat:3", UsageError, "'lsat:3' does not say which layers to unfreeze"),
        ("last:none", UsageError, "does not say how many"),
        ("from:lsat", UnknownNameError, "no layer called 'lsat'; did you mean last"),
        ("everything", UsageError, "everything is not an unfreeze plan, such as last:23"),
    ],
)
def test_an_invalid_plan_fails_first(store, options, trained, monkeypatch, plan, error, pattern):
    monkeypatch.setattr("featx.comparing.comparison._run_rounds", lambda *_: pytest.fail("a head was fitted"))
    with pytest.raises(error, match=pattern):
        compare(store, ["last:2", plan], options)
    assert not trained


def test_other_weights_are_refused(store, options, trained, monkeypatch):
    monkeypatch.setattr(plans, "load_backbone", lambda *_, **__: Network("f" * 64))
    with pytest.raises(BackboneError, match=r"the weights of colour \(sha256 .* are not those"):
        compare(store, "last:3", options)


def test_a_backbone_without_weights(store, options):
    with pytest.raises(UsageError, match="colour has no trainable weights"):
        compare(store, "all", options)


def test_nowhere_to_write(store, options, trained):
    with pytest.raises(UsageError, match=re.escape("name one (folder='runs')")):
        compare(store, "last:3", replace(options, folder=None))


def test_images_that_have_changed_are_refused(tmp_path, options, trained):
    folder = write_digits(tmp_path / "d", per_class=10, classes=3)
    store = featx.embed(folder, "colour", folder=tmp_path / "f").store
    first = min((folder / "0").iterdir())
    first.rename(folder / "1" / first.name)
    with pytest.raises(SourceError, match=r"has changed since it was embedded: 2 images .* such as 0/digit-"):
        compare(store, "last:3", options)
    shutil.rmtree(folder)
    with pytest.raises(
        SourceError,
        match=r"fine-tuning needs the images, which cannot be read: .* does not exist.*; "
        r"restore them, or pass a finished run with --run",
    ):
        compare(store, "last:3", options)
    assert not trained


def test_the_images_of_a_frame_cannot_be_restored(tmp_path, options, trained):
    folder = write_digits(tmp_path / "d", per_class=10, classes=3)
    manifest = featx.Manifest.from_frame(featx.read_source(folder).to_frame(), root=folder)
    store = featx.embed(manifest, "colour", folder=tmp_path / "f").store
    with pytest.raises(SourceError, match=r"embed that table; or pass a finished run with --run"):
        compare(store, "last:3", options)
    assert not trained


@pytest.mark.keras  # `scattering` is a network of Keras
def test_stores_that_share_a_part_are_refused(store, tmp_path, options, trained):
    digits = write_digits(tmp_path / "digits", per_class=15, classes=4)
    other = featx.embed(digits, "scattering", image={"height": 8, "width": 8}, folder=tmp_path).store
    with pytest.raises(DataError, match=r"20 labelled images of .* are not in all stores"):
        compare([store, other], "last:3", options)
    assert not trained


def test_folders_and_runs(made, options, tmp_path):
    store, run = made
    assert plans.find_folder(run) == plans.find_folder(str(run.bundle)) == plans.find_folder(run.bundle) == run.bundle
    unwritten = featx.fit(store, "centroid", options=FitOptions(folder=None))
    with pytest.raises(UsageError, match="a run without a bundle"):
        featx.compare(store, "centroid", runs=unwritten, options=options)
    with pytest.raises(BundleError, match=r"there is no bundle '.*gone'"):
        featx.compare(store, "centroid", runs=tmp_path / "gone", options=options)
    with pytest.raises(UsageError, match="no head is named"):
        featx.compare(store, ",", runs=run, options=options)


@pytest.mark.parametrize("plan", ["last:23", "blocks:1", "all", "gradual", "gradual:2", "from:conv_1", "lsat:3"])
def test_a_plan_is_not_a_run(made, options, plan):
    with pytest.raises(BundleError, match=rf"there is no run {plan}; an unfreeze plan goes to --finetune"):
        featx.compare(made[0], "centroid", runs=plan, options=options)


@pytest.mark.parametrize("plan", ["runs", "c:run", "C:\\all", "a/b:c", "runs/2026-01-31-lda-colour"])
def test_a_run_is_not_a_plan(made, options, plan):
    with pytest.raises(UsageError, match=re.escape(f"{plan} is not an unfreeze plan")):
        compare(made[0], ["last:3", plan], options)


def test_a_plan_does_not_stand_for_a_folder_of_its_name(made, options, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made[1].bundle, tmp_path / "all")
    run = featx.compare(made[0], "centroid", runs="all", options=options)
    assert [row.title for row in run.rows if row.run] == ["lda (run)"]
    assert not trained
    both = featx.compare(made[0], "centroid", finetune="all", runs=["all"], options=options)
    assert sorted(row.title for row in both.rows if row.run) == ["finetune all", "lda (run)"]
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("uri", "weights", "expected"),
    [
        ("mobilenet?alpha=0.25", "imagenet", ("mobilenet?alpha=0.25", "imagenet")),
        ("mobilenet", "none", ("mobilenet", "none")),
        ("mobilenet", "file", ("mobilenet", "/own/net.h5")),
        ("file:0123?preprocess=tf", "file", ("file:/own/net.h5?preprocess=tf", None)),
        ("FILE:0123", "file", ("file:/own/net.h5", None)),
        ("HUB:0123?preprocess=tf", "file", ("hub:/own/net.h5?preprocess=tf", None)),
        ("hub:dinov2_small", "preset", ("hub:dinov2_small", "preset")),
        ("scattering", "computed", ("scattering", None)),
    ],
)
def test_the_backbone_to_load_for_a_spec(uri, weights, expected, tmp_path):
    file = type(tmp_path)("/own/net.h5")
    assert locate_backbone(BackboneSpec(uri, "top", "avg", weights, "0" * 64), file) == expected


def test_frozen_features_are_taken_from_the_store_that_has_them(tmp_path):
    manifest = featx.read_source(write_digits(tmp_path / "d", per_class=2, classes=2))
    network = load_backbone("colour", image_size=(8, 8))
    assert _name_frozen(tmp_path / "f", manifest, network, {}) == "colour"
    other = featx.embed(manifest, "colour", folder=tmp_path / "f").store
    assert other.path.stem == "colour"
    assert re.fullmatch(r"d-[0-9a-f]{6}-colour", _name_frozen(tmp_path / "f", manifest, network, {}))
    (tmp_path / "f" / "broken.h5").write_bytes(b"")
    featx.embed(manifest, network, name="mine", folder=tmp_path / "f")
    assert _name_frozen(tmp_path / "f", manifest, network, {}) == "mine"


@pytest.mark.keras
def test_the_whole_way_with_a_network(tmp_path, reporter):
    """Random weights and tiny images: what counts is that the run is of this store and test, and is found again."""
    for name, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for number in range(16):
            noise = np.random.default_rng([shade, number]).integers(-30, 30, (32, 32, 3))
            Image.fromarray((shade + noise).astype(np.uint8)).save(tmp_path / "d" / name / f"{number}.png")
    uri, size = "mobilenet?alpha=0.25", {"height": 32, "width": 32}
    store = featx.embed(tmp_path / "d", uri, weights="none", image=size, folder=tmp_path / "f").store
    options = CompareOptions(folder=tmp_path / "runs", jobs=1, reporter=reporter)
    (row,) = [one for one in compare(store, "last:3", options, "dummy").rows if one.run]
    assert row.store == store.path.stem
    assert row.fit_seconds > row.embed_seconds > 0
    finetuned = json.loads((row.run / "metrics.json").read_text())["finetuned"]
    assert row.kind == ("start" if finetuned["kept_start"] else "fine-tuned")
    (maps,) = [featx.FeatureStore(path) for path in (tmp_path / "f" / "maps").iterdir()]
    assert finetuned["embed_seconds"] == maps.embed_seconds
    again = compare(store, "last:3", options, "dummy")
    assert [one.run for one in again.rows if one.run] == [row.run]
    assert "a finished run of this plan" in reporter.lines[-1]
    words = "were spent and nothing was trained" if finetuned["kept_start"] else "embedding included, against"
    assert words in again.verdict[0]
