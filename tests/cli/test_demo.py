"""What `featx demo` runs, where it writes, and where it does not."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from pictures import write_digits


def test_it_writes_into_no_folder_of_others(featx_command, tmp_path):
    write_digits(tmp_path / "photos", per_class=2, classes=2)
    (tmp_path / "mine" / "digits" / "0").mkdir(parents=True)
    (tmp_path / "mine" / "digits" / "0" / "scan.png").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name in ("photos", "mine", "photos/0", "."):
        result = featx_command("demo", "--into", name)
        assert (result.code, result.out) == (1, "")
        assert (
            result.err == f"error: {name} holds files that the demo did not write; choose another folder with --into\n"
        )
    result = featx_command("demo", "--into", "notes.txt")
    assert result.err == "error: notes.txt cannot be written to: Not a directory; choose another folder with --into\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not shutil.which("unshare"), reason="this system has no unshare, which makes a folder read-only")
def test_a_read_only_folder_is_an_error_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("sklearn", "tensorflow", "h5py"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')\n")
    mount = f"mount -t tmpfs none {tmp_path}/there && cd {tmp_path}/there && mount -o remount,ro {tmp_path}/there"
    line = f"({mount}) || exit 77; cd {tmp_path}/there; PYTHONPATH={tmp_path} {sys.executable} -B -m featx demo"
    for arguments in ("", "--into new/folder", "--into ."):
        command = ["unshare", "-m", "bash", "-c", f"{line} {arguments}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 77 or "unshare" in result.stderr:
            pytest.skip(f"mounting is not allowed here: {result.stderr}")
        assert (result.returncode, result.stdout) == (1, "")
        folder = arguments.removeprefix("--into ") or "featx-demo"
        reason = "cannot be written to: Read-only file system; choose another folder with --into"
        assert result.stderr == f"error: {folder} {reason}\n"


def test_a_place_where_nothing_can_be_made_is_an_error(featx_command):
    result = featx_command("demo", "--into", "/proc/featx-demo")
    assert (result.code, result.out) == (1, "")
    assert "error: /proc/featx-demo cannot be written to: " in result.err


def test_images_that_nothing_can_be_fitted_to_are_refused_before_anything_is_written(featx_command, tmp_path):
    write_digits(tmp_path / "photos", per_class=2, classes=1)
    before = sorted(tmp_path.rglob("*"))
    for source, words in [("photos/0", "has no labels"), ("photos", "has only one class"), ("no", "is not a folder")]:
        result = featx_command("demo", source)
        assert (result.code, result.out) == (1, "")
        assert words in result.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.keras
@pytest.mark.slow
def test_it_shows_and_runs_every_command_on_images_of_the_user(featx_command, tmp_path):
    write_digits(tmp_path / "my photos", per_class=12, classes=2)
    result = featx_command("demo", "my photos")
    assert result.code == 0, result.err
    source, folder = str(tmp_path / "my photos"), tmp_path / "featx-demo-my photos"
    commands = [shlex.split(line) for line in result.out.splitlines() if line.startswith("$ ")]
    assert [command[1:4] for command in commands] == [
        ["cd", folder.name],
        ["featx", "embed", source],
        ["featx", "embed", source],
        ["featx", "compare", "features/efficientnet-lite0.h5"],
        ["featx", "fit", commands[4][3]],
        ["featx", "predict", commands[5][3]],
    ]
    assert sorted(path.name for path in (folder / "features").glob("*.h5")) == [
        "efficientnet-lite0.h5",
        "scattering.h5",
    ]
    assert (folder / "comparison" / "comparison.csv").is_file()
    assert (folder / commands[5][3] / "metrics.json").is_file()
    assert re.search(r"^All of this took \d+ s\.$", result.out, re.MULTILINE)
    assert "  featx finetune 'my photos' " in result.out
    assert result.err.count("the backbone is efficientnet-lite0, since none was named") == 1
    write_digits(tmp_path / "more", per_class=12, classes=2)
    again = featx_command("demo", "more", "--into", folder.name)
    assert again.err.endswith("holds files that the demo did not write; choose another folder with --into\n")
