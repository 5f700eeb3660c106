"""`featx predict`: what it predicts, how it prints the classes, and files that it continues."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featx
from featx.cli.prediction_file import Layout
from featx.options import FitOptions
from featx.prediction import Prediction


@pytest.fixture
def bundle(digits_bundle):
    return digits_bundle


@pytest.fixture(scope="module")
def other_bundle(store, tmp_path_factory):
    return featx.fit(store, "ridge", options=FitOptions(folder=tmp_path_factory.mktemp("runs"))).bundle


@pytest.fixture
def photos(tmp_path):
    """Thirty images that the bundle was not trained on."""
    (tmp_path / "photos").mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    return sorted(f"photos/{path.name}" for path in (tmp_path / "photos").iterdir())


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


# What is predicted


def test_a_list_is_predicted_in_its_order(featx_command, bundle, photos, tmp_path):
    wanted = [photos[3], photos[0], photos[7]]
    plain = "\n".join(wanted)
    lists = {
        "unix.txt": plain.encode() + b"\n",
        "windows.txt": b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(),
        "powershell.txt": plain.replace("\n", "\r\n").encode("utf-16"),
        "find.txt": plain.replace("\n", "\0").encode() + b"\0",
        "blank lines.txt": b"\n\n" + plain.replace("\n", "\n\n").encode() + b"\n \n",
    }
    for name, data in lists.items():
        (tmp_path / name).write_bytes(data)
        rows = read_csv(featx_command("predict", bundle, f"@{name}").out)
        assert [row["path"] for row in rows] == wanted
    rows = read_csv(featx_command("predict", bundle, photos[1], "@unix.txt", photos[2]).out)
    assert [row["path"] for row in rows] == [photos[1], *wanted, photos[2]]


@pytest.mark.parametrize(
    ("spell", "note"),
    [
        (lambda path: path.replace("/", "\\"), "with / instead of \\ in their paths"),
        (lambda path: f" {path}  ", "without blanks at the ends"),
        (lambda path: path.replace(".png", ".PNG"), "with .png instead of .PNG"),
        (lambda path: f"~/{path}", "with the home folder for ~"),
        (lambda path: f"file://{Path.cwd()}/{path}", "as file: URLs"),
        (lambda path: f'"{path}"', "without quotes"),
        (lambda path: f"\u200b{path}", "without invisible characters"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_paths_of_a_list_are_found_under_other_spellings(featx_command, bundle, photos, monkeypatch, spell, note, end):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    names = [spell(path) for path in photos[:2]]
    Path("list.txt").write_bytes("".join(name + end for name in [*names, photos[2]]).encode())
    result = featx_command("predict", bundle, "@list.txt")
    rows = read_csv(result.out)
    assert [Path(row["path"]).name for row in rows] == ["00.png", "01.png", "02.png"]
    assert not any(row["error"] for row in rows)
    assert f"2 of 3 files exist {note}; they are used" in " ".join(result.err.split())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows names of any bytes")
@pytest.mark.parametrize(
    "name", [b"b\xe4r.png", b"\x94L.png", b"\xcb\xcf\xdb\xcb\xc1.png", "caf\xe9 \u732b.png".encode()]
)
@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_names_of_any_bytes_in_a_list_are_read(featx_command, bundle, photos, tmp_path, name, end):
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123 - a Path takes no bytes
        file.write((tmp_path / photos[0]).read_bytes())
    (tmp_path / "list.txt").write_bytes(b"./" + name + end + photos[1].encode() + end)
    result = featx_command("predict", bundle, "@list.txt")
    assert [row["error"] for row in read_csv(result.out)] == ["", ""]
    assert "exist" not in result.err


@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman", "utf-16-le"])
def test_a_list_of_another_machine_is_decoded(featx_command, bundle, photos, tmp_path, encoding):
    (tmp_path / "B\xe4r.png").write_bytes((tmp_path / photos[0]).read_bytes())
    (tmp_path / "list.txt").write_bytes(f"B\xe4r.png\n{photos[1]}\n".encode(encoding))
    rows = read_csv(featx_command("predict", bundle, "@list.txt").out)
    assert [(row["path"], row["error"]) for row in rows] == [("B\xe4r.png", ""), (photos[1], "")]


def test_paths_are_read_from_stdin(featx_command, bundle, photos, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"photos/05.png\nphotos/01.png\n")))
    assert [row["path"] for row in read_csv(featx_command("predict", bundle, "-").out)] == [photos[5], photos[1]]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert "error: stdin lists no paths; write one per line" in featx_command("predict", bundle, "-").err
    monkeypatch.setattr(sys, "stdin", None)
    assert featx_command("predict", bundle, "-").code == 1
    sys.stdin.close()  # the command has opened the null device in its place


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["@gone.txt"], "the list 'gone.txt' cannot be read: No such file or directory; for a file of that name"),
        (["@empty.txt"], "empty.txt lists no paths; write one per line"),
        (["empty"], "there is nothing to predict; name images or folders of images"),
        ([""], "the path of an image is empty, which could mean any folder; name images or folders of images"),
        (["photos/00.png", ""], "the path of an image is empty"),
        (["gone"], "error: gone could not be read; its row says why"),
        (["gone", "lost"], "error: none of the 2 images could be read; the first is gone"),
        (["t.csv", "photos/00.png"], "t.csv is a table or an archive; predict it alone"),
        (["photos/00.png", "--root", "photos"], "is not a table"),
        (["photos/00.png", "photos/01.png", "--root", "photos"], "--root and --path-column are for a table"),
        (["t.csv", "--path-column", "file"], "no column 'file'"),
        (["photos", "--out", "x.txt"], "--out is 'x.txt'; its name must end in .csv, .json, .jsonl"),
        (["photos", "--out", "x.csv", "--json"], "which is written as csv, but the format is json"),
        (["photos", "--out", "folder.csv"], "which is a folder; name a file in it"),
        (["photos", "--top", "0"], "--top"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(featx_command, bundle, photos, tmp_path, arguments, message):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "t.csv").write_text(f"path\n{photos[0]}\n")
    result = featx_command("predict", bundle, *arguments)
    assert result.code in {1, 2}
    assert message in " ".join(result.err.split())


def test_tables_and_archives_are_predicted_as_they_are_embedded(featx_command, bundle, photos, tmp_path):
    (tmp_path / "t.csv").write_text("picture,split\n" + "".join(f"{Path(path).name},train\n" for path in photos[:4]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in photos[:4]:
            archive.write(tmp_path / path, f"x/{Path(path).name}")
    expected = [row["label"] for row in read_csv(featx_command("predict", bundle, *photos[:4]).out)]
    flags = ("--root", "photos", "--path-column", "picture")
    table = read_csv(featx_command("predict", bundle, "t.csv", *flags).out)
    archive = read_csv(featx_command("predict", bundle, "a.zip").out)
    assert [row["label"] for row in table] == [row["label"] for row in archive] == expected
    assert [row["path"] for row in table] == [Path(path).name for path in photos[:4]]


def test_it_fails_if_nothing_can_be_read_in_any_way(featx_command, bundle, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "list.txt").write_text("page.png\ngone.png\n")
    (tmp_path / "t.csv").write_text("path\npage.png\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "page.png", "page.png")
    for name, *flags in (
        ("page.png",),
        ("@list.txt",),
        ("t.csv",),
        ("a.zip", "--json"),
        ("page.png", "--format", "table"),
        ("page.png", "--out", "rows.csv"),
        ("page.png", "--out", "rows.csv"),  # again, now that it has a row
        ("@list.txt", "--out", "rows.jsonl", "--top", "2"),
    ):
        result = featx_command("predict", bundle, name, *flags)
        assert result.code == 1
        assert re.search(
            r"could not be read|none of the 2 images could be read|no image in rows.csv could be read", result.err
        )


def test_images_that_were_trained_on_are_noted_once(featx_command, bundle, store, digits, photos):
    trained = featx.Predictor.load(bundle).bundle.read_trained()
    paths = [digits / name for name, sha256 in zip(store.ids, store.sha256, strict=True) if sha256 in trained]
    result = featx_command("predict", bundle, *paths[:3], photos[0])
    assert result.err.count("used in training") == 1
    assert "note: 3 of 4 images were used in training, so their predictions are better than" in result.err
    assert "used in training" not in featx_command("predict", bundle, photos[0]).err


# Best classes


def test_the_best_classes_are_ranked(featx_command, bundle, photos):
    full = [json.loads(line) for line in featx_command("predict", bundle, "photos", "gone", "--json").out.splitlines()]
    rows = read_csv(featx_command("predict", bundle, "photos", "gone", "--top", "3").out)
    names = [f"{kind}_{place}" for place in (1, 2, 3) for kind in ("label", "probability")]
    assert list(rows[0]) == ["path", "label", "probability", *names, "error"]
    lines = featx_command("predict", bundle, "photos", "gone", "--top", "3", "--json").out.splitlines()
    for row, values, line in zip(rows[:-1], full[:-1], map(json.loads, lines[:-1]), strict=True):
        best = sorted(values["probabilities"].items(), key=lambda pair: -pair[1])[:3]
        assert [(each["label"], each["probability"]) for each in line["top"]] == best
        assert [row[f"label_{place}"] for place in (1, 2, 3)] == [label for label, _ in best]
        assert float(row["probability_2"]) == pytest.approx(best[1][1], rel=1e-5)
        assert row["label"] == row["label_1"] == line["label"]
        assert line.keys() == {"path", "label", "probability", "top"}
    assert rows[-1]["label_1"] == ""
    assert rows[-1]["error"]
    table = featx_command("predict", bundle, "photos/00.png", "gone", "--top", "2", "--format", "table").out
    assert table.splitlines()[0].split() == ["image", "label", "probability", "label", "2", "probability"]
    assert len(table.splitlines()) == 3


def test_more_classes_than_there_are_is_all_of_them(featx_command, bundle, photos):
    (row,) = read_csv(featx_command("predict", bundle, photos[0], "--top", "99").out)
    assert [name for name in row if name.startswith("label_")] == [f"label_{place}" for place in range(1, 11)]


@pytest.mark.parametrize(("n_classes", "n_columns"), [(100, 104), (101, 14), (10_000, 14)])
def test_a_csv_of_many_classes_stays_usable(n_classes, n_columns, capsys):
    from featx.cli.predict import Format, _plan_layout

    classes = tuple(f"class {number}" for number in range(n_classes))
    layout = _plan_layout(classes, None, Format.CSV)
    shares = np.linspace(0, 1, n_classes)
    row = Prediction("a.png", classes[-1], 1.0, shares)
    header, cells = csv.reader(io.StringIO(layout.header + layout.format(row)))
    assert len(header) == len(cells) == n_columns
    note = capsys.readouterr().err
    assert (f"so the CSV has the 5 most probable; --top {n_classes} writes all" in note) == (n_columns == 14)
    assert _plan_layout(classes, n_classes, Format.CSV).top == n_classes


# Files that it goes on with


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows.jsonl"])
def test_a_file_holds_what_would_be_printed(featx_command, bundle, photos, name, tmp_path):
    flags = () if name == "rows.csv" else ("--json",)
    printed = featx_command("predict", bundle, "photos", *flags).out
    result = featx_command("predict", bundle, "photos", "--out", name)
    assert result.out == f"30 new, 0 kept -> {name}\n"
    assert (tmp_path / name).read_text() == printed


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_an_interrupted_run_goes_on_where_it_stopped(featx_command, bundle, photos, name, tmp_path):
    strange = 'photos/a "quoted", name\nof two\rlines.png'
    (tmp_path / photos[12]).rename(tmp_path / strange)
    command = ("predict", bundle, "photos", "photos/03.png", "gone", "--out", name)
    featx_command(*command)
    whole = (tmp_path / name).read_bytes()
    at = whole.index(b"lines.png")
    for length in (0, 1, 40, len(whole) // 3, at - 3, at, at + 30, len(whole) - 1, len(whole)):
        (tmp_path / name).write_bytes(whole[:length])
        result = featx_command(*command)
        assert result.code == 0
        assert read_rows(tmp_path / name) == read_rows_of(whole, name)
    assert "0 new, 32 kept" in result.out


def read_rows(path):
    return read_rows_of(path.read_bytes(), path.name)


def read_rows_of(data, name):
    """Return labels and errors of each row, in order; batches of another size round probabilities otherwise."""
    text = data.decode()
    rows = (
        map(json.loads, text.splitlines()) if name.endswith("jsonl") else csv.DictReader(io.StringIO(text, newline=""))
    )
    return [(row["path"], row.get("label", ""), row.get("error", "")) for row in rows]


def test_only_new_images_are_predicted(featx_command, bundle, photos, tmp_path):
    assert featx_command("predict", bundle, *photos[:5], "--out", "rows.csv").out == "5 new, 0 kept -> rows.csv\n"
    before = (tmp_path / "rows.csv").read_bytes()
    assert featx_command("predict", bundle, *photos[3:9], "--out", "rows.csv").out == "4 new, 2 kept -> rows.csv\n"
    assert (tmp_path / "rows.csv").read_bytes().startswith(before)
    assert [path for path, _, _ in read_rows(tmp_path / "rows.csv")] == photos[:9]
    # One that cannot be read does not fail a run whose other images are in the file.
    assert featx_command("predict", bundle, photos[0], "gone", "--out", "rows.csv").code == 0


def test_a_file_of_another_bundle_or_other_settings_is_refused(featx_command, bundle, other_bundle, photos, tmp_path):
    featx_command("predict", bundle, "photos", "--out", "rows.csv")
    before = (tmp_path / "rows.csv").read_bytes()
    advice = "name another file with --out, or delete rows.csv and rows.csv.run.json"
    refused = {
        "rows.csv has predictions of another bundle": (other_bundle, "photos"),
        "rows.csv was written with other values of --top, --views": (bundle, "photos", "--top", "2"),
        "rows.csv was written with other values of": (bundle, "photos", "--views", "2", "--augment", "flip"),
    }
    for message, arguments in refused.items():
        result = featx_command("predict", *arguments, "--out", "rows.csv")
        assert result.code == 2
        assert f"error: {message}" in result.err
        assert advice in result.err
    for record in ("{", "[1]", "null"):
        (tmp_path / "rows.csv.run.json").write_text(record)
        result = featx_command("predict", bundle, "photos", "--out", "rows.csv")
        assert (result.code, "rows.csv.run.json, which names the bundle" in result.err) == (2, True)
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_a_file_that_featx_did_not_write_is_kept(featx_command, bundle, photos, tmp_path):
    (tmp_path / "rows.csv").write_text("path,label\nmine.png,cat\n")
    result = featx_command("predict", bundle, "photos", "--out", "rows.csv")
    assert result.code == 2
    assert "rows.csv exists, and `featx predict` did not write it, or rows.csv.run.json next to it is" in result.err
    assert result.err.endswith("name another file with --out\n")
    assert (tmp_path / "rows.csv").read_text() == "path,label\nmine.png,cat\n"
    assert not (tmp_path / "rows.csv.run.json").exists()


def test_rows_of_other_files_with_the_same_names_are_not_kept(featx_command, bundle, photos, tmp_path, monkeypatch):
    shutil.copytree("photos", "twin/photos")
    for name in ("a", "b"):
        shutil.make_archive(name, "zip", "photos")
    (tmp_path / "t.csv").write_text("path\n00.png\n")
    out = tmp_path / "rows.csv"
    assert featx_command("predict", bundle, "photos", "--out", out).code == 0
    assert featx_command("predict", bundle, "photos", "--out", out).out.startswith("0 new, 30 kept")
    monkeypatch.chdir("twin")
    result = featx_command("predict", bundle, "photos", "--out", out)
    assert result.code == 2
    assert (
        f"the paths in {out} are relative to {tmp_path}, and those of this run to {tmp_path}/twin; name" in result.err
    )
    # An absolute path means one file, wherever the command is run.
    assert featx_command("predict", bundle, tmp_path / "photos", "--out", out).out.startswith("30 new, 0 kept")
    monkeypatch.chdir("..")
    assert featx_command("predict", bundle, "photos", "--out", out).out.startswith("0 new, 30 kept")
    assert featx_command("predict", bundle, "a.zip", "--out", "x.jsonl").code == 0
    assert featx_command("predict", bundle, "a.zip", "--out", "x.jsonl").out.startswith("0 new, 30 kept")
    assert (
        f"x.jsonl are relative to {tmp_path}/a.zip, and"
        in featx_command("predict", bundle, "b.zip", "--out", "x.jsonl").err
    )
    assert featx_command("predict", bundle, "t.csv", "--root", "photos", "--out", "y.csv").code == 0
    result = featx_command("predict", bundle, "t.csv", "--root", "twin/photos", "--out", "y.csv")
    assert f"y.csv are relative to {tmp_path}/photos, and" in result.err


def test_a_file_may_be_moved_with_its_images(featx_command, bundle, photos, tmp_path, monkeypatch):
    for folder in ("before", "after"):
        Path(folder).mkdir(exist_ok=True)
    shutil.move("photos", "before/photos")
    monkeypatch.chdir("before")
    assert featx_command("predict", bundle, *photos[:4], "--out", "rows.csv").code == 0
    monkeypatch.chdir("..")
    shutil.move("before", "after/x")
    monkeypatch.chdir("after/x")
    assert featx_command("predict", bundle, "photos", "--out", "rows.csv").out.startswith("26 new, 4 kept")
    record = json.loads(Path("rows.csv.run.json").read_text())
    del record["base"]  # as an earlier version wrote it
    Path("rows.csv.run.json").write_text(json.dumps(record))
    assert featx_command("predict", bundle, "photos", "--out", "rows.csv").out.startswith("0 new, 30 kept")


def test_a_bundle_may_be_moved(featx_command, bundle, photos, tmp_path):
    featx_command("predict", bundle, *photos[:3], "--out", "rows.csv")
    shutil.copytree(bundle, tmp_path / "copy")
    assert featx_command("predict", "copy", "photos", "--out", "rows.csv").out == "27 new, 3 kept -> rows.csv\n"


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_row_that_is_damaged_in_the_middle_is_named(featx_command, bundle, photos, name, tmp_path):
    featx_command("predict", bundle, "photos", "--out", name)
    lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
    for damaged in (b"nonsense\n", b"\0\0\0\n"):
        (tmp_path / name).write_bytes(b"".join([*lines[:4], damaged, *lines[5:]]))
        result = featx_command("predict", bundle, "photos", "--out", name)
        assert result.code == 1
        assert f"row 5 of {name} is damaged; remove it" in result.err


def test_names_and_labels_of_any_kind_survive_a_csv():
    layout = Layout(("a,b", 'q"', "l\r"), 0, is_json=False)
    row = Prediction("x\udcff,\r\n.png", "a,b", 0.5, np.array([0.5, 0.3, 0.2]))
    header, cells = csv.reader(io.StringIO(layout.header + layout.format(row), newline=""))
    assert header[3:6] == ["probability_a,b", 'probability_q"', "probability_l\r"]
    assert cells[:2] == ["x\\udcff,\r\n.png", "a,b"]


@pytest.mark.parametrize("flags", [(), ("--json",), ("--format", "table"), ("--out", "rows.csv")])
def test_a_closed_stdout_gives_no_traceback(bundle, photos, tmp_path, flags):
    command = [sys.executable, "-m", "featx", "predict", str(bundle), "photos", *flags]
    shell = 'exec "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# Explanations


def test_explanations_are_columns_of_a_csv_and_keys_of_json(featx_command, bundle, photos):
    rows = read_csv(featx_command("predict", bundle, *photos[:3], "--explain", "--coverage", "0.8").out)
    assert list(rows[0])[-7:] == [
        *("set", "unfamiliarity", "unfamiliar", "nearest", "nearest_label", "nearest_similarity", "error")
    ]
    for row in rows:
        assert set(filter(None, row["set"].split("|"))) <= set("0123456789")
        assert row["unfamiliar"] == str(float(row["unfamiliarity"]) > 95).lower()
        assert row["nearest"].startswith(f"{row['nearest_label']}/digit-")
    (line,) = featx_command("predict", bundle, photos[0], "--explain", "--json", "--neighbours", "2").out.splitlines()
    found = json.loads(line)
    explained = {"set", "note", "unfamiliarity", "unfamiliar", "neighbours", "heat", "heat_method", "heat_box"}
    assert set(found) == {"path", "label", "probability", "probabilities", *explained}
    assert found["heat_box"] == [0, 0, 1, 1]
    assert found["neighbours"][0]["item"] == rows[0]["nearest"]
    assert len(found["neighbours"]) == 2
    assert np.shape(found["heat"]) == (7, 7)


def test_a_table_of_explanations_says_what_is_unfamiliar_and_a_sheet_shows_it(featx_command, bundle, photos):
    Path("page.png").write_bytes(b"<html></html>")
    result = featx_command(
        "predict", bundle, photos[0], "page.png", "--explain", "--format", "table", "--sheet", "s.png"
    )
    head, first, second = result.out.splitlines()
    assert head.split() == ["image", "label", "probability", "set", "unfamiliarity", "nearest"]
    assert re.search(r"\d+\.\d %( unfamiliar)?  +\d 0\.\d\d$", first.rstrip())
    assert "is not an image" in second or "format" in second
    assert "the contact sheet is s.png" in result.err
    with Image.open("s.png") as sheet:
        assert sheet.width > sheet.height


def test_a_file_of_explanations_continues_only_with_the_same_options(featx_command, bundle, photos):
    command = ("predict", bundle, "--out", "rows.csv", "--explain")
    assert "1 new, 0 kept" in featx_command(*command, photos[0]).out
    assert "1 new, 1 kept" in featx_command(*command, *photos[:2]).out
    assert len(read_csv(Path("rows.csv").read_text())) == 2
    for other in (command[:-1], (*command, "--coverage", "0.5")):
        result = featx_command(*other, *photos[:2])
        assert result.code == 2
        assert "--explain" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--coverage", "0.9"], "--coverage is for explanations; add --explain"),
        (["--sheet", "a.png"], "--sheet is for explanations"),
        (["--explain", "--sheet", "a.jpg"], "name a file that ends in .png"),
        (["--explain", "--coverage", "9"], "coverage is 9.0; it must be above 0 and below 1"),
        (["--explain", "--views", "2", "--augment", "flip"], "leave out --views"),
    ],
)
def test_options_of_explanations_are_checked(featx_command, bundle, photos, options, message):
    result = featx_command("predict", bundle, photos[0], *options)
    assert result.code
    assert message in result.err
