"""The README and the format page are run, line by line."""

import glob
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import write_digits

from featx.cli.app import main
from featx.heads import find_head
from featx.registry import HEADS

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.keras


def find_blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    write_digits(folder / "photos", per_class=20, classes=4)
    write_digits(folder / "other_photos", per_class=5, classes=4, skip=40)
    return folder


def run(arguments, folder):
    result = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return result.stdout


def test_the_readme_begins_with_the_two_commands_that_make_has():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"make demo.*\n.*make test", text)
    assert {"demo", "test", "check"} <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_commands_of_the_readme_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (block,) = find_blocks("README.md", "console")
    commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 10
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "featx"
        expanded = [name for word in arguments for name in sorted(glob.glob(word, root_dir=folder)) or [word]]  # noqa: PTH207 - as a shell does
        monkeypatch.setattr(sys, "argv", ["featx", *expanded])
        with pytest.raises(SystemExit) as ended:  # in this process, which starts TensorFlow once for all of them
            main()
        printed = capsys.readouterr()
        assert not ended.value.code, f"{command}: {printed.err}"
        assert printed.out, command


def test_the_python_of_the_readme_runs(folder):
    (block,) = find_blocks("README.md", "python")
    lines = run([sys.executable, "-c", block], folder).splitlines()
    accuracy, low, high = next(map(float, line.split()) for line in lines if re.fullmatch(r"[\d. ]+", line))
    assert 0.8 < low < accuracy <= high
    assert sum(line.startswith("photos/3/digit-") for line in lines) == 20


def test_the_reader_of_the_format_page_runs(folder):
    (block,) = find_blocks("docs/format.md", "python")
    assert len(block.strip().splitlines()) <= 7
    assert "(80, 3472) 0/digit" in run([sys.executable, "-c", block], folder)


def test_links_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (document.parent / target).exists(), f"{document}: {target}"


def test_the_page_of_heads_has_every_head_and_parameter():
    page = (ROOT / "docs" / "heads.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name in HEADS:
        head = find_head(name)
        assert head.description in rows[name]
        assert all(f"`{parameter}`" in rows[name] for parameter in head.params)
        assert all(f"{value:g}" in rows[name] for values in head.grid.values() for value in values)


def test_the_page_of_augmentations_has_every_name_and_its_python_runs(folder):
    from featx.items.augmentation import PRESETS, parse_augmentation

    page = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    for name, text in PRESETS.items():
        assert f"| `{name}` | `{text}` |" in page
    for name in ("rotate", "zoom", "shear", "shift", "contrast", "crop"):
        assert f"| `{parse_augmentation(name)}` |" in page
    (block,) = find_blocks("docs/augmentation.md", "python")
    assert "views.png" in run([sys.executable, "-c", block], folder)
