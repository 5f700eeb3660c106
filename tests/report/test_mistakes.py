import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from featx import FitOptions, fit, map_store
from featx.cli.app import app
from featx.errors import BundleError, SourceError, UsageError
from featx.report.mistakes import find_mistakes, find_pictures, write_mistakes


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return fit(store, "centroid", options=FitOptions(cv=3, folder=tmp_path_factory.mktemp("runs")))


def test_mistakes_are_the_wrong_predictions_most_confident_first(run):
    mistakes, frame = find_mistakes(run.bundle), run.predictions
    wrong = frame[frame["label"] != frame["predicted"]]
    assert 0 < len(mistakes) == len(wrong) < mistakes.n_tested == len(frame)
    assert set(mistakes.ids) == set(wrong["id"])
    assert (np.diff(mistakes.probabilities) <= 0).all()
    by_id = frame.set_index("id")
    for name, label, own in zip(mistakes.ids, mistakes.labels, mistakes.label_probabilities, strict=True):
        assert by_id.loc[name, "label"] == label
        assert by_id.loc[name, f"probability_{label}"] == own
    assert str(mistakes) == f"{len(wrong)} of {len(frame)} tested images are wrong"


def test_the_pictures_are_those_of_the_store(run, tmp_path):
    mistakes = find_mistakes(run.bundle)
    table, sheet = write_mistakes(mistakes, find_pictures(run.bundle), tmp_path / "new" / "folder", most=3)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(mistakes.ids)
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_a_notebook_shows_what_results_look_at(run, store, tmp_path):
    shown = run.errors()._repr_html_()
    assert shown.count("<img") == min(12, len(run.errors()))
    assert run.errors().ids[0] in shown
    assert f"{run.errors().labels[0]}, taken for {run.errors().predicted[0]} " in shown
    assert run._repr_html_().count("<img") == shown.count("<img")
    bundle = shutil.copytree(run.bundle, tmp_path / "moved")
    about = json.loads((bundle / "bundle.json").read_text())
    about["record"]["store"] |= {"path": "gone.h5", "source": "gone"}
    (bundle / "bundle.json").write_text(json.dumps(about))
    assert "<img" not in replace(run, bundle=bundle)._repr_html_()
    assert store.map()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no bundle"):
        fit(store, "centroid", options=FitOptions(cv=3, folder=None)).errors()


def test_without_pictures_there_is_a_table(run, tmp_path):
    assert [path.name for path in write_mistakes(find_mistakes(run.bundle), None, tmp_path)] == ["errors.csv"]


