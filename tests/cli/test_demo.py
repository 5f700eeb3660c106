"""Where `featx demo` writes, and where it does not."""

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
