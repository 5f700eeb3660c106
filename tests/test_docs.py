"""The commands and the Python of the README and the pages are run; generated pages are current."""

import glob
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import cli_page
import pytest
import typer
from pictures import write_digits

import featx
from featx.cli.app import app, main
from featx.heads import find_head
from featx.registry import HEADS

ROOT = Path(__file__).parents[1]
README_WORDS = 1_400
keras = pytest.mark.keras


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


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    lines = run(["make", "--no-print-directory"], ROOT).splitlines()
    assert [line.split()[1] for line in lines] == phony.split()
    assert all(len(line.split()) > 3 for line in lines)


def test_the_page_of_the_command_line_is_current():
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.render(), "run `make docs`"


def test_the_citation_has_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # The file is a flat mapping but for its lists, so that its scalars can be read without a YAML library.
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(": ", 1) for line in lines if re.match(r"[a-z-]+: ", line))
    assert fields["cff-version"] == "1.2.0"
    assert fields["version"] == project["version"]
    assert fields["license"] == project["license"]
    assert fields["title"] == project["name"]
    assert [f"  - name: {author['name']}" for author in project["authors"]] == lines[
        lines.index("authors:") + 1 : lines.index(f"version: {fields['version']}")
    ]


@keras
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


@keras
def test_the_python_of_the_readme_runs(folder):
    (block,) = find_blocks("README.md", "python")
    lines = run([sys.executable, "-c", block], folder).splitlines()
    accuracy, low, high = next(map(float, line.split()) for line in lines if re.fullmatch(r"[\d. ]+", line))
    assert 0.8 < low < accuracy <= high
    assert sum(line.startswith("photos/3/digit-") for line in lines) == 20


@keras
def test_the_reader_of_the_format_page_runs(folder):
    (block,) = find_blocks("docs/format.md", "python")
    assert len(block.strip().splitlines()) <= 7
    assert "(80, 3472) 0/digit" in run([sys.executable, "-c", block], folder)


@keras
def test_the_examples_run(tmp_path):
    """As one program, in a folder with nothing but `photos`."""
    write_digits(tmp_path / "photos", per_class=20, classes=4)
    output = run([sys.executable, "-c", "\n".join(find_blocks("docs/examples.md", "python"))], tmp_path)
    assert "80 0 0" in output  # embedded, cached, quarantined
    assert "no classifier is called 'logistic'" in output
    assert "finetune-mobilenet" in output


def test_every_public_function_has_an_example():
    code = "\n".join(find_blocks("docs/examples.md", "python"))
    functions = [name for name in featx.__all__ if name.islower()]
    assert len(functions) > 15
    assert not [name for name in functions if f"featx.{name}(" not in code]


def test_the_commands_of_all_pages_exist():
    """Each indented or fenced line that begins with `featx` names a verb, and flags that the verb has."""
    command = typer.main.get_command(app)
    verbs, common = command.commands, {flag for made in command.params for flag in made.opts}
    wrong = []
    pages = [*ROOT.glob("README.md"), *(page for page in (ROOT / "docs").rglob("*.md") if page.name != "cli.md")]
    for page in pages:
        for line in re.findall(r"^(?: {4}|\$ )featx ([a-z]+[^#|>\n]*)", page.read_text(encoding="utf-8"), re.MULTILINE):
            verb, *words = line.split()
            known = {flag for made in verbs[verb].params for flag in made.opts} if verb in verbs else set()
            flags = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            if verb not in verbs or not (known | common).issuperset(flags):
                wrong.append(f"{page.relative_to(ROOT)}: featx {line}")
    assert not wrong


def test_links_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
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


@keras
def test_the_page_of_augmentations_has_every_name_and_its_python_runs(folder):
    from featx.items.augmentation import PRESETS, parse_augmentation

    page = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    for name, text in PRESETS.items():
        assert f"| `{name}` | `{text}` |" in page
    for name in ("rotate", "zoom", "shear", "shift", "contrast", "crop"):
        assert f"| `{parse_augmentation(name)}` |" in page
    (block,) = find_blocks("docs/augmentation.md", "python")
    assert "views.png" in run([sys.executable, "-c", block], folder)