def test_the_verb_shows_them(run, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(run.bundle, bundle)
    assert not app(["errors", str(bundle), "--top", "2"], standalone_mode=False)
    printed = capsys.readouterr()
    assert "tested images are wrong" in printed.out
    assert "errors.png" in printed.out
    assert (bundle / "errors.png").exists()
    assert not app(["errors", str(bundle), "--json", "--out", str(tmp_path / "out")], standalone_mode=False)
    values = json.loads(capsys.readouterr().out)
    assert values["tested"] == 400
    assert values["errors"][0].keys() == {"id", "label", "predicted", "probability", "probability_of_label"}
    assert [path.rsplit("/", 1)[1] for path in values["files"]] == ["errors.csv", "errors.png"]


def test_pictures_that_are_gone_are_a_note_and_a_table(run, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(run.bundle, bundle)
    about = json.loads((bundle / "bundle.json").read_text())
    about["record"]["store"] = {"path": "gone.h5", "source": "gone"}
    (bundle / "bundle.json").write_text(json.dumps(about))
    assert not app(["errors", str(bundle)], standalone_mode=False)
    printed = capsys.readouterr()
    assert f"name where they are now: featx errors {bundle} SOURCE" in printed.err
    assert "errors.csv" in printed.out
    assert not (bundle / "errors.png").exists()


def test_a_folder_without_the_pictures_is_an_error_and_without_some_a_note(run, store, tmp_path, capsys):
    bundle, first = tmp_path / "bundle", find_mistakes(run.bundle).ids[0]
    shutil.copytree(run.bundle, bundle)
    (tmp_path / "now" / "other").mkdir(parents=True)
    (tmp_path / "now" / "other" / "x.png").write_bytes(find_pictures(run.bundle).reader.read(first))
    with pytest.raises(SourceError, match=rf"lacks \d+ of \d+ pictures, such as '{first}'; name the folder"):
        app(["errors", str(bundle), str(tmp_path / "now")], standalone_mode=False)
    assert not (bundle / "errors.png").exists()
    with pytest.raises(SourceError, match=r"lacks 400 of 400 pictures, such as '.*'; name the folder"):
        app(["report", str(bundle), str(tmp_path / "now")], standalone_mode=False)
    assert not (bundle / "report.html").exists()
    with pytest.raises(SourceError, match=r"lacks \d+ of \d+ pictures"):
        app(["map", str(store.path), str(tmp_path / "now")], standalone_mode=False)
    (tmp_path / "now" / first).parent.mkdir()
    shutil.copy(tmp_path / "now" / "other" / "x.png", tmp_path / "now" / first)
    assert not app(["errors", str(bundle), str(tmp_path / "now")], standalone_mode=False)
    assert "the contact sheet lacks" in capsys.readouterr().err


def test_a_fit_says_how_to_see_them(store, tmp_path, capsys):
    arguments = ["fit", str(store.path), "--clf", "centroid", "--runs", str(tmp_path)]
    assert not app(arguments, standalone_mode=False)
    line = capsys.readouterr().out.rstrip().splitlines()[-2]
    (bundle,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert line == f"{find_mistakes(bundle)}: featx errors {bundle}"


def test_damaged_predictions_are_an_error(run, tmp_path):
    shutil.copytree(run.bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "predictions.csv").write_text("id,label\na,b\n")
    with pytest.raises(BundleError, match="copy the bundle again"):
        find_mistakes(tmp_path / "bundle")


def test_a_perfect_head_has_no_mistakes(run, tmp_path, capsys):
    shutil.copytree(run.bundle, tmp_path / "bundle")
    text = "id,label,predicted,probability,probability_0,probability_1\na,0,0,0.9,0.9,0.1\n"
    (tmp_path / "bundle" / "predictions.csv").write_text(text)
    (tmp_path / "bundle" / "metrics.json").write_text('{"test": {"items": 1}}')
    assert not app(["errors", str(tmp_path / "bundle")], standalone_mode=False)
    assert "none of 1 tested image is wrong" in capsys.readouterr().out


def test_predictions_that_were_cut_off_are_an_error(run, tmp_path):
    shutil.copytree(run.bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "predictions.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    with pytest.raises(BundleError, match=r"has 3 predictions, and metrics\.json counts \d+"):
        find_mistakes(tmp_path / "bundle")


def test_a_link_in_a_bundle_is_replaced_and_not_followed(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "errors.csv").symlink_to("mine")
    write_mistakes(find_mistakes(run.bundle), None, tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "errors.csv").read_text(encoding="utf-8").startswith("id,label")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.rstrip() + "x",
        lambda text: text.replace("label", "class", 1),
        lambda text: "\0" + text,
        lambda text: '"' + text,
    ],
)
def test_damaged_predictions_are_an_error_everywhere(run, store, tmp_path, damage):
    bundle = tmp_path / "bundle"
    shutil.copytree(run.bundle, bundle)
    path = bundle / "predictions.csv"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    for look in (find_mistakes, lambda folder: map_store(store, bundle=folder)):
        with pytest.raises(BundleError, match=r"predictions\.csv cannot be read"):
            look(bundle)


@pytest.mark.parametrize("record", [None, [], {}, {"store": []}, {"store": {"path": 5, "source": ["a"]}}])
def test_a_bundle_that_records_no_source_shows_a_table(run, tmp_path, record, capsys):
    bundle = shutil.copytree(run.bundle, tmp_path / "bundle")
    about = json.loads((bundle / "bundle.json").read_text()) | {"record": record}
    (bundle / "bundle.json").write_text(json.dumps(about))
    assert not app(["errors", str(bundle), "--json"], standalone_mode=False)
    assert "records no source of its pictures" in capsys.readouterr().err
    assert "<img" not in replace(run, bundle=bundle)._repr_html_()
