"""`featx finetune`, as a user types it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from finetuned import FINETUNED
from pictures import write_digits
from tiny import save_network

import featx
from featx.cli.finetune import _describe
from featx.options import FineTuneOptions, FitOptions
from featx.reporting import ProgressReporter
from featx.results import FineTuned
from featx.specs import FineTuneSpec, HeadSpec

pytestmark = pytest.mark.keras


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of pictures and a network, to be linked to."""
    folder = tmp_path_factory.mktemp("tiny")
    write_digits(folder / "photos", per_class=45, classes=3)
    save_network(folder / "tiny.keras")
    return folder


@pytest.fixture
def finetune(featx_command, tiny, tmp_path):
    """Type `featx finetune photos` with a network of one's own and little to do."""
    for name in ("photos", "tiny.keras"):
        (tmp_path / name).symlink_to(tiny / name)

    def run(*arguments, source="photos", backbone="file:tiny.keras"):
        short = ("--unfreeze", "last:3", "--epochs", "1", "--runtime", "keras")
        return featx_command("finetune", source, "--backbone", backbone, *short, *arguments)

    return run


def test_a_run_in_numbers_and_in_words(finetune):
    result = finetune("--augment", "light", "--views", "1", "--seed", "3", "--cache", "yes")
    assert result.code == 0, result
    last = result.out.splitlines()[-1]
    bundle = Path(last.split(" -> ")[1])
    start = json.loads((bundle / "metrics.json").read_text())["finetuned"]["kept_start"]
    assert f"{', frozen' if start else ', last:3'} and logreg (C=" in result.out
    assert re.search(r"backbone, frozen +\d", result.out)
    kept = NOTHING if start else "kept epoch 1 of 1"
    assert re.match(rf"{kept}, validation accuracy [\d.]+, [\d.]+ s.* -> runs/", last)
    assert (f"note: {NOTHING}, since no epoch (1 in all) had a better loss" in result.err) == start
    assert {"backbone.keras", "head.keras", "augmentation.png"} <= {path.name for path in bundle.iterdir()}
    # Progress and notes are printed on stderr.
    lines = result.err.splitlines()
    assert any(re.match(r"epoch +1/1: loss ", line) for line in lines)
    assert any(line.startswith("start: loss ") for line in lines)
    assert any(re.match(r"note: the epoch was chosen on \d+ validation images", line) for line in lines)
    assert not any(line in result.out for line in lines)


NOTHING = "kept the start: the frozen network with its first head; nothing was trained"


@pytest.mark.parametrize(
    ("best", "plan", "trained", "frozen", "last"),
    [
        (12, "last:23", "1,200,000", "600,000", "kept epoch 12 of 20, validation accuracy "),
        (0, "frozen", "0", "1,800,000", f"{NOTHING}, validation accuracy "),
    ],
)
def test_what_was_trained_is_described(tiny, tmp_path, best, plan, trained, frozen, last):
    store = featx.embed(tiny / "photos", "colour", folder=tmp_path).store
    run = featx.fit(store, "centroid", options=FitOptions(folder=None))
    tuned = FineTuned.from_dict(FINETUNED | {"best_epoch": best})
    text = _describe(replace(run, finetuned=replace(tuned, spec=FineTuneSpec(head=run.head))))
    assert text.startswith(f"colour, {plan} and centroid (")
    assert re.search(rf"\nbackbone, trained +{trained}\nbackbone, frozen +{frozen}\nhead +7,690\n", text)
    assert text.splitlines()[-1].startswith(last)


def test_json_is_the_only_line_of_stdout(finetune):
    ids = [item.id for item in featx.read_source("photos").items]
    table = write_audit(ids)
    tables = ("--without", table, "--group", table, "--relabel", table)
    result = finetune("--json", "--clf", "keras", "--param", "epochs=2", "--cache", "no", *tables)
    assert result.code == 0, result
    record = json.loads((Path(json.loads(result.out)["bundle"]) / "bundle.json").read_text())["record"]["corrections"]
    assert [record[name] for name in ("left_out", "grouped", "relabelled")] == [2, 2, 1]
    assert "audit.csv leaves out 2 items: 1 listed, and 1 further copies" in result.err
    assert len(featx.FeatureStore.find_newest("features")) == len(ids)
    assert result.out.count("\n") == 1
    values = json.loads(result.out)
    assert {"bundle", "head", "validation", "test", "seconds", "finetuned"} <= values.keys()
    assert (values["head"]["name"], values["head"]["params"]["epochs"]) == ("keras", 2)
    assert Path(values["bundle"]).is_dir()
    assert 0 <= values["test"]["accuracy_low"] <= values["test"]["accuracy"] <= 1
    tuned = values["finetuned"]
    assert (tuned["unfreeze"], tuned["epochs"], tuned["cached"]) == ("last:3", 1, False)
    written = json.loads((Path(values["bundle"]) / "metrics.json").read_text())
    assert written["finetuned"] == tuned
    assert written["test"] == values["test"]


def write_audit(ids):
    rows = (
        (ids[0], "blank", "leave out", ""),
        (ids[1], "near-copy", "group", ids[1]),
        (ids[2], "near-copy", "group", ids[1]),
        (ids[3], "suspicious label", "label 1", ""),
    )
    lines = [f"{name},{kind},1,{suggestion},{group}," for name, kind, suggestion, group in rows]
    Path("audit.csv").write_text("\n".join(["id,kind,score,suggestion,group,detail", *lines]))
    return "audit.csv"


