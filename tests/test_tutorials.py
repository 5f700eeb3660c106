"""The page of tutorials is run, command by command, on small pictures laid out as each tutorial has them.

Networks are those of the page with random weights and at the smallest size they take, and train for
one epoch: what is tested is that the commands do what the page says, not how well.
"""

import contextlib
import csv
import glob
import re
import shlex
import sys
from pathlib import Path

import pytest
from pictures import write_digits

from featx.cli.app import app, main

PAGE = Path(__file__).parents[1] / "docs" / "tutorials.md"
WEIGHTS = "inception_v3_notop.h5"
VERBS = {command.name or command.callback.__name__ for command in app.registered_commands}

pytestmark = pytest.mark.keras


def read_sections():
    """Return the commands and the Python of each tutorial, by its letter."""
    _, *parts = re.split(r"^## (?=\w\. )", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = {}
    for part in parts:
        blocks = re.findall(r"```(console|python)\n(.*?)```", part, re.DOTALL)
        steps = []
        for language, text in blocks:
            steps += [text] if language == "python" else [line.removeprefix("$ ") for line in text.splitlines()]
        sections[part[0]] = steps
    return sections


SECTIONS = read_sections()
STEPS = [(letter, number) for letter, steps in SECTIONS.items() for number in range(len(steps))]


def write_splits(folder):
    for split, skip, per_class in (("train", 0, 8), ("valid", 8, 4), ("test", 12, 4)):
        write_digits(folder / split, per_class=per_class, classes=3, skip=skip)


def write_table(folder):
    images = sorted(write_digits(folder / "images", per_class=16, classes=2).rglob("*.png"))
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["File Name", "Label"])
        rows.writerows([path.relative_to(folder / "images").as_posix(), f"kind {path.parent.name}"] for path in images)
    save_weights(folder / WEIGHTS)


def save_weights(path):
    import keras

    network = keras.applications.InceptionV3(include_top=False, weights=None)
    network.save(path)  # the older format, in which Keras publishes its weights


MAKERS = {
    "a": lambda folder: write_splits(folder / "scans"),
    "b": write_table,
    "c": lambda folder: write_digits(folder / "photos", per_class=14, classes=3),
    "d": lambda folder: write_digits(folder / "leaves", per_class=14, classes=3),
    "e": lambda folder: write_digits(folder / "signs", per_class=12, classes=5),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Make the folder of a tutorial when its first command is run."""
    made = {}

    def open_folder(letter):
        if letter not in made:
            made[letter] = tmp_path_factory.mktemp(f"tutorial-{letter}")
            MAKERS[letter](made[letter])
        return made[letter]

    return open_folder


def shrink(words):
    """Give a command a smaller network and less to do."""
    verb, *rest = words
    for flag, value in (("--epochs", "1"), ("--patience", "1")):
        if flag in rest:
            rest[rest.index(flag) + 1] = value
    fewer = {"gradual:3": "gradual:2", "blocks:2": "blocks:1"}  # TensorFlow traces a network again for each stage
    rest = [fewer.get(word, word) for word in rest]
    if verb in {"embed", "finetune"}:
        rest += ["--image-size", "75"]
        rest += [] if "--weights" in rest else ["--weights", "none"]
        rest += ["--runtime", "keras"]  # converting a network takes longer than embedding 48 pictures
    if verb == "fit" and any(word.startswith("keras") for word in rest):
        rest += ["--param", "epochs=1", "--param", "learning_rate=0.001", "--scaling", "standard"]
    return [verb, *rest]


def run_featx(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["featx", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def name_step(step):
    letter, number = step
    text = SECTIONS[letter][number]
    return f"{letter}{number}-{text.split()[1] if text.startswith('featx ') else 'python'}"


@pytest.mark.parametrize("step", STEPS, ids=map(name_step, STEPS))
def test_the_commands_of_the_tutorials_run(step, folders, monkeypatch, capsys):
    letter, number = step
    text = SECTIONS[letter][number]
    folder = folders(letter)
    monkeypatch.chdir(folder)
    if not text.startswith("featx "):
        with contextlib.chdir(folder):
            exec(compile(text, f"tutorial {letter}", "exec"), {})  # noqa: S102 - the page is ours
        return
    words = [name for word in shlex.split(text)[1:] for name in sorted(glob.glob(word)) or [word]]  # noqa: PTH207 - as a shell does
    code = run_featx(shrink(words), monkeypatch)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.out


def test_every_tutorial_has_the_frozen_answer_first_and_only_known_verbs():
    assert set(SECTIONS) == set(MAKERS)
    for letter, steps in SECTIONS.items():
        verbs = [step.split()[1] for step in steps if step.startswith("featx ")]
        assert set(verbs) <= VERBS
        assert verbs.index("embed") < verbs.index("fit") < verbs.index("finetune"), letter
