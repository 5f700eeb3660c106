"""Standard streams that are closed, full or abandoned, and what a terminal must not be sent."""

import os
import subprocess
import sys

import pytest
from runs import draw

import featx
from featx.options import FitOptions

pytestmark = pytest.mark.skipif(os.name == "nt", reason="closed streams and pseudo-terminals are POSIX")

FEATX = f"{sys.executable} -m featx"


def run_in_shell(line, folder):
    # Buffered, as by default: what could not be written is still there when the process ends.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=own, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with pictures, a store and a bundle."""
    folder = tmp_path_factory.mktemp("workplace")
    for number in range(20):
        draw(folder / "pictures" / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    store = featx.embed(folder / "pictures", "colour", folder=folder / "features").store
    featx.fit(store, "centroid", options=FitOptions(folder=folder / "runs"))
    next((folder / "runs").glob("*/")).rename(folder / "bundle")
    return folder


VERBS = [
    "--help",
    "--version",
    "fit --help",
    "backbones",
    "layers colour",
    "info",
    "info --json",
    "verify",
    "embed pictures --backbone colour",
    "fit --clf centroid",
    "predict bundle pictures",
    "predict bundle pictures --format table",
    "evaluate bundle pictures",
    "split pictures --force",
]


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_closed_stdout_changes_nothing_but_the_output(workplace, verb):
    result = run_in_shell(f"{FEATX} {verb} >&-", workplace)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "error" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_exit_codes_hold_without_streams(workplace, streams):
    assert run_in_shell(f"{FEATX} info {streams}", workplace).returncode == 0
    assert run_in_shell(f"{FEATX} info nothing.h5 {streams}", workplace).returncode == 1
    assert run_in_shell(f"{FEATX} info --nothing {streams}", workplace).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["predict bundle pictures", "predict bundle pictures --json", "backbones", "info"])
def test_a_reader_that_leaves_causes_no_traceback(workplace, verb):
    result = run_in_shell(f"{FEATX} {verb} | true; exit ${{PIPESTATUS[0]}}", workplace)
    assert result.returncode in {0, 1}  # 0: all was in the pipe before the reader left
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110 - no path of the project
@pytest.mark.parametrize("verb", ["predict bundle pictures", "backbones", "info"])
def test_a_full_disk_under_stdout_is_an_error(workplace, verb):
    result = run_in_shell(f"{FEATX} {verb} > /dev/full", workplace)
    assert (result.returncode, result.stderr) == (1, "error: No space left on device\n")


CONTROLS = ["\x1b[2Jred", "bell\x07", "back\x08space", "c1\x9b31m"]


@pytest.mark.parametrize("name", CONTROLS)
def test_no_control_character_reaches_the_terminal(featx_command, tmp_path, name):
    for number in range(8):
        draw(tmp_path / name / f"{name}{number % 2}" / f"{number}.png", number)
    (tmp_path / name / f"{name}0" / f"{name}.png").write_bytes(b"not an image")
    bad = {character for character in name if not character.isprintable()}
    command = featx_command("embed", name, "--backbone", "colour", "--name", name, "--max-bad", "50%")
    results = [command, featx_command("embed", f"{name}?", "--backbone", "colour")]
    store = f"features/{name}.h5"
    results += [
        featx_command("info", store),
        featx_command("fit", store, "--runs", name),
        featx_command("verify", store),
    ]
    results += [featx_command("export", store, f"{name}.csv"), featx_command("split", name)]
    for result in results:
        assert not bad & set(result.out + result.err), result
    assert [result.code for result in results] == [0, 1, 0, 0, 0, 0, 0], results
