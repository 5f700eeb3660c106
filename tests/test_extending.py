"""The page on extending featx: its files, installed as a package, are run as a user runs them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pictures import write_digits

from featx.heads.persistence import ALLOWED

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def find_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed packages with the page's modules and entry points."""
    site = tmp_path_factory.mktemp("site")
    for block in find_blocks("python"):
        name = re.match(r'"""(\w+\.py): ', block)[1]
        (site / name).write_text(block)
    about = site / "featx_plugins-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: featx-plugins\nVersion: 1.0\n")
    (table,) = find_blocks("toml")
    groups = tomllib.loads(table)["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return site


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    write_digits(folder / "photos", per_class=12, classes=3)
    return folder


@pytest.fixture(scope="module")
def run(site, folder):
    def run(*arguments):
        env = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, "-m", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_commands_of_the_page_run_and_what_they_write_predicts(run, folder):
    (block,) = find_blocks("console")
    commands = [line.removeprefix("$ ").split() for line in block.splitlines()]
    assert [command[1] for command in commands] == ["embed", "fit"]
    for command in commands:
        assert run(*command)
    (bundle,) = (folder / "runs").glob("*/")
    (picture,) = list(folder.glob("photos/0/*.png"))[:1]
    assert '"probability"' in run("featx", "predict", bundle, picture, "--json")
    assert "edges" in run("featx", "backbones").split()


def test_the_contracts_of_the_page_pass(run, site):
    passed = run("pytest", "-q", "-p", "no:cacheprovider", site / "test_plugins.py")
    assert re.search(r"\b(2[5-9]|3\d) passed", passed), passed


def test_every_classifier_that_the_page_lists_can_be_in_a_bundle():
    listed = [
        name for line in PAGE.splitlines() if line.startswith("- `") for name in re.findall(r"`([A-Z]\w+)`", line)
    ]
    assert len(listed) >= 10
    assert set(listed) <= {name.rsplit(".", 1)[1] for name in ALLOWED["ObjectNode"]}