def test_a_table_of_another_source_is_refused_before_anything_is_embedded(finetune):
    write_audit(["0/gone.png"] * 4)
    for option in ("--without", "--group", "--relabel"):
        expect(finetune(option, "audit.csv"), 1, "names an item that photos does not have, such as '0/gone.png'")
    assert not Path("features").exists()


def test_flags_reach_the_library(finetune, monkeypatch):
    class StopError(Exception):
        pass

    def stop(source, backbone, **asked):
        asked |= {"n": len(source), "backbone": backbone}
        calls.append(asked)
        raise StopError

    calls = []
    monkeypatch.setattr(featx, "finetune", stop)
    with pytest.raises(StopError):
        finetune(*FLAGS.split())
    (asked,) = calls
    assert asked["spec"] == SPEC
    reporter = asked["options"].reporter
    assert isinstance(reporter, ProgressReporter)
    assert asked["options"] == FineTuneOptions(**OPTIONS, reporter=reporter)
    assert (asked["n"], asked["backbone"], asked["layer"], asked["pooling"]) == (135, "file:tiny.keras", -2, "max")
    assert (asked["weights"], asked["image"]) == ("none", {"height": 40, "width": 48, "resize": "crop"})


FLAGS = """\
--clf keras:64 --param dropout=0.3 --scaling l2 --unfreeze gradual:2 --augment flip --views 2 --cache no --epochs 7
--batch-size 8 --optimizer sgd --learning-rate 0.01 --head-learning-rate 0.02 --schedule cosine --patience 4
--monitor auc --batch-norm train --class-weight balanced --label-smoothing 0.1 --mixed-precision --layer -2
--no-neighbours --pooling max --weights none --image-size 40x48 --resize crop --test-size 0.3 --group folder --seed 5
--features f --without w.csv --relabel r.csv
--runs r --fresh --workers 2 --runtime keras"""
SPEC = FineTuneSpec(
    head=HeadSpec("keras:64", {"dropout": "0.3"}, "l2", 5),
    unfreeze="gradual:2",
    batch_norm="train",
    augmentation="flip",
    views=2,
    optimizer="sgd",
    learning_rate=0.01,
    head_learning_rate=0.02,
    schedule="cosine",
    epochs=7,
    batch_size=8,
    patience=4,
    monitor="auc",
    class_weight="balanced",
    label_smoothing=0.1,
    seed=5,
)
OPTIONS = {
    "test_size": 0.3,
    "group": "folder",
    "without": Path("w.csv"),
    "relabel": Path("r.csv"),
    "cache": "no",
    "features": Path("f"),
    "folder": Path("r"),
    "fresh": True,
    "workers": 2,
    "runtime": "keras",
    "mixed_precision": True,
    "neighbours": False,
}


@pytest.mark.parametrize(
    ("arguments", "code", "pattern"),
    [
        (["--unfreeze", "lsat:3"], 2, "'lsat:3' does not say which layers to unfreeze"),
        (["--unfreeze", "last:none"], 2, "does not say how many"),
        (["--unfreeze", "from:tpo"], 1, "no layer called 'tpo'; did you mean top"),
        (["--layer", "jonied"], 1, "did you mean joined"),
        (["--clf", "logrge"], 1, "did you mean logreg"),
        (["--clf", "svm"], 2, "svm cannot be trained together with a backbone; choose logreg or keras"),
        (["--param", "dorpout=1"], 1, "dorpout"),
        (["--augment", "filp"], 1, "did you mean flip"),
        (["--optimizer", "adan"], 2, "optimizer"),
        (["--monitor", "val_auc"], 2, "monitor"),
        (["--cache", "maybe"], 2, "cache is 'maybe'; it must be one of auto, yes, no"),
        (["--cache", "yes", "--augment", "light"], 2, "cannot be cached"),
        (["--epochs", "0"], 2, "epochs is 0; it must be at least 1"),
        (["--test-size", "1"], 2, "above 0 and below 1"),
        (["--image-size", "big"], 2, "240x320"),
    ],
)
def test_usage_errors(finetune, arguments, code, pattern):
    expect(finetune(*arguments), code, pattern)


def expect(result, code, pattern):
    assert (result.code, result.out) == (code, ""), result
    errors = [line for line in result.err.splitlines() if "error: " in line.lower()]
    assert errors == result.err.splitlines()[-1:]
    assert pattern in errors[0]
    assert "Traceback" not in result.err


def test_missing_sources_and_untrainable_backbones(finetune):
    expect(finetune(source="gone"), 1, "'gone' does not exist")
    expect(finetune(backbone="colour"), 2, "colour has no trainable weights")
    expect(finetune(backbone="file:gone.keras"), 1, "gone.keras")


def test_help_names_every_default(featx_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    flags = featx_command("finetune", "--help").out.split("\n  --")
    texts = {text.split(maxsplit=1)[0].rstrip(","): " ".join(text.split()) for text in flags}
    spec, options = FineTuneSpec(), FineTuneOptions()
    for flag, value in (
        ("clf", spec.head.name),
        ("unfreeze", spec.unfreeze),
        ("views", spec.views),
        ("cache", options.cache),
        ("epochs", spec.epochs),
        ("batch-size", spec.batch_size),
        ("optimizer", spec.optimizer),
        ("learning-rate", spec.learning_rate),
        ("head-learning-rate", spec.head_learning_rate),
        ("schedule", spec.schedule),
        ("patience", spec.patience),
        ("monitor", spec.monitor),
        ("batch-norm", spec.batch_norm),
        ("label-smoothing", spec.label_smoothing),
        ("test-size", options.test_size),
        ("seed", spec.seed),
        ("features", options.features),
        ("runs", options.folder),
        ("runtime", options.runtime),
    ):
        assert f"[default: {value}]" in texts[flag], flag
